"""With a watched HTTP client a call of LangChain is counted once, by the figures of the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport
from tests.langchain.integrations import STYLES, converse
from tests.langchain.test_exactly_once import bills, config_of, figures
from tests.needs import needs

pytestmark = needs("langchain_openai")


def model(provider: LoopbackProvider, token_counter: Any, **more: Any) -> Any:
    """A real ChatOpenAI, both of whose clients are watched."""
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model="gpt-4o-mini",
        api_key="none",
        base_url=provider.url("openai"),
        max_retries=0,
        stream_usage=True,
        http_client=httpx.Client(transport=WatchingTransport(token_counter)),
        http_async_client=httpx.AsyncClient(transport=AsyncWatchingTransport(token_counter)),
        **more,
    )


@pytest.mark.parametrize("style", STYLES)
def test_a_call_is_one_event_with_its_bill(
    style: str,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """LangChain tells whose call it is and the wire what it cost; neither tells of it twice."""
    config = config_of(token_counter) | {"metadata": {"user": "ada"}}
    STYLES[style](model(provider, token_counter), config, runner.run)
    assert figures(token_counter) == bills(provider)
    [event] = token_counter.llm_token_counts
    assert (event.source, event.tags) == ("reported", {"user": "ada"})


@pytest.mark.parametrize("style", STYLES)
def test_a_refused_call_failed_once(
    style: str,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """The watch has heard of it, too."""
    provider.script(Reply(status=400))
    with pytest.raises(Exception, match="400"):
        STYLES[style](model(provider, token_counter), config_of(token_counter), runner.run)
    assert len(token_counter.failed_calls) == 1
    assert token_counter.llm_token_counts == []


def test_without_the_handler_its_requests_are_events_of_their_own(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """A run that the handler doesn't hear of is a plain program to it."""
    model(provider, token_counter).invoke("What is the capital of Australia?")
    assert figures(token_counter) == bills(provider)


def test_embeddings_which_langchain_tells_nobody_of_are_counted(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """One event a text, and together exactly what was billed."""
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        api_key="none",
        base_url=provider.url("openai"),
        check_embedding_ctx_length=False,
        http_client=httpx.Client(transport=WatchingTransport(token_counter)),
    )
    embeddings.embed_documents(["one", "two words"])
    events = token_counter.tracker.embedding_token_counts
    assert [event.prompt for event in events] == ["one", "two words"]
    [billed] = provider.billed
    assert sum(event.prompt_token_count for event in events) == billed.input_tokens


@needs("langchain_aws")
def test_what_is_asked_beside_a_stream_of_bedrock_is_an_event_of_its_own(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """A run of Bedrock's sends nothing to OpenAI."""
    import openai

    client = openai.OpenAI(
        http_client=httpx.Client(transport=WatchingTransport(token_counter)),
        **provider.arguments("openai"),
    )
    for number, _ in enumerate(converse(provider.url()).stream("hello", config_of(token_counter))):
        if number == 0:
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hello"}]
            )
    assert sorted(figures(token_counter)) == sorted(bills(provider))
    assert len(token_counter.llm_token_counts) == 2

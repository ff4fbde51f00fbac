"""Together with a watch on the client a call of LangChain is counted once, by AWS's figures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.langchain.integrations import (
    CLAUDE,
    INTEGRATIONS,
    LEAVING,
    STYLES,
    TITAN,
    Integration,
    bedrock_client,
    bedrock_llm,
    chat_bedrock,
    chat_openai,
    converse,
    each,
)
from tests.langchain.test_exactly_once import bills, config_of, figures
from tests.needs import needs

pytestmark = needs("langchain_aws")

ON_BEDROCK = [one for one in INTEGRATIONS if one.provider == "aws.bedrock"]
MESSAGES = [{"role": "user", "content": [{"text": "hello"}]}]

every_integration = each(ON_BEDROCK)


@pytest.fixture(autouse=True)
def client(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> Iterator[Any]:
    """The client of all models here, watched for the handler's tracker."""
    from llama_token_tracker.wire import watch

    client = bedrock_client(provider.url() + "/bedrock")
    with watch(token_counter, client):
        yield client


@every_integration
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("terse", [False, True])
def test_a_call_is_one_event_with_its_bill(
    integration: Integration,
    style: str,
    terse: bool,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """LangChain tells whose call it is and AWS what it cost; neither tells of it twice."""
    provider.script(Reply(terse=terse))
    config = config_of(token_counter) | {"metadata": {"user": "ada"}}
    STYLES[style](integration.model(provider, style), config, runner.run)
    assert figures(token_counter) == bills(provider)
    [event] = token_counter.llm_token_counts
    assert (event.source, event.tags) == ("reported", {"user": "ada"})
    assert "capital of Australia" in event.prompt


@every_integration
@pytest.mark.parametrize("style", STYLES)
def test_a_refused_call_failed_once(
    integration: Integration,
    style: str,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """The watch has heard of it, too."""
    provider.script(Reply(status=400))
    with pytest.raises(Exception, match="400"):
        STYLES[style](integration.model(provider, style), config_of(token_counter), runner.run)
    assert token_counter.llm_token_counts == []
    assert len(token_counter.failed_calls) == 1


@every_integration
@pytest.mark.parametrize("style", LEAVING)
def test_a_stream_that_is_left_is_one_event(
    integration: Integration,
    style: str,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """What Claude's messages tell at a stream's start is known, though LangChain drops it."""
    LEAVING[style](integration.model(provider, style), config_of(token_counter), runner.run)
    [call], [event] = provider.settle(), token_counter.llm_token_counts
    assert call.billed is not None
    assert event.status == "abandoned"
    if integration.name == "ChatBedrock":
        assert event.prompt_source == "reported"
        assert event.prompt_token_count == call.billed.input_tokens


@needs("langchain_openai")
def test_a_call_between_the_pieces_of_a_stream_is_one_of_its_own(
    client: Any, provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """The stream's request is answered, so this one isn't its."""
    config = config_of(token_counter)
    for model in (chat_openai(provider.url()), converse(provider.url())):
        for _ in model.stream("hi", config):
            client.converse(modelId=CLAUDE, messages=MESSAGES)
    client.converse(modelId=CLAUDE, messages=MESSAGES)
    assert len(provider.settle()) > 8
    assert sorted(figures(token_counter)) == sorted(bills(provider))


def test_streams_that_take_turns(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """Each has sent its own request when the other starts."""
    config = config_of(token_counter)
    build = [bedrock_llm(provider.url(), streaming=True), chat_bedrock(provider.url())]
    streams = [model.stream(f"{number}", config) for number, model in enumerate(build * 3)]
    while streams:
        streams = [stream for stream in streams if next(stream, None) is not None]
    assert sorted(figures(token_counter)) == sorted(bills(provider))


@pytest.mark.parametrize("streaming", [False, True])
def test_a_batch_keeps_prompts_and_figures_together(
    streaming: bool, provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """Its requests leave in the order of its prompts."""
    prompts = ["one", "two", "three", "four"]
    bedrock_llm(provider.url(), TITAN, streaming=streaming).batch(prompts, config_of(token_counter))
    assert figures(token_counter) == bills(provider)
    assert [event.prompt for event in token_counter.llm_token_counts] == prompts


def test_chats_that_are_generated_together(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler, runner: asyncio.Runner
) -> None:
    """In threads of their own, all in the context of the last that started."""
    prompts: Any = [[("user", f"prompt {number}")] for number in range(6)]
    from langchain_core.messages import convert_to_messages

    model = chat_bedrock(provider.url())
    messages = [convert_to_messages(prompt) for prompt in prompts]
    runner.run(model.agenerate(messages, callbacks=[token_counter]))
    model.generate(messages, callbacks=[token_counter])
    assert sorted(figures(token_counter)) == sorted(bills(provider))
    assert len(provider.calls) == 12


def test_what_langchain_is_not_asked_for_is_the_watchs(
    client: Any, provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """A run without the handler, an embedding, and a call beside them."""
    converse(provider.url()).invoke("hi")
    client.invoke_model(
        modelId="amazon.titan-embed-text-v2:0", body=json.dumps({"inputText": "hello"})
    )
    converse(provider.url()).invoke("hi", config_of(token_counter))
    assert len(token_counter.llm_token_counts) == 2
    assert len(token_counter.embedding_token_counts) == 1
    billed = sum(usage.total_tokens for usage in provider.billed)
    assert token_counter.total_tokens + token_counter.total_embedding_token_count == billed

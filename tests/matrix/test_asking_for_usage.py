"""OpenAI reports a stream's usage only when it's asked to: that is said, with the line to add."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingHandler, Tracker
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker._names import HOSTS, OPENAI, is_elsewhere
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import WatchingTransport
from llama_token_tracker.wire.operations import forget_operations
from tests.needs import needs

from .clients import LLMS
from .styles import MESSAGES, drain

pytestmark = pytest.mark.matrix


def _by_llama_index(provider: LoopbackProvider, *, asks: bool, is_async: bool = False) -> Any:
    handler = TokenCountingHandler()
    name = "openai" if asks else "openai-default"
    (integration,) = [one for one in LLMS if one.name == name]
    llm = integration.llm(provider, CallbackManager([handler]))
    if is_async:
        asyncio.run(drain(llm.astream_chat(MESSAGES)))
    else:
        list(llm.stream_chat(MESSAGES))
    return handler


def _by_langchain(provider: LoopbackProvider, *, asks: bool) -> Any:
    from langchain_openai import ChatOpenAI

    handler = TokenCountingCallbackHandler()
    arguments: Any = {"api_key": "none", "base_url": provider.url("openai"), "max_retries": 0}
    model = ChatOpenAI(model="gpt-4o-mini", stream_usage=asks, **arguments)
    list(model.stream("hello", config={"callbacks": [handler]}))
    return handler


def _by_sdk(provider: LoopbackProvider, *, asks: bool) -> Any:
    from openai import OpenAI

    tracker = Tracker()
    options: Any = {"stream_options": {"include_usage": True}} if asks else {}
    with OpenAI(
        http_client=httpx.Client(transport=WatchingTransport(tracker)),
        **provider.arguments("openai"),
    ) as client:
        list(
            client.chat.completions.create(
                model="gpt-4o-mini",
                messages=[{"role": "user", "content": "hello"}],
                stream=True,
                **options,
            )
        )
    return tracker


@pytest.fixture(autouse=True)
def _openai_answers_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The loopback host is OpenAI's, for a while."""
    is_elsewhere.cache_clear()
    forget_operations()
    monkeypatch.setitem(HOSTS, "127.0.0.1", OPENAI)
    yield
    is_elsewhere.cache_clear()
    forget_operations()


WAYS: dict[str, tuple[Callable[..., Any], str]] = {
    "llama_index": (_by_llama_index, "additional_kwargs="),
    "llama_index, asynchronous": (
        lambda provider, asks: _by_llama_index(provider, asks=asks, is_async=True),
        "additional_kwargs=",
    ),
    "langchain": (_by_langchain, "stream_usage=True"),
    "sdk": (_by_sdk, "stream_options="),
}


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(way, marks=needs("langchain_openai")) if way == "langchain" else way
        for way in WAYS
    ],
)
@pytest.mark.parametrize("asks", [True, False])
def test_a_stream_without_usage_is_said_once_with_the_line_that_mends_it(
    way: str, asks: bool, provider: LoopbackProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """Two such streams of one model are said once; one that was asked for its usage, never."""
    forget_notices()
    run, line = WAYS[way]
    provider.script(Reply("Hello there."), Reply("Hello there."))
    with caplog.at_level(logging.WARNING, logger="llama_token_tracker"):
        for _ in range(2):
            assert run(provider, asks=asks).total_llm_token_count
    said = [record.getMessage() for record in caplog.records if line in record.getMessage()]
    assert len(said) == (0 if asks else 1)
    assert all("gpt-4o-mini" in text for text in said)

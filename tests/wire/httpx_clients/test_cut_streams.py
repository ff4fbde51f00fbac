"""A stream that ends cleanly before its format's last event is no completed answer."""

from collections.abc import AsyncIterator, Iterator
from itertools import islice
from typing import Any, NamedTuple

import httpx
import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingHandler, Tracker
from llama_token_tracker.testing import LoopbackProvider
from llama_token_tracker.wire import WatchingTransport
from tests.needs import left_out_if, needs, release
from tests.wire.httpx_clients.relay import Relay
from tests.wire.recorded import BILLED, Recorded, record

CLAUDE = "claude-3-haiku-20240307"
HELLO = [{"role": "user", "content": "hello"}]
STREAMED = {"model": "m", "messages": HELLO, "stream": True}
INCLUDED = {"stream_options": {"include_usage": True}}


class Format(NamedTuple):
    """One format.

    Attributes:
        path: Where it's asked for.
        body: The request.
        last: What the line holds that says that the answer is over.
    """

    path: str
    body: dict[str, Any]
    last: bytes


FORMATS = {
    "anthropic": Format(
        "/anthropic/v1/messages", STREAMED | {"max_tokens": 9}, b'data: {"type":"message_stop'
    ),
    "chat": Format("/openai/v1/chat/completions", STREAMED | INCLUDED, b'"finish_reason":"stop"'),
    "completions": Format(
        "/openai/v1/completions",
        {"model": "m", "prompt": "hello", "stream": True} | INCLUDED,
        b'"finish_reason":"stop"',
    ),
    "responses": Format(
        "/openai/v1/responses",
        {"model": "m", "input": "hello", "stream": True},
        b'data: {"type":"response.completed',
    ),
    "gemini": Format(
        "/gemini/v1beta/models/m:streamGenerateContent",
        {"contents": [{"parts": [{"text": "hello"}]}]},
        b'"finishReason":"STOP"',
    ),
    "mistral": Format("/mistral/v1/chat/completions", STREAMED, b'"finish_reason":"stop"'),
    "cohere": Format(
        "/cohere/v1/chat", {"message": "hello", "stream": True}, b'"is_finished":true'
    ),
    "ollama": Format("/ollama/api/chat", STREAMED, b'"done":true'),
}


class Pieces(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body as it comes."""

    def __init__(self, *pieces: bytes) -> None:
        """Come in these pieces."""
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        """Come."""
        return iter(self.pieces)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Come."""
        for piece in self.pieces:
            yield piece


def read(tracker: Tracker, path: str, body: Any, kind: str, *pieces: bytes) -> None:
    """Ask, and read the answer to its end."""

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": kind}, stream=Pieces(*pieces))

    transport = WatchingTransport(tracker, httpx.MockTransport(answer))
    with (
        httpx.Client(transport=transport) as client,
        client.stream("POST", f"http://localhost{path}", json=body) as response,
    ):
        for _ in response.iter_raw():
            pass


@pytest.fixture(scope="module", params=FORMATS)
def case(request: pytest.FixtureRequest, server: LoopbackProvider) -> tuple[Format, Recorded]:
    """A format, and a stream in it."""
    form = FORMATS[request.param]
    return form, record(server, *form)


def test_a_stream_is_cut_anywhere(case: tuple[Format, Recorded], tracker: Tracker):
    """Only what the format ends with makes it a completed answer; what is billed is reported."""
    form, recorded = case
    for place in range(len(recorded.content) + 1):
        read(tracker, form.path, form.body, recorded.kind, recorded.content[:place])
        [event] = tracker.llm_token_counts
        tracker.reset()
        assert event.status == ("complete" if place >= recorded.over else "abandoned"), place
        assert event.prompt_token_count > 0
        assert event.completion_token_count <= BILLED.output_tokens
    assert event.source == "reported" or form.path.startswith("/cohere")


# --- what frameworks show without a watch --------------------------------------------------


class Cut(Relay):
    """Sends but the first events of a stream, and ends it well."""

    events = 99

    def pieces(self, content: bytes) -> Iterator[bytes]:
        """The first pieces alone."""
        yield from islice(super().pieces(content), self.events)


@needs("llama_index.llms.anthropic")
@left_out_if(release("llama-index-llms-anthropic") < (0, 9), "llms-anthropic drops a stream's end")
@pytest.mark.parametrize("events", [4, 99])
def test_llama_index_shows_claudes_stream_broken_off(events: int, provider: LoopbackProvider):
    """Its last chunk has no reason why it stopped."""
    from llama_index.llms.anthropic import Anthropic

    handler = TokenCountingHandler()
    with Cut(provider) as relay:
        relay.events = events
        manager = CallbackManager([handler])
        llm = Anthropic(CLAUDE, callback_manager=manager, **relay.arguments("anthropic"))
        list(llm.stream_chat([ChatMessage("hello", role="user")]))
        list(llm.stream_complete("hello"))
    status = "complete" if events > 9 else "abandoned"
    assert [event.status for event in handler.llm_token_counts] == [status] * 2


@needs("langchain_anthropic")
@pytest.mark.parametrize("events", [4, 99])
def test_langchain_shows_claudes_stream_broken_off(events: int, provider: LoopbackProvider):
    """Its message has no reason why it stopped."""
    from langchain_anthropic import ChatAnthropic

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    counter = TokenCountingCallbackHandler()
    with Cut(provider) as relay:
        relay.events = events
        arguments = relay.arguments("anthropic")
        list(ChatAnthropic(model=CLAUDE, callbacks=[counter], **arguments).stream("hello"))
    [event] = counter.llm_token_counts
    assert event.status == ("complete" if events > 9 else "abandoned")

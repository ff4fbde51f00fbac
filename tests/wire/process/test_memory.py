"""What a watch adds to the memory of a long answer: less than a megabyte, however long it is."""

import gc
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import httpx
import pytest

from llama_token_tracker import Tracker, watch
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.wire.process.calls import CALLS

MEGABYTE: Final = 1_048_576
LENGTH: Final = 50_000_000
CHUNKS: Final = 100_000
USAGE: Final = {"prompt_tokens": 4_711, "completion_tokens": 100_815, "total_tokens": 105_526}
HEAD: Final = {"id": "x", "model": "gpt-4o"}


def _chunk(choices: list[Any], **more: Any) -> bytes:
    body = {**HEAD, "object": "chat.completion.chunk", "choices": choices, **more}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _stream() -> Iterator[bytes]:
    said = _chunk([{"index": 0, "delta": {"content": "word "}}])
    for _ in range(CHUNKS // 1_000):
        yield said * 1_000
    yield _chunk([], usage=USAGE) + b"data: [DONE]\n\n"


def _document() -> Iterator[bytes]:
    message = {"role": "assistant", "content": "@"}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    body = {**HEAD, "object": "chat.completion", "choices": choices, "usage": USAGE}
    before, after = json.dumps(body).encode().split(b"@")
    yield before
    for _ in range(LENGTH // 50_000):
        yield b"a" * 50_000
    yield after


@pytest.fixture
def url() -> Iterator[str]:
    """A server that answers at length, as `?long` says."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            is_document = self.path.endswith("document")
            self.send_response(200)
            kind = "application/json" if is_document else "text/event-stream"
            self.send_header("content-type", kind)
            self.end_headers()
            try:
                for piece in _document() if is_document else _stream():
                    self.wfile.write(piece)
            except OSError:
                pass  # nobody reads on

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/chat/completions"
    server.shutdown()
    server.server_close()


def _asked(url: str, read: Callable[[httpx.Response], object]) -> None:
    body = {"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        read(response)


def read_document(url: str) -> None:
    """A body of 50 MB, piece by piece."""
    _asked(url + "?document", lambda response: [None for _ in response.iter_bytes(65_536)][:0])


def read_stream(url: str) -> None:
    """A stream of 100,000 chunks, line by line."""
    _asked(url, lambda response: all(True for _ in response.iter_lines()))


def read_nothing(url: str) -> None:
    """The same stream, left unread."""
    _asked(url, lambda response: None)


def _peak(act: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        act()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["boto3 converse stream", "boto3 invoke stream"])
def test_long_event_streams_are_kept_whole(name: str, provider: LoopbackProvider) -> None:
    """However many pieces a stream of Bedrock's has, the event has all of its text."""
    call = CALLS[name]
    provider.script(Reply(text="word " * 5_000, chunks=5_000))
    tracker = Tracker()
    with watch(tracker):
        call.run(call.make(provider))
    [event] = tracker.llm_token_counts
    assert event.completion == "assistant: " + "word " * 5_000
    assert (event.source, event.status) == ("reported", "complete")


def _watched(ask: Callable[[str], None], url: str, text: str, tokens: int | None = None) -> None:
    tracker = Tracker()
    with watch(tracker):
        ask(url)
    gc.collect()
    [event] = tracker.llm_token_counts
    assert tokens is None or (event.total_token_count, event.source) == (tokens, "reported")
    assert event.completion == text


SAID: Final = "assistant: " + "word " * CHUNKS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ask", "text", "tokens"),
    [
        (read_document, "assistant: ", 105_526),
        (read_stream, SAID, 105_526),
        (read_nothing, "", None),
    ],
)
def test_a_watch_adds_less_than_a_megabyte(
    ask: Callable[[str], None], text: str, tokens: int | None, url: str
) -> None:
    """Beside the event's own text, which two threads may put together at once."""
    _watched(read_nothing, url, "")
    plain = _peak(lambda: ask(url))
    own = 4 * len(text)
    assert _peak(lambda: _watched(ask, url, text, tokens)) < plain + own + MEGABYTE

"""Answers are heard as the program reads them: nothing is held up, and what has come is counted."""

import asyncio
import gc
import json
import threading
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from llama_token_tracker import Tracker
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport
from tests.wire.httpx_clients.relay import WHOLE, Relay
from tests.wire.httpx_clients.test_plain import (
    CHATS,
    MESSAGES,
    PROMPT,
    SAID,
    TEXTS,
    USAGE,
    _asked,
    _chat,
    anthropic,
    async_openai,
    openai,
)

encodings = pytest.mark.parametrize("encoding", [name for name in WHOLE if name])
ON_RELAY = [name for name in CHATS if name.startswith(("openai", "anthropic"))]


@encodings
@pytest.mark.parametrize("way", ON_RELAY)
def test_what_is_encoded_is_read(
    way: str, encoding: str, provider: LoopbackProvider, tracker: Tracker
):
    """Answers come to the program as they are, and their figures are known all the same."""
    provider.script(Reply(SAID))
    with Relay(provider, encoding=encoding) as relay:
        CHATS[way](relay, tracker)
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert (event.total_token_count, event.source) == (billed.total_tokens, "reported")
    assert event.completion == f"assistant: {SAID}"


def test_what_says_of_itself_what_it_is_not_reaches_the_program(
    provider: LoopbackProvider, tracker: Tracker
):
    """The error is httpx's own, and the request is counted by what was asked."""
    answers = [
        httpx.Response(200, headers={"content-encoding": "gzip"}, stream=_Pieces([b"no gzip"]))
    ]
    inner = httpx.MockTransport(lambda _: answers.pop())
    sender = httpx.Client(transport=WatchingTransport(tracker, inner))
    with pytest.raises(httpx.DecodingError):
        sender.post("https://api.openai.com/v1/chat/completions", json={"messages": MESSAGES})
    gc.collect()
    [event] = tracker.llm_token_counts
    assert event.prompt_source != "reported"


class _Pieces(httpx.SyncByteStream):
    def __init__(self, pieces: Any) -> None:
        self.pieces = pieces
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces

    def close(self) -> None:
        self.is_closed = True


# --- nothing is held up --------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_a_piece_is_there_before_the_next_is_sent(
    encoding: str, provider: LoopbackProvider, tracker: Tracker
):
    """The server waits until the program has read the first."""
    with Relay(provider, encoding=encoding, waits=True) as relay:
        stream = _chat(openai(relay, tracker), stream=True, **USAGE)
        next(stream)
        relay.go_on.set()
        list(stream)
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert event.total_token_count == billed.total_tokens


def test_an_asynchronous_piece_is_there_before_the_next_is_sent(
    provider: LoopbackProvider, tracker: Tracker
):
    """The same of the other kind."""

    async def work(relay: Relay) -> None:
        stream = await _chat(async_openai(relay, tracker), stream=True, **USAGE)
        await anext(stream)
        relay.go_on.set()
        async for _ in stream:
            pass

    with Relay(provider, waits=True) as relay:
        asyncio.run(work(relay))
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert event.total_token_count == billed.total_tokens


# --- what doesn't come to its end ----------------------------------------------------------


@pytest.mark.parametrize("how", ["closed", "dropped"])
def test_a_stream_that_is_left_counts_what_came(
    how: str, provider: LoopbackProvider, tracker: Tracker
):
    """Claude has told of the input by then; the rest is counted here."""
    provider.script(Reply(SAID, chunks=4, pause_s=0.05))
    stream = _asked(anthropic(provider, tracker), stream=True)
    for event in stream:
        if event.type == "content_block_delta":
            break
    if how == "closed":
        stream.close()
        assert len(tracker.llm_token_counts) == 1
    else:
        del stream, event
        gc.collect()
    [left], [call] = tracker.llm_token_counts, provider.settle()
    assert call.billed is not None
    assert (left.status, left.prompt_source) == ("abandoned", "reported")
    assert left.prompt_token_count == call.billed.input_tokens
    assert 0 < left.completion_token_count < 20
    assert SAID.startswith(left.completion.removeprefix("assistant: "))


def test_a_stream_that_is_cut_has_failed(provider: LoopbackProvider, tracker: Tracker):
    """What came before is counted."""
    provider.script(Reply(SAID, chunks=4, cut_after=2))
    # httpx's or httpx2's, or what the SDK makes of it.
    with pytest.raises(Exception, match=r"incomplete chunked read|Connection error"):
        list(_chat(openai(provider, tracker), stream=True, **USAGE))
    [event] = tracker.llm_token_counts
    assert event.status == "failed"
    assert event.completion_token_count > 0


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_task_that_is_cancelled_has_left(
    is_streamed: bool, provider: LoopbackProvider, tracker: Tracker
):
    """What was sent may be billed, so the prompt counts."""
    provider.script(
        Reply(SAID, stall_after=1) if is_streamed else Reply(SAID, delay_s=5), repeat=True
    )
    reached = threading.Event()

    async def ask() -> None:
        answer = await _chat(async_openai(provider, tracker), stream=is_streamed)
        async for _ in answer:
            reached.set()

    async def work() -> None:
        task = asyncio.create_task(ask())
        while not (reached.is_set() if is_streamed else provider.calls):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    gc.collect()
    [event] = tracker.llm_token_counts
    assert (event.status, event.prompt) == ("abandoned", f"user: {PROMPT}")
    assert event.prompt_token_count > 0


def test_the_last_document_ends_an_answer_though_nobody_reads_on(
    provider: LoopbackProvider, tracker: Tracker
):
    """SDKs stop at the end of what is said, before the end of what is sent."""
    with Relay(provider) as relay:
        stream = _asked(anthropic(relay, tracker), stream=True)
        for event in stream:
            if event.type == "message_stop":
                break
        [counted], [billed] = tracker.llm_token_counts, provider.billed
        stream.close()
    assert (counted.status, counted.total_token_count) == ("complete", billed.total_tokens)


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("https://api.anthropic.com/v1/messages", {"type": "error", "error": {}}),
        ("https://api.openai.com/v1/responses", {"type": "response.failed", "response": {}}),
    ],
)
def test_a_stream_that_says_so_has_failed(url: str, line: object, tracker: Tracker):
    """Though it came to its end."""
    content = b"data: " + json.dumps(line).encode() + b"\n\n"
    _posted(tracker, url, [content], "text/event-stream")
    [event] = tracker.failed_calls
    assert event.status == "failed"


def test_the_stream_inside_is_closed(tracker: Tracker):
    """What stands in its place hands that on, too."""
    for reads in (True, False):
        inner = _Pieces([b"{}"])
        answer = httpx.Response(200, stream=inner)
        sender = httpx.Client(
            transport=WatchingTransport(tracker, httpx.MockTransport(lambda _, a=answer: a))
        )
        with sender.stream("POST", "https://api.openai.com/v1/responses", json={}) as given:
            if reads:
                given.read()
        assert inner.is_closed


def test_a_whole_document_that_nobody_reads_past_is_complete(tracker: Tracker):
    """The program has all of it, and needn't ask for more."""
    usage = {"input_tokens": 17, "output_tokens": 4}
    pieces = [b'{"usage":', json.dumps(usage).encode(), b"}"]
    answer = httpx.Response(200, stream=_Pieces(pieces))
    sender = httpx.Client(
        transport=WatchingTransport(tracker, httpx.MockTransport(lambda _: answer))
    )
    with sender.stream("POST", "https://api.anthropic.com/v1/messages", json={}) as given:
        for number, _ in enumerate(given.iter_raw(), 1):
            if number == len(pieces):
                break
    [event] = tracker.llm_token_counts
    assert (event.status, event.total_token_count) == ("complete", 21)


# --- memory --------------------------------------------------------------------------------


def _posted(tracker: Tracker, url: str, pieces: Any, kind: str) -> int:
    """Read an answer and drop it piece by piece; gives the most memory that was held meanwhile."""
    answer = httpx.Response(200, headers={"content-type": kind}, stream=_Pieces(pieces))
    transport = WatchingTransport(tracker, httpx.MockTransport(lambda _: answer))
    with httpx.Client(transport=transport) as sender:
        tracemalloc.start()
        try:
            with sender.stream("POST", url, json={"model": "m", "input": TEXTS}) as given:
                for _ in given.iter_bytes():
                    pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


_MEGABYTE = 1_048_576
_PIECE = b"0.12345," * 8_192


def _body(megabytes: int, end: bytes) -> Iterator[bytes]:
    yield b'{"data": [{"embedding": ['
    for _ in range(megabytes * _MEGABYTE // len(_PIECE)):
        yield _PIECE
    yield b"0.1]}], "
    # Wherever it's cut.
    for place in range(0, len(end), 7):
        yield end[place : place + 7]


def test_of_a_long_body_the_end_is_read(tracker: Tracker):
    """Embeddings of 64 MB are counted, and a few kilobytes of them held."""
    end = b'"model": "m", "usage": {"prompt_tokens": 23917, "total_tokens": 23917}}'
    held = _posted(
        tracker, "https://api.openai.com/v1/embeddings", _body(64, end), "application/json"
    )
    assert held < _MEGABYTE
    events = tracker.embedding_token_counts
    assert sum(event.prompt_token_count for event in events) == 23_917
    assert {event.source for event in events} == {"reported"}


@pytest.mark.parametrize(
    ("url", "kind", "most"),
    [
        ("https://api.openai.com/v1/embeddings", "application/json", 1),
        ("https://api.openai.com/v1/chat/completions", "application/json", 4),
        ("https://api.openai.com/v1/chat/completions", "text/event-stream", 4),
        ("https://api.openai.com/v1/files", "application/json", 1),
        ("https://api.cohere.com/v1/chat", "application/stream+json", 4),
    ],
)
def test_a_long_answer_that_says_nothing_is_not_held(
    url: str, kind: str, most: int, tracker: Tracker
):
    """Of one document without an end no more is held than a bound, whatever it pretends to be."""
    start = b"data: " if "event" in kind else b""
    held = _posted(tracker, url, (part for part in (start, *_body(32, b'"a": 1}'))), kind)
    assert held < most * _MEGABYTE


def test_a_stream_without_end_is_not_held(tracker: Tracker):
    """Beyond a bound the text of an event is left out, but not its figures."""
    chunk = json.dumps({"choices": [{"delta": {"content": "word " * 2_000}}]}).encode()
    usage = {"prompt_tokens": 17, "completion_tokens": 90_001, "total_tokens": 90_018}
    last = json.dumps({"choices": [], "usage": usage}).encode()

    def pieces() -> Iterator[bytes]:
        for _ in range(3_000):
            yield b"data: " + chunk + b"\n\n"
        yield b"data: " + last + b"\n\ndata: [DONE]\n\n"

    held = _posted(
        tracker, "https://api.openai.com/v1/chat/completions", pieces(), "text/event-stream"
    )
    assert held < 12 * _MEGABYTE
    [event] = tracker.llm_token_counts
    assert (event.total_token_count, event.source) == (90_018, "reported")


# --- what no provider sends ----------------------------------------------------------------

ODD = [
    b"",
    b"{",
    b"null",
    b"[]",
    b'{"usage": 5}',
    b'{"usage": {"prompt_tokens": -1, "completion_tokens": "many"}}',
    b'{"choices": "x", "content": {"text": {"text": 7}}, "delta": [[["x"]]]}',
    b'{"choices": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"choices": ' + b"[" * 3_000 + b"]" * 3_000 + b"}",
    b'{"choices": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    b'{"type": "message_stop", "done": true, "is_finished": true}',
    b"\xff\xfe\x00",
]


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", "application/x-ndjson"])
@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("path", ["v1/messages", "v1/chat/completions", "api/chat", "v1/responses"])
def test_whatever_is_answered_reaches_the_program(
    path: str, content: bytes, kind: str, tracker: Tracker
):
    """It's one call, and nothing is raised, then or when its event is looked at."""
    content = b"data: " + content + b"\n\n" if "event" in kind else content
    answer = httpx.Response(200, headers={"content-type": kind}, stream=_Pieces([content]))
    transport = WatchingTransport(tracker, httpx.MockTransport(lambda _: answer))
    with httpx.Client(transport=transport) as sender:
        given = sender.post(f"http://127.0.0.1/{path}", json={"messages": MESSAGES})
    assert given.content == content
    [event] = tracker.llm_token_counts
    assert event.prompt_token_count >= 0


# --- loops ---------------------------------------------------------------------------------


def test_an_encoded_stream_that_is_left_does_not_trouble_its_loop(tracker: Tracker):
    """What decodes is none of the loop's business, even when that ends first."""
    troubles: list[Any] = []

    async def pieces() -> AsyncIterator[bytes]:
        yield WHOLE["gzip"](b'data: {"a": 1}\n\n')
        await asyncio.sleep(10)

    class Pieces(httpx.AsyncByteStream):
        def __aiter__(self) -> AsyncIterator[bytes]:
            return pieces()

    async def work() -> Any:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: troubles.append(what))
        headers = {"content-encoding": "gzip", "content-type": "text/event-stream"}
        answer = httpx.Response(200, headers=headers, stream=Pieces())
        sender = httpx.AsyncClient(
            transport=AsyncWatchingTransport(tracker, httpx.MockTransport(lambda _: answer))
        )
        request = sender.build_request("POST", "https://api.openai.com/v1/responses", json={})
        given = await sender.send(request, stream=True)
        assert await anext(given.aiter_bytes()) == b'data: {"a": 1}\n\n'
        return given

    given = asyncio.run(work())
    del given
    gc.collect()
    assert troubles == []
    [event] = tracker.llm_token_counts
    assert event.status == "abandoned"

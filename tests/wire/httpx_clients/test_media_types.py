"""Bodies tell what they are, whatever their headers say; what can't be read isn't empty."""

import json
import logging
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_token_tracker import Tracker
from llama_token_tracker._log_once import forget_notices
from tests.wire.httpx_clients.test_cut_streams import FORMATS, read
from tests.wire.recorded import BILLED, SAID, record

CHAT = FORMATS["chat"]
BOM = b"\xef\xbb\xbf"
USAGE = {"prompt_tokens": 1_234, "completion_tokens": 56, "total_tokens": 1_290}
MIB = 2**20


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """What is logged of answers, as in a new process."""
    forget_notices()
    caplog.set_level(logging.WARNING, "llama_token_tracker")
    yield lambda: [message for message in caplog.messages if "tokenizer" not in message]
    forget_notices()


def _check(tracker: Tracker) -> None:
    [event] = tracker.llm_token_counts
    tracker.reset()
    assert event.total_token_count == BILLED.total_tokens
    assert (event.source, event.status) == ("reported", "complete")
    assert event.completion == f"assistant: {SAID}"


@pytest.mark.parametrize("step", [1, 5, 100_000])
@pytest.mark.parametrize("mark", [b"", BOM, b"\n", BOM + b"\r\n: a comment\n\n"])
@pytest.mark.parametrize(
    "kind",
    ["text/event-stream", "Text/Event-Stream; Charset=UTF-8", "application/json", "text/plain", ""],
)
def test_events_are_read_whatever_they_are_called(
    kind: str, mark: bytes, step: int, server: Any, tracker: Tracker
):
    """In capitals, with a charset, behind a byte order mark, and under a wrong name."""
    content = mark + record(server, *CHAT).content
    pieces = [content[at : at + step] for at in range(0, len(content), step)]
    read(tracker, CHAT.path, CHAT.body, kind, *pieces)
    _check(tracker)


@pytest.mark.parametrize("step", [1, 100_000])
@pytest.mark.parametrize("mark", [b"", BOM])
@pytest.mark.parametrize(
    "kind",
    ["application/x-ndjson", "Application/X-NDJSON", "application/json", "text/event-stream"],
)
def test_lines_are_read_whatever_they_are_called(
    kind: str, mark: bytes, step: int, server: Any, tracker: Tracker
):
    """The same of Ollama's."""
    form = FORMATS["ollama"]
    content = mark + record(server, *form).content
    pieces = [content[at : at + step] for at in range(0, len(content), step)]
    read(tracker, form.path, form.body, kind, *pieces)
    _check(tracker)


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("mark", [b"", BOM])
@pytest.mark.parametrize("kind", ["application/json", "APPLICATION/JSON", "text/event-stream", ""])
def test_a_document_is_read_whatever_it_is_called(
    kind: str, mark: bytes, indent: int | None, server: Any, tracker: Tracker
):
    """As from a server that doesn't stream, though it was asked to, however it's laid out."""
    document = json.loads(record(server, CHAT.path, {**CHAT.body, "stream": False}).content)
    content = mark + json.dumps(document, indent=indent).encode()
    read(tracker, CHAT.path, CHAT.body, kind, content)
    _check(tracker)


@pytest.mark.parametrize("between", [b"\n", b"\r\n", b" \n\n  "])
def test_objects_on_lines_are_a_stream(between: bytes, server: Any, tracker: Tracker):
    """They begin and end as one object does, and nothing else tells."""
    form = FORMATS["ollama"]
    content = between.join(record(server, *form).content.splitlines())
    read(tracker, form.path, form.body, "application/json", content)
    _check(tracker)


def test_a_list_of_documents_is_a_stream(server: Any, tracker: Tracker):
    """As Gemini sends it where nobody asks for events."""
    form = FORMATS["gemini"]
    lines = record(server, *form).content.splitlines()
    documents = [line.removeprefix(b"data: ") for line in lines if line]
    content = b"[" + b"\n,\r\n".join(documents) + b"]"
    read(tracker, form.path, form.body, "application/json; charset=UTF-8", content)
    _check(tracker)


@pytest.mark.parametrize("where", ["front", "middle", "end"])
@pytest.mark.parametrize("step", [1_000, 65_536, 10**8])
def test_the_usage_of_a_long_answer_is_read_wherever_it_stands(
    where: str, step: int, tracker: Tracker
):
    """Behind and before more than a mebibyte; a text that looks like one is none."""
    text = 'no "usage": {"prompt_tokens": 1} ' * 50_000
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    fields: list[tuple[str, Any]] = [("choices", [choice]), ("more", [text])]
    fields.insert(["front", "middle", "end"].index(where), ("usage", USAGE))
    content = json.dumps(dict(fields)).encode()
    assert len(content) > 3 * MIB
    pieces = [content[at : at + step] for at in range(0, len(content), step)]
    read(tracker, CHAT.path, CHAT.body, "application/json", *pieces)
    [event] = tracker.llm_token_counts
    assert (event.total_token_count, event.source) == (1_290, "reported")


def test_the_usage_of_embeddings_is_read_in_front(tracker: Tracker):
    """Of which less is kept."""
    vectors = [{"embedding": [random.random() for _ in range(1_000)]} for _ in range(20)]
    content = json.dumps({"usage": {"prompt_tokens": 7, "total_tokens": 7}, "data": vectors})
    read(tracker, "/v1/embeddings", {"input": "one"}, "application/json", content.encode())
    [event] = tracker.embedding_token_counts
    assert (event.prompt_token_count, event.source) == (7, "reported")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>busy</html>", "no JSON"),
        (b'{"choices": [{"message": {"content": "cut', "no JSON"),
        (b'{"choices": [{"message": {"content": "cut"}}', "no JSON"),
        (b"\x1f\x8b\x08 gzip that nobody names", "no JSON"),
        (json.dumps({"text": "a" * 2 * MIB}).encode(), "too long"),
    ],
)
def test_what_cannot_be_read_is_not_empty(
    content: bytes, said: str, tracker: Tracker, warnings: Callable[[], list[str]]
):
    """Its output isn't known, which the label says, and the log once."""
    for _ in range(2):
        read(tracker, CHAT.path, CHAT.body, "application/json", content)
    for event in tracker.llm_token_counts:
        assert (event.completion_source, event.source) == ("estimated", "estimated")
        assert event.prompt_token_count > 0
    [warning] = warnings()
    assert said in warning


def test_a_stream_that_is_broken_off_is_said_once(
    server: Any, tracker: Tracker, warnings: Callable[[], list[str]]
):
    """What came of it is counted."""
    content = record(server, *CHAT).content[:900]
    for _ in range(2):
        read(tracker, CHAT.path, CHAT.body, "text/event-stream", content)
    assert [event.status for event in tracker.llm_token_counts] == ["abandoned"] * 2
    [warning] = warnings()
    assert "before its last event" in warning


def test_a_server_may_leave_done_out(server: Any, tracker: Tracker):
    """A finish reason is an end, too; so is the end of a format that nobody has told of."""
    content = record(server, *CHAT).content
    read(
        tracker,
        CHAT.path,
        CHAT.body,
        "text/event-stream",
        content.removesuffix(b"data: [DONE]\n\n"),
    )
    _check(tracker)


# --- in little memory ----------------------------------------------------------------------

_BOMB = """
import sys, zlib
import httpx, zstandard
from llama_token_tracker import Tracker
from llama_token_tracker.wire import WatchingTransport

def peak():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def compressor(name):
    if name == "zstd":
        return zstandard.ZstdCompressor().compressobj()
    return zlib.compressobj(9, wbits=31 if name == "gzip" else 15)

encodings, kind, unit, size = sys.argv[1:]
chain = [compressor(name) for name in encodings.split(", ")]
piece = unit.encode() * (2**20 // len(unit))

def through(content, *, is_last=False):
    for one in chain:
        content = one.compress(content) + (one.flush() if is_last else b"")
    return content

body = b"".join([*(through(piece) for _ in range(int(size))), through(b"", is_last=True)])

class Stream(httpx.SyncByteStream):
    def __iter__(self):
        yield body

def ask(tracker):
    headers = {"content-encoding": encodings, "content-type": kind}
    answer = httpx.Response(200, headers=headers, stream=Stream())
    transport = WatchingTransport(tracker, httpx.MockTransport(lambda _: answer))
    asked = {"messages": [{"role": "user", "content": "hello"}]}
    with httpx.Client(transport=transport) as client:
        with client.stream("POST", "http://localhost/v1/chat/completions", json=asked) as response:
            for _ in response.iter_raw():
                pass

whole, body = body, body[:9]
ask(Tracker())  # what is loaded by the first
before, body, tracker = peak(), whole, Tracker()
ask(tracker)
held = peak() - before
[event] = tracker.llm_token_counts
print(len(body), held, event.completion_source)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak there")
@pytest.mark.parametrize(
    ("encodings", "kind", "unit", "size"),
    [
        ("zstd", "application/json", " ", 400),
        ("zstd", "application/json", "a", 400),
        ("gzip", "application/json", "a", 100),
        ("gzip, zstd", "application/json", "a", 100),
        ("zstd, gzip", "text/event-stream", "\n", 40),
        ("deflate", "text/event-stream", "data: ab\n\n", 12),
        ("zstd", "application/x-ndjson", "{}\n", 1),
    ],
)
def test_a_few_kilobytes_that_unpack_to_much_are_read_in_little_memory(
    encodings: str, kind: str, unit: str, size: int
):
    """In a process of its own, as the system measures it; what is lost isn't a silent zero."""
    command = [sys.executable, "-c", _BOMB, encodings, kind, unit, str(size)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    packed, held, source = ran.stdout.split()
    assert int(packed) < size * MIB // 100
    assert int(held) * 1_024 < 30 * MIB
    assert source == "estimated"

"""Usage is taken out of a stream's bytes, and nothing else is, nor held back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.wire.answers.stream_usage import WithoutUsage
from tests.wire.answers.test_documents import cut
from tests.wire.process.asked import ASKED, PLAIN, USAGE


def passed(*pieces: bytes) -> bytes:
    """What goes on of these."""
    passage = WithoutUsage()
    return b"".join([*map(passage.feed, pieces), passage.rest()])


@given(st.data())
def test_it_does_not_depend_on_how_the_bytes_are_cut(data: st.DataObject) -> None:
    """What comes out is what would have come unasked."""
    assert passed(*cut(data, ASKED)) == PLAIN


@given(st.data(), st.lists(st.sampled_from([b"data:", b"x", b"\n", b"\r\n", b'"usage"'])))
def test_anything_else_passes_as_it_is(data: st.DataObject, words: list[bytes]) -> None:
    """Whatever it is."""
    content = b"".join(words)
    assert passed(*cut(data, content)) == content


def test_each_event_goes_on_as_soon_as_it_is_whole() -> None:
    """The program waits for nothing that it wouldn't have waited for."""
    events = [b"data: " + piece for piece in ASKED.split(b"data: ")[1:]]
    plain = [b"data: " + piece for piece in PLAIN.split(b"data: ")[1:]]
    passage = WithoutUsage()
    assert [piece for event in events if (piece := passage.feed(event))] == plain


@pytest.mark.parametrize("content", [b'{"a": 1}\n', b"\x1f\x8b\x08\x00\x00", b"<html>\n"])
def test_what_is_no_event_goes_on_at_once(content: bytes) -> None:
    """But for a few bytes, which might be an event's end."""
    assert len(WithoutUsage().feed(content)) >= len(content) - 3


def test_a_long_event_is_not_held_back() -> None:
    """In memory there's never more than its bound; what comes after it is looked at again."""
    passage, piece = WithoutUsage(), b"x" * 10_000
    came = passage.feed(b"data: ") + b"".join(passage.feed(piece) for _ in range(100))
    assert len(came) > 900_000
    rest = b"".join(map(passage.feed, (b"\n", b"\n" + USAGE, b"data: [DONE]\n\n")))
    assert came + rest + passage.rest() == b"data: " + piece * 100 + b"\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}\n\n',
        b'data: {"choices":[{"index":0,"usage":null}],"usage":null}\n\n',
        b'data: {"choices":[{"usage":null}]}\n\n',
        b'data: {"usage":{"prompt_tokens":1}}\n\n',
        b'data: {"choices":[],"usage":{"prompt\n\n',
        b'data: "usage"\n\n',
    ],
)
def test_an_event_that_tells_more_stays(event: bytes) -> None:
    """Such as figures beside a choice, which nobody has asked for; or one that can't be read."""
    assert passed(event) == event


@pytest.mark.parametrize(
    ("event", "rest"),
    [
        (b'data: {"usage": null, "choices": [1]}\n\n', b'data: {"choices": [1]}\n\n'),
        (b'data:{"choices": [1], "usage" : null}\r\n\r\n', b'data:{"choices": [1]}\r\n\r\n'),
        (b'id: 1\ndata: {"choices":[],\ndata: "usage":{}}\n\n', b""),
        (USAGE.rstrip(), b""),
        (b'data: {"usage":null}', b'data: {"usage":null}'),
    ],
)
def test_usage_is_found_however_it_is_written(event: bytes, rest: bytes) -> None:
    """First or last, over several lines, and without an end."""
    assert passed(event) == rest

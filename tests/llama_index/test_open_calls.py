"""Calls that have started and not ended."""

import gc
import weakref
from asyncio import CancelledError
from collections.abc import Iterator
from typing import Any

import pytest

from llama_token_tracker import Usage
from llama_token_tracker._background import run_late
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.events import call as call_module
from llama_token_tracker.llama_index import open_calls as calls
from llama_token_tracker.llama_index.open_calls import (
    OpenCall,
    OpenCalls,
    Outcome,
    Progress,
    outcome_of,
)
from tests.scripted import reported

USAGE = Usage(input_tokens=100, output_tokens=20)
RAW = reported(100, 20)


class Spans(dict[str, str | None]):
    """A span tree: each span and the one it was entered in; calls are those that say so."""

    def parent(self, span_id: str) -> str | None:
        """The span around this one."""
        return self.get(span_id)

    def is_call(self, span_id: str) -> bool:
        """Whether this is a call's own span."""
        return span_id.startswith("call")


class Room:
    """Open calls, their spans, and what they settled without a word."""

    def __init__(self, **spans: str | None) -> None:
        self.lost: list[Outcome] = []
        self.spans = Spans(spans)
        self.calls = OpenCalls(self.spans, self.lost.append)

    def start(self, name: str, span_id: str | None = None, **fields: Any) -> OpenCall:
        """Start a call."""
        call = OpenCall(name, f"prompt of {name}", None, span_id)
        vars(call).update(fields)
        self.calls.start(call)
        return call

    def end(
        self, name: str, response: object = None, error: BaseException | None = None
    ) -> list[tuple[str, str, Usage | None]] | None:
        """End a call, and tell whose outcomes that settled."""
        outcomes = self.calls.end(name, response, error)
        return None if outcomes is None else told(outcomes)

    def stream(self, call: OpenCall) -> Any:
        """Let a call return a stream."""
        generator = (chunk for chunk in [1, 2])
        self.calls.returned(str(call.span_id), generator)
        return generator


def told(outcomes: Any) -> list[tuple[str, str, Usage | None]]:
    """The call, the status and the usage of each outcome."""
    return [(one.call.event_id, one.status, one.reported.usage) for one in outcomes]


@pytest.fixture(autouse=True)
def _notices_anew() -> Iterator[None]:
    """Let every test hear its own notices."""
    forget_notices()
    yield
    forget_notices()


def test_a_call_ends_once():
    """The end of a call settles it, and leaves nothing open."""
    room = Room()
    room.start("a")
    assert len(room.calls.by_id) == 1
    assert room.end("a", RAW) == [("a", "complete", USAGE)]
    assert len(room.calls.by_id) == 0
    assert room.end("a", RAW) is None


def test_an_unknown_end_is_unknown():
    """A call that never started is not invented."""
    assert Room().end("a", RAW) is None
    assert Room().calls.drop("a") == []
    assert Room().calls.end_plainly("a") is None


def test_a_plain_call_is_taken_out_plainly():
    """One call, no other inside or around it, no stream: the short way knows it."""
    room = Room()
    call = room.start("a", "call-a")
    assert room.calls.end_plainly("a") is call
    assert call.is_settled
    assert len(room.calls.by_id) == 0


def test_a_call_inside_another_is_the_one_that_counts():
    """The span tree says who made whom; the outer call has no outcome of its own."""
    room = Room(**{"call-b": "other", "other": "call-a"})
    outer, inner = room.start("a", "call-a"), room.start("b", "call-b")
    assert inner.parent is outer
    assert inner.outermost is outer
    assert room.calls.end_plainly("b") is None
    assert room.end("b", RAW) == [("b", "complete", USAGE)]
    assert room.end("a", RAW) == []


def test_calls_beside_each_other_are_two():
    """Without a span in common neither made the other, whatever the order."""
    room = Room(**{"call-a": None, "call-b": None})
    room.start("a", "call-a")
    assert room.start("b", "call-b").parent is None
    assert room.end("a", RAW) == [("a", "complete", USAGE)]
    assert room.end("b", RAW) == [("b", "complete", USAGE)]


def test_calls_without_spans_of_their_own_are_beside_each_other():
    """Two calls that start in one span which is no call's are no parts of each other."""
    room = Room()
    room.start("a", "query")
    assert room.start("b", "query").parent is None
    assert room.end("b", RAW) == [("b", "complete", USAGE)]
    assert room.end("a", RAW) == [("a", "complete", USAGE)]


def test_embedding_texts_is_no_part_of_a_call():
    """What doesn't nest is neither inside a call nor around one."""
    room = Room(**{"call-b": "call-a"})
    outer = room.start("a", "call-a")
    assert room.start("e", "call-b", nests=False).parent is None
    assert outer.inner is None
    assert room.end("e") == [("e", "complete", None)]
    assert room.end("a", RAW) == [("a", "complete", USAGE)]


def test_a_silent_call_waits_for_the_one_around_it():
    """What the provider didn't tell the inner call it may have told the outer."""
    room = Room(**{"call-b": "call-a"})
    room.start("a", "call-a"), room.start("b", "call-b")
    assert room.end("b") == []
    assert room.end("a", RAW) == [("b", "complete", USAGE)]


def test_nobody_waits_for_an_answer_of_the_users_own_class():
    """An outer call whose `raw` is the user's own object tells nothing of usage."""
    room = Room(**{"call-b": "call-a"})
    room.start("a", "call-a", trusts_raw=False), room.start("b", "call-b")
    assert room.end("b") == []
    assert room.end("a", RAW) == [("b", "complete", None)]


def test_silent_calls_wait_through_every_storey():
    """Three storeys are one call too, and the outermost may speak for the innermost."""
    room = Room(**{"call-c": "call-b", "call-b": "call-a"})
    for name in "abc":
        room.start(name, f"call-{name}")
    assert room.end("c") == []
    assert room.end("b") == []
    assert room.end("a", RAW) == [("c", "complete", USAGE)]


def test_a_waiting_call_is_released_when_the_outer_one_is_dropped():
    """An outer call that ends without a word takes nothing with it."""
    room = Room(**{"call-b": "call-a"})
    room.start("a", "call-a"), room.start("b", "call-b")
    assert room.end("b") == []
    assert told(room.calls.drop("a")) == [("b", "complete", None)]
    assert len(room.calls.by_id) == 0


def test_a_waiting_call_is_released_when_the_outer_one_fails():
    """An answer that was paid for counts, though what was made of it failed."""
    room = Room(**{"call-b": "call-a"})
    room.start("a", "call-a"), room.start("b", "call-b")
    assert room.end("b") == []
    assert room.end("a", error=ValueError()) == [("b", "complete", None)]


def test_a_failure_is_told_once():
    """An error that passes through two storeys is one failed call."""
    room = Room(**{"call-b": "call-a"})
    room.start("a", "call-a"), room.start("b", "call-b")
    assert room.end("b", error=ConnectionRefusedError()) == [("b", "failed", None)]
    assert room.end("a", error=ConnectionRefusedError()) == []


def test_an_answer_after_failures_is_the_outer_calls_own():
    """If all inner calls failed and the outer reports usage, it asked a provider itself."""
    room = Room(**{"call-c": "call-b", "call-b": "call-a"})
    for name in "abc":
        room.start(name, f"call-{name}")
    assert room.end("c", error=ConnectionRefusedError()) == [("c", "failed", None)]
    assert room.end("b", RAW) == [("b", "complete", USAGE)]
    assert room.end("a", RAW) == []


def test_an_outer_call_may_end_first():
    """A stream that is closed from outside settles the one inside it, once."""
    room = Room(**{"call-b": "call-a"})
    room.start("a", "call-a"), room.start("b", "call-b")
    room.calls.chunk("call-b", RAW)
    assert room.end("a", error=GeneratorExit()) == [("b", "abandoned", USAGE)]
    assert room.end("b", error=GeneratorExit()) == []
    assert len(room.calls.by_id) == 0


def test_a_call_that_is_heard_twice_ends_once():
    """A handler that sits in a manager twice hears each start and each end twice."""
    room = Room()
    room.start("a"), room.start("a")
    assert room.calls.end_plainly("a") is None
    assert room.end("a", RAW) == [("a", "complete", USAGE)]
    assert room.end("a", RAW) == []
    assert room.end("a", RAW) is None


def test_an_id_that_comes_again_is_a_new_call():
    """If an end was missed, the next call with the id is not swallowed."""
    room = Room()
    room.start("a"), room.start("a")
    room.end("a", RAW)
    room.start("a")
    assert room.end("a", RAW) == [("a", "complete", USAGE)]


# --- streams --------------------------------------------------------------------------------


def test_a_stream_that_is_dropped_is_settled():
    """When nobody holds the stream any more, what came of it is told."""
    room = Room()
    stream = room.stream(room.start("a", "call-a"))
    room.calls.chunk("call-a", RAW)
    assert room.lost == []
    del stream
    gc.collect()
    run_late()
    assert told(room.lost) == [("a", "abandoned", USAGE)]
    assert len(room.calls.by_id) == 0
    assert room.end("a", error=GeneratorExit()) is None


def test_a_stream_that_was_never_read_is_forgotten():
    """Without a chunk there was no call; the one around it speaks for itself."""
    room = Room(**{"call-b": "call-a"})
    room.start("a", "call-a")
    stream = room.stream(room.start("b", "call-b"))
    del stream
    gc.collect()
    run_late()
    assert room.lost == []
    assert room.end("a", RAW) == [("a", "complete", USAGE)]


def test_a_stream_that_has_ended_is_not_told_twice():
    """Dropping a stream that was read to its end is nothing."""
    room = Room()
    stream = room.stream(room.start("a", "call-a"))
    room.calls.chunk("call-a", RAW)
    assert room.end("a", RAW) == [("a", "complete", USAGE)]
    del stream
    gc.collect()
    run_late()
    assert room.lost == []


def test_open_calls_may_be_forgotten_with_their_streams():
    """A stream keeps neither its calls nor what they belong to alive."""
    room = Room()
    stream = room.stream(room.start("a", "call-a"))
    weak = weakref.ref(room.calls)
    del room
    gc.collect()
    assert weak() is None
    del stream


def test_chunks_of_a_call_that_asks_another_are_copies():
    """What passes through the outer stream has passed through the inner one."""
    room = Room(**{"call-b": "call-a"})
    outer, inner = room.start("a", "call-a"), room.start("b", "call-b")
    room.calls.chunk("call-b", RAW)
    room.calls.chunk("call-a", RAW)
    room.calls.chunk("call-unknown", RAW)
    assert inner.progress is not None
    assert inner.progress.chunks == 1
    assert outer.progress is None


def test_progress_knows_whether_words_came_after_the_figures():
    """Figures are newest until a chunk without new ones comes."""
    progress = Progress()
    for chunk, newest in [(None, False), (RAW, True), (None, False), (reported(100, 30), True)]:
        progress.add(chunk)
        assert progress.left_at(progress.usage.read()).output_is_complete is newest
    assert (progress.chunks, progress.last) == (4, reported(100, 30))


# --- how calls end --------------------------------------------------------------------------

ENDS: list[tuple[BaseException | None, str]] = [
    (None, "complete"),
    (GeneratorExit(), "abandoned"),
    (CancelledError(), "abandoned"),
    (KeyboardInterrupt(), "abandoned"),
    (ConnectionRefusedError(), "failed"),
    (OSError(), "unanswered"),
    (SystemExit(), "unanswered"),
]


@pytest.mark.parametrize(("error", "status"), ENDS, ids=lambda end: type(end).__name__)
@pytest.mark.parametrize("chunks", [0, 1])
def test_how_a_call_ended(error: BaseException | None, status: str, chunks: int):
    """Leaving is no failure, and free is only what surely was never sent."""
    call = OpenCall("a", "hello", None)
    if chunks:
        call.progress = Progress()
        call.progress.add({"delta": "word"})
    outcome = outcome_of(call, None, error)
    assert outcome.status == ("failed" if chunks and status == "unanswered" else status)
    assert outcome.is_free == (status == "failed" and not chunks)


# --- bounds ---------------------------------------------------------------------------------


@pytest.fixture
def _few_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ten open calls be many, and look at each."""
    monkeypatch.setattr(call_module, "MAX_OPEN", 10)
    monkeypatch.setattr(calls, "LOOKED_AT_EVERY", 1)


@pytest.mark.usefixtures("_few_open")
def test_open_calls_are_bounded(caplog: pytest.LogCaptureFixture):
    """Calls that never end fill no memory: the oldest count as abandoned, which is said once."""
    room = Room()
    for number in range(50):
        room.start(str(number), f"call-{number}", nests=number % 2 == 0)
    assert len(room.calls.by_id) == 11
    assert len(caplog.records) == 1
    assert "too many open calls: found 11; the oldest are counted as abandoned" in caplog.text
    assert told(room.lost) == [(str(number), "abandoned", None) for number in range(39)]
    # Should its end come after all, it's the end of a call that is counted.
    assert room.end("0", RAW) == []
    assert room.end("49", RAW) == [("49", "complete", USAGE)]


@pytest.mark.usefixtures("_few_open")
def test_a_call_that_is_given_up_releases_those_that_waited():
    """What was billed inside of it is counted, once."""
    room = Room(**{"call-b": "call-a"})
    room.start("a", "call-a"), room.start("b", "call-b")
    assert room.end("b") == []
    for number in range(11):
        room.start(str(number), f"call-{number}")
    assert told(room.lost) == [("b", "complete", None)]
    assert room.end("a", RAW) == []


def test_only_what_is_open_for_very_long_is_given_up_earlier(monkeypatch: pytest.MonkeyPatch):
    """Of many calls those go that no provider would take so long for."""
    monkeypatch.setattr(call_module, "MANY_OPEN", 3)
    monkeypatch.setattr(calls, "LOOKED_AT_EVERY", 1)
    room = Room()
    room.start("old").began -= call_module.OPEN_S + 1
    for number in range(9):
        room.start(str(number))
    assert told(room.lost) == [("old", "abandoned", None)]

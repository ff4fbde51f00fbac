"""Sinks: each finished call's event, once, whatever the sink does."""

import gc
import json
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, EventPayload
from llama_index.core.embeddings import MockEmbedding

from llama_token_tracker import (
    Budget,
    BudgetExceededError,
    TokenCountingEvent,
    TokenCountingHandler,
    Tracker,
)
from llama_token_tracker.errors import SinkError
from tests.scripted import EMBEDDING, HELLO, LLM, Scripted, answer, by_hand, reported

THREADS, CALLS = 16, 2_000
Event = TokenCountingEvent


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """A sink may hold its handler, so that only the collector finds both."""
    yield
    gc.collect()


def abandoned(handler: TokenCountingHandler, event_id: str) -> None:
    """A call whose stream was left after its first chunk."""
    handler.on_event_start(LLM, {EventPayload.MESSAGES: HELLO}, event_id=event_id)
    handler.on_event_end(LLM, {EventPayload.EXCEPTION: GeneratorExit()}, event_id=event_id)


def failed(handler: TokenCountingHandler, event_id: str) -> None:
    """A call that never left."""
    handler.on_event_start(LLM, {EventPayload.MESSAGES: HELLO}, event_id=event_id)
    handler.on_event_end(LLM, {EventPayload.EXCEPTION: ConnectionRefusedError()}, event_id=event_id)


def embedded(handler: TokenCountingHandler, event_id: str) -> None:
    """Two embedded texts."""
    handler.on_event_start(EMBEDDING, {}, event_id=event_id)
    handler.on_event_end(EMBEDDING, {EventPayload.CHUNKS: ["one two", "three"]}, event_id=event_id)


def silent(handler: TokenCountingHandler, event_id: str) -> None:
    """A call whose provider reported nothing."""
    by_hand(handler, answer("one two"), HELLO, event_id=event_id)


def plain(handler: TokenCountingHandler, event_id: str) -> None:
    """A call whose provider reported its usage."""
    by_hand(handler, answer(raw=reported(7_013, 56)), HELLO, event_id=event_id)


KINDS: tuple[Callable[[TokenCountingHandler, str], None], ...] = (
    plain,
    silent,
    plain,
    failed,
    plain,
    abandoned,
    plain,
    embedded,
)


EVENTS = THREADS * CALLS * (len(KINDS) + 1) // len(KINDS)
"""A call that embeds two texts is two events."""


@pytest.mark.slow
def test_each_call_is_delivered_once_whatever_another_sink_does():
    """Sixteen threads, two thousand calls each; one sink raises, and one never returns."""
    events: list[Event] = []
    hanging = threading.Event()

    def hang(_event: Event) -> None:
        hanging.wait()

    def fail(_event: Event) -> None:
        raise RuntimeError

    handler = TokenCountingHandler(tokenizer=str.split, sinks=[hang, events.append, fail])

    def record(thread: int) -> None:
        for number in range(CALLS):
            KINDS[number % len(KINDS)](handler, f"{thread}-{number}")

    threads = [threading.Thread(target=record, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        deadline = time.monotonic() + 20
        # It never succeeds, as one sink hangs; the other one gets all meanwhile.
        while not handler.flush(timeout_s=0.2) and len(events) < EVENTS:
            assert time.monotonic() < deadline
        assert not handler.flush(timeout_s=0.2)
        calls = Counter(event.inner_event_id for event in events)
        texts = sum(event.operation == "embedding" for event in events)
        assert len(calls) == THREADS * CALLS
        assert texts == 2 * THREADS * CALLS / len(KINDS)
        assert len(events) == len({event.id for event in events}) == THREADS * CALLS + texts // 2
        assert sum(event.total_token_count for event in events) == (
            handler.total_llm_token_count + handler.total_embedding_token_count
        )
        rows = handler.by("status").values()
        assert sum(row.calls for row in rows) == len(events)
        assert {event.status for event in events} == {"complete", "failed", "abandoned"}
    finally:
        hanging.set()
    assert handler.close(timeout_s=60)


def test_events_come_in_the_order_in_which_calls_ended():
    """Whether they were reported or had to be counted."""
    events: list[Event] = []
    handler = TokenCountingHandler(tokenizer=str.split, sinks=[events.append])
    for number in range(500):
        KINDS[number % len(KINDS)](handler, str(number))
    assert handler.flush(30)
    order = [int(event.inner_event_id) for event in events]
    assert order == sorted(order)
    assert len(set(order)) == 500


def test_an_event_comes_within_a_second_without_anybody_asking():
    """The worker sees to it, also after a pause."""
    came = threading.Event()
    handler = TokenCountingHandler(sinks=[lambda _event: came.set()])
    for _ in range(2):
        by_hand(handler, answer(raw=reported(7_013, 56)), HELLO)
        assert came.wait(10)
        came.clear()
        time.sleep(1.2)  # longer than the worker waits for more


def test_a_dropped_stream_is_delivered_without_anybody_asking():
    """The collector finds it, takes no lock, and the worker does the rest."""
    came = threading.Event()
    handler = TokenCountingHandler(sinks=[lambda event: event.status == "abandoned" and came.set()])
    llm = Scripted(raws=[None, None], callback_manager=CallbackManager([handler]))
    stream = llm.stream_complete("hello")
    next(stream)
    del stream
    assert came.wait(10)


def test_threads_end_with_their_tracker():
    """A handler that is gone leaves no thread behind."""
    handler = TokenCountingHandler(sinks=[lambda _event: None])
    by_hand(handler, answer(raw=reported(5, 1)), HELLO)
    assert handler.flush(30)
    del handler
    until = time.monotonic() + 20
    while time.monotonic() < until and any(
        "test_threads_end" in thread.name for thread in threading.enumerate()
    ):
        # The worker may hold the tracker until it's done with it.
        gc.collect()
        time.sleep(0.05)
    assert not [thread for thread in threading.enumerate() if "test_threads_end" in thread.name]


def test_a_sink_that_holds_its_handler_keeps_neither():
    """They hold each other, and nobody else holds them."""

    def dropped() -> weakref.ref[Tracker]:
        handler = TokenCountingHandler(sinks=[lambda _event: handler.total_llm_token_count])
        by_hand(handler, answer(raw=reported(5, 1)), HELLO)
        assert handler.flush(30)
        return weakref.ref(handler.tracker)

    left = dropped()
    until = time.monotonic() + 20
    while left() is not None and time.monotonic() < until:
        gc.collect()
    assert left() is None


def test_an_event_is_complete():
    """Cost, scope, tags and texts are there when a sink gets it, on a thread of its own."""
    seen: list[dict[str, Any]] = []
    threads: set[str] = set()

    def keep(event: Event) -> None:
        threads.add(threading.current_thread().name)
        seen.append(event.to_dict())

    handler = TokenCountingHandler(sinks=[keep])
    llm = Scripted(raw=reported(7_013, 56), callback_manager=CallbackManager([handler]))
    with handler.scope("request-42", user="ada"):
        llm.complete("hello")
    assert handler.flush(30)
    [event] = seen
    assert event["usage"] == {"input_tokens": 7_013, "output_tokens": 56}
    assert (event["scope"], event["tags"]) == ("request-42", {"user": "ada"})
    assert (event["source"], event["status"], event["model"]) == (
        "reported",
        "complete",
        "scripted-1",
    )
    assert event["prompt"] == "hello"
    assert event["cost_usd"] is None
    assert event["cost_is_whole"] is False
    assert event["started_at"].endswith("+00:00")
    assert json.loads(json.dumps(event)) == event
    assert threading.current_thread().name not in threads


def test_a_cost_is_plain_too():
    """Dollars are a text, so that no digit is lost."""
    events: list[Event] = []
    handler = TokenCountingHandler(sinks=[events.append])
    about = {EventPayload.SERIALIZED: {"class_name": "openai_llm", "model": "gpt-4o"}}
    handler.on_event_start(LLM, {EventPayload.MESSAGES: HELLO, **about}, event_id="1")
    handler.on_event_end(
        LLM, {EventPayload.RESPONSE: answer(raw=reported(1_000_000, 1))}, event_id="1"
    )
    assert handler.flush(30)
    assert Decimal(events[0].to_dict()["cost_usd"]) == Decimal("2.50001")
    assert events[0].to_dict()["cost_is_whole"] is True


def test_texts_of_a_batch_have_ids_of_their_own():
    """They share the call's id, and each has one that no other has, which copies keep."""
    handler = TokenCountingHandler()
    model = MockEmbedding(8, callback_manager=CallbackManager([handler]))
    model.get_text_embedding_batch(["one", "two", "three"])
    events = list(handler.embedding_token_counts)
    assert len({event.event_id for event in events}) == 1
    assert len({event.id for event in events}) == 3
    assert pickle.loads(pickle.dumps(events[0])).id == events[0].id


def test_a_call_is_delivered_to_every_sink():
    """In the order in which calls ended, each."""
    first: list[str] = []
    second: list[str] = []
    handler = TokenCountingHandler(
        sinks=[lambda event: first.append(event.id), lambda event: second.append(event.id)]
    )
    for number in range(50):
        by_hand(handler, answer(raw=reported(number, 1)), HELLO, event_id=str(number))
    assert handler.flush(30)
    assert first == second == [event.id for event in handler.llm_token_counts]


def test_a_sink_that_raises_is_said_once(caplog: pytest.LogCaptureFixture):
    """And gets the next event all the same."""
    asked: list[Event] = []

    def fail(event: Event) -> None:
        asked.append(event)
        raise SystemExit

    handler = TokenCountingHandler(sinks=[fail])
    for number in range(3):
        by_hand(handler, answer(raw=reported(number, 1)), HELLO, event_id=str(number))
    assert handler.flush(30)
    assert len(asked) == 3
    assert [record for record in caplog.messages if "fail" in record] == caplog.messages
    assert len(caplog.messages) == 1


def test_a_sink_that_reads_totals_waits_for_nobody():
    """No lock is held while it runs."""
    totals: list[int] = []
    handler = TokenCountingHandler(sinks=[lambda _event: totals.append(handler.by("model") and 1)])
    by_hand(handler, answer(raw=reported(5, 1)), HELLO)
    assert handler.flush(30)
    assert totals == [1]


def test_a_sink_may_flush():
    """It doesn't wait for itself."""
    done: list[bool] = []
    handler = TokenCountingHandler(sinks=[lambda _event: done.append(handler.flush())])
    by_hand(handler, answer(raw=reported(5, 1)), HELLO)
    assert handler.flush(30)
    assert done == [False]


def test_a_closed_handler_counts_on():
    """After `close()` sinks get nothing more, and totals go on."""
    events: list[Event] = []
    handler = TokenCountingHandler(sinks=[events.append])
    by_hand(handler, answer(raw=reported(5, 1)), HELLO, event_id="1")
    assert handler.close(30)
    by_hand(handler, answer(raw=reported(5, 1)), HELLO, event_id="2")
    assert handler.flush(30)
    assert (len(events), handler.total_llm_token_count) == (1, 12)


def test_a_tracker_delivers_what_is_recorded_by_hand():
    """Sinks are the tracker's, whoever records."""
    events: list[Event] = []
    tracker = Tracker(sinks=[events.append])
    tracker.record(Event("", "", 2, 3))
    assert tracker.flush(30)
    assert [event.total_token_count for event in events] == [5]


def test_what_ended_is_delivered_though_nobody_holds_the_handler():
    """A handler that is dropped at once takes no event with it."""
    events: list[Event] = []
    handler = TokenCountingHandler(sinks=[events.append])
    for number in range(100):
        by_hand(handler, answer(raw=reported(number, 1)), HELLO, event_id=str(number))
    del handler
    until = time.monotonic() + 20
    while len(events) < 100 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(events) == 100


def test_a_copy_delivers_nothing():
    """Its calls are those of the original, which has delivered them."""
    events: list[Event] = []
    handler = TokenCountingHandler(sinks=[events.append])
    by_hand(handler, answer(raw=reported(5, 1)), HELLO)
    twin = pickle.loads(pickle.dumps(handler))
    assert twin.flush(30)
    by_hand(twin, answer(raw=reported(5, 1)), HELLO)
    assert twin.flush(30)
    assert handler.flush(30)
    assert len(events) == 1


def test_budgets_settle_beside_sinks():
    """A call that is delivered is charged once."""
    events: list[Event] = []
    handler = TokenCountingHandler(
        tokenizer=str.split, budget=Budget(tokens=100, default_max_tokens=1), sinks=[events.append]
    )
    llm = Scripted(raw=reported(30, 10), callback_manager=CallbackManager([handler]))
    llm.complete("hello")
    llm.complete("hello")
    assert handler.accounts[0].spent().tokens == 80
    llm.complete("hello")
    with pytest.raises(BudgetExceededError):
        llm.complete("hello")
    assert handler.flush(30)
    assert len(events) == 3
    assert handler.accounts[0].spent().tokens == 120
    assert handler.accounts[0].spent().reserved_tokens == 0


@pytest.mark.parametrize("bad", [5, "print", None])
def test_what_cannot_be_called_is_refused(bad: Any):
    """The message says what was found, and what to give."""
    with pytest.raises(SinkError, match=r"which can't be called; give functions.*sinks=\[print\]"):
        TokenCountingHandler(sinks=[bad])


AT_EXIT = """
import sys, time
from llama_token_tracker import Tracker, TokenCountingEvent
def sink(event):
    time.sleep(0.05)
    print(event.prompt_token_count, flush=True)
tracker = Tracker(sinks=[sink])
for number in range(10):
    tracker.record(TokenCountingEvent("", "", 0, number))
"""

HANGING = """
import time
from llama_token_tracker import Tracker, TokenCountingEvent
tracker = Tracker(sinks=[lambda event: time.sleep(3600)])
tracker.record(TokenCountingEvent("", "", 0, 1))
"""

FORKED = """
import os, warnings
# Python 3.12 on minds a fork beside the worker's thread, which is what this is about.
warnings.simplefilter("ignore", DeprecationWarning)
from llama_token_tracker import Tracker, TokenCountingEvent
def sink(event):
    os.write(1, b"%d %d\\n" % (os.getpid() == parent, event.prompt_token_count))
parent = os.getpid()
tracker = Tracker(sinks=[sink])
for number in range(5):
    tracker.record(TokenCountingEvent("", "", 0, number))
child = os.fork()
tracker.record(TokenCountingEvent("", "", 0, 10 if child else 20))
tracker.flush(20)
if child:
    os.waitpid(child, 0)
    assert tracker.total_llm_token_count == 20
else:
    assert tracker.total_llm_token_count == 30
    os._exit(0)
"""


def ran(code: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, for a minute at the most."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def test_what_waits_at_exit_is_delivered():
    """A slow sink is waited for."""
    done = ran(AT_EXIT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(number) for number in range(10)]


@pytest.mark.slow
def test_a_hanging_sink_does_not_hold_up_the_exit():
    """It is waited for only so long."""
    began = time.monotonic()
    done = ran(HANGING)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 50


def test_a_child_delivers_its_own_calls_alone():
    """What ended before the fork is the parent's to deliver, once."""
    done = ran(FORKED)
    assert (done.returncode, done.stderr) == (0, "")
    lines = Counter(done.stdout.splitlines())
    assert lines == Counter([f"1 {n}" for n in (0, 1, 2, 3, 4, 10)] + ["0 20"])

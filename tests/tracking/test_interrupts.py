"""Signals that are handled in the midst of recording, reading, editing and resetting."""

import ctypes
import queue
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from llama_index.core.callbacks import EventPayload

from llama_token_tracker import Budget, TokenCountingHandler
from llama_token_tracker._background import Worker
from llama_token_tracker._lock import LOCK, is_sent
from llama_token_tracker._log_once import forget_notices
from tests.interrupts import TimeLimit, handled, interrupted, raising
from tests.scripted import HELLO, LLM, Scripted, answer, by_hand, counted, reported

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal")


class Counted:
    """A handler with a scope, and calls of which some are reported and some have to be counted."""

    def __init__(self, **options: Any) -> None:
        forget_notices()
        self.handler = TokenCountingHandler(tokenizer=str.split, **options)
        self.scope = self.handler.scope("request", user="ada")
        self.ended = 0
        self.left_open = 0

    def call(self, raw: object = None) -> None:
        """Make a call of five tokens."""
        self.ended += 1
        by_hand(self.handler, answer("one two", raw), HELLO, event_id=f"{self.ended}")

    def wait(self) -> None:
        """Have calls wait, inside the scope and outside of it."""
        self.call(reported(5, 2))
        with self.scope:
            self.call(reported(5, 2))
            self.call()
        for number in range(2):
            self.handler.on_event_start(
                LLM, {EventPayload.MESSAGES: HELLO}, event_id=f"open-{number}"
            )

    def check(self, calls: int | None = 5) -> None:
        """Nothing is lost, doubled or at odds with the rest, and nobody waits for a lock."""
        assert not LOCK._is_owned()
        self.left_open = self.handler.open_calls
        end(self, 2 - self.left_open)
        most = self.handler.tracker.max_events
        for report, number in ((self.handler, calls), (self.scope, 2)):
            events = list(report.llm_token_counts)
            if number is None:
                number = sum(row.calls for row in report.by("model").values())
                assert most is not None or number == len(events)
            else:
                assert len(events) == min(number, most or number)
                assert len({event.event_id for event in events}) == len(events)
            assert report.total_llm_token_count == 7 * number
            for name in ("model", "status", "user", "scope"):
                rows = report.by(name).values()
                assert sum(row.calls for row in rows) == number
                assert sum(row.total_tokens for row in rows) == 7 * number


def read(counted: Counted) -> None:
    """Read everything."""
    handler = counted.handler
    assert handler.total_llm_token_count == 21
    assert sum(row.calls for row in handler.by("user").values()) == 3
    len(counted.scope.llm_token_counts)


def end(counted: Counted, first: int = 0) -> None:
    """End the calls that are open, one that is reported and one that has to be counted."""
    for number, raw in [*enumerate((reported(5, 2), None))][first:]:
        payload = {EventPayload.MESSAGES: HELLO, EventPayload.RESPONSE: answer("one two", raw)}
        counted.handler.on_event_end(LLM, payload, event_id=f"open-{number}")


def reset(counted: Counted) -> None:
    """Forget everything."""
    counted.handler.reset_counts()


def edit(counted: Counted) -> None:
    """Take events out and put them in again."""
    events = counted.handler.llm_token_counts
    held = [events[0]]
    events += held
    del events[-1:]
    events.sort(key=lambda event: event.event_id)


def _places(action: Callable[[Counted], object], **options: Any) -> int:
    counted = Counted(**options)
    counted.wait()
    return interrupted(lambda: action(counted), -1)


ACTIONS = [read, end, edit]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"max_events": 2}], ids=["all", "bounded"])
@pytest.mark.parametrize("action", ACTIONS)
def test_a_time_limit_loses_nothing_and_is_not_lost(
    action: Callable[[Counted], object], options: dict[str, Any]
):
    """An alarm that raises reaches the user from wherever it comes, and every call counts once."""
    _places(action, **options)  # what is only done once is done
    places = _places(action, **options)
    with handled(raising):
        for at in range(1, places, 1 + places // 300):
            counted = Counted(**options)
            counted.wait()
            try:
                with suppress(TimeLimit):
                    # Some places are only reached the first time.
                    assert interrupted(lambda counted=counted: action(counted), at) < at
                counted.check(None if action is edit else 5)
            except AssertionError as error:
                error.add_note(f"at {at} of {places}")
                raise


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"max_events": 2}], ids=["all", "bounded"])
@pytest.mark.parametrize("action", ACTIONS)
def test_a_signal_handler_reads_in_the_midst(
    action: Callable[[Counted], object], options: dict[str, Any]
):
    """It finds sums that agree, and what it has interrupted goes on as if nothing had been."""
    places = _places(action, **options)
    for at in range(1, places, 1 + places // 200):
        counted = Counted(**options)
        counted.wait()
        found: list[tuple[int, int]] = []

        def look(_number: int, _frame: object, counted: Any = counted, found: Any = found) -> None:
            rows = counted.handler.by("model").values()
            found.append((counted.handler.total_llm_token_count, sum(r.total_tokens for r in rows)))

        with handled(look):
            reached = interrupted(lambda counted=counted: action(counted), at)
        assert bool(found) == (reached >= at)
        assert all(total == by_model for total, by_model in found)
        counted.check(None if action is edit else 5)


@pytest.mark.slow
def test_a_nested_call_and_a_stream_count_once_wherever_they_are_interrupted():
    """Nothing is doubled or at odds, unless LlamaIndex's dispatcher swallows the alarm."""

    def ask(model: Scripted) -> None:
        model.chat(HELLO)  # asks complete()
        for _ in model.stream_complete("hello"):
            pass

    def asked(at: int) -> int:
        handler, model = counted(raw=reported(5, 2), raws=[None, reported(5, 2)])
        places = 0
        try:
            places = interrupted(lambda: ask(model), at)
            if places >= at > 0:
                return places  # swallowed
        except TimeLimit:
            pass
        events = list(handler.llm_token_counts)
        assert len(events) == len({event.inner_event_id for event in events}), at
        # Of a call that was interrupted early nobody knows whether it left.
        assert len([one for one in events if one.status != "unanswered"]) <= model.calls, at
        assert handler.total_llm_token_count == sum(event.total_token_count for event in events)
        rows = handler.by("model").values()
        assert sum(row.calls for row in rows) == len(events) + len(handler.failed_calls), at
        return places

    asked(-1)
    places = asked(-1)
    with handled(raising):
        for at in range(1, places, 1 + places // 300):
            asked(at)


def test_an_exception_that_is_sent_to_a_thread_is_not_about_what_it_interrupts():
    """What is raised in foreign code is told from what another thread has sent there."""

    def found(wait: Callable[[], object]) -> BaseException:
        started, errors = threading.Event(), []

        def run() -> None:
            try:
                started.set()
                wait()
            except Exception as error:  # noqa: BLE001 - whatever comes
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        started.wait()
        while thread.is_alive():
            ident = ctypes.c_ulong(thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(TimeLimit))
            thread.join(0.05)
        return errors[0]

    def spin() -> None:
        while True:
            pass

    def call() -> None:
        while True:
            len("")

    assert all(is_sent(found(wait)) for wait in (spin, call))
    empty: queue.SimpleQueue[int] = queue.SimpleQueue()
    for raised in (lambda: int("x"), empty.get_nowait, lambda: raising(1, None)):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - any of them
            raised()
        assert not is_sent(caught.value)


def test_a_budget_is_charged_once_however_often_that_is_interrupted():
    """What a call used is spent once, and what it had reserved is given back."""

    def spent(at: int) -> tuple[int, int, int]:
        budget = Budget(tokens=10_000)
        handler = TokenCountingHandler(budget=budget)
        payload = {EventPayload.MESSAGES: HELLO}
        handler.on_event_start(LLM, payload, event_id="1")
        payload = {**payload, EventPayload.RESPONSE: answer("hi", reported(5, 2))}
        places = 0
        with suppress(TimeLimit):
            places = interrupted(lambda: handler.on_event_end(LLM, payload, event_id="1"), at)
        if handler.open_calls:
            handler.on_event_end(LLM, payload, event_id="1")
        account = handler.accounts[0].spent()
        return account.tokens, account.reserved_tokens, places

    spent(-1)
    *_, places = spent(-1)
    with handled(raising):
        wrong = [at for at in range(1, places) if spent(at)[:2] != (7, 0)]
    assert wrong == []


def test_the_worker_starts_however_often_that_is_interrupted():
    """What was asked of it is done once somebody asks again."""
    worker = Worker("test")
    interrupted(lambda: worker.ask(int), -1)
    places = interrupted(lambda: Worker("test").ask(int), -1)
    with handled(raising):
        for at in range(1, places):
            worker = Worker("test")
            with suppress(TimeLimit):
                interrupted(lambda worker=worker: worker.ask(int), at)
            assert worker.flush(20), at

"""Signals that are handled in the midst of recording, reading, editing and resetting."""

import signal
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.callbacks import EventPayload

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker._log_once import forget_notices
from tests.interrupts import TimeLimit, handled, interrupted, raising
from tests.scripted import HELLO, LLM, answer, by_hand, reported

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
        """Nothing is lost, doubled or at odds with the rest."""
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
                with pytest.raises(TimeLimit):
                    interrupted(lambda counted=counted: action(counted), at)
                counted.check(None if action is edit else 5)
            except (AssertionError, pytest.fail.Exception) as error:
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
            interrupted(lambda counted=counted: action(counted), at)
        assert found
        assert len(set(found[0])) == 1
        counted.check(None if action is edit else 5)

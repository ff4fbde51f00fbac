"""Whatever a name holds, nothing that shows it obeys it; what is stored stays as it was."""

from __future__ import annotations

import logging

import pytest

from llama_token_tracker import Budget, BudgetExceededError, TokenCountingEvent, Tracker, Usage
from llama_token_tracker._log_once import forget_notices

HOSTILE = "\x1b[2J\x1b]0;x\x07\x00\u202e\u2066\x9b\ud800\r\n\u2028name"


def inert(text: str) -> None:
    """Hold a text to signs that no terminal obeys and that can be written."""
    assert all(sign == "\n" or sign.isprintable() for sign in text), ascii(text)
    text.encode()


@pytest.fixture
def tracker() -> Tracker:
    """A tracker in which every name is hostile."""
    tracker = Tracker()
    with tracker.scope(HOSTILE, **{HOSTILE: HOSTILE, "user": HOSTILE}) as scope:
        event = TokenCountingEvent(
            HOSTILE, HOSTILE, 1, 1, usage=Usage(input_tokens=1, output_tokens=1)
        )
        event.model, event.provider, event.event_id = HOSTILE, HOSTILE, HOSTILE
        event.operation = event.status = HOSTILE  # type: ignore[assignment]
        event.scope, event.tags = scope.path, dict(scope.tags)
        scope_event = event
    tracker.record(scope_event)
    return tracker


def test_what_is_shown_is_inert(tracker: Tracker, caplog: pytest.LogCaptureFixture):
    """Text, cards, `repr` and rows of a tracker, a scope and an event."""
    forget_notices()
    with tracker.scope(HOSTILE, user=HOSTILE) as scope:
        pass
    [event] = tracker.llm_token_counts
    for thing in (tracker, scope, event, tracker.by("model"), tracker.by("user")):
        inert(str(thing))
        inert(repr(thing))
    for thing in (tracker, scope, event):
        inert(thing._repr_html_())
    _ = tracker.total_cost_usd
    assert caplog.records
    for record in caplog.records:
        inert(record.getMessage())


def test_what_is_stored_is_as_it_was(tracker: Tracker):
    """Names are cleaned where they're shown, and nowhere else."""
    [event] = tracker.llm_token_counts
    assert event.model == event.prompt == event.tags["user"] == event.scope == HOSTILE
    assert HOSTILE in tracker.by("model")


def test_errors_and_warnings_are_inert(caplog: pytest.LogCaptureFixture):
    """Those of budgets name accounts; those of scopes their names."""
    tags = {HOSTILE: HOSTILE, "user": HOSTILE}
    call = {"input_tokens": 2, "output_tokens": 0, "usd": None}
    for per in (HOSTILE, "scope"):
        warning = Tracker(budget=Budget(tokens=1, per=per, on_exceed="warn"))
        warning.accounts[0].reserve(tags, HOSTILE, **call)  # type: ignore[arg-type]
    refusing = Tracker(budget=Budget(tokens=1, per="user"))
    with pytest.raises(BudgetExceededError) as refused:
        refusing.accounts[0].reserve(tags, HOSTILE, **call)  # type: ignore[arg-type]
    inert(str(refused.value))
    assert refused.value.account == ("user", HOSTILE)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    for record in caplog.records:
        inert(record.getMessage())
    scope = Tracker().scope(HOSTILE)
    with scope:
        pass
    with pytest.raises(RuntimeError) as again, scope:
        pass
    inert(str(again.value))

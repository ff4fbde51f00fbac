"""Windows of time by the wall clock."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import Budget, BudgetExceededError
from llama_token_tracker.budgets import Accounts

from .spending import NOON, Clock, refusal, reserve, spent


@pytest.mark.parametrize(
    ("window", "ends"),
    [
        (None, None),
        ("1 second", "2026-11-22 12:34:57"),
        ("30 minutes", "2026-11-22 13:00:00"),
        ("1 hour", "2026-11-22 13:00:00"),
        ("6 hours", "2026-11-22 18:00:00"),
        ("1 day", "2026-11-23 00:00:00"),
        ("1 week", "2026-11-23 00:00:00"),
        ("1 month", "2026-12-01 00:00:00"),
        ("3 months", "2027-01-01 00:00:00"),
        ("1 year", "2027-01-01 00:00:00"),
        (timedelta(minutes=20), "2026-11-22 12:40:00"),
        # From Monday, 2001-01-01, on: 1,351 times seven days, and 946 times ten.
        (timedelta(days=7), "2026-11-23 00:00:00"),
        (timedelta(days=10), "2026-11-26 00:00:00"),
    ],
)
def test_windows_are_aligned_in_utc(window: Any, ends: str | None):
    """A window ends where the clock turns over, wherever the clock stands."""
    for zone in (UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=11))):
        now = datetime(2026, 11, 22, 12, 34, 56, 789, tzinfo=UTC).astimezone(zone)
        until = Accounts(Budget(tokens=1, window=window, clock=Clock(now))).spent().until
        assert until == (None if ends is None else datetime.fromisoformat(ends + "+00:00"))
        assert until is None or until.tzinfo is UTC


WINDOWS = st.one_of(
    st.timedeltas(timedelta(microseconds=1), timedelta(days=20_000)),
    st.sampled_from(["7 minutes", "1 week", "1 month", "5 months", "1 year"]),
)


@given(
    window=WINDOWS,
    now=st.timedeltas(timedelta(-200 * 365), timedelta(1_000 * 365)).map(NOON.__add__),
    part=st.floats(0, 1, exclude_max=True),
)
def test_every_moment_is_in_one_window(window: Any, now: datetime, part: float):
    """A window ends after each moment in it, at one and the same time for all of them."""
    clock = Clock(now)
    until = Accounts(Budget(tokens=1, window=window, clock=clock)).spent().until
    assert until is not None
    assert now < until
    clock.now = min(now + (until - now) * part, until - timedelta(microseconds=1))
    assert Accounts(Budget(tokens=1, window=window, clock=clock)).spent().until == until
    clock.now = until
    following = Accounts(Budget(tokens=1, window=window, clock=clock)).spent().until
    assert following is not None
    assert following > until


def test_a_new_window_starts_from_nothing():
    """At its end, and not a microsecond before, a limit is whole again."""
    clock = Clock()
    accounts = Accounts(Budget(tokens=100, window="1 hour", clock=clock))
    reserve(accounts, 100).settle(100, None)
    clock.advance(hours=1, microseconds=-1)
    error = refusal(accounts, 1)
    assert error.until == NOON + timedelta(hours=1)
    clock.advance(microseconds=1)
    assert spent(accounts) == (0, 0)
    reserve(accounts, 100).settle(100, None)
    assert refusal(accounts, 1).until == NOON + timedelta(hours=2)


def test_spend_counts_in_the_window_in_which_it_settles():
    """A call that runs across a window's end holds its place in the next one, and counts there."""
    clock = Clock()
    accounts = Accounts(Budget(tokens=100, window="1 hour", clock=clock))
    held = reserve(accounts, 60)
    clock.advance(hours=1)
    assert spent(accounts) == (0, 60)
    refusal(accounts, 41)
    held.settle(50, None)
    assert spent(accounts) == (50, 0)
    clock.advance(hours=1)
    assert spent(accounts) == (0, 0)


def test_a_call_that_settles_first_in_a_window_opens_it():
    """The end of a call is enough to start a window, in which it counts."""
    clock = Clock()
    accounts = Accounts(Budget(tokens=100, window="1 hour", clock=clock))
    first, second = reserve(accounts, 60), reserve(accounts, 40)
    first.settle(60, None)
    clock.advance(hours=5)
    second.settle(30, None)
    assert spent(accounts) == (30, 0)


def test_a_clock_that_goes_back_reopens_nothing():
    """Time that comes twice gives nobody a limit twice."""
    clock = Clock()
    accounts = Accounts(Budget(tokens=100, window="1 hour", clock=clock))
    reserve(accounts, 100).settle(100, None)
    clock.advance(hours=1)
    reserve(accounts, 70).settle(70, None)
    for _ in range(3):
        clock.advance(hours=-3)
        assert spent(accounts) == (70, 0)
        error = refusal(accounts, 31)
        assert error.until == NOON + timedelta(hours=2)
    clock.now = NOON + timedelta(hours=1, minutes=30)
    refusal(accounts, 31)
    clock.now = NOON + timedelta(hours=2)
    reserve(accounts, 100).release()


def test_a_reset_looks_at_the_clock_afresh():
    """A clock that was years ahead leaves no window of years behind it."""
    clock = Clock(NOON.replace(year=2090))
    accounts = Accounts(Budget(tokens=100, window="1 day", clock=clock))
    accounts.spend({}, None, 100, None)
    clock.now = NOON
    refusal(accounts, 1)
    accounts.reset()
    held = reserve(accounts, 100)
    held.settle(60, None)
    assert accounts.spent().until == datetime(2026, 11, 23, tzinfo=UTC)
    assert spent(accounts) == (60, 0)


def test_the_longest_window_is_a_hundred_years():
    """Nobody outlives it; whoever wants more wants no window."""
    for window in ("100 years", "1200 months", timedelta(days=36_525)):
        assert Budget(tokens=1, window=window).window == window


def test_the_last_year_has_a_last_window():
    """A clock at the end of all years raises nothing."""
    clock = Clock(datetime.max.replace(tzinfo=UTC))
    for window in ("1 week", "1 month"):
        accounts = Accounts(Budget(tokens=100, window=window, clock=clock))
        assert accounts.spent().until == clock.now


def test_a_clock_that_fails_stops_no_call(caplog: pytest.LogCaptureFixture):
    """Calls count, and are held to the limit, in the last window that is known."""
    clock = Clock()
    accounts = Accounts(Budget(tokens=100, window="1 hour", clock=clock))
    held = reserve(accounts, 50)
    clock.now = OSError("no clock")
    reserve(accounts, 1).release()
    with pytest.raises(BudgetExceededError):
        reserve(accounts, 51)
    held.settle(40, None)
    accounts.spend({}, None, 7, None)
    assert [record.getMessage() for record in caplog.records] == [
        "a budget's clock failed: found OSError('no clock'); the call counts in the last known "
        "window"
    ]
    clock.now = NOON
    assert spent(accounts) == (47, 0)


def test_a_clock_that_loses_its_zone_is_none(caplog: pytest.LogCaptureFixture):
    """A naive time could be any hour."""
    clock = Clock()
    accounts = Accounts(Budget(tokens=100, window="1 day", clock=clock))
    clock.now = clock.now.replace(tzinfo=None)
    reserve(accounts, 1)
    assert "return an aware datetime" in caplog.text

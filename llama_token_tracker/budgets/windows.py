"""The time windows of budgets: how long they are and when they end, by the clock, in UTC."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from llama_token_tracker._printable import printable
from llama_token_tracker.errors import BudgetError

_LONGEST: Final = timedelta(days=36_525)
_MONTH: Final = _LONGEST / 1_200
# A Monday, so that weeks start on Mondays.
_ANCHOR: Final = datetime(2001, 1, 1, tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_TEXT: Final = re.compile(r"([0-9]{1,9}) (second|minute|hour|day|week|month|year)s?")
_UNITS: Final[dict[str, timedelta | int]] = {
    "second": timedelta(seconds=1),
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "week": timedelta(weeks=1),
    # Months have no fixed length: these two are numbers of months.
    "month": 1,
    "year": 12,
}


def utc_now() -> datetime:
    """The time, for budgets that are given no clock of their own."""
    return datetime.now(UTC)


def length_of(window: object) -> timedelta | int:
    """How long a window is, as a time or as a number of months.

    Raises:
        BudgetError: It's no window.
    """
    length: timedelta | int | None = None
    if isinstance(window, timedelta):
        # No subclass, such as pandas', whose arithmetic would run under the lock.
        length = timedelta(window.days, window.seconds, window.microseconds)
    elif isinstance(window, str) and (found := _TEXT.fullmatch(window)):
        # A thousand million years would fit nowhere.
        length = min(int(found[1]), 10**7) * _UNITS[found[2]]
    if length is None:
        msg = (
            f'window is {printable(window)}; give None, a timedelta, or text such as "30 minutes", '
            '"1 hour", "1 day", "1 week" or "1 month".'
        )
        raise BudgetError(msg)
    time = length if isinstance(length, timedelta) else length * _MONTH
    if not timedelta(0) < time <= _LONGEST:
        msg = (
            f"window is {printable(window)}; give a time longer than none and no longer than 100 "
            "years, or None for good."
        )
        raise BudgetError(msg)
    return length


def end_of(length: timedelta | int, now: datetime) -> datetime:
    """The end of the window that this time falls into."""
    try:
        if isinstance(length, timedelta):
            return now + length - (now - _ANCHOR) % length
        month = now.year * 12 + now.month - 1
        year, month = divmod(month - month % length + length, 12)
        return datetime(year, month + 1, 1, tzinfo=UTC)
    except (OverflowError, ValueError):
        # Past the last year that there is.
        return _NEVER


def bounds_us(length: timedelta | int, now_us: int) -> tuple[int, int]:
    """The begin and the end of the window that this time falls into, in microseconds since 1970."""
    end = end_of(length, time_of(now_us))
    if isinstance(length, timedelta):
        start = end - length
    else:
        year, month = divmod(end.year * 12 + end.month - 1 - length, 12)
        start = datetime(max(year, 1), month + 1, 1, tzinfo=UTC)
    return _us_of(start), _us_of(end)


def time_of(us: int) -> datetime:
    """This many microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)


def _us_of(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def time_by(clock: object) -> datetime:
    """The time that a user's clock tells, in UTC and of no class but datetime's own.

    Raises:
        BudgetError: It's no clock, or doesn't tell the time.
    """
    if not callable(clock):
        msg = f"clock is {printable(clock)}; give a function that returns an aware datetime."
        raise BudgetError(msg)
    now: object = clock()
    if type(now) is datetime and now.tzinfo is UTC:
        return now
    if not isinstance(now, datetime) or now.utcoffset() is None:
        msg = (
            f"the clock returned {printable(now)}; return an aware datetime, such as "
            "datetime.now(timezone.utc)."
        )
        raise BudgetError(msg)
    utc = now.astimezone(UTC)
    return datetime.combine(utc.date(), utc.time(), UTC)

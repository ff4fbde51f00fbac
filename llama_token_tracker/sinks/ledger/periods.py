"""Stretches of time: as people write them, by the calendar of a zone, and in parts of whole units.

Times are microseconds since 1970, UTC; a stretch begins with its first and ends before its last.
"""

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from llama_token_tracker._printable import printable
from llama_token_tracker.errors import LedgerError
from llama_token_tracker.sinks.ledger.schema import DAY_US, HOUR_US, QUARTER_US

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
FIRST_US: Final = 0
LAST_US: Final = 10**17
"""Later than any call."""

_MICROSECOND: Final = timedelta(microseconds=1)
_UNITS: Final = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGO: Final = re.compile(r"(\d{1,6})([mhdw])")


class Part(NamedTuple):
    """A stretch of time, and what is summed up there.

    Attributes:
        length_us: Of the sums; 0 for single calls.
        start_us: When it begins.
        end_us: When it ends.
    """

    length_us: int
    start_us: int
    end_us: int


def microseconds(at: datetime) -> int:
    """A moment as ledgers have it."""
    return (at - EPOCH) // _MICROSECOND


def zone_of(name: str) -> tzinfo:
    """The time zone of a name, such as Europe/Berlin.

    Raises:
        LedgerError: There is none.
    """
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        msg = (
            f"there is no time zone {printable(name)}; give a name such as Europe/Berlin "
            "(where there are none at all, pip install tzdata)."
        )
        raise LedgerError(msg) from None


def moment(said: str, zone: tzinfo, now: datetime) -> int:
    """When that is: "7d", "12h", "30m" or "2w" ago, "today", a date, or a date and a time.

    Args:
        said: What somebody wrote. A date is its midnight; without an offset, in the zone.
        zone: The zone.
        now: The time that it is.

    Raises:
        LedgerError: It can't be read.
    """
    ago = _AGO.fullmatch(said)
    midnight = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    named = {"now": now, "today": midnight, "yesterday": midnight - timedelta(days=1)}
    try:
        if ago:
            at = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            at = named.get(said) or datetime.fromisoformat(said)
        return microseconds(at if at.tzinfo else at.replace(tzinfo=zone))
    except (ValueError, OverflowError):
        msg = (
            f"{printable(said)} is no time; give a date (2026-11-29), a date and a time "
            "(2026-11-29T14:30), a time ago (7d, 12h, 30m, 2w), today or yesterday."
        )
        raise LedgerError(msg) from None


def parts(start_us: int, end_us: int, lengths: Sequence[int]) -> list[Part]:
    """A stretch in whole units, the longest where it can be, and single calls at its edges.

    Args:
        start_us: When it begins.
        end_us: When it ends.
        lengths: The units' lengths, the longest first.
    """
    if start_us >= end_us:
        return []
    if not lengths:
        return [Part(0, start_us, end_us)]
    length, *shorter = lengths
    first, last = -(-start_us // length) * length, end_us // length * length
    if first >= last:
        return parts(start_us, end_us, shorter)
    before, after = parts(start_us, first, shorter), parts(last, end_us, shorter)
    return [*before, Part(length, first, last), *after]


def offsets(zone: tzinfo, start_us: int, end_us: int) -> list[tuple[int, int]]:
    """What a zone's clocks are ahead of UTC: from when on, and how far, in microseconds."""
    found = [(start_us, _ahead(zone, start_us))]
    for day_us in range(start_us - start_us % DAY_US + DAY_US, end_us + DAY_US, DAY_US):
        if _ahead(zone, day_us) != found[-1][1]:
            # Changed within the day before; at which of its quarters of an hour?
            changed = next(
                at
                for at in range(day_us - DAY_US, day_us + 1, QUARTER_US)
                if _ahead(zone, at) != found[-1][1]
            )
            found.append((changed, _ahead(zone, changed)))
    return found


def _ahead(zone: tzinfo, at_us: int) -> int:
    offset = (EPOCH + at_us * _MICROSECOND).astimezone(zone).utcoffset()
    return 0 if offset is None else offset // _MICROSECOND


def _week(at: datetime) -> str:
    year, week, _ = at.isocalendar()
    return f"{year}-W{week:02}"


def edges(names: Sequence[str], zone: tzinfo, start_us: int, end_us: int) -> list[int]:
    """The midnights within a stretch at which one of these units ends: "week", "month"."""
    first, last = (EPOCH + at_us * _MICROSECOND for at_us in (start_us, end_us))
    midnight = first.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    found: list[int] = []
    while (later := midnight + timedelta(days=1)) < last:
        if any(CALENDAR[name][1](midnight) != CALENDAR[name][1](later) for name in names):
            found.append(microseconds(later.astimezone(UTC)))
        midnight = later
    return found


CALENDAR: Final[dict[str, tuple[int, Callable[[datetime], str]]]] = {
    "hour": (HOUR_US, lambda at: f"{at:%Y-%m-%d %H:00}"),
    "day": (DAY_US, lambda at: f"{at:%Y-%m-%d}"),
    "week": (DAY_US, _week),
    "month": (DAY_US, lambda at: f"{at:%Y-%m}"),
}
"""Units of the calendar: what they are made up of, and how they're written."""

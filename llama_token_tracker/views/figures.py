"""Formatting of single values, the same in every view: tokens and dollars.

A figure that wasn't reported by the provider bears a mark, `MARKS`, in front.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from llama_token_tracker._log_once import notice

MARKS: Final = {"reported": "", "counted": "*", "estimated": "~"}
"""The marks before figures; signs that every terminal has, and that need no colour."""

NOT_REPORTED: Final = "not reported"
UNKNOWN: Final = "unknown"

_LEAST_S: Final = 0.001
_DECIMALS: Final = 4
_DIGITS: Final = 3
_MOST_DECIMALS: Final = 12


def with_fallback(draw: Callable[[], str], fallback: Callable[[str], str]) -> str:
    """Draw something, or, if that fails, something else that says so.

    Args:
        draw: What draws it.
        fallback: Draws the failure, given its description in a few words.
    """
    try:
        return draw()
    except Exception as error:  # noqa: BLE001 - what is shown must never break what shows it
        notice("a card could not be drawn", error, "it says so")
        return fallback(f"can't be shown: {type(error).__name__}")


def tokens(count: int | None, source: str = "reported") -> str:
    """Format a number of tokens, with the mark of its source.

    Args:
        count: How many; `None` if that wasn't reported.
        source: Where the figure comes from.
    """
    if count is None:
        return NOT_REPORTED
    return f"{mark(source) if count else ''}{count:,}"


def mark(source: str) -> str:
    """The mark before figures of a source."""
    return MARKS.get(source, "")


def dollars(usd: Decimal | None) -> str:
    """Format US dollars: cents, or of less than one dollar at least three significant digits."""
    if usd is None:
        return UNKNOWN
    if not usd:
        return "$0"
    sign, size = "-" if usd < 0 else "", abs(usd)
    decimals = min(max(_DECIMALS, _DIGITS - 1 - size.adjusted()), _MOST_DECIMALS)
    least = Decimal(1).scaleb(-decimals)
    if size < least:
        return f"<${least:f}" if usd > 0 else f"-<${least:f}"
    return f"{sign}${size:,.{2 if size >= 1 else decimals}f}"


def seconds(duration_s: float) -> str:
    """Format a duration: milliseconds below a second."""
    if duration_s >= 1:
        return f"{duration_s:,.1f} s"
    return f"{1_000 * duration_s:.0f} ms" if duration_s >= _LEAST_S else "<1 ms"


def plural(count: int, one: str, several: str | None = None) -> str:
    """Format a number of things: "1 call", "2 calls"."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"

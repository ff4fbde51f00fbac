"""Formatting of single values, the same in every view: tokens, dollars, foreign texts.

A figure that wasn't reported by the provider bears a mark, `MARKS`, in front.
"""

import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from llama_token_tracker._log_once import notice

MARKS: Final = {"reported": "", "counted": "*", "estimated": "~"}
"""The marks before figures; signs that every terminal has, and that need no colour."""

NOT_REPORTED: Final = "not reported"
UNKNOWN: Final = "unknown"

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Joiners make one letter or one picture of several; they turn nothing around.
_JOINERS: Final = "\u200c\u200d"
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_CONTROL_PICTURES: Final = 0x2400
_MOST_MARKS: Final = 2
_LEAST: Final = Decimal("0.0001")


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


def plain(text: object, limit: int) -> str:
    """Shorten a foreign text to one line that can't do anything to what stands around it.

    Control characters become their pictures, characters that turn the direction of writing or
    can't be seen become `\N{REPLACEMENT CHARACTER}`, and piled-up accents are cut.

    Args:
        text: Anything; of what is no text, its type is named.
        limit: The most characters that are shown.
    """
    if not isinstance(text, str):
        return f"<{type(text).__name__}>"
    # A margin, for line breaks and accents may go; the rest of a long text isn't even looked at.
    start = str.__getitem__(text, slice(0, 4 * limit))
    shown = "".join(_visible(start))
    shown = " ".join(shown.split())
    if len(shown) > limit or len(text) > len(start):
        shown = shown[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return shown


def _visible(text: str) -> list[str]:
    visible: list[str] = []
    marks = 0
    for sign in text:
        category = unicodedata.category(sign)
        marks = marks + 1 if category in {"Mn", "Me"} else 0
        if marks > _MOST_MARKS:
            continue
        if sign.isspace():
            visible.append(" ")
        elif category not in _UNSEEN or sign in _JOINERS:
            visible.append(sign)
        elif ord(sign) < ord(" "):
            visible.append(chr(_CONTROL_PICTURES + ord(sign)))
        else:
            visible.append(_REPLACEMENT)
    return visible


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
    """Format US dollars; what isn't known is never shown as zero, nor is what is small."""
    if usd is None:
        return UNKNOWN
    if not usd:
        return "$0"
    if abs(usd) < _LEAST:
        return f"<${_LEAST}" if usd > 0 else f"-${-usd:.2g}"
    sign = "-" if usd < 0 else ""
    return f"{sign}${abs(usd):,.2f}" if abs(usd) >= 1 else f"{sign}${abs(usd):.4f}"


def plural(count: int, one: str, several: str | None = None) -> str:
    """Format a number of things: "1 call", "2 calls"."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"

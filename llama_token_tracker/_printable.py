"""Foreign texts and objects made fit to be shown: in logs, errors, tables, cards and terminals.

Everything that is shown is cleaned here, so that nothing in it is obeyed by what shows it.
"""

import unicodedata
from typing import Final, TypeGuard

from llama_token_tracker._lock import pass_on

_FOUND_LIMIT: Final = 120

_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
# Joiners make one letter or one picture of several; they turn nothing around.
_JOINERS: Final = "\u200c\u200d"
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_CONTROL_PICTURES: Final = 0x2400
_MOST_MARKS: Final = 2


def exact(text: str) -> str:
    """A text as a plain `str`: one of a class of its own may do anything when it's asked."""
    return text if type(text) is str else str.__getitem__(text, slice(None))


def is_text(thing: object) -> TypeGuard[str]:
    """Whether something is a `str`, asked of its class: the object itself may raise."""
    return issubclass(type(thing), str)


def plain(text: object, limit: int) -> str:
    """Shorten a foreign text to one line that can't do anything to what stands around it.

    Args:
        text: Anything; of what is no text, its type is named.
        limit: The most characters that are shown.
    """
    if not is_text(text):
        return f"<{type(text).__name__}>"
    # A margin, for line breaks and accents may go; the rest of a long text isn't even looked at.
    start = str.__getitem__(text, slice(0, 4 * limit))
    shown = " ".join(cleaned(start).split())
    if len(shown) > limit or str.__len__(text) > len(start):
        shown = shown[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return shown


def cleaned(text: str) -> str:
    """A foreign text of which a terminal obeys nothing, on one line.

    Control characters become their pictures, characters that turn the direction of writing or
    can't be seen become `\N{REPLACEMENT CHARACTER}`, and piled-up accents are cut.
    """
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
    return "".join(visible)


def printable(found: object, limit: int = _FOUND_LIMIT) -> str:
    """The `repr` of anything, shortened and cleaned; of what can't be printed, its type."""
    if is_text(found):
        found = str.__getitem__(found, slice(0, limit))
    try:
        return plain(repr(found), limit)
    except Exception as error:  # noqa: BLE001 - whatever a foreign __repr__ raises, its type still says enough
        pass_on(error)
        return f"an unprintable {plain(type(found).__name__, limit)}"

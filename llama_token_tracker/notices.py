"""What a provider sent and we could not read: said once, never raised.

A response in a loop must not flood the log, so each kind of oddity is logged once per
process, with what was found.
"""

import logging
from typing import Final

logger = logging.getLogger("llama_token_tracker")

# A hostile response could invent new places for ever; beyond this many kinds we stay quiet.
_MAX_KINDS: Final = 256
_FOUND_LIMIT: Final = 120

_seen: dict[str, object] = {}


def notice(kind: str, found: object, consequence: str) -> None:
    """Log `found` as a warning the first time this `kind` of oddity turns up.

    Args:
        kind: What is odd and where, in a few fixed words; the key of "once".
        found: The odd thing; its `repr` is shortened.
        consequence: What the event says instead.
    """
    if kind not in _seen and len(_seen) >= _MAX_KINDS:
        return
    mine = object()
    # One step, so that of two threads one logs it.
    if _seen.setdefault(kind, mine) is mine:
        logger.warning("%s: found %s; %s", kind, printable(found), consequence)


def forget_notices() -> None:
    """Let every kind of notice be logged again, as in a new process."""
    _seen.clear()


def printable(found: object) -> str:
    """The `repr` of anything, shortened; of what can't be printed, its type."""
    try:
        text = repr(found[:_FOUND_LIMIT] if isinstance(found, str) else found)
    except Exception:  # noqa: BLE001 - whatever a foreign __repr__ raises, its type still says enough
        return f"an unprintable {type(found).__name__}"
    return text if len(text) <= _FOUND_LIMIT else f"{text[:_FOUND_LIMIT]}…"

"""What a provider sent and we could not read: said once, never raised.

A response in a loop must not flood the log, so each kind of oddity is logged once per
process, with what was found.
"""

import logging
import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from llama_token_tracker._interrupts import pass_on

logger = logging.getLogger("llama_token_tracker")

# A hostile response could invent new places for ever; beyond this many kinds we stay quiet.
_MAX_KINDS: Final = 256
_FOUND_LIMIT: Final = 120

_seen: dict[str, object] = {}


class _Thread(threading.local):
    """How many blocks of this thread put notices off."""

    blocks = 0


_thread = _Thread()
_late: deque[tuple[str, str, str]] = deque()


def notice(kind: str, found: object, consequence: str) -> None:
    """Log `found` as a warning the first time this `kind` of oddity turns up.

    Args:
        kind: What is odd and where, in a few fixed words; the key of "once".
        found: The odd thing; its `repr` is shortened.
        consequence: What the event says instead.

    Raises:
        BaseException: What was found is an exception that only happened to be raised there: see
            `pass_on`.
    """
    if isinstance(found, BaseException):
        pass_on(found)
    if kind not in _seen and len(_seen) >= _MAX_KINDS:
        return
    mine = object()
    # One step, so that of two threads one logs it.
    if _seen.setdefault(kind, mine) is mine:
        said = kind, printable(found), consequence
        if _thread.blocks:
            _late.append(said)
        else:
            _log(*said)


@contextmanager
def put_off() -> Generator[None]:
    """Log nothing in this block, but keep it for `say_late`.

    Whoever holds a lock must not log: what listens to the log may wait for that lock.
    """
    _thread.blocks += 1
    try:
        yield
    finally:
        _thread.blocks -= 1


def say_late() -> None:
    """Log what was put off."""
    while _late:
        try:
            said = _late.popleft()
        except IndexError:
            return  # another thread was quicker
        _log(*said)


def _log(kind: str, found: str, consequence: str) -> None:
    logger.warning("%s: found %s; %s", kind, found, consequence)


def forget_notices() -> None:
    """Let every kind of notice be logged again, as in a new process."""
    _seen.clear()


def printable(found: object) -> str:
    """The `repr` of anything, shortened; of what can't be printed, its type."""
    try:
        text = repr(found[:_FOUND_LIMIT] if isinstance(found, str) else found)
    except Exception as error:  # noqa: BLE001 - whatever a foreign __repr__ raises, its type still says enough
        pass_on(error)
        return f"an unprintable {type(found).__name__}"
    return text if len(text) <= _FOUND_LIMIT else f"{text[:_FOUND_LIMIT]}…"

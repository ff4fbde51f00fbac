"""What a provider sent and we could not read: said once, never raised.

A response in a loop must not flood the log, so each kind of oddity is logged once per
process, or once for each model, tag or type, with what was found.
"""

import logging
import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from llama_token_tracker._lock import pass_on
from llama_token_tracker._printable import plain, printable

logger = logging.getLogger("llama_token_tracker")

_MAX_EACH: Final = 64
"""A hostile response could invent new names for ever; beyond so many a kind stays quiet."""
_LONGEST_NAME: Final = 300
_LAST: Final = "; further ones of this kind are not logged"

_seen: dict[str, dict[str, object]] = {}


class _Thread(threading.local):
    """How many blocks of this thread put notices off."""

    blocks = 0


_thread = _Thread()
_late: deque[tuple[str, str, str]] = deque()


def notice(kind: str, found: object, consequence: str, name: str = "") -> None:
    """Log `found` as a warning the first time this `kind` of oddity turns up, or of this name.

    Kinds stand in the code, so that none can keep another from being logged; names don't, and of
    each kind's names the first are logged.

    Args:
        kind: What is odd and where, in fixed words; `{}` stands for `name`.
        found: The odd thing; its `repr` is shortened.
        consequence: What the event says instead.
        name: Of which model, tag or type that is said, each of them once.

    Raises:
        BaseException: What was found is an exception that only happened to be raised there: see
            `pass_on`.
    """
    if isinstance(found, BaseException):
        pass_on(found)
    known = _seen.get(kind)
    if known is None:
        known = _seen.setdefault(kind, {})
    if name in known or len(known) >= _MAX_EACH:
        return
    mine = object()
    # One step, so that of two threads one logs it.
    if known.setdefault(name, mine) is mine:
        if len(known) == _MAX_EACH:
            consequence += _LAST
        said = kind.replace("{}", plain(name, _LONGEST_NAME)), printable(found), consequence
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

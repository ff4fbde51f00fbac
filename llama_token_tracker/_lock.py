"""The one lock around everything that is counted.

One for all trackers, so that no two can be taken in two orders; re-entrant, as a signal handler
may read totals. It is held for additions and moves within lists alone: never while a tokenizer, a
price, a clock, a sink, a log or any other object of the user's runs.
"""

import os
import threading
import weakref
from typing import Any, Final, TypeVar

LOCK: Final = threading.RLock()

_Lock = TypeVar("_Lock")
_locks: Final["weakref.WeakSet[Any]"] = weakref.WeakSet()


def fresh_in_children(lock: _Lock) -> _Lock:
    """Have a lock be free in a forked child, where whoever held it isn't there to let go of it."""
    _locks.add(lock)
    return lock


def _after_fork() -> None:
    for lock in list(_locks):
        lock._at_fork_reinit()  # as the standard library does with its own


if hasattr(os, "register_at_fork"):
    fresh_in_children(LOCK)
    # Taken for the fork, so that a child finds nothing half-done.
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_after_fork
    )

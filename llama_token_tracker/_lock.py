"""The locks of the package, and what becomes of them in a forked child.

`LOCK` is the one around everything that is counted: one for all trackers, so that no two can be
taken in two orders; re-entrant, as a signal handler may read totals. It is held for additions and
moves within lists alone: never while a tokenizer, a price, a clock, a sink, a log or any other
object of the user's runs.

`LOADING` is held while something is loaded or registered that then stays: a library that is
imported late, a vocabulary, a table of the user's. Who holds one of the two doesn't take the other.
"""

import os
import threading
import weakref
from typing import Any, Final, TypeVar

LOCK: Final = threading.RLock()
LOADING: Final = threading.RLock()

_LONGEST_WAIT_S: Final = 5.0
"""So long a fork waits for what is being loaded: an import may wait for whoever forks."""

_Lock = TypeVar("_Lock")
_locks: Final["weakref.WeakSet[Any]"] = weakref.WeakSet()


def fresh_in_children(lock: _Lock) -> _Lock:
    """Have a lock be free in a forked child, where whoever held it isn't there to let go of it."""
    _locks.add(lock)
    return lock


class _Fork:
    """Both locks, taken for the length of a fork.

    So a child finds nothing half-done, and no import that a thread had begun which isn't there any
    more: Python's own lock around a module would be held for good.
    """

    is_loading_held = False

    def begin(self) -> None:
        is_loading_held = LOADING.acquire(timeout=_LONGEST_WAIT_S)
        LOCK.acquire()
        # Not before: another thread may fork, too.
        self.is_loading_held = is_loading_held

    def end(self) -> None:
        # In the child, too: there the thread that forks goes on, with what it held before.
        is_loading_held = self.is_loading_held
        LOCK.release()
        if is_loading_held:
            LOADING.release()

    def end_in_child(self) -> None:
        others: list[Any] = list(_locks)
        if not self.is_loading_held:
            others.append(LOADING)
        self.end()
        for lock in others:
            lock._at_fork_reinit()  # as the standard library does with its own


if hasattr(os, "register_at_fork"):
    _fork = _Fork()
    os.register_at_fork(
        before=_fork.begin, after_in_parent=_fork.end, after_in_child=_fork.end_in_child
    )

"""The locks, changes that nothing interrupts, and exceptions that come from outside.

`LOCK` is the one around everything that is counted: one for all trackers, so that no two can be
taken in two orders; re-entrant, as a signal handler may read totals. It is held for additions and
moves within lists alone: never while a tokenizer, a price, a clock, a sink, a log or any other
object of the user's runs.

`LOADING` is held while something is loaded or registered that then stays: a library that is
imported late, a vocabulary, a table of the user's. Who holds one of the two doesn't take the other.

A signal handler may raise, or read totals, between any two calls of the main thread; and any
thread may be sent an exception (`PyThreadState_SetAsyncExc`). Both happen only where CPython looks
for them: as a Python function is entered, as a call returns and as a loop begins anew. A function
in C that calls functions in C is therefore never interrupted; nor are statements without a call.
"""

import opcode
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from operator import call
from types import TracebackType
from typing import Any, Final, TypeVar, cast

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


# --- what comes from outside ---------------------------------------------------------------

_LOOKS: Final = frozenset(
    code
    for name, code in opcode.opmap.items()
    if name.startswith(("RESUME", "JUMP_BACKWARD", "CALL"))
)


def pass_on(error: BaseException) -> None:
    """Raise an exception again if it's none of what it was raised in, but was sent from outside.

    Guards around foreign code call this first: a soft time limit is an `Exception`, too, and the
    user's.
    """
    if _is_sent(error):
        raise error


def is_sent(error: BaseException) -> bool:
    """Whether it's the user's: no `Exception`, or one that was sent from outside."""
    return not isinstance(error, Exception) or _is_sent(error)


def _is_sent(error: BaseException) -> bool:
    """Whether a signal handler has raised it, or it was sent to this thread."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        outer, trace = trace, trace.tb_next
        # A signal's handler is the one kind of function that gets its caller's frame.
        if _has_argument(trace, outer.tb_frame):
            return True
    # Sent to a thread: of a class made in Python, but nothing in Python has raised it.
    module = sys.modules.get(type(error).__module__)
    return (
        not error.args
        and (type(error).__module__ == "__main__" or hasattr(module, "__cached__"))
        and trace.tb_frame.f_code.co_code[trace.tb_lasti] in _LOOKS
    )


def _has_argument(trace: TracebackType, wanted: object) -> bool:
    frame = trace.tb_frame
    code, values = frame.f_code, frame.f_locals
    # Star arguments are local variables too, right behind the others.
    for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + 1]:
        value: object = values.get(name)
        given = cast("tuple[object, ...]", value) if type(value) is tuple else (value,)
        if any(one is wanted for one in given):
            return True
    return False


class Change:
    """The steps of a change, which are taken together.

    Attributes:
        steps: Functions in C with their arguments, none of which fails or runs Python code; but the
            first may raise what its caller is to get.
        dropped: What it removes, which is kept until the change itself is let go of.
    """

    def __init__(self) -> None:
        self.steps: list[Callable[[], object]] = []
        self.dropped: list[Any] = []

    def do(self, function: Callable[..., object], *args: Any) -> None:
        """Have a function be called."""
        self.steps.append(partial(function, *args))


_turn: Final = {0}
"""The number of the next change."""


def make(prepare: Callable[[Change], object]) -> Change:
    """Make a change wholly or not at all, whatever interrupts this. The caller holds the lock.

    Args:
        prepare: Finds out what there is to do, and does nothing. It's called again if a signal
            handler has changed something in the meantime.

    Returns:
        The change. Whoever lets go of it, which may run finalizers, doesn't hold the lock.
    """
    while True:
        (number,) = _turn
        change = Change()
        change.do(_turn.remove, number)
        change.do(_turn.add, number + 1)
        try:
            prepare(change)
        except Exception as error:
            pass_on(error)
            if number in _turn:
                raise
            continue  # what it has read has changed under its hands
        try:
            partial(deque, map(call, change.steps), 0)()
        except KeyError:
            continue  # it's another change's turn; no other step raises this
        return change

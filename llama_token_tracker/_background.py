"""One thread that works off what has piled up, so that nobody's call has to.

It is started when there is work and ends when there is none; most programs never see it.
"""

import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from llama_token_tracker._log_once import notice

Task = Callable[[], object]

_IDLE_S: Final = 1.0
"""So long the thread waits for more work before it ends."""


class Worker:
    """Runs tasks one after the other, on a thread of its own.

    Args:
        name: The thread's name.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._holders: set[object] = set()
        self._begin()
        _workers.add(self)

    def _begin(self) -> None:
        # Its `put` may be called from a finalizer or a signal handler, too.
        self._tasks: SimpleQueue[Task] = SimpleQueue()
        # Re-entrant, for a signal's handler may ask in the midst of it.
        self._starting = threading.RLock()
        self._is_starting = False
        self._thread: threading.Thread | None = None

    def ask(self, task: Task) -> None:
        """Have a task run soon. Whoever asks holds no lock: a thread may have to start."""
        self._tasks.put(task)
        self.start()

    def put(self, task: Task) -> None:
        """Have a task run once the thread runs, without starting it: this may be done anywhere."""
        self._tasks.put(task)

    def start(self) -> None:
        """See to it that the thread runs, if there's work. No lock is held."""
        thread = self._thread
        # One that isn't alive was never started, as that was interrupted; or is about to be.
        if (thread is None or not thread.is_alive()) and self._tasks.qsize():
            self._start()

    @property
    def queue(self) -> Callable[[Task], object]:
        """What `put` calls: a function in C, which nothing interrupts."""
        return self._tasks.put

    @property
    def waiting(self) -> int:
        """How many tasks haven't begun."""
        return self._tasks.qsize()

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until all tasks that are waiting now have run.

        Returns:
            Whether they have, within this time.
        """
        if threading.current_thread() is self._thread:
            return False  # it would wait for itself
        done = threading.Event()
        self.ask(done.set)
        return done.wait(timeout_s)

    def hold(self, holder: object) -> None:
        """Have the thread stay when there is no work, so that nobody's call has to start it."""
        self._holders.add(holder)

    def release(self, holder: object) -> None:
        """Let the thread end once its work is done; this may be done anywhere, and twice."""
        self._holders.discard(holder)
        self._tasks.put(_nothing)

    def _start(self) -> None:
        with self._starting:
            if self._is_starting or (self._thread is not None and self._thread.is_alive()):
                return
            self._is_starting = True
            try:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread = thread
                thread.start()
            except RuntimeError:
                # The interpreter is going down, or may start no thread: whoever reads does the
                # work.
                self._thread = None
            finally:
                self._is_starting = False

    def _run(self) -> None:
        me = threading.current_thread()
        while True:
            try:
                task = self._tasks.get(timeout=None if self._holders else _IDLE_S)
            except Empty:
                self._thread = None
                # What was put since then: whoever put it may have seen this thread still there.
                if self._tasks.empty() or not self._resumed(me):
                    return
                continue
            try:
                task()
            except BaseException as error:  # noqa: BLE001 - nobody is there to be told
                notice("work in the background failed", error, "it is done when it's read")
            # Not kept while waiting: it may be all that holds a tracker.
            del task

    def _resumed(self, me: threading.Thread) -> bool:
        with self._starting:
            if self._thread is None:
                self._thread = me
        return self._thread is me


def _nothing() -> None:
    """Wake the thread."""


_workers: "Final[weakref.WeakSet[Worker]]" = weakref.WeakSet()


def _after_fork() -> None:
    """Begin anew in a child: no thread came along, and what waited is the parent's work."""
    for worker in list(_workers):
        worker._begin()  # pyright: ignore[reportPrivateUsage]  # within this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def is_worker() -> bool:
    """Whether `multiprocessing` has started this process, which may be ended at any time."""
    # Not imported for this: where it isn't there, it has started nothing.
    processes: Any = sys.modules.get("multiprocessing.process")
    return processes is not None and processes.parent_process() is not None


_Thing = TypeVar("_Thing")


def after_start_of_worker(thing: _Thing, do: Callable[[_Thing], object]) -> None:
    """Have something done in this forked child once it's known that it is such a worker."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.register_after_fork(thing, do)


WORKER: Final = Worker("llama-token-tracker")
"""Counts and prices what waits."""

_late: Final[deque[Task]] = deque()


def soon(task: Task) -> None:
    """Have a task run by whoever counts next: for finalizers, which may take no lock.

    The collector runs them anywhere, also in a thread that holds the lock already, or that another
    one waits for. The worker runs it, if its thread is there; to start one would be to wait.
    """
    _late.append(task)
    WORKER.put(run_late)


def run_late() -> None:
    """Run what finalizers have left. Whoever calls this holds no lock."""
    if not _late:
        return  # quick, for each end of a call asks
    # What comes meanwhile, the next one runs: nobody does others' work for ever.
    for _ in range(len(_late)):
        try:
            task = _late.popleft()
        except IndexError:
            return  # another thread was quicker
        try:
            task()
        except Exception as error:  # noqa: BLE001 - nobody is there to be told
            notice("a dropped call could not be counted", error, "it is left out")

"""A lock that watches what is done while it's held, and remembers what it shouldn't have seen.

What holds for the package's locks stands in docs/explanation/architecture.md, "The locks".
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Final

import llama_token_tracker
from llama_token_tracker import _lock

PACKAGE: Final = str(Path(llama_token_tracker.__file__).parent)

# What lists, sums and their bookkeeping are made of, beside the package itself.
STANDARD: Final = {"contextlib", "copy", "copyreg", "enum", "functools", "weakref", "_weakrefset"}

# Rooms whose work is done without the lock: they read, count, price or draw.
OUTSIDE: Final = ("tokenizers", "pricing", "views", "cli", "extraction", "wire")

# Functions in C that wait, or start what waits.
WAITS: Final = {"sleep", "acquire", "start_new_thread", "start_joinable_thread", "wait", "select"}


class Violation(AssertionError):
    """Something was done under the lock that may wait for somebody, or run somebody's code."""


class WatchedLock:
    """Stands in the place of `LOCK`: the same lock, and what is called while a thread holds it.

    Attributes:
        violations: What was seen, with the stack.
        taken: How often it was taken.
    """

    def __init__(self, lock: Any, name: str = "LOCK") -> None:
        self._lock = lock
        self._name = name
        self._held = threading.local()
        self.violations: list[str] = []
        self.taken = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take it; not in a finalizer, nor while another of the locks is held."""
        depth = getattr(self._held, "depth", 0)
        self._look(sys._getframe(1), is_waiting=blocking)
        taken: bool = self._lock.acquire(blocking, timeout)
        if taken:
            self._held.depth = depth + 1
            self.taken += 1
            if not depth:
                self._held.before = sys.getprofile()
                sys.setprofile(self._called)
        return taken

    def release(self) -> None:
        """Let go of it."""
        self._held.depth -= 1
        if not self._held.depth:
            sys.setprofile(self._held.before)
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_error: object) -> None:
        self.release()

    def _look(self, frame: FrameType | None, *, is_waiting: bool) -> None:
        if not is_waiting:
            return
        while frame is not None:
            name = frame.f_code.co_name
            if name == "__del__" or getattr(_collecting, "is_on", False):
                self._note(f"{self._name} was waited for in a finalizer", frame)
                return
            frame = frame.f_back

    def _called(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            if not _may_run(frame):
                self._note(f"{frame.f_code.co_qualname} ran under {self._name}", frame)
        elif event == "c_call" and getattr(argument, "__name__", "") in WAITS:
            owner = getattr(argument, "__self__", None)
            if owner is not self._lock and frame.f_code.co_filename != __file__:
                self._note(f"{argument.__name__} was called under {self._name}", frame)

    def _note(self, what: str, frame: FrameType | None) -> None:
        lines = [what]
        while frame is not None and len(lines) < 12:
            lines.append(f"  {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}")
            frame = frame.f_back
        self.violations.append("\n".join(lines))


def _may_run(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    # What dataclasses and named tuples make of themselves stands in no file. hypothesis has the
    # collector tell it how long it took, once any test of its kind has run.
    if file in (__file__, "<string>") or file.startswith("<frozen") or "hypothesis" in file:
        return True
    if file.startswith(PACKAGE):
        room = file[len(PACKAGE) + 1 :].split("/")[0].removesuffix(".py")
        return room not in OUTSIDE or _is_finalizer(frame)
    return Path(file).stem in STANDARD or _is_finalizer(frame)


def _is_finalizer(frame: FrameType | None) -> bool:
    """Whether the collector has come, which may happen anywhere: it runs others' finalizers."""
    if getattr(_collecting, "is_on", False):
        return True
    while frame is not None:
        if frame.f_code.co_name in {"__del__", "_remove"}:
            return True
        frame = frame.f_back
    return False


_collecting = threading.local()


def _note_collection(phase: str, _info: dict[str, int]) -> None:
    _collecting.is_on = phase == "start"


def _modules() -> Iterator[ModuleType]:
    for name, module in list(sys.modules.items()):
        if name.startswith("llama_token_tracker") and module is not None:
            yield module


@contextmanager
def watched() -> Iterator[WatchedLock]:
    """Watch `LOCK` in all modules of the package.

    Raises:
        Violation: Something was seen that must not be done under it.
    """
    real = _lock.LOCK
    lock = WatchedLock(real)
    places = [module for module in _modules() if vars(module).get("LOCK") is real]
    gc.callbacks.append(_note_collection)
    for module in places:
        module.LOCK = lock  # type: ignore[attr-defined]
    try:
        yield lock
    finally:
        for module in places:
            module.LOCK = real  # type: ignore[attr-defined]
        gc.callbacks.remove(_note_collection)
    if lock.violations:
        raise Violation("\n\n".join(dict.fromkeys(lock.violations)))

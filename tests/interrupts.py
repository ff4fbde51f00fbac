"""Interrupts a program at any of the places where Python looks at signals, one at a time."""

import dis
import functools
import gc
import opcode
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import llama_token_tracker

_ROOT = str(Path(llama_token_tracker.__file__).parent)
_TESTING = str(Path(_ROOT) / "testing")
_CALLS = {code for name, code in opcode.opmap.items() if name.startswith("CALL")}
_BACK = {code for name, code in opcode.opmap.items() if name.startswith("JUMP_BACKWARD")}


class TimeLimit(Exception):
    """What an alarm raises, as Celery's soft time limit does."""


def raising(_number: int, _frame: FrameType | None) -> None:
    """A signal handler that raises."""
    raise TimeLimit


@contextmanager
def handled(handler: Callable[..., Any]) -> Iterator[None]:
    """Have SIGUSR1 handled by a function."""
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


@functools.cache
def _guard(code: CodeType, at: int) -> int | None:
    """Where an exception goes that is raised at an instruction."""
    entries: Any = dis._parse_exception_table(code)  # type: ignore[attr-defined]
    return next((entry.target for entry in entries if entry.start <= at < entry.end), None)


class _Places:
    """Counts the places in the package where signals are handled, and sends one at the n-th.

    They are a function's entry, the end of each call, and each jump back.
    """

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0
        self._last: dict[FrameType, tuple[int, int]] = {}
        self._codes: dict[CodeType, bytes | None] = {}

    def enter(self, frame: FrameType, _event: str, _arg: object) -> Any:
        code = frame.f_code
        if code not in self._codes:
            name = code.co_filename
            is_ours = name.startswith(_ROOT) and not name.startswith(_TESTING)
            self._codes[code] = code.co_code if is_ours else None
        if self._codes[code] is None:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        self._reach()
        return self._step

    def _step(self, frame: FrameType, event: str, _arg: object) -> Any:
        if event == "opcode":
            code: Any = self._codes[frame.f_code]
            at = frame.f_lasti
            this, (last, before) = code[at], self._last.get(frame, (0, at))
            self._last[frame] = this, at
            # A signal belongs to the call that it's handled after, and to whatever guards that.
            is_after = last in _CALLS and _guard(frame.f_code, before) == _guard(frame.f_code, at)
            if is_after or this in _BACK:
                self._reach()
        elif event == "return":
            self._last.pop(frame, None)
        return self._step

    def _reach(self) -> None:
        self.seen += 1
        if self.seen == self.at:
            signal.raise_signal(signal.SIGUSR1)


def interrupted(action: Callable[[], object], at: int) -> int:
    """Do something, with a signal at the n-th place where one is handled in the package.

    Returns:
        How many places there were until the signal, or the end.
    """
    places = _Places(at)
    # What a finalizer raises reaches nobody: Python prints it.
    gc.disable()
    sys.settrace(places.enter)
    try:
        action()
    finally:
        sys.settrace(None)
        gc.enable()
    return places.seen

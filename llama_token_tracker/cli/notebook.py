"""The cell magic `%%tokens`, which counts what one cell of a notebook used.

A call belongs to the cell that caused it, wherever it runs: in the cell itself, in tasks, in
threads, and in what is submitted to executors of `concurrent.futures`. Work that an earlier cell
left running still belongs to that cell.

IPython runs the body of a cell magic by itself, where `await` doesn't work. So `%%tokens` is
rewritten before that into a line magic at the head of the cell, which then runs as any other:
its last value shows, and so do its errors, with their own line numbers.
"""

import functools
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from llama_token_tracker._names import from_extra
from llama_token_tracker.tracking.scopes import (
    SharedScope,
    current_shared_scope,
    reset_current,
    set_current,
)
from llama_token_tracker.tracking.tracker import Tracker

with from_extra("notebook", "ipython"):
    from IPython.core import display_functions, inputtransformer2

# IPython types these only in part.
_display: Final[Any] = display_functions
_transformer: Final[Any] = inputtransformer2
# … and type checkers let a method be replaced only by one whose argument is called `self`.
_threads: Final[Any] = threading.Thread
_executors: Final[Any] = ThreadPoolExecutor

_HEAD: Final = re.compile(r"%%tokens(?:[ \t]+(?P<name>.*?))?[ \t]*\n?$")


@dataclass(slots=True)
class _Cell:
    """A running cell, and the shared scopes it has opened."""

    source: str
    number: int
    scopes: list[SharedScope] = field(default_factory=list[SharedScope])


class CellMagic:
    """The magic `%%tokens` of one IPython shell."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._running: list[_Cell] = []

    def load(self) -> None:
        """Register the magic."""
        self._shell.input_transformers_cleanup.append(self.rewrite)
        self._shell.register_magic_function(self.begin, "line", "tokens")
        self._shell.register_magic_function(self.run, "cell", "tokens")
        self._shell.events.register("pre_run_cell", self.before)
        self._shell.events.register("post_run_cell", self.after)

    def unload(self) -> None:
        """Unregister the magic."""
        self._shell.input_transformers_cleanup.remove(self.rewrite)
        self._shell.events.unregister("pre_run_cell", self.before)
        self._shell.events.unregister("post_run_cell", self.after)
        for magics in self._shell.magics_manager.magics.values():
            magics.pop("tokens", None)

    def rewrite(self, lines: list[str]) -> list[str]:
        """Turn `%%tokens` at the head of a cell into a line magic.

        Args:
            lines: The cell, each line with its end.
        """
        found = _HEAD.match(lines[0]) if lines else None
        if found is None:
            return lines
        body: list[str] = _transformer.cell_magic(self.rewrite(lines[1:]))
        return [f"get_ipython().run_line_magic('tokens', {found['name'] or ''!r})\n", *body]

    def before(self, info: Any) -> None:
        """Record that a cell starts."""
        # One that is kept in the history has its number already, and the shell the next.
        number = self._shell.execution_count - bool(info.store_history)
        self._running.append(_Cell(info.raw_cell, number))

    def begin(self, line: str = "") -> None:
        """Count what this cell uses from here on, and show it when the cell has ended.

        Args:
            line: What to call it; by default by the cell's number.
        """
        if self._running:
            cell = self._running[-1]
            shared = SharedScope(line.strip() or f"In [{cell.number}]")
            cell.scopes.append(shared)
            shared.open()

    def after(self, result: Any) -> None:
        """Show what a cell used that has ended, in whatever way."""
        for cell in self._ended(result):
            for shared in reversed(cell.scopes):
                shared.close()
                show(shared)

    def _ended(self, result: Any) -> list[_Cell]:
        """The cells that have ended, innermost first; none if it's one that never started."""
        # A cancelled cell has no result; for a blank one, `before` wasn't called.
        place = len(self._running) - 1
        if result is not None:
            while place >= 0 and self._running[place].source != result.info.raw_cell:
                place -= 1
        if place < 0:
            return []
        ended = self._running[place:]
        del self._running[place:]
        return ended[::-1]

    def run(self, line: str, body: str) -> None:
        """Run a body of code as a cell that starts with the magic, for programs that do so.

        Args:
            line: What to call it.
            body: The code; it can't await.
        """
        self._shell.run_cell(f"%%tokens {line}\n{body}")


def show(shared: SharedScope) -> None:
    """Display the cards of a shared scope: one for each handler that counted a call.

    Args:
        shared: What to show.
    """
    used = [scope for scope in shared.scopes() if scope.totals()]
    if len(used) > 1:
        print(f"{len(used)} handlers heard calls; a call that several heard is on each card.")
    for scope in used or [Tracker().scope(shared.name)]:
        _display.display(_Shown(scope.summary(), scope._repr_html_()))  # pyright: ignore[reportPrivateUsage]


@dataclass(frozen=True, slots=True)
class _Shown:
    """A card as text and as HTML; the front end takes the one it can show."""

    text: str
    html: str

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return self.html


# --- threads ---------------------------------------------------------------------------------


def follow_threads() -> Callable[[], None]:
    """Patch threads and executors so that they work in the shared scope they're given work in.

    Nothing else of the context is carried over, and outside of shared scopes nothing is different.

    Returns:
        A function that undoes it.
    """
    start: Any = _threads.start
    submit: Any = _executors.submit

    @functools.wraps(start)
    def start_in_scope(thread: threading.Thread) -> None:
        shared = current_shared_scope()
        if shared is not None:
            vars(thread)["run"] = functools.partial(_run, thread, thread.run, shared)
        start(thread)

    @functools.wraps(submit)
    def submit_in_scope(executor: Any, work: Any, /, *args: Any, **kwargs: Any) -> Any:
        shared = current_shared_scope()
        if shared is None:
            return submit(executor, work, *args, **kwargs)
        # A thread that the executor starts for this is there for later work too.
        token = set_current(None)
        try:
            return submit(executor, _work, shared, work, *args, **kwargs)
        finally:
            reset_current(token)

    _threads.start, _executors.submit = start_in_scope, submit_in_scope

    def undo() -> None:
        # Another patch on top of ours must stay; ours does nothing outside of shared scopes.
        if _threads.start is start_in_scope:
            _threads.start = start
        if _executors.submit is submit_in_scope:
            _executors.submit = submit

    return undo


def _run(thread: threading.Thread, run: Callable[[], None], shared: SharedScope) -> None:
    """Run a thread that was started in a shared scope."""
    # Else the thread would hold itself for ever.
    vars(thread).pop("run", None)
    set_current(shared)
    run()


def _work(shared: SharedScope, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Do work that an executor was given in a shared scope."""
    token = set_current(shared)
    try:
        return work(*args, **kwargs)
    finally:
        reset_current(token)


# --- loading ---------------------------------------------------------------------------------

_loaded: Final[dict[int, tuple[CellMagic, Callable[[], None]]]] = {}


def load(shell: Any) -> None:
    """Load the magic into a shell; see `%load_ext`.

    Args:
        shell: The shell.
    """
    if id(shell) not in _loaded:
        magic = CellMagic(shell)
        magic.load()
        _loaded[id(shell)] = magic, follow_threads()


def unload(shell: Any) -> None:
    """Unload the magic from a shell; see `%unload_ext`.

    Args:
        shell: The shell.
    """
    if id(shell) in _loaded:
        magic, undo = _loaded.pop(id(shell))
        magic.unload()
        undo()

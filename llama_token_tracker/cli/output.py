"""What commands end with and print: exit codes, progress, results, and errors in one line."""

import os
import sys
from decimal import Decimal
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from llama_token_tracker._printable import plain

OK: Final = 0
CALL_FAILED: Final = 1
"""A provider refused a call, or the connection did; what was counted is shown."""
NOT_RUN: Final = 2
"""Something that the command needs is missing; nothing was sent."""
_LONGEST_NOTE: Final = 2_000
_NARROWEST: Final = 20
_WIDEST: Final = 1_000

NOT_WRITTEN: Final = 1
"""Whoever was to read the result has closed the pipe."""

INTERRUPTED: Final = 130


def console(*, is_stderr: bool = False) -> Console:
    """A console no wider than anything can be shown on, whatever `COLUMNS` says."""
    found = Console(stderr=is_stderr)
    found.width = min(max(found.width, _NARROWEST), _WIDEST)
    return found


def table_console() -> Console:
    """A console for tables: where there's no terminal they are as wide as they are."""
    found = console()
    if not found.is_terminal and "COLUMNS" not in os.environ:
        found.width = _WIDEST
    return found


def progress() -> Progress:
    """A progress bar on stderr, if that is a terminal."""
    shown = console(is_stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal)


def fail(problem: object, code: int) -> int:
    """Print an error and return the exit code."""
    note(f"error: {problem}")
    return code


def note(text: str) -> None:
    """Print one line to stderr, whatever the text has in it."""
    print(f"llama-token-tracker: {plain(text, _LONGEST_NOTE)}", file=sys.stderr)


def usd_text(usd: Decimal | None) -> str | None:
    """Dollars as a text, so that none are lost in JSON."""
    return None if usd is None else f"{usd:f}"

"""The commands, their arguments, and how they print progress, results and errors.

`demo` loads LlamaIndex, so its module is imported when the command runs; `count` needs none.
"""

import argparse
import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from llama_token_tracker import __version__
from llama_token_tracker._printable import cleaned, plain
from llama_token_tracker.cli import files, tables
from llama_token_tracker.errors import LlamaTokenTrackerError
from llama_token_tracker.pricing import Prices
from llama_token_tracker.tokenizers import Tokenizer, get_tokenizer
from llama_token_tracker.usage import Usage

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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The command line without the program's name; by default the process's own.

    Returns:
        The exit code: 0, 1 if a call to a provider failed, 2 if something that the command
        needs is missing, 130 if it was interrupted.
    """
    _write_what_can_be_written()
    try:
        parser = _parser()
        options = parser.parse_args(arguments)
        code = int(options.run(options)) if "run" in options else _help(parser)
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison]
            sys.stdout.flush()
    except LlamaTokenTrackerError as error:
        return _fail(error, NOT_RUN)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read it, such as `head`, has read enough.
        return _closed(NOT_WRITTEN)
    except OSError as error:
        # Such as a disk that is full, or a folder that may not be read.
        return _closed(_fail(error, NOT_RUN))
    return code


def _write_what_can_be_written() -> None:
    """Have a terminal that can't show a sign show its number instead, be it in a file's name."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _closed(code: int) -> int:
    """Write nothing more to stdout, not even at the interpreter's end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the error in one line; the usage is a `--help` away."""
        self.exit(_fail(f"{message}; see {self.prog} --help", NOT_RUN))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="llama-token-tracker",
        description="Count the tokens of LlamaIndex calls exactly once, as billed.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="index some pages, ask about them and see what each step used",
        description=(
            "Index text files, ask a question, stream a second answer, leave a third one "
            "half-way, and show what each step used. Offline unless --llm is given."
        ),
    )
    demo.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="a text file, or a folder with .md, .rst and .txt files (default: four short pages "
        "that come with this package)",
    )
    demo.add_argument(
        "--llm",
        metavar="PROVIDER:MODEL",
        help="call a real model with the environment's credentials; PROVIDER is anthropic, "
        "bedrock, bedrock-converse or openai",
    )
    demo.add_argument(
        "--question",
        default="What do these pages have in common?",
        help="what to ask (default: %(default)s)",
    )
    demo.set_defaults(run=_demo)
    count = commands.add_parser(
        "count",
        help="count the tokens of files for a model, offline",
        description=(
            "Count the tokens of UTF-8 text files with a model's own tokenizer, or with a "
            "stand-in that says so. Nothing is sent. What isn't text is skipped and named."
        ),
    )
    count.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, a folder (all its files but hidden ones), a quoted glob, or - for stdin",
    )
    count.add_argument(
        "--model",
        required=True,
        metavar="M",
        help='the model, by any of its names: "gpt-4o", a Bedrock id or ARN, a Vertex id …',
    )
    count.add_argument("--json", action="store_true", help="print JSON instead of a table")
    count.set_defaults(run=_count)
    return parser


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return OK


def _count(options: argparse.Namespace) -> int:
    tokenizer = get_tokenizer(options.model)
    found = files.find(options.paths)
    results: list[files.Counted] = []
    with _progress() as progress:
        shown = progress.add_task("Counting", total=sum(map(files.size, found)))
        for result in files.count(found, tokenizer):
            results.append(result)
            name = escape(cleaned(Path(result.path).name))
            progress.update(shown, advance=files.size(result.path), description=name)
    counted = [
        (result.path, result.tokens, _as_input(options.model, result.tokens))
        for result in results
        if result.tokens is not None
    ]
    own = "its own" if tokenizer.source == "counted" else "a stand-in"
    heading = (f"Model:     {options.model}", f"Tokenizer: {tokenizer.name}, {own}")
    table = tables.FileTable(heading=heading, rows=tuple(counted))
    if options.json:
        _print_json(options.model, tokenizer, table, results)
    elif counted:
        tables.show_files(table, _console())
    for result in results:
        if result.skipped:
            _print_note(f"skipped: {result.path}: {result.skipped}")
    if not counted:
        return _fail("there was nothing to count", NOT_RUN)
    return OK


def _as_input(model: str, tokens: int) -> Decimal | None:
    """What a text costs in US dollars as one prompt to a model, uncached; `None` if unknown."""
    usage = Usage(input_tokens=tokens)
    cost = Prices().cost(usage, provider=None, model=model, at=datetime.now(UTC))
    return None if cost is None else cost.usd


def _print_json(
    model: str, tokenizer: Tokenizer, table: tables.FileTable, results: Sequence[files.Counted]
) -> None:
    answer = {
        "model": model,
        "tokenizer": tokenizer.name,
        "source": tokenizer.source,
        "tokens": table.total,
        "usd_as_input": _text_of(table.usd),
        "files": [
            {"path": path, "tokens": tokens, "usd_as_input": _text_of(usd)}
            for path, tokens, usd in table.rows
        ],
        "skipped": [
            {"path": result.path, "reason": result.skipped} for result in results if result.skipped
        ],
    }
    print(json.dumps(answer, indent=2))


def _text_of(usd: Decimal | None) -> str | None:
    """Dollars as a text, so that none are lost in JSON."""
    return None if usd is None else f"{usd:f}"


def _demo(options: argparse.Namespace) -> int:
    from llama_token_tracker.cli import demo  # late, because it loads LlamaIndex

    pages = demo.read_pages(options.paths)
    with demo.open_model(options.llm) as model:
        run = demo.Demo(pages, model, options.question)
        _run_tasks(run.tasks(), run.task_count)
    tables.show(run.table(), _console())
    if run.problem:
        return _fail(run.problem, CALL_FAILED)
    return OK


def _run_tasks(tasks: Iterable[str], count: int) -> None:
    """Work through the tasks, with a progress bar on a terminal."""
    with _progress() as progress:
        shown = progress.add_task("Starting", total=count)
        for done, task in enumerate(tasks):
            progress.update(shown, completed=done, description=escape(cleaned(task)))


def _console(*, is_stderr: bool = False) -> Console:
    """A console no wider than anything can be shown on, whatever `COLUMNS` says."""
    console = Console(stderr=is_stderr)
    console.width = min(max(console.width, _NARROWEST), _WIDEST)
    return console


def _progress() -> Progress:
    console = _console(is_stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _fail(problem: object, code: int) -> int:
    """Print an error and return the exit code."""
    _print_note(f"error: {problem}")
    return code


def _print_note(text: str) -> None:
    """Print one line to stderr, whatever the text has in it."""
    print(f"llama-token-tracker: {plain(text, _LONGEST_NOTE)}", file=sys.stderr)

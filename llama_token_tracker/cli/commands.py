"""The commands, and how they end.

`demo` loads LlamaIndex, so its module is imported when the command runs; the others need none.
"""

import argparse
import io
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from rich.markup import escape

from llama_token_tracker import __version__
from llama_token_tracker._printable import cleaned
from llama_token_tracker.cli import counting, reports, tables, upkeep
from llama_token_tracker.cli.output import (
    CALL_FAILED,
    INTERRUPTED,
    NOT_RUN,
    NOT_WRITTEN,
    OK,
    console,
    fail,
    progress,
)
from llama_token_tracker.errors import LlamaTokenTrackerError


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
    except (LlamaTokenTrackerError, ModuleNotFoundError) as error:
        return fail(error, NOT_RUN)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read it, such as `head`, has read enough.
        return _closed(NOT_WRITTEN)
    except OSError as error:
        # Such as a disk that is full, or a folder that may not be read.
        return _closed(fail(error, NOT_RUN))
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
        self.exit(fail(f"{message}; see {self.prog} --help", NOT_RUN))


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
    for module in (counting, reports, upkeep):
        module.add(commands)
    return parser


def _help(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return OK


def _demo(options: argparse.Namespace) -> int:
    from llama_token_tracker.cli import demo  # late, because it loads LlamaIndex

    pages = demo.read_pages(options.paths)
    with demo.open_model(options.llm) as model:
        run = demo.Demo(pages, model, options.question)
        _run_tasks(run.tasks(), run.task_count)
    tables.show(run.table(), console())
    if run.problem:
        return fail(run.problem, CALL_FAILED)
    return OK


def _run_tasks(tasks: Iterable[str], count: int) -> None:
    """Work through the tasks, with a progress bar on a terminal."""
    with progress() as bar:
        shown = bar.add_task("Starting", total=count)
        for done, task in enumerate(tasks):
            bar.update(shown, completed=done, description=escape(cleaned(task)))

"""The `count` command: tokens of files for a model, offline."""

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.markup import escape

from llama_token_tracker._printable import cleaned
from llama_token_tracker.cli import files, tables
from llama_token_tracker.cli.output import NOT_RUN, OK, console, fail, note, progress, usd_text
from llama_token_tracker.pricing import Prices
from llama_token_tracker.tokenizers import Tokenizer, get_tokenizer
from llama_token_tracker.usage import Usage


def add(commands: Any) -> None:
    """Add the command to those that there are."""
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
    count.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    tokenizer = get_tokenizer(options.model)
    found = files.find(options.paths)
    results: list[files.Counted] = []
    with progress() as bar:
        shown = bar.add_task("Counting", total=sum(map(files.size, found)))
        for result in files.count(found, tokenizer):
            results.append(result)
            name = escape(cleaned(Path(result.path).name))
            bar.update(shown, advance=files.size(result.path), description=name)
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
        tables.show_files(table, console())
    for result in results:
        if result.skipped:
            note(f"skipped: {result.path}: {result.skipped}")
    if not counted:
        return fail("there was nothing to count", NOT_RUN)
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
        "usd_as_input": usd_text(table.usd),
        "files": [
            {"path": path, "tokens": tokens, "usd_as_input": usd_text(usd)}
            for path, tokens, usd in table.rows
        ],
        "skipped": [
            {"path": result.path, "reason": result.skipped} for result in results if result.skipped
        ],
    }
    print(json.dumps(answer, indent=2))

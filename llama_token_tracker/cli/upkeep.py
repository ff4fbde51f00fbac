"""The commands that copy a ledger or change it: `export`, `reprice`, `prune`."""

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from rich import box
from rich.table import Table as Grid
from rich.text import Text

from llama_token_tracker._lock import LOADING
from llama_token_tracker._printable import cleaned
from llama_token_tracker.cli import choosing
from llama_token_tracker.cli.output import OK, note, progress, table_console
from llama_token_tracker.errors import LedgerError
from llama_token_tracker.events.frames import COLUMNS
from llama_token_tracker.views.figures import dollars, plural

if TYPE_CHECKING:
    from llama_token_tracker.sinks.ledger.query import Query
    from llama_token_tracker.sinks.ledger.repricing import Change

Changes: TypeAlias = "dict[str | None, Change]"
"""What becomes of calls, by model."""

_NANO: Final = Decimal(10**9)
_DAY_US: Final = 86_400_000_000


def add(commands: Any) -> None:
    """Add the commands to those that there are."""
    _add_export(commands)
    _add_reprice(commands)
    _add_prune(commands)


def _add_export(commands: Any) -> None:
    export = commands.add_parser(
        "export",
        help="write a ledger's calls to a file",
        description="Write the calls of a ledger, one a row, or what they cost by the hour.",
    )
    choosing.add_ledger(export)
    shape = export.add_mutually_exclusive_group(required=True)
    for name, said in (
        ("csv", "for spreadsheets: a name that begins as a formula does has a ' before it"),
        ("jsonl", "a JSON object a line"),
        ("parquet", "needs the extra parquet"),
    ):
        shape.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=said)
    export.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: stdout")
    export.add_argument(
        "--focus",
        action="store_true",
        help="cost data in FinOps' format, FOCUS 1.2: a row an hour, model and label",
    )
    export.add_argument("--billing-account", metavar="ID", help="FOCUS's BillingAccountId")
    choosing.add_span(export)
    choosing.add_where(export)
    export.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    with LOADING:
        from llama_token_tracker.sinks.ledger import focus
        from llama_token_tracker.sinks.ledger.export import export
    target: Path | None = options.output
    with choosing.chosen(options) as query:
        _keep_ledger(target, query.engine.url.database)
        if options.focus and options.billing_account is None:
            note("BillingAccountId is empty, and FOCUS asks for it: name it with --billing-account")
        if options.focus:
            rows, columns = focus.rows(query, options.billing_account), focus.COLUMNS
        else:
            rows, columns = iter(query), COLUMNS
        number = export(rows, columns, options.format, target)
    if target is not None:
        note(f"{plural(number, 'row')} written to {target}")
    return OK


def _keep_ledger(target: Path | None, database: str | None) -> None:
    """Refuse to write over the ledger itself."""
    ledger = Path(database or "")
    if target is not None and target.exists() and ledger.exists() and target.samefile(ledger):
        msg = f"{target} is the ledger itself; name another file."
        raise LedgerError(msg)


# --- reprice -----------------------------------------------------------------------------------


def _add_reprice(commands: Any) -> None:
    reprice = commands.add_parser(
        "reprice",
        help="reckon a ledger's costs anew",
        description=(
            "Reckon costs anew from the tokens that are written, by the price list of the "
            "installed release, and show what changes. Prices of your own (prices=) and what a "
            "provider says it has billed stay, unless --all is given."
        ),
    )
    choosing.add_ledger(reprice)
    reprice.add_argument(
        "--as-of",
        type=_date,
        metavar="DATE",
        help="by the prices of this day (default: of each call's own)",
    )
    reprice.add_argument("--all", action="store_true", help="your own prices and bills as well")
    reprice.add_argument("--write", action="store_true", help="write what changes")
    choosing.add_span(reprice)
    reprice.set_defaults(run=_reprice)


def _date(said: str) -> date:
    try:
        return date.fromisoformat(said)
    except ValueError:
        msg = f"{said!r} is no date; give one such as 2026-11-29"
        raise argparse.ArgumentTypeError(msg) from None


def _reprice(options: argparse.Namespace) -> int:
    with LOADING:
        from llama_token_tracker.sinks.ledger.repricing import Repricing
    with choosing.chosen(options, writes=options.write) as query:
        repricing = Repricing(
            query.engine,
            as_of=options.as_of,
            since_us=query.since_us,
            until_us=query.until_us,
            is_all=options.all,
        )
        changes = _reckoned(repricing.preview, repricing.number)
        table_console().print(_changes(changes), highlight=False)
        calls = plural(sum(change.changed for change in changes.values()), "call")
        if options.write:
            written = _reckoned(repricing.write, repricing.number).values()
            calls = plural(sum(change.changed for change in written), "call")
            note(f"the costs of {calls} were written")
        else:
            note(f"nothing was written; --write changes the costs of {calls}")
    return OK


def _reckoned(reckon: Callable[[Callable[[int], object]], Changes], number: int) -> Changes:
    with progress() as shown:
        task = shown.add_task("reckoning", total=number)
        return reckon(lambda calls: shown.advance(task, calls))


def _changes(changes: Changes) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    grid.add_column("Model", overflow="fold")
    for title in ("Calls", "Kept", "Changed", "Unpriced", "Cost", "Becomes"):
        grid.add_column(title, justify="right", no_wrap=True)
    for model, change in sorted(changes.items(), key=lambda item: item[0] or ""):
        unpriced = f"{change.unpriced_before:,}"
        if change.unpriced_after != change.unpriced_before:
            unpriced += f" \N{RIGHTWARDS ARROW} {change.unpriced_after:,}"
        grid.add_row(
            Text(cleaned(model or "unknown")),
            f"{change.calls:,}",
            f"{change.kept:,}",
            f"{change.changed:,}",
            unpriced,
            dollars(change.before / _NANO),
            dollars(change.after / _NANO),
        )
    return grid


# --- prune -------------------------------------------------------------------------------------


def _add_prune(commands: Any) -> None:
    prune = commands.add_parser(
        "prune",
        help="delete old calls from a ledger; their sums stay",
        description=(
            "Delete calls that started before a day, UTC, and their texts. Their sums by hour and "
            "day stay, so that reports are as they were, but for run, host and odd minutes."
        ),
    )
    choosing.add_ledger(prune)
    prune.add_argument(
        "--before", required=True, metavar="DATE", help="a date, or 90d: whole days, UTC"
    )
    prune.add_argument(
        "--parquet", type=Path, metavar="FILE", help="write them to this new file first"
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    prune.set_defaults(run=_prune, since=None, zone="UTC", until=None)


def _prune(options: argparse.Namespace) -> int:
    with LOADING:
        from llama_token_tracker.sinks.ledger import pruning
        from llama_token_tracker.sinks.ledger.periods import moment
    at_us = moment(options.before, UTC, datetime.now(UTC))
    before_us = at_us - at_us % _DAY_US
    options.until = datetime.fromtimestamp(before_us / 1e6, UTC)
    with choosing.chosen(options, writes=not options.dry_run) as query:
        if options.dry_run:
            found, word = pruning.preview(query.engine, before_us), "would be deleted"
        else:
            expected = _copied(options.parquet, query)
            found, word = pruning.prune(query.engine, before_us, expected=expected), "were deleted"
    months = f" with {plural(len(found.months), 'partition')}" if found.months else ""
    calls = plural(found.calls, "call")
    print(f"{calls} before {options.until:%Y-%m-%d} UTC {word}{months}; their sums stay.")
    sys.stdout.flush()
    return OK


def _copied(target: Path | None, query: "Query") -> int | None:
    """How many calls were written to a file, if one is named."""
    if target is None:
        return None
    if target.exists():
        msg = f"{target} is there already; name a new file."
        raise LedgerError(msg)
    with LOADING:
        from llama_token_tracker.sinks.ledger.export import export
    number = export(query, COLUMNS, "parquet", target)
    note(f"{plural(number, 'row')} written to {target}")
    return number

"""The commands that show what a ledger holds: `report`, and `watch-ledger`, which goes on."""

import argparse
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from llama_token_tracker._lock import LOADING
from llama_token_tracker.cli import choosing
from llama_token_tracker.cli.ledger_tables import PLAIN, LedgerTable
from llama_token_tracker.cli.output import OK, table_console
from llama_token_tracker.views.figures import dollars, plural

if TYPE_CHECKING:
    from llama_token_tracker.sinks.ledger.query import Query

_SHORTEST_S, _LONGEST_S = 0.1, 3_600.0


def add(commands: Any) -> None:
    """Add the commands to those that there are."""
    report = commands.add_parser(
        "report",
        help="what the calls in a ledger used and cost",
        description="Add up the calls that a ledger holds. The ledger is only read.",
    )
    _add_question(report, "day")
    shape: Any = report.add_mutually_exclusive_group()
    for name, said in _SHAPES.items():
        shape.add_argument(
            f"--{name}", dest="shape", action="store_const", const=said, help=f"print {name}"
        )
    shape.add_argument("--live", action="store_true", help="as watch-ledger does")
    _add_every(report)
    report.set_defaults(run=_report, shape=None)
    watch = commands.add_parser(
        "watch-ledger",
        help="the same, drawn anew as calls come",
        description="Show a ledger's sums, and tokens and dollars per minute, until Ctrl-C.",
    )
    _add_question(watch, "model")
    _add_every(watch)
    watch.set_defaults(run=_watch, since="today")


def _add_question(parser: argparse.ArgumentParser, by: str) -> None:
    choosing.add_ledger(parser)
    parser.add_argument(
        "--by",
        type=_names,
        default=_names(by),
        metavar="NAME[,NAME…]",
        help="hour, day, week, month, provider, model, scope, operation, status, run, host, or "
        f"any tag; several at once (default: {by})",
    )
    choosing.add_span(parser)
    choosing.add_where(parser)


def _add_every(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--every", type=_seconds, default=2.0, metavar="S", help="seconds between two (default: 2)"
    )


def _names(said: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in said.split(",")))
    if not all(names):
        msg = f"{said!r} holds an empty name"
        raise argparse.ArgumentTypeError(msg)
    return names


def _seconds(said: str) -> float:
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_S <= seconds <= _LONGEST_S:
        msg = f"{said!r} isn't a number of seconds from {_SHORTEST_S} to {_LONGEST_S:.0f}"
        raise argparse.ArgumentTypeError(msg)
    return seconds


def _report(options: argparse.Namespace) -> int:
    if options.live:
        return _watch(options)
    show: Callable[[LedgerTable], None] = options.shape or _show
    with choosing.chosen(options) as query:
        show(_table(query, options))
    return OK


def _table(query: "Query", options: argparse.Namespace) -> LedgerTable:
    with LOADING:
        from llama_token_tracker.sinks.ledger.engine import place_of
    place = place_of(query.engine.url)
    since, until = (
        None if at is None else datetime.fromtimestamp(at / 1e6, UTC)
        for at in (query.since_us, query.until_us)
    )
    edges = [
        f"{word} {at.astimezone(query.zone):%Y-%m-%d %H:%M}"
        for word, at in (("since", since), ("until", until))
        if at is not None
    ]
    where = ", ".join(f"{name}={value}" for name, value in getattr(options, "where", ()))
    heading = [
        f"Ledger: {place}",
        f"Time:   {' '.join(edges) or 'all'}, by the clocks of {options.zone}",
    ]
    if where:
        heading.append(f"Where:  {where}")
    said = {
        "ledger": place,
        "zone": options.zone,
        "since": None if since is None else since.isoformat(),
        "until": None if until is None else until.isoformat(),
        "by": list(options.by),
    }
    return LedgerTable(tuple(heading), query.sums(*options.by), said)


def _show(table: LedgerTable) -> None:
    found = table_console()
    found.print(table.render(found), highlight=False)


def _print_json(table: LedgerTable) -> None:
    print(table.json())


def _print_markdown(table: LedgerTable) -> None:
    print(table.markdown())


def _print_csv(table: LedgerTable) -> None:
    with LOADING:
        from llama_token_tracker.sinks.ledger.export import export
    sys.stdout.flush()
    export(table.records(), dict.fromkeys((*table.sums.by, *PLAIN), "text"), "csv", None)


_SHAPES: Final = {"json": _print_json, "csv": _print_csv, "markdown": _print_markdown}


# --- again and again ---------------------------------------------------------------------------


def _watch(options: argparse.Namespace) -> int:
    found = table_console()
    with suppress(KeyboardInterrupt), choosing.chosen(options) as query:
        if found.is_terminal:
            _redraw(query, options, found)
        else:
            _print_lines(query, options)
    return OK


def _redraw(query: "Query", options: argparse.Namespace, found: Console) -> None:
    with Live(console=found, auto_refresh=False) as live:
        while True:
            minute = _last_minute(query)
            table = _table(query, options).render(found)
            said: RenderableType = Group(table, Text(minute, style="bold"), Text("Ctrl-C ends it."))
            live.update(said, refresh=True)
            time.sleep(options.every)


def _print_lines(query: "Query", options: argparse.Namespace) -> None:
    while True:
        total = query.sums().total
        at = f"{datetime.now(query.zone):%H:%M:%S}"
        cost = dollars(total.cost_usd)
        calls = plural(total.calls, "call")
        print(f"{at} {_last_minute(query)}; in all {calls}, {total.tokens:,} tokens, {cost}")
        sys.stdout.flush()
        time.sleep(options.every)


def _last_minute(query: "Query") -> str:
    """Tokens and dollars of the calls that started within the last minute."""
    total = query.last(timedelta(minutes=1)).total
    cost = dollars(total.cost_usd if total.calls else Decimal(0))
    return f"last minute: {total.tokens:,} tokens, {cost}, {plural(total.calls, 'call')}"

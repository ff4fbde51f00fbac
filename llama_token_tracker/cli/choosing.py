"""Arguments that several commands share: which ledger is meant, and which of its calls."""

import argparse
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from llama_token_tracker._lock import LOADING
from llama_token_tracker.errors import LedgerError

if TYPE_CHECKING:
    from llama_token_tracker.sinks.ledger.query import Query

DEFAULT: Final = "usage.db"
VARIABLE: Final = "LLAMA_TOKEN_TRACKER_LEDGER"


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """Add the ledger."""
    parser.add_argument(
        "ledger",
        nargs="?",
        metavar="LEDGER",
        help=f"a file, or a URL: postgresql+psycopg://user@host/database (default: {VARIABLE}, "
        f"or else {DEFAULT} in this folder)",
    )


def add_span(parser: argparse.ArgumentParser) -> None:
    """Add since and until."""
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="the first moment: 7d, 12h or 30m ago, today, yesterday, a date (its midnight), or a "
        "date and a time",
    )
    parser.add_argument("--until", metavar="TIME", help="the first moment that isn't meant")
    parser.add_argument(
        "--zone", default="UTC", metavar="Z", help="whose days: Europe/Berlin (default: UTC)"
    )


def add_where(parser: argparse.ArgumentParser) -> None:
    """Add what calls must have."""
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        type=_pair,
        metavar="NAME=VALUE",
        help="only calls of this provider, model, scope, operation, status, run or host, or with "
        "this tag; several: any value of one name, and all names",
    )


def _pair(said: str) -> tuple[str, str]:
    name, is_there, value = said.partition("=")
    if not name or not is_there:
        msg = f"{said!r} is no NAME=VALUE"
        raise argparse.ArgumentTypeError(msg)
    return name, value


def place(options: argparse.Namespace) -> str:
    """The ledger that is meant."""
    return str(options.ledger or os.environ.get(VARIABLE) or DEFAULT)


@contextmanager
def chosen(options: argparse.Namespace, *, writes: bool = False) -> "Generator[Query]":
    """The calls that are meant, of a ledger that is open meanwhile.

    Args:
        options: What was said.
        writes: Whether the ledger is to be changed.

    Raises:
        LedgerError: There's no such ledger, time or zone.
    """
    with LOADING:  # SQLAlchemy, which is slow to load
        from llama_token_tracker.sinks.ledger.existing import existing
        from llama_token_tracker.sinks.ledger.periods import zone_of
        from llama_token_tracker.sinks.ledger.query import Query
    where: dict[str, list[str]] = {}
    for name, value in getattr(options, "where", ()):
        where.setdefault(name, []).append(value)
    said: dict[str, Any] = {"since": options.since, "until": options.until, "where": where}
    zone = zone_of(options.zone)
    engine = existing(place(options), writes=writes)
    try:
        yield _checked(Query(engine, zone=zone, **said))
    finally:
        engine.dispose()


def _checked(found: "Query") -> "Query":
    if found.until_us is not None and found.until_us <= (found.since_us or 0):
        msg = "--until is no later than --since; nothing lies between them."
        raise LedgerError(msg)
    return found

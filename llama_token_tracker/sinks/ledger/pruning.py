"""Old calls deleted from a ledger; what they add up to stays in its sums by hour and day."""

import re
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, func, select, text
from sqlalchemy.exc import DBAPIError

from llama_token_tracker.errors import LedgerError
from llama_token_tracker.sinks.ledger.engine import place_of, reason_of, writing
from llama_token_tracker.sinks.ledger.existing import reading
from llama_token_tracker.sinks.ledger.schema import CALLS, META, PRUNED, TEXTS
from llama_token_tracker.sinks.ledger.sums import pruned_before_us
from llama_token_tracker.sinks.ledger.writing import bounds

_WAIT: Final = "SET LOCAL lock_timeout = '30s'"
_MONTH: Final = re.compile(r"ledger_calls_(\d{4})_(\d{2})")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was deleted, or would be.

    Attributes:
        calls: How many.
        months: The partitions that go as a whole; on SQLite there are none.
    """

    calls: int
    months: tuple[str, ...]


def preview(engine: Engine, before_us: int) -> Pruned:
    """What `prune` would delete.

    Raises:
        LedgerError: The ledger can't be read.
    """
    with reading(engine) as connection:
        return _found(connection, before_us)


def prune(engine: Engine, before_us: int, *, expected: int | None = None) -> Pruned:
    """Delete calls that started before a moment, and their texts, all at once.

    Args:
        engine: The ledger's, one that may write.
        before_us: The moment, in microseconds since 1970.
        expected: How many there are to be, as so many were exported.

    Raises:
        LedgerError: There are others than were expected, or they can't be deleted. All are there.
    """
    try:
        with writing(engine) as connection:
            return _prune(connection, before_us, expected)
    except DBAPIError as error:
        msg = f"the ledger {place_of(engine.url)} can't be pruned: {reason_of(error)}"
        raise LedgerError(msg) from error


def _prune(connection: Connection, before_us: int, expected: int | None) -> Pruned:
    if connection.dialect.name == "postgresql":
        connection.execute(text(_WAIT))
        connection.execute(text(f"LOCK TABLE {CALLS.name} IN ACCESS EXCLUSIVE MODE"))
    found = _found(connection, before_us)
    if expected is not None and found.calls != expected:
        msg = (
            f"{expected:,} calls were exported, and {found.calls:,} are there by now; nothing was "
            "deleted: begin again."
        )
        raise LedgerError(msg)
    for name in found.months:
        connection.execute(text(f"ALTER TABLE {CALLS.name} DETACH PARTITION {name}"))
        connection.execute(text(f"DROP TABLE {name}"))
    for table in (CALLS, TEXTS):
        connection.execute(table.delete().where(table.c.started_us < before_us))
    latest = max(before_us, pruned_before_us(connection))
    connection.execute(META.delete().where(META.c.name == PRUNED))
    connection.execute(META.insert(), {"name": PRUNED, "value": str(latest)})
    return found


def _found(connection: Connection, before_us: int) -> Pruned:
    calls = select(func.count()).select_from(CALLS).where(CALLS.c.started_us < before_us)
    return Pruned(connection.scalar(calls) or 0, _months(connection, before_us))


def _months(connection: Connection, before_us: int) -> tuple[str, ...]:
    """The partitions that end before a moment."""
    if connection.dialect.name != "postgresql":
        return ()
    names = connection.scalars(
        text(
            "SELECT part.relname FROM pg_inherits JOIN pg_class part ON part.oid = inhrelid "
            f"WHERE inhparent = CAST('{CALLS.name}' AS regclass) ORDER BY 1"
        )
    )
    found = [_MONTH.fullmatch(name) for name in names]
    return tuple(
        month[0]
        for month in found
        if month and bounds((int(month[1]), int(month[2])))[1] <= before_us
    )

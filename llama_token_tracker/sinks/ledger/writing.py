"""Records to rows: each once, whoever writes it how often, with their sums by time.

One transaction a batch: the rows that calls point to, the calls, and, of those calls alone that
weren't there yet, the sums. SQLite has the calls from statements of many rows, PostgreSQL from a
`COPY` into a table beside, which one statement then takes over.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from typing import Any, Final, Protocol, cast

from sqlalchemy import Connection, Engine, Table, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from llama_token_tracker._lock import pass_on
from llama_token_tracker.sinks.ledger.engine import writing
from llama_token_tracker.sinks.ledger.periods import EPOCH, microseconds
from llama_token_tracker.sinks.ledger.records import (
    Record,
    Values,
    call_of,
    column,
    id_of,
    key_of,
    measures_of,
    rows_by_table,
    texts_of,
    values_of,
)
from llama_token_tracker.sinks.ledger.schema import (
    CALLS,
    INSERTS,
    LOCK_KEY,
    MEASURES,
    QUARTER_US,
    ROLLUPS,
    TEXTS,
    Rollup,
)

_started_us: Final = column("started_us")


class Writer(Protocol):
    """What puts batches of records into one kind of database."""

    def write(self, records: Sequence[Record]) -> None:
        """Write records, each once: in whole or, if it raises, not at all."""
        ...


def writer_of(engine: Engine) -> Writer:
    """What writes to this database."""
    return _WRITERS[engine.dialect.name](engine)


def _unique(records: Iterable[Record]) -> list[Record]:
    return list({key_of(record): record for record in records}.values())


# --- SQLite ----------------------------------------------------------------------------------


class SQLiteWriter:
    """Writes to a file; it alone writes while its transaction lasts, so what it finds is so."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def write(self, records: Sequence[Record]) -> None:
        """Write records, each once: in whole or, if it raises, not at all."""
        with writing(self._engine) as connection:
            for table, rows in rows_by_table(records).items():
                _put_together(connection, _insert_sql("sqlite", table), rows)
            new = self._put_calls(connection, records)
            texts = [(_id(one), _started_us(one), *kept) for one in new if (kept := texts_of(one))]
            _put_together(connection, _insert_sql("sqlite", TEXTS), texts)
            rows = sums(new)
            for rollup in ROLLUPS.values():
                added = rolled_up(rows, rollup)
                _put_together(connection, _add_sql("sqlite", rollup.table), added)

    def _put_calls(self, connection: Connection, records: Sequence[Record]) -> Sequence[Record]:
        """Insert calls, and say which weren't there."""
        # Nearly always all are new, and looking for each would cost as much as writing it.
        try:
            with connection.begin_nested():
                _put_together(connection, _INSERT_CALL, records, _call_values)
        except IntegrityError:
            unique = _unique(records)
            there = _found(connection, [(_started_us(one), _id(one)) for one in unique])
            new = [one for one in unique if (_started_us(one), _id(one)) not in there]
            _put_together(connection, _INSERT_CALL, new, _call_values)
            return new
        return records


_TOGETHER: Final = (500, 100, 20, 4, 1)
"""So many rows one statement takes. The driver lets go of Python's lock for each statement, and
gets it back milliseconds later where another thread computes; and it keeps a statement's program,
which is as long as it has rows, so that there may be few of different lengths."""


def _values(rows: Iterable[Values]) -> Values:
    return tuple(chain.from_iterable(rows))


def _put_together(
    connection: Connection,
    sql: str,
    rows: Sequence[Any],
    values_of: Callable[[Sequence[Any]], Values] = _values,
) -> None:
    for many, some in _together(connection, sql, rows):
        connection.exec_driver_sql(many, values_of(some))


def _together(
    connection: Connection, sql: str, rows: Sequence[Any]
) -> Iterator[tuple[str, Sequence[Any]]]:
    """A statement of one row for all of these, in as few statements as SQLite allows."""
    driver: Any = connection.connection.driver_connection
    most = driver.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // sql.count("?")
    start = 0
    for size in (size for size in _TOGETHER if size <= most):
        while len(rows) - start >= size:
            yield _repeated(sql, size), rows[start : start + size]
            start += size


@lru_cache(maxsize=64)
def _repeated(sql: str, number: int) -> str:
    row = f"({', '.join('?' * sql.count('?'))})"
    return sql.replace(row, ", ".join([row] * number))


def _found(connection: Connection, keys: Sequence[Values]) -> set[Values]:
    """Which calls are there, by when they started and their ids."""
    return {
        tuple(found)
        for many, some in _together(connection, _FIND, keys)
        for found in connection.exec_driver_sql(many, _values(some))
    }


_FIND: Final = f"SELECT started_us, id FROM {CALLS.name} WHERE (started_us, id) IN (VALUES (?, ?))"


def _id(record: Record) -> bytes:
    return bytes.fromhex(id_of(record))


def _call_values(records: Iterable[Record]) -> Values:
    values: list[Any] = [_UNKNOWN if one is None else one for one in _values(map(call_of, records))]
    # To the driver an array of bytes is one of the types that need no adapter, `bytes` are not.
    values[:: len(CALLS.columns)] = map(bytearray.fromhex, values[:: len(CALLS.columns)])
    return tuple(values)


def sums(records: Iterable[Record]) -> list[Values]:
    """Add calls up by the quarter of an hour, kind and label."""
    found: dict[tuple[int, int, int], list[Values]] = {}
    for call in map(call_of, records):
        start, kind, label = _key_of(call)
        found.setdefault((start - start % QUARTER_US, kind, label), []).append(call)
    return [(*key, *_totals(calls)) for key, calls in found.items()]


_key_of: Final = values_of("started_us", "kind_id", "label_id")
_paid_of: Final = values_of("cost_nanodollars", "duration_us")


def _totals(calls: Sequence[Values]) -> Values:
    costs, durations = zip(*map(_paid_of, calls), strict=True)
    measures = zip(*map(measures_of, calls), strict=True)
    return (len(calls), costs.count(None), _total(durations) or 0, *map(_total, measures))


def _total(figures: Iterable[int | None]) -> int | None:
    """Their sum; `None` if none of them is known."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known else None


def rolled_up(rows: Iterable[Values], rollup: Rollup) -> list[Values]:
    """Add these sums up to rows of a rollup, sorted by what tells them apart."""
    found: dict[tuple[Any, ...], Values] = {}
    for start, kind, label, *values in rows:
        key = rollup.key(start, kind, label)
        known = found.get(key)
        found[key] = tuple(values) if known is None else tuple(map(_sum, known, values))
    return [(*key, *found[key]) for key in sorted(found)]


def _sum(left: int | None, right: int | None) -> int | None:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def _put(connection: Connection, sql: str, rows: list[Values]) -> None:
    if rows:
        connection.exec_driver_sql(sql, cast("Any", rows))


# --- PostgreSQL ------------------------------------------------------------------------------

_STAGE: Final = "ledger_staged"


class PostgreSQLWriter:
    """Writes to a server, beside any number of others."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._months: set[str] = set()

    def write(self, records: Sequence[Record]) -> None:
        """Write records, each once: in whole or, if it raises, not at all."""
        unique = _unique(records)
        try:
            self._write(unique)
        except Exception as error:
            pass_on(error)
            # A month may have been detached meanwhile.
            self._months.clear()
            if not isinstance(error, IntegrityError):
                raise
            self._write(unique)

    def _write(self, records: Sequence[Record]) -> None:
        self._make_months(records)
        with writing(self._engine) as connection:
            for table, rows in rows_by_table(records).items():
                self._put(connection, table, rows)
            connection.execute(text(_MAKE_STAGE))
            _copy(connection, _STAGE, map(call_of, records))
            new = {str(one[0]) for one in connection.execute(text(_TAKE_OVER))}
            texts = [
                (id_of(one), _started_us(one), *kept)
                for one in records
                if (kept := texts_of(one)) and id_of(one) in new
            ]
            self._put(connection, TEXTS, texts)

    def _put(self, connection: Connection, table: Table, rows: list[Values]) -> None:
        _put(connection, _insert_sql("postgresql", table), rows)

    def _make_months(self, records: Iterable[Record]) -> None:
        """See to it that there is a partition for each month in which calls started."""
        found = Counter(map(month_of, map(_started_us, records)))
        for name, (start, end) in {part(one): bounds(one) for one in found}.items():
            if name in self._months:
                continue
            with writing(self._engine) as connection:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
                connection.execute(
                    text(
                        f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {CALLS.name} "
                        f"FOR VALUES FROM ({start}) TO ({end})"
                    )
                )
            self._months.add(name)


def month_of(at_us: int) -> tuple[int, int]:
    """The year and the month, UTC, of a time in microseconds since 1970."""
    at = EPOCH + timedelta(microseconds=at_us)
    return at.year, at.month


def part(month: tuple[int, int]) -> str:
    """The name of a month's partition."""
    return f"{CALLS.name}_{month[0]:04}_{month[1]:02}"


def bounds(month: tuple[int, int]) -> tuple[int, int]:
    """When a month begins and ends, in microseconds since 1970."""
    year, number = month
    later = (year + number // 12, number % 12 + 1)
    return microseconds(datetime(year, number, 1, tzinfo=UTC)), microseconds(
        datetime(*later, 1, tzinfo=UTC)
    )


def _copy(connection: Connection, name: str, rows: Iterable[Values]) -> None:
    columns = ", ".join(column.name for column in CALLS.columns)
    driver: Any = connection.connection.driver_connection
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY {name} ({columns}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)


_MAKE_STAGE: Final = (
    f"CREATE TEMPORARY TABLE IF NOT EXISTS {_STAGE} (LIKE {CALLS.name}) ON COMMIT DELETE ROWS"
)


def _added(rollup: Rollup, source: str) -> str:
    """An upsert of the sums of these calls."""
    table, length_us = rollup.table, rollup.length_us
    ours = ", ".join(column.name for column in table.columns)
    label = "label_id" if rollup.has_labels else "0::bigint"
    totals = ", ".join(f"sum({name})::bigint" for name in MEASURES)
    return (
        f"INSERT INTO {table.name} ({ours}) SELECT started_us - started_us % {length_us}, "
        f"kind_id, {label}, count(*), count(*) - count(cost_nanodollars), "
        f"coalesce(sum(duration_us), 0)::bigint, {totals} "
        f"FROM {source} GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 {_on_conflict(table)}"
    )


def _on_conflict(table: Table) -> str:
    changes = ", ".join(
        # What nobody reports stays unreported: NULL plus NULL is NULL, plus a number the number.
        f"{name} = coalesce({table.name}.{name} + excluded.{name}, {table.name}.{name}, "
        f"excluded.{name})"
        for name in (column.name for column in table.columns if not column.primary_key)
    )
    return f"ON CONFLICT (start_us, kind_id, label_id) DO UPDATE SET {changes}"


_TAKE_OVER: Final = (
    f"WITH taken AS (INSERT INTO {CALLS.name} SELECT * FROM {_STAGE} ORDER BY started_us, id "
    "ON CONFLICT DO NOTHING RETURNING *), "
    + ", ".join(
        f"{rollup.table.name}_sums AS ({_added(rollup, 'taken')})" for rollup in ROLLUPS.values()
    )
    + " SELECT replace(id::text, '-', '') FROM taken"
)

_WRITERS: Final[dict[str, Callable[[Engine], Writer]]] = {
    "sqlite": SQLiteWriter,
    "postgresql": PostgreSQLWriter,
}

# --- statements as drivers take them -----------------------------------------------------------

_DIALECTS: Final[dict[str, Any]] = {
    "sqlite": cast("Any", sqlite.dialect)(paramstyle="qmark"),
    "postgresql": cast("Any", postgresql.dialect)(paramstyle="format"),
}


@lru_cache
def _insert_sql(dialect: str, table: Table) -> str:
    """An insert that leaves alone what is there."""
    statement = INSERTS[dialect](table).on_conflict_do_nothing()
    return str(statement.compile(dialect=_DIALECTS[dialect]))


_UNKNOWN: Final = 0.5
"""What stands for `NULL` on the way to the database, as no integer and no text equals it. For each
`None` Python's driver, before 3.13, looks for an adapter: ten times as long as for a number."""

_INSERT_CALL: Final = (
    f"INSERT INTO {CALLS.name} ({', '.join(column.name for column in CALLS.columns)}) SELECT "
    + ", ".join(
        f"nullif(column{place}, {_UNKNOWN})" if column.nullable else f"column{place}"
        for place, column in enumerate(CALLS.columns, 1)
    )
    + f" FROM (VALUES ({', '.join('?' * len(CALLS.columns))}))"
)


@lru_cache
def _add_sql(dialect: str, table: Table) -> str:
    """An insert that adds to what is there."""
    return f"{table.insert().compile(dialect=_DIALECTS[dialect])} {_on_conflict(table)}"

"""The tables of a ledger, one row a call, and their version.

A call's row holds numbers alone. What repeats from call to call (model, price, scope and tags,
process) stands once in a table beside it, under an id that is a hash of what it says: so whoever
writes needs to ask nobody for it, and the same call replayed is the same row. `ledger_events` is
all of it joined, for people with a SQL prompt.
"""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    column,
    inspect,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.expression import ColumnClause
from sqlalchemy.types import TypeDecorator, TypeEngine

from llama_token_tracker.errors import LedgerError
from llama_token_tracker.usage import BUCKETS

VERSION: Final = 2
"""Of the tables; a ledger of a newer one is refused, an older one is brought forward."""

METADATA: Final = MetaData()


class EventId(TypeDecorator[str]):
    """An event's id: 32 hexadecimal digits here, 16 bytes there."""

    impl = LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """PostgreSQL has a type for it."""
        if dialect.name == "postgresql":
            return dialect.type_descriptor(Uuid(as_uuid=False))
        return dialect.type_descriptor(LargeBinary(16))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        """From 32 digits."""
        if value is None or dialect.name == "postgresql":
            return value
        return bytes.fromhex(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """To 32 digits."""
        if value is None:
            return None
        return value.hex() if isinstance(value, bytes) else str(value).replace("-", "")


META: Final = Table(
    "ledger_meta",
    METADATA,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

PROCESSES: Final = Table(
    "ledger_processes",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("run", Text, nullable=False),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("version", Text, nullable=False),
    Index("ledger_processes_run", "run"),
)
"""Who wrote: `run` is shared by a program and the workers that it has started."""

KINDS: Final = Table(
    "ledger_kinds",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("provider", Text),
    Column("model", Text),
    Column("model_served", Text),
    Column("operation", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("input_source", Text, nullable=False),
    Column("output_source", Text, nullable=False),
    Column("service_tier", Text),
    Column("speed", Text),
    Column("region", Text),
)
"""What was called, how it was served and how it ended."""

LABELS: Final = Table(
    "ledger_labels",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("scope", Text),
    Column("tags", Text, nullable=False),
)
"""Whose calls: a scope's path, and tags as a JSON object with sorted keys."""

PRICES: Final = Table(
    "ledger_prices",
    METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("source", Text, nullable=False),
    Column("as_of", Text),
)
"""Where a cost comes from, and of which day (ISO 8601) that is; see `Cost`."""

MEASURES: Final = (*BUCKETS, "cost_nanodollars", "certain_nanodollars")
"""What a call has and several have in sum."""


def _measures() -> list[Column[int]]:
    return [Column(name, BigInteger) for name in MEASURES]


CALLS: Final = Table(
    "ledger_calls",
    METADATA,
    Column("id", EventId, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("duration_us", BigInteger),
    Column("process_id", BigInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("kind_id", BigInteger, nullable=False),
    Column("label_id", BigInteger, nullable=False),
    Column("price_id", BigInteger),
    *_measures(),
    Column("request_id", Text),
    Column("units", Text),
    Column("not_understood", Text),
    # By time, so that a stretch of it lies together, in months of their own on PostgreSQL.
    PrimaryKeyConstraint("started_us", "id"),
    Index("ledger_calls_process", "process_id", "number"),
    sqlite_with_rowid=False,
    postgresql_partition_by="RANGE (started_us)",
)
"""One row a call. `started_us`: microseconds since 1970, UTC. `number`: the how-manieth of its
process, from 1 on, without gaps unless some were lost. `cost_nanodollars`: `NULL` if the price is
unknown, 0 if it surely cost nothing; `certain_nanodollars`: the cost, if it's surely the bill, or
else 0. `units`, `not_understood`: JSON."""

TEXTS: Final = Table(
    "ledger_texts",
    METADATA,
    Column("id", EventId, nullable=False),
    Column("started_us", BigInteger, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("completion", Text, nullable=False),
    PrimaryKeyConstraint("started_us", "id"),
    sqlite_with_rowid=False,
)
"""What was sent and came back, if the ledger was asked to keep it."""


def _rollup(name: str) -> Table:
    return Table(
        name,
        METADATA,
        Column("start_us", BigInteger, nullable=False),
        Column("kind_id", BigInteger, nullable=False),
        Column("label_id", BigInteger, nullable=False),
        Column("calls", BigInteger, nullable=False),
        Column("unpriced_calls", BigInteger, nullable=False),
        Column("duration_us", BigInteger, nullable=False),
        *_measures(),
        PrimaryKeyConstraint("start_us", "kind_id", "label_id"),
        sqlite_with_rowid=False,
    )


QUARTERS: Final = _rollup("ledger_quarters")
HOURS: Final = _rollup("ledger_hours")
DAYS: Final = _rollup("ledger_days")
"""Sums of calls by the quarter of an hour, the hour and the day in which they started, UTC. A
bucket is `NULL` if none of the calls had it. Those by the quarter are of all labels together
(`label_id` is 0), so that they're few; and no zone's clocks differ from UTC by less."""

HOUR_US: Final = 3_600_000_000
QUARTER_US: Final = HOUR_US // 4
DAY_US: Final = 24 * HOUR_US


class Rollup(NamedTuple):
    """One table of sums.

    Attributes:
        table: The table.
        length_us: The time that is summed up, in microseconds.
        has_labels: Whether each label has sums of its own.
    """

    table: Table
    length_us: int
    has_labels: bool

    def key(self, at_us: int, kind_id: int, label_id: int) -> tuple[int, int, int]:
        """Of the sum that a call is part of."""
        return at_us - at_us % self.length_us, kind_id, label_id if self.has_labels else 0


ROLLUPS: Final = MappingProxyType(
    {
        QUARTER_US: Rollup(QUARTERS, QUARTER_US, has_labels=False),
        HOUR_US: Rollup(HOURS, HOUR_US, has_labels=True),
        DAY_US: Rollup(DAYS, DAY_US, has_labels=True),
    }
)
"""By their length."""

PRUNED: Final = "pruned_before_us"
"""Under this name a ledger says up to when its calls were deleted, and only their sums are left."""

ACCOUNTS: Final = Table(
    "ledger_accounts",
    METADATA,
    Column("budget", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("end_us", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("nanodollars", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("reserved_nanodollars", BigInteger, nullable=False),
    PrimaryKeyConstraint("budget", "key"),
    sqlite_with_rowid=False,
)
"""What is spent in an account's window, which ends at `end_us`, and what is reserved."""

HOLDS: Final = Table(
    "ledger_accounts_holds",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("budget", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("nanodollars", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("is_counted", BigInteger, nullable=False),
    Index("ledger_accounts_holds_account", "budget", "key", "is_counted", "expires_us"),
    sqlite_with_rowid=False,
)
"""Reservations. `is_counted`: 1 while it's part of its account's sum, 0 once its lease is over."""

_VIEW: Final = f"""
CREATE VIEW ledger_events AS SELECT
    calls.id, calls.started_us, calls.duration_us,
    kinds.provider, kinds.model, kinds.model_served, kinds.operation, kinds.status,
    kinds.input_source, kinds.output_source, kinds.service_tier, kinds.speed, kinds.region,
    {", ".join(f"calls.{name}" for name in MEASURES)},
    prices.source AS price_source, prices.as_of AS price_as_of,
    labels.scope, labels.tags, calls.units, calls.not_understood, calls.request_id,
    processes.run, processes.host, processes.pid, calls.number
FROM ledger_calls calls
JOIN ledger_kinds kinds ON kinds.id = calls.kind_id
JOIN ledger_labels labels ON labels.id = calls.label_id
JOIN ledger_processes processes ON processes.id = calls.process_id
LEFT JOIN ledger_prices prices ON prices.id = calls.price_id
"""


_SUMS: Final = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in MEASURES)
_UNPRUNED: Final = (
    f"(SELECT coalesce(max((CAST(value AS BIGINT) + {HOUR_US - 1}) / {HOUR_US} * {HOUR_US}), 0) "
    f"FROM {META.name} WHERE name = '{PRUNED}')"
)

UPGRADES: Final[dict[int, Sequence[str | Table]]] = {
    1: (
        QUARTERS,
        f"INSERT INTO {QUARTERS.name} SELECT started_us - started_us % {QUARTER_US}, kind_id, 0, "
        "count(*), count(*) - count(cost_nanodollars), "
        f"CAST(coalesce(sum(duration_us), 0) AS BIGINT), {_SUMS} "
        f"FROM {CALLS.name} WHERE started_us >= {_UNPRUNED} GROUP BY 1, 2",
        f"INSERT INTO {QUARTERS.name} SELECT start_us, kind_id, 0, CAST(sum(calls) AS BIGINT), "
        "CAST(sum(unpriced_calls) AS BIGINT), CAST(sum(duration_us) AS BIGINT), "
        f"{_SUMS} FROM {HOURS.name} WHERE start_us < {_UNPRUNED} GROUP BY 1, 2",
    ),
}
"""By the version that they start from: the tables to make, and the statements to run, that lead to
the next one."""

LOCK_KEY: Final = 0x6C74745F6C656467
"""What PostgreSQL's advisory lock is taken on while tables are made; no other program's."""


def _plain(name: str) -> ColumnClause[Any]:
    return column(name)


EVENTS: Final = table(
    "ledger_events",
    column("id", EventId),
    *[
        _plain(name)
        for name in (
            "started_us",
            "duration_us",
            *[one.name for one in KINDS.columns if one.name != "id"],
            *MEASURES,
            "price_source",
            "price_as_of",
            "scope",
            "tags",
            "units",
            "not_understood",
            "request_id",
            "run",
            "host",
            "pid",
            "number",
        )
    ],
)
"""The view, for queries."""

INSERTS: Final[dict[str, Callable[[Table], Any]]] = {
    "sqlite": sqlite_insert,
    "postgresql": postgresql_insert,
}
"""By dialect: an insert that can say what is done on a conflict."""


def is_current(connection: Connection) -> bool:
    """Whether the tables are there, as this release makes them."""
    if META.name not in inspect(connection).get_table_names():
        return False
    return connection.scalar(select(META.c.value).where(META.c.name == "schema")) == str(VERSION)


def ensure(connection: Connection, place: str) -> None:
    """Make the tables where there are none, and bring older ones forward.

    Args:
        connection: One that is within a transaction that writes.
        place: What errors call the database.

    Raises:
        LedgerError: They are newer than this package, or somebody else's.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
    names = set(inspect(connection).get_table_names())
    if META.name not in names:
        _refuse_foreign(names, connection, place)
        METADATA.create_all(connection)
        connection.execute(text(_VIEW))
        connection.execute(META.insert(), {"name": "schema", "value": str(VERSION)})
        return
    found = connection.scalar(select(META.c.value).where(META.c.name == "schema"))
    version = int(found) if found is not None and found.isdigit() else 0
    if version > VERSION:
        msg = (
            f"the ledger {place} has schema {version}, which is newer than this release knows "
            f"({VERSION}); upgrade llama-token-tracker, or name another ledger."
        )
        raise LedgerError(msg)
    while version < VERSION:
        version = _upgrade(connection, version, place)


def _upgrade(connection: Connection, version: int, place: str) -> int:
    if version not in UPGRADES:
        msg = f"the ledger {place} says it has schema {version}, which none ever was."
        raise LedgerError(msg)
    for step in UPGRADES[version]:
        if isinstance(step, Table):
            step.create(connection)
        else:
            connection.execute(text(step))
    connection.execute(META.update().where(META.c.name == "schema"), {"value": str(version + 1)})
    return version + 1


def _refuse_foreign(names: set[str], connection: Connection, place: str) -> None:
    """Refuse tables that are somebody else's: in a file any, in a server those of our names."""
    foreign = names & set(METADATA.tables)
    if connection.dialect.name == "sqlite":
        foreign = {name for name in names if not name.startswith("sqlite_")}
    if foreign:
        found = ", ".join(sorted(foreign)[:5])
        msg = f"{place} is no ledger: it holds {found}; name a file or a database of its own."
        raise LedgerError(msg)

"""`SqlAccounts`: budgets' accounts in a ledger's database, for all processes that share it.

Each step is one statement in PostgreSQL, by the server's clock, and one transaction in SQLite, by
the machine's. What is reserved stands in the account as a sum, so that whoever changes it waits for
nobody but whoever changes the same account.
"""

import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from math import ceil
from typing import Any, Final, TypeVar

from sqlalchemy import (
    URL,
    BindParameter,
    Connection,
    Engine,
    TextClause,
    bindparam,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import DBAPIError

from llama_token_tracker.budgets.store import (
    KEEP_DEAD_US,
    LEASE_S,
    NO_LIMITS,
    NOTHING,
    WAIT_S,
    Hold,
    Limits,
    Standing,
    Used,
    check_seconds,
    fits,
    standing_of,
)
from llama_token_tracker.sinks.ledger.engine import connect, engine_of, place_of, url_of

_FIGURES: Final = "end_us, tokens, nanodollars, unpriced, reserved_tokens, reserved_nanodollars"


def _in_window(name: str) -> str:
    return f"CASE WHEN a.end_us < excluded.end_us THEN 0 ELSE a.{name} END"


_CHANGE: Final = f"""
INSERT INTO ledger_accounts AS a (budget, key, {_FIGURES})
SELECT CAST(:budget AS text), CAST(:key AS text), CAST(:end AS bigint), CAST(:spent AS bigint),
    CAST(:spent_nano AS bigint), CAST(:unpriced AS bigint),
    {{tokens}}, {{nano}} {{source}}
ON CONFLICT (budget, key) DO UPDATE SET
    end_us = CASE WHEN a.end_us < excluded.end_us THEN excluded.end_us ELSE a.end_us END,
    tokens = {_in_window("tokens")} + excluded.tokens,
    nanodollars = {_in_window("nanodollars")} + excluded.nanodollars,
    unpriced = {_in_window("unpriced")} + excluded.unpriced,
    reserved_tokens = a.reserved_tokens + excluded.reserved_tokens,
    reserved_nanodollars = a.reserved_nanodollars + excluded.reserved_nanodollars
WHERE {_in_window("tokens")} + a.reserved_tokens + excluded.reserved_tokens <= :most
    AND {_in_window("nanodollars")} + a.reserved_nanodollars + excluded.reserved_nanodollars
        <= :most_nano
RETURNING {_FIGURES}"""
"""Adds to an account what is spent, and what is reserved or given back, if it's within limits."""

_RESERVED: Final = _CHANGE.format(
    tokens="CAST(:tokens AS bigint)",
    nano="CAST(:nano AS bigint)",
    source="""FROM {clock} WHERE now >= :start AND now < :end
    AND CAST(:tokens AS bigint) <= :most AND CAST(:nano AS bigint) <= :most_nano
    AND NOT EXISTS (SELECT 1 FROM ledger_accounts_holds WHERE id = :id)""",
)
_HELD: Final = """
INSERT INTO ledger_accounts_holds (id, budget, key, tokens, nanodollars, expires_us, is_counted)
SELECT :id, :budget, :key, CAST(:tokens AS bigint), CAST(:nano AS bigint), now + :lease, 1
FROM {clock}"""
_GONE: Final = """
DELETE FROM ledger_accounts_holds
WHERE id = :id AND (SELECT now >= :start AND now < :end FROM {clock})
RETURNING tokens * is_counted AS held, nanodollars * is_counted AS held_nano"""


class _Sqlite:
    """Steps in a transaction that nobody comes between, by this machine's clock."""

    clock = "(SELECT CAST(:now AS bigint) AS now)"
    skip = ""
    reserved = text(_RESERVED.format(clock=clock))
    held = text(_HELD.format(clock=clock))
    gone = text(_GONE.format(clock=clock))
    settled = text(
        _CHANGE.format(
            tokens="-CAST(:tokens AS bigint)", nano="-CAST(:nano AS bigint)", source="WHERE true"
        )
    )

    def __init__(self, writing: Engine) -> None:
        self._writing = writing

    def now(self, connection: Connection) -> int:
        """The time in microseconds."""
        del connection
        return time.time_ns() // 1_000

    def reserve(self, values: dict[str, Any]) -> Any:
        with self._writing.begin() as connection:
            values["now"] = self.now(connection)
            row = connection.execute(self.reserved, values).one_or_none()
            if row is not None:
                connection.execute(self.held, values)
        return values["now"], row

    def settle(self, values: dict[str, Any]) -> Any:
        with self._writing.begin() as connection:
            values["now"] = self.now(connection)
            row = connection.execute(self.gone, values).one_or_none()
            if row is not None:
                values |= {"tokens": row.held, "nano": row.held_nano}
                row = connection.execute(self.settled, values).one()
        return values["now"], row


_NOW: Final = "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint) AS now"
_SERVER_TIME: Final = text(_NOW)


class _Postgresql:
    """Steps of one statement each, by the server's clock."""

    clock = "clock"
    skip = "FOR UPDATE SKIP LOCKED"
    _WITH = f"WITH clock AS MATERIALIZED ({_NOW}), "
    _ANSWER = "SELECT clock.now, account.* FROM clock LEFT JOIN account ON true"
    reserved = text(
        f"{_WITH} account AS ({_RESERVED.format(clock='clock')}), "
        f"held AS ({_HELD.format(clock='clock, account')}) {_ANSWER}"
    )
    settled = text(
        f"{_WITH} gone AS ({_GONE.format(clock='clock')}), account AS ("
        + _CHANGE.format(tokens="-gone.held", nano="-gone.held_nano", source="FROM gone")
        + f") {_ANSWER}"
    )

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def now(self, connection: Connection) -> int:
        """The time in microseconds."""
        return int(connection.execute(_SERVER_TIME).scalar_one())

    def reserve(self, values: dict[str, Any]) -> Any:
        return self._run(self.reserved, values)

    def settle(self, values: dict[str, Any]) -> Any:
        return self._run(self.settled, values)

    def _run(self, statement: TextClause, values: dict[str, Any]) -> Any:
        with self._engine.connect() as connection:
            now, *row = connection.execute(statement, values).one()
        return now, (None if row[0] is None else row)


_Steps = _Sqlite | _Postgresql

_STANDING: Final = text(f"""
SELECT {_FIGURES} FROM ledger_accounts WHERE budget = :budget AND key = :key""")
_IS_HELD: Final = text("SELECT 1 FROM ledger_accounts_holds WHERE id = :id")
_RELEASED: Final = text("""
DELETE FROM ledger_accounts_holds WHERE id = :id
RETURNING tokens * is_counted AS tokens, nanodollars * is_counted AS nano""")
_CHANGE_RESERVED: Final = text("""
UPDATE ledger_accounts SET reserved_tokens = reserved_tokens + :tokens,
    reserved_nanodollars = reserved_nanodollars + :nano
WHERE budget = :budget AND key = :key""")
_IDS: Final[BindParameter[str]] = bindparam("ids", expanding=True)
_EXTENDED: Final = text("""
UPDATE ledger_accounts_holds SET expires_us = :expires
WHERE id IN :ids AND is_counted = 1""").bindparams(_IDS)
_LAPSED: Final = text("""
SELECT id FROM ledger_accounts_holds WHERE id IN :ids AND is_counted = 0""").bindparams(_IDS)
_REVIVED: Final = text("""
UPDATE ledger_accounts_holds SET expires_us = :expires, is_counted = 1
WHERE id = :id AND is_counted = 0 RETURNING tokens, nanodollars AS nano""")
_EXPIRED: Final = """
UPDATE ledger_accounts_holds SET is_counted = 0 WHERE id IN (
    SELECT id FROM ledger_accounts_holds
    WHERE budget = :budget AND key = :key AND is_counted = 1 AND expires_us <= :now {skip}
) RETURNING tokens, nanodollars AS nano"""
_FORGOTTEN: Final = text("""
DELETE FROM ledger_accounts_holds
WHERE budget = :budget AND key = :key AND is_counted = 0 AND expires_us <= :old""")
_FULLEST: Final = text(f"""
SELECT key, {_FIGURES}, count(*) OVER () AS number FROM ledger_accounts
WHERE budget = :budget AND end_us > :now
ORDER BY CASE WHEN tokens * 1.0 / :most > nanodollars * 1.0 / :most_nano
    THEN tokens * 1.0 / :most ELSE nanodollars * 1.0 / :most_nano END DESC LIMIT :number""")
_RESET: Final = text("""
UPDATE ledger_accounts SET tokens = 0, nanodollars = 0, unpriced = 0 WHERE budget = :budget""")

_TRIES: Final = 5
_AT_ONCE: Final = 500

_inherited: Final[list[Engine]] = []
"""Kept in a forked child: their connections are the parent's to close."""

_Answer = TypeVar("_Answer")


class SqlAccounts:
    """Budgets' accounts in SQLite or PostgreSQL, for all processes that reach it.

    Args:
        target: A file's path, or an SQLAlchemy URL; a ledger's is as good as one of its own.
        lease_s: So long a reservation outlives a process that dies, in seconds.
        wait_s: So long a call waits for an answer at the most, in seconds.

    Raises:
        LedgerError: The database can't be opened, or isn't a ledger.
    """

    def __init__(self, target: object, *, lease_s: float = LEASE_S, wait_s: float = WAIT_S) -> None:
        check_seconds(lease_s=lease_s, wait_s=wait_s)
        self._url = url_of(target)
        self.place = place_of(self._url)
        self.lease_s = lease_s
        self._wait_s = wait_s
        self._begin()
        connect(self._url).dispose()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._engine = _engine(self._url, self._wait_s)
        is_sqlite = self._engine.dialect.name == "sqlite"
        options: dict[str, Any] = {"isolation_level": "READ COMMITTED"}
        if is_sqlite:
            options = {"writes": True, "patience_s": self._wait_s}
        # Once, as to make it anew takes as long as a statement does.
        self._writing = self._engine.execution_options(**options)
        self._steps: _Steps = _Sqlite(self._writing) if is_sqlite else _Postgresql(self._engine)

    def __getstate__(self) -> dict[str, Any]:
        """Where they are: a copy connects by itself."""
        return {name: vars(self)[name] for name in ("_url", "place", "lease_s", "_wait_s")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Connect when it's first asked."""
        vars(self).update(state)
        self._begin()

    def close(self) -> None:
        """Let go of all connections; the next question makes new ones."""
        self._engine.dispose()

    # --- calls --------------------------------------------------------------------------------

    def reserve(self, hold: Hold, limits: Limits) -> Standing:
        """Reserve, if with it nothing is beyond the limits."""
        values = _values(hold, NOTHING, limits, lease=int(self.lease_s * 1e6))
        found = Standing(0, 0)
        for _ in range(_TRIES):
            now, row = self._run(lambda: self._steps.reserve(dict(values)))
            if row is not None:
                return standing_of(now, row, is_held=True)
            # Leases that are over are looked for when they matter.
            found = self.standing(hold.budget, hold.key, hold.id)
            is_now = hold.start_us <= found.now_us < hold.end_us
            if found.is_held or not (is_now and fits(found.current(hold.end_us), hold, limits)):
                break
        return found

    def settle(self, hold: Hold, used: Used, limits: Limits) -> Standing:
        """Spend in the place of what is reserved."""
        del limits
        values = _values(hold, used, NO_LIMITS)
        now, row = self._run(lambda: self._steps.settle(values))
        if row is not None:
            return standing_of(now, row, is_held=True)
        return self.standing(hold.budget, hold.key)

    def release(self, hold: Hold) -> None:
        """Give back what is reserved, if it is."""
        self._run(lambda: self._change_hold(_RELEASED, -1, _values(hold)))

    def extend(self, holds: Iterable[Hold]) -> None:
        """Begin the leases of these anew."""
        all_ = list(holds)
        for first in range(0, len(all_), _AT_ONCE):
            self._run(partial(self._extend, all_[first : first + _AT_ONCE]))

    def _extend(self, holds: Sequence[Hold]) -> None:
        with self._writing.begin() as connection:
            expires = self._steps.now(connection) + int(self.lease_s * 1e6)
            values = {hold.id: {**_values(hold), "expires": expires} for hold in holds}
            connection.execute(_EXTENDED, {"ids": list(values), "expires": expires})
            lapsed = connection.scalars(_LAPSED, {"ids": list(values)}).all()
        for id_ in lapsed:
            self._change_hold(_REVIVED, 1, values[id_])

    def _change_hold(self, statement: TextClause, sign: int, values: dict[str, Any]) -> None:
        """Change a reservation, and with it the sum in its account."""
        with self._writing.begin() as connection:
            row = connection.execute(statement, values).one_or_none()
            if row is not None:
                change = {"tokens": sign * row.tokens, "nano": sign * row.nano}
                connection.execute(_CHANGE_RESERVED, values | change)

    # --- what is read ------------------------------------------------------------------------

    def standing(self, budget: str, key: str, id: str = "") -> Standing:
        """The state of an account, and whether it holds a reservation."""
        values = {"budget": budget, "key": key, "id": id}
        return self._run(lambda: self._standing(values))

    def _standing(self, values: dict[str, Any]) -> Standing:
        with self._writing.begin() as connection:
            now = self._steps.now(connection)
            values |= {"now": now, "old": now - KEEP_DEAD_US}
            dead = connection.execute(text(_EXPIRED.format(skip=self._steps.skip)), values).all()
            if dead:
                change = {
                    "tokens": -sum(row.tokens for row in dead),
                    "nano": -sum(row.nano for row in dead),
                }
                connection.execute(_CHANGE_RESERVED, values | change)
                connection.execute(_FORGOTTEN, values)
            row = connection.execute(_STANDING, values).one_or_none()
            is_held = bool(values["id"] and connection.execute(_IS_HELD, values).first())
        return standing_of(now, row or (0,) * 6, is_held=is_held)

    def fullest(
        self, budget: str, limits: Limits, most: int
    ) -> tuple[list[tuple[str, Standing]], int]:
        """Accounts that have used up most in this window, and how many there are in it."""
        values = {
            "budget": budget,
            "most": max(limits.tokens, 1),
            "most_nano": max(limits.nanodollars, 1),
            "number": most,
        }

        def read() -> tuple[list[tuple[str, Standing]], int]:
            with self._engine.connect() as connection:
                now = self._steps.now(connection)
                rows = connection.execute(_FULLEST, {**values, "now": now}).all()
            found = [(key, standing_of(now, figures)) for key, *figures, _ in rows]
            return found, rows[0].number if rows else 0

        return self._run(read)

    def reset(self, budget: str) -> None:
        """Have nothing be spent in all accounts of a budget."""

        def forget() -> None:
            with self._writing.begin() as connection:
                connection.execute(_RESET, {"budget": budget})

        self._run(forget)

    def _run(self, question: Callable[[], _Answer]) -> _Answer:
        """Ask; anew in a forked child, and once more over a fresh connection."""
        if self._pid != os.getpid():
            _inherited.append(self._engine)
            self._begin()
        try:
            return question()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
        return question()


def _values(
    hold: Hold, used: Used = NOTHING, limits: Limits = NO_LIMITS, lease: int = 0
) -> dict[str, Any]:
    return {
        "id": hold.id,
        "budget": hold.budget,
        "key": hold.key,
        "start": hold.start_us,
        "end": hold.end_us,
        "tokens": hold.tokens,
        "nano": hold.nanodollars,
        "spent": used.tokens,
        "spent_nano": used.nanodollars,
        "unpriced": used.unpriced,
        "most": limits.tokens,
        "most_nano": limits.nanodollars,
        "lease": lease,
    }


def _engine(url: URL, wait_s: float) -> Engine:
    """An engine of which no connection waits longer than that."""
    if url.get_backend_name() == "sqlite":
        return engine_of(url)
    engine = create_engine(
        url,
        # A transaction is begun where there are several statements.
        isolation_level="AUTOCOMMIT",
        pool_size=5,
        max_overflow=100,
        pool_timeout=wait_s,
        connect_args={
            "connect_timeout": max(2, ceil(wait_s)),
            "application_name": "llama-token-tracker budgets",
            # A crash of the server may lose the last moment of what is held; ours loses nothing.
            "options": f"-c synchronous_commit=off -c statement_timeout={int(wait_s * 1_000)}",
        },
    )
    event.listen(engine, "do_connect", partial(_connected, wait_s))
    return engine


def _connected(
    wait_s: float, _dialect: object, _record: object, args: Any, options: Mapping[str, Any]
) -> Any:
    """A connection of psycopg's that gives up on a server which doesn't answer any more."""
    from psycopg import Connection, OperationalError

    class BoundedConnection(Connection[Any]):
        def __del__(self, *_: object) -> None:
            """It wasn't forgotten: its pool is gone, and libpq closes it."""

        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            return super().wait(self._bounded(gen), *args, **options)

        def _bounded(self, gen: Any) -> Generator[Any, Any, Any]:
            until = time.monotonic() + wait_s
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if not ready and time.monotonic() > until:
                        self.pgconn.finish()
                        msg = f"no answer within {wait_s} s"
                        raise OperationalError(msg)
                    wanted = gen.send(ready)
            except StopIteration as end:
                return end.value

    return BoundedConnection.connect(*args, **options)

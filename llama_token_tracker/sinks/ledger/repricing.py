"""Costs of a ledger's calls reckoned anew from their tokens, by the price list, or by a day's.

A batch is read, priced and written within one transaction, and its sums by hour and day with it, by
what has changed: so it may be stopped at any time and begun again, while others write.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, Engine, TextClause, and_, bindparam, func, or_, select, text
from sqlalchemy.exc import DBAPIError

from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import LedgerError
from llama_token_tracker.pricing import Prices
from llama_token_tracker.sinks.ledger.engine import place_of, reason_of, writing
from llama_token_tracker.sinks.ledger.existing import reading
from llama_token_tracker.sinks.ledger.periods import FIRST_US, LAST_US
from llama_token_tracker.sinks.ledger.records import event_of, identified, record_of
from llama_token_tracker.sinks.ledger.schema import (
    CALLS,
    EVENTS,
    INSERTS,
    LOCK_KEY,
    PRICES,
    ROLLUPS,
    Rollup,
)

_AT_ONCE: Final = 1_000
_KEPT: Final = ("prices=", "billed by ")
"""How sources of costs begin that no list overrules: the user's own, and the provider's."""

Advance = Callable[[int], object]


def _ignore(_calls: int) -> None:
    """Show nothing."""


_NOBODY: Final = identified("", "", 0, 0, "")


class Price(NamedTuple):
    """What a call costs by a ledger."""

    price_id: int | None
    nano: int | None
    certain: int


@dataclass(slots=True)
class Change:
    """What becomes of the calls of one model.

    Attributes:
        calls: How many there are.
        changed: How many cost something else.
        kept: How many aren't looked at: their price is the user's own, or what was billed.
        before: What they cost, in nanodollars.
        after: What they will.
        unpriced_before: How many have no known price.
        unpriced_after: How many will have none.
    """

    calls: int = 0
    changed: int = 0
    kept: int = 0
    before: int = 0
    after: int = 0
    unpriced_before: int = 0
    unpriced_after: int = 0

    def add(self, old: Price, new: Price, *, is_kept: bool) -> None:
        """Add one call."""
        self.calls += 1
        self.changed += old != new
        self.kept += is_kept
        self.before += old.nano or 0
        self.after += new.nano or 0
        self.unpriced_before += old.nano is None
        self.unpriced_after += new.nano is None


@dataclass(slots=True)
class _Batch:
    """What a batch of calls will have changed, and after which call the next one begins."""

    last: tuple[int, str] | None = None
    number: int = 0
    prices: dict[int, Sequence[Any]] = field(default_factory=dict[int, Sequence[Any]])
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    sums: dict[tuple[int, int, int], list[int]] = field(
        default_factory=dict[tuple[int, int, int], list[int]]
    )


class Repricing:
    """Reckons costs anew.

    Args:
        engine: The ledger's; to write, one that may.
        as_of: As though each call had been made on this day; by default on its own.
        since_us: The first moment of the calls that are meant, in microseconds since 1970.
        until_us: The first one that is meant no more.
        is_all: Whether prices of the user's own and what was billed are replaced as well.
        prices: What prices calls.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        as_of: date | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        is_all: bool = False,
        prices: Prices | None = None,
    ) -> None:
        self._engine = engine
        self._as_of = as_of
        self._span = since_us or FIRST_US, LAST_US if until_us is None else until_us
        self._is_all = is_all
        self._prices = prices or Prices()

    @property
    def number(self) -> int:
        """How many calls are looked at.

        Raises:
            LedgerError: The ledger can't be read.
        """
        since, until = self._span
        started = CALLS.c.started_us
        meant = select(func.count()).select_from(CALLS).where(started >= since, started < until)
        with reading(self._engine) as connection:
            return connection.scalar(meant) or 0

    def preview(self, advance: Advance = _ignore) -> dict[str | None, Change]:
        """What would change, by model. Nothing is written.

        Args:
            advance: Is told of so many more calls that were looked at.

        Raises:
            LedgerError: The ledger can't be read.
        """
        changes: dict[str | None, Change] = {}
        with reading(self._engine) as connection:
            self._each(lambda last: self._batch(connection, last, changes), advance)
        return changes

    def write(self, advance: Advance = _ignore) -> dict[str | None, Change]:
        """Write what changes, and say what did, by model.

        Args:
            advance: Is told of so many more calls that were looked at.

        Raises:
            LedgerError: The ledger can't be written. What was written before stays.
        """
        changes: dict[str | None, Change] = {}
        try:
            self._each(lambda last: self._write(last, changes), advance)
        except DBAPIError as error:
            place = place_of(self._engine.url)
            msg = f"the ledger {place} can't be written: {reason_of(error)}; begin again."
            raise LedgerError(msg) from error
        return changes

    @staticmethod
    def _each(do: Callable[[tuple[int, str] | None], _Batch], advance: Advance) -> None:
        batch = do(None)
        while batch.last is not None:
            advance(batch.number)
            batch = do(batch.last)

    def _write(self, last: tuple[int, str] | None, changes: dict[str | None, Change]) -> _Batch:
        with writing(self._engine) as connection:
            if connection.dialect.name == "postgresql":
                # Two at once would both add what changes to the sums.
                key = {"key": LOCK_KEY + 1}
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), key)
            batch = self._batch(connection, last, changes)
            if batch.prices:
                names = [column.name for column in PRICES.columns]
                rows = [dict(zip(names, row, strict=True)) for row in batch.prices.values()]
                insert = INSERTS[connection.dialect.name](PRICES)
                connection.execute(insert.on_conflict_do_nothing(), rows)
            if batch.calls:
                connection.execute(_UPDATE, batch.calls)
                for rollup in ROLLUPS.values():
                    connection.execute(_add(rollup), _rolled_up(batch.sums, rollup))
        return batch

    def _batch(
        self,
        connection: Connection,
        last: tuple[int, str] | None,
        changes: dict[str | None, Change],
    ) -> _Batch:
        batch = _Batch()
        for values in connection.execute(self._select(last)).mappings():
            batch.last = values["at"], values["call"]
            batch.number += 1
            old = Price(
                values["price_id"], values["cost_nanodollars"], values["certain_nanodollars"] or 0
            )
            is_kept = not self._is_all and (values["price_source"] or "").startswith(_KEPT)
            price, new = (None, old) if is_kept else self._price(values, old)
            changes.setdefault(values["model"], Change()).add(old, new, is_kept=is_kept)
            if old != new:
                if price is not None:
                    batch.prices[price[0]] = price
                _note(batch, values, old, new)
        return batch

    def _select(self, last: tuple[int, str] | None) -> Any:
        started, since, until = CALLS.c.started_us, *self._span
        is_next = started >= since
        if last is not None:
            at, call = last
            is_next = and_(started >= at, or_(started > at, CALLS.c.id > call))
        same = and_(EVENTS.c.started_us == started, EVENTS.c.id == CALLS.c.id)
        own = (started.label("at"), CALLS.c.id.label("call"))
        return (
            select(EVENTS, *own, CALLS.c.kind_id, CALLS.c.label_id, CALLS.c.price_id)
            .select_from(CALLS.join(EVENTS, same))
            .where(is_next, started < until)
            .order_by(started, CALLS.c.id)
            .limit(_AT_ONCE)
        )

    def _price(self, values: Any, old: Price) -> tuple[Sequence[Any] | None, Price]:
        """The row of its price, if it has one, and what a call costs."""
        try:
            event = event_of(values)
        except ValueError as error:
            notice("a call in a ledger can't be read", error, "its cost stays")
            return None, old
        event.price_with(self._prices)
        if self._as_of is not None and event.started_at is not None:
            # At its time of day, for there are prices by the hour.
            event.started_s = datetime.combine(self._as_of, event.started_at.timetz()).timestamp()
        call, _, _, price, *_ = record_of(event, _NOBODY, 0, texts=False)
        return price, Price(None if price is None else price[0], call[_COST], call[_CERTAIN])


_PLACES: Final = {column.name: place for place, column in enumerate(CALLS.columns)}
_COST, _CERTAIN = _PLACES["cost_nanodollars"], _PLACES["certain_nanodollars"]


def _note(batch: _Batch, values: Any, old: Price, new: Price) -> None:
    call = {"at": values["at"], "call": values["call"]}
    batch.calls.append({**call, "price": new.price_id, "cost": new.nano, "certain": new.certain})
    at = values["at"]
    key = (at - at % min(ROLLUPS), values["kind_id"], values["label_id"])
    added = batch.sums.setdefault(key, [0, 0, 0])
    added[0] += (new.nano is None) - (old.nano is None)
    added[1] += (new.nano or 0) - (old.nano or 0)
    added[2] += new.certain - old.certain


def _rolled_up(sums: dict[tuple[int, int, int], list[int]], rollup: Rollup) -> list[dict[str, int]]:
    """What is added to the sums of one table, in one order for all who write at once."""
    found: dict[tuple[int, int, int], list[int]] = {}
    for key, added in sums.items():
        row = found.setdefault(rollup.key(*key), [0, 0, 0])
        row[:] = map(sum, zip(row, added, strict=True))
    return [dict(zip(_ADDED, (*key, *found[key]), strict=True)) for key in sorted(found)]


_ADDED: Final = ("start", "kind", "label", "unpriced", "cost", "certain")

_UPDATE: Final = (
    CALLS.update()
    .where(CALLS.c.started_us == bindparam("at"), CALLS.c.id == bindparam("call"))
    .values(
        price_id=bindparam("price"),
        cost_nanodollars=bindparam("cost"),
        certain_nanodollars=bindparam("certain"),
    )
)


@lru_cache
def _add(rollup: Rollup) -> TextClause:
    return text(
        f"UPDATE {rollup.table.name} SET unpriced_calls = unpriced_calls + :unpriced, "
        "cost_nanodollars = CASE WHEN unpriced_calls + :unpriced >= calls THEN NULL "
        "ELSE coalesce(cost_nanodollars, 0) + :cost END, "
        "certain_nanodollars = coalesce(certain_nanodollars, 0) + :certain "
        "WHERE start_us = :start AND kind_id = :kind AND label_id = :label"
    )

"""Sums of calls by what they have in common: from a ledger's sums by time where these do.

Whole days, hours and quarters of an hour come from the rollups, what is left at the edges from the
calls themselves; all of it by one statement.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import Connection, Engine, select, text

from llama_token_tracker.sinks.ledger.conditions import Statement, Where, check_tags, table_of
from llama_token_tracker.sinks.ledger.existing import reading
from llama_token_tracker.sinks.ledger.periods import (
    CALENDAR,
    FIRST_US,
    LAST_US,
    Part,
    edges,
    offsets,
    parts,
)
from llama_token_tracker.sinks.ledger.schema import (
    CALLS,
    DAY_US,
    HOUR_US,
    META,
    PRUNED,
    QUARTER_US,
    ROLLUPS,
)

NANO: Final = Decimal(10**9)

MEASURES: Final = (
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nanodollars",
    "certain_nanodollars",
)
"""What is added up of calls."""


@dataclass(slots=True)
class Sum:
    """What calls used and cost in sum.

    Attributes:
        calls: How many.
        unpriced: How many of them have no known price; the cost leaves them out.
        failed: How many failed.
        unanswered: How many had no answer that was seen.
        measures: Tokens by bucket and nanodollars; `None` if none of the calls had any.
    """

    calls: int = 0
    unpriced: int = 0
    failed: int = 0
    unanswered: int = 0
    measures: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(MEASURES))

    def add(
        self, calls: int, unpriced: int, failed: int, unanswered: int, *measures: int | None
    ) -> None:
        """Add what other calls have in sum."""
        self.calls += calls
        self.unpriced += unpriced
        self.failed += failed
        self.unanswered += unanswered
        for name, value in zip(MEASURES, measures, strict=True):
            if value is not None:
                self.measures[name] = value + (self.measures[name] or 0)

    @property
    def tokens(self) -> int:
        """Of input and output."""
        return (self.measures["input_tokens"] or 0) + (self.measures["output_tokens"] or 0)

    @property
    def cost_usd(self) -> Decimal | None:
        """In dollars; `None` if no call's price is known."""
        return _dollars(self.measures["cost_nanodollars"])

    @property
    def certain_usd(self) -> Decimal:
        """The part of it that is surely the bill."""
        return _dollars(self.measures["certain_nanodollars"]) or Decimal(0)


def _dollars(nano: int | None) -> Decimal | None:
    return None if nano is None else nano / NANO


Group = tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Sums:
    """The answer to a report.

    Attributes:
        by: What calls are grouped by.
        rows: A group and its sum, by time and then the dearest first.
        total: The sum of all.
        notes: What a reader must know of them.
    """

    by: tuple[str, ...]
    rows: list[tuple[Group, Sum]]
    total: Sum
    notes: tuple[str, ...]


def sums(
    engine: Engine,
    by: Sequence[str],
    *,
    since_us: int | None = None,
    until_us: int | None = None,
    where: Where | None = None,
    zone: tzinfo = UTC,
) -> Sums:
    """Add up a ledger's calls.

    Args:
        engine: The ledger's.
        by: What they are grouped by: units of the calendar, what a call has, names of tags.
        since_us: The first moment, in microseconds since 1970.
        until_us: The first one that is meant no more.
        where: Which calls are meant.
        zone: Whose calendar is meant.

    Raises:
        LedgerError: The ledger can't be read, or no call has such a tag.
    """
    where = where or {}
    with reading(engine) as connection:
        span = _span(connection, since_us, until_us)
        if span is None:
            return Sums(tuple(by), [], Sum(), ())
        check_tags(connection, [*(name for name in by if name not in CALENDAR), *where])
        question = _Question(connection, by, where, zone, span)
        return question.answer()


def _span(
    connection: Connection, since_us: int | None, until_us: int | None
) -> tuple[int, int] | None:
    """From when to when it has calls, as far as they're asked for; `None` if it has none."""
    hours = ROLLUPS[HOUR_US].table.c.start_us
    first = connection.scalar(select(hours).order_by(hours).limit(1))
    last = connection.scalar(select(hours).order_by(hours.desc()).limit(1))
    if first is None or last is None:
        return None
    since_us, until_us = since_us or FIRST_US, LAST_US if until_us is None else until_us
    return max(first - first % DAY_US, since_us), min(last - last % DAY_US + DAY_US, until_us)


def pruned_before_us(connection: Connection) -> int:
    """Up to when calls were deleted; 0 if none were."""
    return int(connection.scalar(select(META.c.value).where(META.c.name == PRUNED)) or 0)


_MOST_EDGES: Final = 90
"""SQLite takes at most 500 parts of a query together, and a stretch between two has up to five:
days, and hours and single calls before and after them."""


class _Question:
    """One statement, put together and read.

    Args:
        connection: To the ledger.
        by: What calls are grouped by.
        where: Which are meant.
        zone: Whose calendar.
        span: From when to when, in microseconds.
    """

    def __init__(
        self,
        connection: Connection,
        by: Sequence[str],
        where: Where,
        zone: tzinfo,
        span: tuple[int, int],
    ) -> None:
        self._connection = connection
        self._by = by
        self._statement = Statement(connection.dialect.name)
        self._conditions = self._statement.conditions(where)
        self._names = [(name, table_of(name)) for name in by]
        self._tables = {table for _, table in self._names}
        units = [CALENDAR[name][0] for name in by if name in CALENDAR]
        self._unit_us = min(units, default=0)
        self._offsets = offsets(zone, *span) if units else [(span[0], 0)]
        self._edges = self._find_edges(zone, span)
        self._pruned_us = pruned_before_us(connection)
        self._parts, self.notes = self._find_parts(span)
        self._times = lru_cache(maxsize=None)(self._time)

    def _find_edges(self, zone: tzinfo, span: tuple[int, int]) -> list[int] | None:
        """Where weeks and months end, if nothing shorter is asked for: each is added up apart."""
        names = [name for name in self._by if name in CALENDAR]
        is_long = span[1] - span[0] > _MOST_EDGES * 31 * DAY_US
        if is_long or not names or not set(names) <= {"week", "month"}:
            return None
        found = edges(names, zone, *span)
        return found if len(found) <= _MOST_EDGES else None

    def _parted(self, start_us: int, end_us: int, lengths: Sequence[int]) -> list[Part]:
        within = [edge for edge in self._edges or () if start_us < edge < end_us]
        stretches = pairwise([start_us, *within, end_us])
        return [part for first, last in stretches for part in parts(first, last, lengths)]

    def _find_parts(self, span: tuple[int, int]) -> tuple[list[Part], tuple[str, ...]]:
        """Where the sums come from, and what a reader must know of that."""
        start, end = span
        pruned = min(max(self._pruned_us, start), end)
        lengths = self._lengths()
        found = self._parted(pruned, end, lengths)
        if pruned <= start:
            return found, ()
        day = f"{datetime.fromtimestamp(pruned / 1e6, UTC):%Y-%m-%d}"
        if self._is_by_process():
            return found, (f"calls before {day} were pruned, and are left out here",)
        # What is left of them are sums, which count where they begin.
        known = lengths or [HOUR_US]
        before = [
            part._replace(length_us=part.length_us or min(known))
            for part in self._parted(start, pruned, known)
        ]
        unit = "hours" if min(known) == HOUR_US else "quarters of an hour"
        note = f"calls before {day} were pruned: until then by whole {unit}, UTC"
        is_exact = all(part.length_us for part in self._parted(start, pruned, lengths))
        return [*before, *found], () if is_exact else (note,)

    def _is_by_process(self) -> bool:
        return "processes" in self._tables or "processes" in self._conditions

    def _lengths(self) -> list[int]:
        """Of the sums that can be added up, the longest first: those that no boundary cuts."""
        if self._is_by_process():
            return []
        cuts = [self._unit_us, *(offset for _, offset in self._offsets)]
        if self._edges is not None:
            cuts = []  # it's cut there
        has_labels = "labels" in self._tables or "labels" in self._conditions
        lengths = (DAY_US, HOUR_US if has_labels else QUARTER_US)
        return [length for length in lengths if not any(cut % length for cut in cuts)]

    def answer(self) -> Sums:
        """Ask it, and add up what comes."""
        groups: dict[Group, Sum] = {}
        total = Sum()
        for group, values in self._rows():
            groups.setdefault(group, Sum()).add(*values)
            total.add(*values)
        return Sums(tuple(self._by), sorted(groups.items(), key=self._order), total, self.notes)

    def _rows(self) -> Iterator[tuple[Group, Sequence[Any]]]:
        """Groups, and sums of them; some come in several parts."""
        if not self._parts:
            return
        found = self._connection.execution_options(yield_per=1_000).execute(
            text(self._sql()), self._statement.values
        )
        first = 1 if self._unit_us else 0
        for row in found:
            at, others = row[0] if first else 0, iter(row[first:])
            group = tuple(
                self._times(name, at) if table == "times" else next(others)
                for name, table in self._names
            )
            yield group, row[-_VALUES:]

    def _time(self, name: str, at: int) -> str:
        return CALENDAR[name][1](datetime.fromtimestamp(at * self._unit_us / 1e6, UTC))

    def _order(self, row: tuple[Group, Sum]) -> tuple[Any, ...]:
        group, total = row
        times = [value for name, value in zip(self._by, group, strict=True) if name in CALENDAR]
        cost = total.measures["cost_nanodollars"] or 0
        return (times, -cost, -total.tokens, [value or "" for value in group])

    # --- SQL ---------------------------------------------------------------------------------

    def _sql(self) -> str:
        groups = {
            f"g{place}": self._statement.expression(name)
            for place, (name, table) in enumerate(self._names)
            if table != "times"
        }
        times = ["at" if self._is_by_unit() else f"{self._unit('start_us')} AS at"]
        keys = [
            *(times if self._unit_us else []),
            *(f"{said} AS {name}" for name, said in groups.items()),
        ]
        ended = [f"CASE WHEN status = '{status}' THEN calls ELSE 0 END" for status in _ENDS]
        totals = ", ".join(map(_SUM.format, ("calls", "unpriced", *ended, *MEASURES)))
        joins = "".join(
            f" JOIN ledger_{table} ON ledger_{table}.id = {_ID[table]}"
            for table in ("kinds", "labels", "processes")
            if table == "kinds" or table in self._tables
        )
        return (
            f"WITH found AS ({' UNION ALL '.join(map(self._part_sql, self._parts))}) "
            f"SELECT {', '.join([*keys, totals])} FROM found{joins}"
            f"{f' GROUP BY {_first(len(keys))}' if keys else ' HAVING count(*) > 0'}"
        )

    def _part_sql(self, part: Part) -> str:
        rollup = ROLLUPS.get(part.length_us)
        ids = [_ID[name] for name in ("labels", "processes") if name in self._tables]
        if rollup is None:
            at, start = "started_us", f"started_us - started_us % {QUARTER_US}"
            counts = "count(*)", "count(*) - count(cost_nanodollars)"
        else:
            start = at = "start_us"
            counts = _SUM.format("calls"), _SUM.format("unpriced_calls")
        conditions = [
            f"{at} >= {part.start_us} AND {at} < {part.end_us}",
            *(
                f"{_ID[name]} IN (SELECT id FROM ledger_{name} WHERE {' AND '.join(said)})"
                for name, said in self._conditions.items()
            ),
        ]
        time = f"{start} AS start_us"
        if self._is_by_unit():
            time = f"{self._unit(start if self._edges is None else str(part.start_us))} AS at"
        keys = [*([time] if self._unit_us else []), "kind_id", *ids]
        totals = ", ".join(f"{_SUM.format(name)} AS {name}" for name in MEASURES)
        return (
            f"SELECT {', '.join(keys)}, {counts[0]} AS calls, {counts[1]} AS unpriced, {totals} "
            f"FROM {CALLS.name if rollup is None else rollup.table.name} "
            f"WHERE {' AND '.join(conditions)} GROUP BY {_first(len(keys))}"
        )

    def _is_by_unit(self) -> bool:
        """Whether the parts are grouped by units of the calendar, rather than by times.

        Rollups are sorted by time and kind, so that to add these up takes no room; with labels
        they'd stay as many as they are, and each would have its tags looked up.
        """
        return "labels" in self._tables or self._edges is not None

    def _unit(self, at: str) -> str:
        """The how-manieth unit of the zone's calendar it is, from 1970 on."""
        first, *later = self._offsets
        ahead = str(first[1])
        if later:
            cases = " ".join(f"WHEN {at} >= {start} THEN {offset}" for start, offset in later[::-1])
            ahead = f"CASE {cases} ELSE {first[1]} END"
        return f"({at} + {ahead}) / {self._unit_us or 1}"


_ID: Final = {"kinds": "kind_id", "labels": "label_id", "processes": "process_id"}
_ENDS: Final = ("failed", "unanswered")
_VALUES: Final = 2 + len(_ENDS) + len(MEASURES)
_SUM: Final = "CAST(sum({}) AS BIGINT)"


def _first(count: int) -> str:
    """So many first columns, as GROUP BY names them."""
    return ", ".join(str(place) for place in range(1, count + 1))

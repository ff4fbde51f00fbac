"""`Query`: calls that a ledger holds, chosen by time and by what they have, as rows or frames."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final

from sqlalchemy import Engine, select, text

from llama_token_tracker.events.frames import COLUMNS, Frames
from llama_token_tracker.sinks.ledger.conditions import Statement, Where, check_tags
from llama_token_tracker.sinks.ledger.existing import reading
from llama_token_tracker.sinks.ledger.periods import EPOCH, FIRST_US, LAST_US, microseconds, moment
from llama_token_tracker.sinks.ledger.schema import EVENTS, HOURS
from llama_token_tracker.sinks.ledger.sums import NANO, Sums, sums

_AT_ONCE: Final = 2_000


class Query(Frames):
    """Calls of a ledger, read anew each time; nothing is held in memory but what is returned.

    Args:
        engine: The ledger's.
        since: The first moment: an aware `datetime`, or what `report --since` takes.
        until: The first one that is meant no more.
        where: What calls must have: `{"model": "gpt-4o", "user": ["ada", "bob"]}`.
        zone: Whose calendar is meant.

    Raises:
        LedgerError: A time can't be read.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        where: Mapping[str, str | Sequence[str]] | None = None,
        zone: tzinfo = UTC,
    ) -> None:
        self.engine = engine
        self.zone = zone
        now = datetime.now(UTC)
        self.since_us, self.until_us = _moment(since, zone, now), _moment(until, zone, now)
        self.where: Where = {
            name: [said] if isinstance(said, str) else said for name, said in (where or {}).items()
        }

    def sums(self, *by: str) -> Sums:
        """Add them up by units of the calendar, by what they have, or by tags.

        Raises:
            LedgerError: The ledger can't be read, or no call has such a tag.
        """
        return sums(
            self.engine,
            by,
            since_us=self.since_us,
            until_us=self.until_us,
            where=self.where,
            zone=self.zone,
        )

    def last(self, period: timedelta) -> Sums:
        """Add up those that started within the last so much time.

        Raises:
            LedgerError: The ledger can't be read, or no call has such a tag.
        """
        since_us = microseconds(datetime.now(UTC) - period)
        return sums(self.engine, (), since_us=since_us, where=self.where)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each call as `to_dicts` has it, oldest first, as it's read.

        Raises:
            LedgerError: The ledger can't be read.
        """
        with reading(self.engine) as connection:
            if connection.scalar(select(HOURS.c.start_us).limit(1)) is not None:
                check_tags(connection, self.where)
            statement = Statement(connection.dialect.name)
            said = [one for several in statement.conditions(self.where).values() for one in several]
            started = EVENTS.c.started_us
            found = connection.execution_options(yield_per=_AT_ONCE).execute(
                select(EVENTS)
                .where(started >= (self.since_us or FIRST_US))
                .where(started < (LAST_US if self.until_us is None else self.until_us))
                .where(*map(text, said))
                .order_by(started),
                statement.values,
            )
            for values in found.mappings():
                yield row_of(values)

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a call, oldest first."""
        return list(self)


def _moment(said: datetime | str | None, zone: tzinfo, now: datetime) -> int | None:
    if isinstance(said, str):
        return moment(said, zone, now)
    return (
        None if said is None else microseconds(said if said.tzinfo else said.replace(tzinfo=zone))
    )


def row_of(values: Mapping[Any, Any]) -> dict[str, Any]:
    """A row of `ledger_events` as frames have it."""
    return {name: read(values) for name, read in _READERS.items()}


_NAMES: Final = {
    "served_model": "model_served",
    "prompt_source": "input_source",
    "completion_source": "output_source",
}
"""What frames call as events do, and the tables otherwise."""


def _plain(name: str) -> Callable[[Mapping[Any, Any]], Any]:
    return lambda values: values[name]


def _dollars(name: str) -> Callable[[Mapping[Any, Any]], Any]:
    return lambda values: None if values[name] is None else values[name] / NANO


def _json(name: str, nothing: str) -> Callable[[Mapping[Any, Any]], Any]:
    return lambda values: json.loads(values[name] or nothing)


def _started_at(values: Mapping[Any, Any]) -> datetime:
    return EPOCH + timedelta(microseconds=values["started_us"])


def _duration_s(values: Mapping[Any, Any]) -> float | None:
    duration_us = values["duration_us"]
    return None if duration_us is None else duration_us / 1e6


_READERS: Final[dict[str, Callable[[Mapping[Any, Any]], Any]]] = {
    **{name: _plain(_NAMES.get(name, name)) for name in COLUMNS},
    "started_at": _started_at,
    "duration_s": _duration_s,
    "cost_usd": _dollars("cost_nanodollars"),
    "certain_usd": _dollars("certain_nanodollars"),
    "tags": _json("tags", "{}"),
    "units": _json("units", "{}"),
    "not_understood": _json("not_understood", "[]"),
}

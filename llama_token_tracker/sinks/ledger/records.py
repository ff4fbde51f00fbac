"""From an event to the rows that a ledger holds of it, in plain values, and back."""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from hashlib import blake2b
from itertools import chain, islice
from operator import itemgetter
from typing import Any, Final, TypeAlias, cast

from sqlalchemy import BigInteger, Column, Table

from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.pricing import Cost, Served
from llama_token_tracker.pricing.rates import billed_cost
from llama_token_tracker.sinks.ledger.schema import (
    CALLS,
    KINDS,
    LABELS,
    MEASURES,
    PRICES,
    PROCESSES,
    TEXTS,
    EventId,
)
from llama_token_tracker.usage import BUCKETS, Usage

Values: TypeAlias = tuple[Any, ...]
"""One row, in the order of its table's columns."""

LONGEST: Final = 4_096
"""Characters of a name, a scope, a tag or a list that are kept; of more, the beginning."""

_MANY: Final = 32
_LONGEST_NAME: Final = 100
"""So many names of units and of what wasn't understood are kept, and so much of each."""

_NANO_PLACES: Final = 9
_NANO: Final = Decimal(10**_NANO_PLACES)
_MOST: Final = 10**17
"""Of tokens, nanodollars or microseconds, so that sums of many still fit into 64 bits."""

_MONEY: Final = Context(prec=60, rounding=ROUND_HALF_EVEN, traps=[])


_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode

_row_to_json: Final = lru_cache(maxsize=1_024)(_to_json)
"""The same, of what is the same from call to call."""


Record: TypeAlias = tuple[Values, Values, Values, Values | None, Values, tuple[str, str] | None]
"""What a ledger holds of one call: its row of `ledger_calls`, the rows that this points to (kind,
label, price if that is known, process), and prompt and completion if they're kept.

A plain tuple of such, as the collector looks at these once, and at objects of any class as often
as it runs, however many wait."""

call_of = cast("Callable[[Record], Values]", itemgetter(0))
texts_of = cast("Callable[[Record], tuple[str, str] | None]", itemgetter(5))


def id_of(record: Record) -> str:
    """The event's id."""
    return str(record[0][_ID])


def key_of(record: Record) -> Values:
    """What tells a call from all others."""
    call = record[0]
    return call[_STARTED], call[_ID]


def size_of(record: Record) -> int:
    """How many bytes it takes in memory, roughly."""
    texts = record[5]
    return _SIZE if texts is None else _SIZE + 2 * (len(texts[0]) + len(texts[1]))


def to_json(record: Record) -> str:
    """A record as one line."""
    call, *rows, texts = record
    return f"[{_to_json(call)},{','.join(map(_row_to_json, rows))},{_to_json(texts)}]"


def from_json(line: str | bytes) -> Record:
    """What `to_json` made.

    Raises:
        ValueError: It's something else, or cut off.
    """
    found: Any = json.loads(line)
    if not (
        found.__class__ is list
        and len(found) == len(_TABLES)
        and all(map(_is_row, found, _TABLES, (False, False, False, True, False, True)))
    ):
        msg = "no record of this release"
        raise ValueError(msg)
    return cast("Record", tuple(None if part is None else tuple(part) for part in found))


_TABLES: Final = (
    *[tuple(table.columns) for table in (CALLS, KINDS, LABELS, PRICES, PROCESSES)],
    (TEXTS.c.prompt, TEXTS.c.completion),
)


def _is_row(values: Any, columns: Sequence[Column[Any]], may_lack: bool) -> bool:
    """Whether JSON holds what these columns take."""
    if values is None:
        return may_lack
    return (
        values.__class__ is list
        and len(values) == len(columns)
        and all(map(_is_value, values, columns))
    )


def _is_value(value: object, column: Column[Any]) -> bool:
    if value is None:
        return bool(column.nullable)
    if isinstance(column.type, BigInteger):
        return type(value) is int and abs(value) < 2**63
    if not isinstance(value, str) or fitting(value, None) != value:
        return False
    return not isinstance(column.type, EventId) or re.fullmatch("[0-9a-f]{32}", value) is not None


_SIZE: Final = 600
_COLUMNS: Final = {column.name: place for place, column in enumerate(CALLS.columns)}
_ID, _STARTED = _COLUMNS["id"], _COLUMNS["started_us"]


def column(name: str) -> Callable[[Record], Any]:
    """What reads one column of a call."""
    place = _COLUMNS[name]
    return lambda record: record[0][place]


def identified(*values: object) -> Values:
    """A row with an id that is a hash of what it says, which fits into 63 bits."""
    digest = blake2b(_to_json(values).encode(), digest_size=8).digest()
    return (int.from_bytes(digest) >> 1, *values)


@lru_cache(maxsize=4_096)
def _kind(*names: str | None) -> Values:
    return identified(*map(fitting, names))


@lru_cache(maxsize=4_096)
def _label(scope: str | None, tags: tuple[tuple[str, str], ...]) -> Values:
    kept = {str(fitting(name)): str(fitting(value)) for name, value in tags}
    return identified(fitting(scope), json.dumps(kept, ensure_ascii=False))


@lru_cache(maxsize=256)
def _price(source: str, as_of: date | None) -> Values:
    return identified(fitting(source), None if as_of is None else as_of.isoformat())


def fitting(text: str | None, longest: int | None = LONGEST) -> str | None:
    """A text that every database takes: no NUL, no half of a character, no book."""
    if text is None:
        return None
    text = text[:longest].replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def record_of(event: TokenCountingEvent, process: Values, number: int, *, texts: bool) -> Record:
    """What a ledger holds of an event.

    Args:
        event: The event; its price is looked up.
        process: The row of the process that writes.
        number: The how-manieth of this process it is.
        texts: Whether its texts are kept.
    """
    served, cost = event.served, event.cost
    kind = _kind(
        event.provider,
        event.model,
        served.model,
        event.operation,
        event.status,
        event.prompt_source,
        event.completion_source,
        served.service_tier,
        served.speed,
        served.region,
    )
    label = _label(event.scope, tuple(sorted(event.tags.items())))
    price = None if cost is None else _price(cost.source, cost.as_of)
    started_us, duration_us = _times(event)
    call = (
        event.id,
        started_us,
        duration_us,
        process[0],
        number,
        kind[0],
        label[0],
        None if price is None else price[0],
        *_counts(event),
        *_money(event, cost),
        fitting(event.request_id),
        _units(served.units) if served.units else None,
        _names(event.not_understood) if event.not_understood else None,
    )
    kept = None
    if texts:
        kept = (str(fitting(event.prompt, None)), str(fitting(event.completion, None)))
    return call, kind, label, price, process, kept


def _counts(event: TokenCountingEvent) -> Values:
    """Tokens by bucket; of an event that was made by hand, without a usage, its two sums."""
    told: dict[str, int] = event.usage.__dict__
    if told.get("input_tokens") is None and event.total_token_count:
        told = {
            **told,
            "input_tokens": event.prompt_token_count,
            "output_tokens": event.completion_token_count,
        }
    return _in_order(_NONE | told)


_NONE: Final = dict.fromkeys(BUCKETS)
_in_order: Final = cast("Callable[[Mapping[str, int | None]], Values]", itemgetter(*BUCKETS))


def _times(event: TokenCountingEvent) -> tuple[int, int | None]:
    """When it started and how long it took, in microseconds."""
    duration_s = event.duration_s
    started_s = event.started_s
    if started_s is None:
        # Kept, as the same event given again is the same call.
        started_s = event.__dict__.setdefault("_taken_s", time.time() - (duration_s or 0.0))
    duration_us = None if duration_s is None else _bounded(duration_s * 1e6)
    return _bounded(started_s * 1e6), duration_us


def _bounded(number: float) -> int:
    if 0 <= number <= _MOST:
        return int(number)
    return _MOST if number > _MOST else 0


def _money(event: TokenCountingEvent, cost: Cost | None) -> tuple[int | None, int]:
    """What it cost in nanodollars, and how much of that is surely the bill."""
    if cost is None:
        return (0 if event.is_free else None), 0
    nano = min(round(_MONEY.scaleb(cost.usd, _NANO_PLACES)), _MOST)
    return nano, nano if event.is_billed(cost) else 0


def _units(units: Mapping[str, float]) -> str:
    return _to_json({name[:_LONGEST_NAME]: one for name, one in islice(units.items(), _MANY)})


def _names(names: Sequence[str]) -> str:
    return _to_json([name[:_LONGEST_NAME] for name in names[:_MANY]])


# --- and back --------------------------------------------------------------------------------


def event_of(values: Mapping[str, Any]) -> TokenCountingEvent:
    """An event again, of a row of `ledger_events` and its texts.

    Its cost is what the ledger says, split between input and output as the price list does.
    """
    counts = {name: values[name] for name in BUCKETS if values[name] is not None}
    duration_us = values["duration_us"]
    units = values["units"]
    return TokenCountingEvent(
        prompt=values.get("prompt") or "",
        completion=values.get("completion") or "",
        prompt_token_count=counts.get("input_tokens", 0),
        completion_token_count=counts.get("output_tokens", 0),
        usage=Usage.of(counts),
        prompt_source=values["input_source"],
        completion_source=values["output_source"],
        status=values["status"],
        operation=values["operation"],
        provider=values["provider"],
        model=values["model"],
        started_s=values["started_us"] / 1e6,
        duration_s=None if duration_us is None else duration_us / 1e6,
        scope=values["scope"],
        served=Served(
            values["model_served"],
            values["service_tier"],
            values["speed"],
            values["region"],
            units=None if units is None else json.loads(units),
        ),
        tags=json.loads(values["tags"]),
        request_id=values["request_id"],
        not_understood=tuple(json.loads(values["not_understood"] or "[]")),
        id=values["id"],
    )


def set_cost(event: TokenCountingEvent, values: Mapping[str, Any]) -> None:
    """Have an event cost what its row says, once it knows its prices."""
    nano = values["cost_nanodollars"]
    if nano is None or values["price_source"] is None:
        event.__dict__["_cost"] = None
        return
    as_of = None if values["price_as_of"] is None else date.fromisoformat(values["price_as_of"])
    cost = billed_cost(Decimal(nano) / _NANO, values["price_source"], event.cost)
    is_sure = values["certain_nanodollars"] == nano
    event.__dict__["_cost"] = replace(cost, as_of=as_of, is_whole=is_sure)


def rows_by_table(records: Sequence[Record]) -> dict[Table, list[Values]]:
    """The rows that calls point to, each once, in one order for all who write at once.

    Raises:
        OverflowError: A call has a figure that sums have no room for.
    """
    calls, kinds, labels, prices, processes, _ = zip(*records, strict=True)
    figures: Iterable[int] = filter(None, chain.from_iterable(map(measures_of, calls)))
    if max(figures, default=0) > _MOST:
        msg = f"more than {_MOST:,} tokens"
        raise OverflowError(msg)
    found: dict[Table, Iterable[Values]] = {
        PROCESSES: processes,
        KINDS: kinds,
        LABELS: labels,
        PRICES: filter(None, prices),
    }
    by_id = {table: {values[0]: values for values in rows} for table, rows in found.items()}
    return {table: [rows[key] for key in sorted(rows)] for table, rows in by_id.items()}


def values_of(*names: str) -> Callable[[Values], Values]:
    """What reads several columns of a call's row."""
    return cast("Callable[[Values], Values]", itemgetter(*[_COLUMNS[name] for name in names]))


measures_of: Final = values_of(*MEASURES)

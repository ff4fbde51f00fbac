"""Calls as rows: of plain Python values, of pandas, of polars; one table of columns for all."""

import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from llama_token_tracker._lock import LOADING
from llama_token_tracker._names import from_extra
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.usage import BUCKETS

if TYPE_CHECKING:
    import polars as pl

Type: TypeAlias = Literal["text", "integer", "number", "money", "time", "json"]
"""What a column holds: `str`, `int`, `float`, `Decimal` in US dollars, an aware `datetime`, or a
dict or list."""

COLUMNS: Final[Mapping[str, Type]] = {
    "id": "text",
    "started_at": "time",
    "duration_s": "number",
    "provider": "text",
    "model": "text",
    "served_model": "text",
    "operation": "text",
    "status": "text",
    "prompt_source": "text",
    "completion_source": "text",
    "service_tier": "text",
    "speed": "text",
    "region": "text",
    **dict.fromkeys(BUCKETS, "integer"),
    "cost_usd": "money",
    "certain_usd": "money",
    "price_source": "text",
    "price_as_of": "text",
    "scope": "text",
    "tags": "json",
    "units": "json",
    "not_understood": "json",
}
"""Of each call. `certain_usd` is the part of the cost that is surely the bill."""

DECIMALS: Final = 12
"""Of a dollar, that frames keep."""

_LEAST: Final = Decimal(1).scaleb(-DECIMALS)
_EXACT: Final = Context(prec=60, rounding=ROUND_HALF_EVEN)
_NOTHING: Final = Decimal(0)


class Frames:
    """Calls that can be had as rows and as frames."""

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a call, oldest first: `COLUMNS`, with their types; `None` is what isn't known.

        Tokens are inclusive: `cache_read_tokens` are part of `input_tokens`. Texts aren't in it.
        """
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """The same as a `pandas.DataFrame`: `Int64`, `datetime64[us, UTC]`, dollars as `Decimal`.

        Raises:
            ModuleNotFoundError: pandas isn't installed.
        """
        return pandas_of(self.to_dicts(), COLUMNS)

    def to_polars(self) -> "pl.DataFrame":
        """The same as a `polars.DataFrame`, dollars as `Decimal`; tags and lists are JSON.

        Raises:
            ModuleNotFoundError: polars isn't installed.
        """
        return polars_of(self.to_dicts(), COLUMNS)


def row_of(event: TokenCountingEvent) -> dict[str, Any]:
    """One event as a row."""
    cost, served, counts = event.cost, event.served, event.usage.__dict__
    usd = (_NOTHING if event.is_free else None) if cost is None else cost.usd
    is_sure = cost is not None and event.is_billed(cost)
    as_of = None if cost is None or cost.as_of is None else cost.as_of.isoformat()
    return {
        "id": event.id,
        "started_at": event.started_at,
        "duration_s": event.duration_s,
        "provider": event.provider,
        "model": event.model,
        "served_model": served.model,
        "operation": event.operation,
        "status": event.status,
        "prompt_source": event.prompt_source,
        "completion_source": event.completion_source,
        "service_tier": served.service_tier,
        "speed": served.speed,
        "region": served.region,
        **{name: counts.get(name) for name in BUCKETS},
        "cost_usd": usd,
        "certain_usd": usd if is_sure else _NOTHING,
        "price_source": None if cost is None else cost.source,
        "price_as_of": as_of,
        "scope": event.scope,
        "tags": dict(event.tags),
        "units": dict(served.units or {}),
        "not_understood": list(event.not_understood),
    }


def pandas_of(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Type]) -> Any:
    """Rows as a frame of pandas.

    Raises:
        ModuleNotFoundError: It isn't installed.
    """
    with LOADING, from_extra("pandas", "pandas"):
        pd: Any = import_module("pandas")
    types: dict[Type, str] = {
        "text": "object",
        "integer": "Int64",
        "number": "Float64",
        "money": "object",
        "time": "datetime64[us, UTC]",
        "json": "object",
    }
    series = {
        name: pd.Series([row[name] for row in rows], dtype=types[kind])
        for name, kind in columns.items()
    }
    return pd.DataFrame(series)


def polars_of(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, Type]) -> "pl.DataFrame":
    """Rows as a frame of polars.

    Raises:
        ModuleNotFoundError: It isn't installed.
    """
    with LOADING, from_extra("polars", "polars"):
        import polars as pl
    types: dict[Type, Any] = {
        "text": pl.String,
        "integer": pl.Int64,
        "number": pl.Float64,
        "money": pl.Decimal(38, DECIMALS),
        "time": pl.Datetime("us", "UTC"),
        "json": pl.String,
    }
    series = [
        pl.Series(name, [_in_polars(kind, row[name]) for row in rows], types[kind])
        for name, kind in columns.items()
    ]
    return pl.DataFrame(series)


def _in_polars(kind: Type, value: Any) -> Any:
    if value is None:
        return None
    if kind == "json":
        return as_json(value)
    return value.quantize(_LEAST, context=_EXACT) if kind == "money" else value


def as_json(value: object) -> str:
    """A dict or a list as text."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def rows_of(events: Iterable[TokenCountingEvent]) -> list[dict[str, Any]]:
    """Events as rows, oldest first; those whose time isn't known come first."""
    return sorted(map(row_of, events), key=lambda row: _second(row["started_at"]))


def _second(at: Any) -> float:
    return 0.0 if at is None else at.timestamp()

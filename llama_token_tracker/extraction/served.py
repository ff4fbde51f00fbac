"""How a call was served, read from its answer: model, tier, speed, region, cost, other units.

Each provider's table, `SERVED`, says at which path of an answer which fact stands. A fact that
begins with `#` is the number of what stands there.
"""

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from llama_token_tracker._log_once import notice
from llama_token_tracker.extraction.fields import as_fields
from llama_token_tracker.extraction.paths import Path, parse, values_at
from llama_token_tracker.extraction.shapes import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    langchain,
    ollama,
    openai,
)
from llama_token_tracker.pricing import UNSAID, Served

_TICKS_PER_USD: Final = 10**10
_ON_DEMAND: Final = "on_demand_"


class _Fact(NamedTuple):
    """Where a fact stands."""

    path: Path
    name: str


def _by_key(tables: Iterable[Mapping[str, str]]) -> dict[str, list[_Fact]]:
    facts: dict[str, list[_Fact]] = {}
    for table in tables:
        for path, name in table.items():
            steps = parse(path)
            fact = _Fact(steps, name)
            known = facts.setdefault(steps[0].key, [])
            if fact not in known:
                known.append(fact)
    return facts


_FACTS: Final = _by_key(
    # What a router has chosen goes before what it was called by.
    module.SERVED
    for module in (bedrock, openai, anthropic, gemini, cohere, ollama, langchain)
)
KEYS: Final = frozenset(
    key for key, facts in _FACTS.items() if not all(fact.name.startswith("#") for fact in facts)
)
"""The outermost keys of an answer that tell how it was served, and hold little else."""


def served_in(body: object) -> Served:
    """Read what an answer says of how its call was served.

    Args:
        body: What a provider, or a framework, made of it. What can't be read is left out; nothing
            is raised.
    """
    try:
        return _read(body)
    except Exception as error:  # noqa: BLE001 - a foreign object may raise anything when read
        notice("unreadable {}", error, "how it was served is left out", type(body).__name__)
        return UNSAID


def _read(body: object) -> Served:
    fields = as_fields(body)
    if fields is None:
        return UNSAID
    found: dict[str, list[object]] = {}
    for key, facts in _FACTS.items():
        if fields.get(key) is None:
            continue
        for path, name in facts:
            values = [one for one in values_at(fields, path) if not isinstance(one, dict | list)]
            if values:
                found.setdefault(name, values)
    if not found:
        return UNSAID
    return Served(
        model=_text(found, "model", str),
        service_tier=_text(found, "service_tier", _tier),
        speed=_text(found, "speed", str.lower),
        region=_text(found, "region", str.lower),
        billed_usd=_billed(found),
        units=_units(found) or None,
    )


def _text(found: Mapping[str, list[Any]], name: str, told: Callable[[str], str]) -> str | None:
    value = found.get(name, (None,))[0]
    return told(value) if isinstance(value, str) and value else None


def _tier(name: str) -> str:
    """A tier's name, without what Vertex AI puts before it."""
    return str.lower(name).removeprefix(_ON_DEMAND)


def _billed(found: Mapping[str, list[object]]) -> Decimal | None:
    """What the provider says it has billed; with a user's own key its provider bills as well."""
    ticks, usd = _number(found, "ticks"), _number(found, "usd")
    if ticks is not None:
        return ticks / _TICKS_PER_USD
    if usd is not None and found.get("has_own_key", [False])[0] is True:
        upstream = _number(found, "upstream_usd")
        return None if upstream is None else usd + upstream
    return usd


def _number(found: Mapping[str, list[object]], name: str) -> Decimal | None:
    value = found.get(name, [None])[0]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    number = Decimal(repr(value)) if is_number else Decimal("NaN")
    return number if number.is_finite() and number >= 0 else None


_NO_UNITS: Final = frozenset(
    {"model", "service_tier", "speed", "region", "usd", "ticks", "upstream_usd", "has_own_key"}
)


def _units(found: Mapping[str, list[object]]) -> dict[str, float]:
    units: dict[str, float] = {}
    for name, values in found.items():
        if name.startswith("#"):
            units[name[1:]] = len(values)
        elif name not in _NO_UNITS and (number := _number(found, name)):
            units[name] = int(number) if number == int(number) else float(number)
    return units

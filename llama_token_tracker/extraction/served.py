"""How a call was served, read from its answer: model, tier, speed, region, cost, other units.

Each provider's table, `SERVED`, says at which path of an answer which fact stands. A fact that
begins with `#` is the number of what stands there.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from itertools import count
from types import NoneType
from typing import Any, Final, TypeAlias

from llama_token_tracker._log_once import notice
from llama_token_tracker._printable import exact
from llama_token_tracker.extraction.fields import as_fields, is_without
from llama_token_tracker.extraction.paths import MOST_WITHIN, Segment, chosen, parse, remember
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


@dataclass(slots=True)
class _Place:
    """What is told at one place of an answer, and below it.

    Attributes:
        facts: What its value tells, by their ranks: of two that tell the same, the lower stands.
        below: The places within it, by their keys, with the steps that lead to them.
        ways: Those that objects have which have these keys, as far as any came.
    """

    facts: dict[str, int] = field(default_factory=dict[str, int])
    below: "dict[str, dict[Segment, _Place]]" = field(
        default_factory=dict[str, "dict[Segment, _Place]"]
    )
    ways: "dict[tuple[str, ...], _Ways]" = field(default_factory=dict[tuple[str, ...], "_Ways"])

    def ways_of(self, keys: Iterable[str]) -> "_Ways":
        """The steps that lead on from an object with these keys."""
        return tuple(way for key in keys if key in self.below for way in self.below[key].items())


_Ways: TypeAlias = tuple[tuple[Segment, _Place], ...]


def _together(tables: Iterable[Mapping[str, str]]) -> _Place:
    root = _Place()
    ranks = count()
    for table in tables:
        for path, name in table.items():
            place = root
            for segment in parse(path):
                place = place.below.setdefault(segment.key, {}).setdefault(segment, _Place())
            place.facts.setdefault(name, next(ranks))
    return root


_ANSWER: Final = _together(
    # What a router has chosen goes before what it was called by.
    module.SERVED
    for module in (bedrock, openai, anthropic, gemini, cohere, ollama, langchain)
)


def _tells_more_than_numbers(place: _Place) -> bool:
    own = any(not name.startswith("#") for name in place.facts)
    inner = (each for steps in place.below.values() for each in steps.values())
    return own or any(map(_tells_more_than_numbers, inner))


KEYS: Final = frozenset(
    key
    for key, steps in _ANSWER.below.items()
    if any(map(_tells_more_than_numbers, steps.values()))
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
    told: dict[str, tuple[int, list[object]]] = {}
    _look(_ANSWER, body, told)
    found = {name: values for name, (_, values) in told.items()}
    if not found:
        return UNSAID
    texts = (
        _text(found, "model", exact),
        _text(found, "service_tier", _tier),
        _text(found, "speed", str.lower),
        _text(found, "region", str.lower),
    )
    if not found.keys() <= _TEXTS:
        return Served(*texts, billed_usd=_billed(found), units=_units(found) or None)
    return _usual(*texts) if sum(map(len, filter(None, texts))) < _LONGEST else Served(*texts)


_LONGEST: Final = 256
"""What is said in fewer characters is remembered."""


@lru_cache(maxsize=512)
def _usual(
    model: str | None, service_tier: str | None, speed: str | None, region: str | None
) -> Served:
    """The same for all calls that were served alike, which are many."""
    return Served(model, service_tier, speed, region)


def _look(place: _Place, value: object, told: dict[str, tuple[int, list[object]]]) -> None:
    """Put what a value tells into `told`: by the fact, its rank and the values."""
    if place.facts and not issubclass(type(value), (dict, list, NoneType)):
        for name, rank in place.facts.items():
            known = told.get(name)
            if known is None or rank < known[0]:
                told[name] = (rank, [value])
            elif rank == known[0]:
                known[1].append(value)
    fields = as_fields(value) if place.below else None
    if fields is None:
        return
    # Providers' answers are much alike.
    names: Iterable[str] = fields if type(fields) is dict else place.below
    keys = tuple(names)
    ways = place.ways.get(keys)
    if ways is None:
        ways = remember(place.ways, keys, place.ways_of(keys), most=MOST_WITHIN)
    for step, inner in ways:
        found = fields.get(step.key)
        if step.is_list:
            _look_at_each(inner, chosen(found, step), told)
        elif found is not None:
            _look(inner, found, told)


def _look_at_each(
    place: _Place, entries: Iterable[object], told: dict[str, tuple[int, list[object]]]
) -> None:
    """The same of the entries of a list: it may be one of embeddings, which tell nothing."""
    for entry in entries:
        if place.facts or not is_without(entry, place.below.keys()):
            _look(place, entry, told)


def _text(found: Mapping[str, list[Any]], name: str, told: Callable[[str], str]) -> str | None:
    if name not in found:
        return None
    value = found[name][0]
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
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    number = Decimal(repr(value)) if is_number else Decimal("NaN")
    return number if number.is_finite() and number >= 0 else None


_TEXTS: Final = frozenset({"model", "service_tier", "speed", "region"})
_NO_UNITS: Final = _TEXTS | {"usd", "ticks", "upstream_usd", "has_own_key"}


def _units(found: Mapping[str, list[object]]) -> dict[str, float]:
    units: dict[str, float] = {}
    for name, values in found.items():
        if name.startswith("#"):
            units[name[1:]] = len(values)
        elif name not in _NO_UNITS and (number := _number(found, name)):
            units[name] = int(number) if number == int(number) else float(number)
    return units

"""How values that a provider sent are looked at: as named fields, and as counts of tokens.

Neither raises: what can't be read is logged once a kind and left out.
"""

import math
from collections.abc import Mapping, Set
from typing import Any, Final, Protocol, cast

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice

MAX_TOKENS: Final = 10**12
"""More than this is no count of tokens: no provider's day of traffic comes close."""

_MOST_MODELS: Final = 512
_DICTS: Final = (dict,)
_FIELDLESS: Final = (str, bytes, int, float, list, tuple, set, type)


class Fields(Protocol):
    """What a body is read through: a `dict`, or anything that answers like one."""

    def get(self, name: str, /) -> object:
        """The value of a field, or `None` where there is none."""


def to_count(value: object, place: str) -> int | None:
    """Read one count: an integer, or a string or float that stands for one.

    Args:
        value: What the provider sent.
        place: Shape and path, for the log.

    Returns:
        Tokens, or `None` for what is no count: negative, fractional, absurdly large.
    """
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except Exception as error:  # noqa: BLE001 - a foreign kind of number may raise anything
        pass_on(error)
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= MAX_TOKENS or number != int(number):
        notice("not a count of tokens at {}", value, "it is left out", place)
        return None
    return int(number)


def as_fields(value: object) -> Fields | None:
    """See a JSON object, a pydantic model or an SDK's object as named fields.

    Returns:
        Something whose `get` never raises, or `None` for what has no fields at all.
    """
    model: Any = value
    kind = type(value)
    if kind is dict:
        fields: Fields = model
        return fields
    if kind not in _models:
        # Of its class, since an object may raise when it's asked for `__class__`.
        if value is None or issubclass(kind, _FIELDLESS):
            return None
        if not hasattr(kind, "__pydantic_fields__"):
            return _fields_of(value)
        if len(_models) < _MOST_MODELS:
            _models.add(kind)
    extra = model.__pydantic_extra__
    if not extra:
        own: Fields = model.__dict__
        return own
    everything: dict[str, object] = {**model.__dict__, **extra}
    # Mistral's SDK declares it as a field, too.
    everything.pop("__pydantic_extra__", None)
    return everything


_models: set[type] = set()


def is_without(body: Any, keys: Set[str]) -> bool:
    """Whether something surely has none of these fields: only of a `dict` that's quick to tell."""
    return type(body) in _DICTS and keys.isdisjoint(body)


def field_in(value: object, name: str) -> object:
    """One field of a foreign object; `None` if it has none of that name."""
    fields = as_fields(value)
    return None if fields is None else fields.get(name)


def _fields_of(value: object) -> Fields | None:
    if not issubclass(type(value), Mapping):
        return _Attributes(value)
    try:
        return dict(cast("Mapping[str, object]", value))
    except Exception as error:  # noqa: BLE001 - a foreign mapping may raise anything when read
        notice("unreadable {}", error, "its fields are left out", type(value).__name__)
        return None


class _Attributes:
    """The attributes of an object, one by one, whatever the object does when asked."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def get(self, name: str, /) -> object:
        try:
            return getattr(self._value, name, None)
        except Exception as error:  # noqa: BLE001 - a foreign property may raise anything
            kind = type(self._value).__name__
            notice("unreadable attribute of {}", error, "it is left out", kind)
            return None

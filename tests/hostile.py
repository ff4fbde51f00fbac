"""Objects that do as a stranger's might: raise whatever they're asked, or change what they say."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hypothesis import strategies as st

_armed = False


@contextmanager
def armed() -> Iterator[None]:
    """Within this block such objects raise; outside of it they can be made and printed."""
    global _armed
    _armed = True
    try:
        yield
    finally:
        _armed = False


def _refuse(what: str) -> None:
    if _armed:
        raise ZeroDivisionError(what)


class HostileText(str):
    """A text whose every method raises."""

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        _refuse(name)
        return super().__getattribute__(name)

    def __len__(self) -> int:
        _refuse("len")
        return super().__len__()

    def __eq__(self, other: object) -> bool:
        _refuse("eq")
        return super().__eq__(other)

    def __hash__(self) -> int:
        _refuse("hash")
        return super().__hash__()

    def __str__(self) -> str:
        _refuse("str")
        return self

    def __repr__(self) -> str:
        _refuse("repr")
        return super().__repr__()

    def __format__(self, spec: str) -> str:
        _refuse("format")
        return super().__format__(spec)

    def __getitem__(self, key: Any) -> str:
        _refuse("getitem")
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        _refuse("contains")
        return super().__contains__(key)  # type: ignore[operator]

    def __iter__(self) -> Iterator[str]:
        _refuse("iter")
        return super().__iter__()


class HostileDict(dict[Any, Any]):
    """A dict whose every method raises."""

    def __getattribute__(self, name: str) -> Any:
        _refuse(name)
        return super().__getattribute__(name)

    def __getitem__(self, key: Any) -> Any:
        _refuse("getitem")
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[Any]:
        _refuse("iter")
        return super().__iter__()

    def __contains__(self, key: object) -> bool:
        _refuse("contains")
        return super().__contains__(key)

    def __len__(self) -> int:
        _refuse("len")
        return super().__len__()


class HostileList(list[Any]):
    """A list that raises when it's read."""

    def __getattribute__(self, name: str) -> Any:
        _refuse(name)
        return super().__getattribute__(name)

    def __iter__(self) -> Iterator[Any]:
        _refuse("iter")
        return super().__iter__()

    def __len__(self) -> int:
        _refuse("len")
        return super().__len__()


class HostileMapping(Mapping[Any, Any]):
    """A mapping that raises, or that asks itself for ever."""

    def __getitem__(self, key: Any) -> Any:
        return self[key] if _armed else None

    def __iter__(self) -> Iterator[Any]:
        _refuse("iter")
        return iter(())

    def __len__(self) -> int:
        _refuse("len")
        return 0

    def get(self, key: Any, default: Any = None) -> Any:
        """Ask itself for ever."""
        return self[key]


class HostileObject:
    """An object that raises whatever it's asked, its class included."""

    def __getattribute__(self, name: str) -> Any:
        if _armed:
            raise ZeroDivisionError(name)
        return super().__getattribute__(name)

    def _raise(self, *_arguments: Any) -> Any:
        raise ZeroDivisionError

    __str__ = __bool__ = __len__ = __iter__ = __index__ = __eq__ = _raise
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        _refuse("repr")
        return "HostileObject()"


TEXTS = st.sampled_from(["", "hello", "a.png", "\ud800", "\x1b[2J\x00\u202e"])
NUMBERS = st.sampled_from(
    [
        *(0, -1, -(10**30), 1, 7, 10**9, sys.maxsize, 10**30, 10**600),
        *(7.0, 0.5, -1.5, float("nan"), float("inf"), True, False, "7", "x", b"7", None),
    ]
)
HOSTILE = st.sampled_from(
    [HostileText, HostileDict, HostileList, HostileMapping, HostileObject]
).map(lambda kind: kind())
ODD = TEXTS | NUMBERS | HOSTILE | TEXTS.map(HostileText)
NAMES = st.sampled_from(
    ["max_tokens", "max_completion_tokens", "maxTokens", "n", "num_predict", "model", "tools"]
)
OPTIONS = st.one_of(
    HOSTILE,
    st.dictionaries(NAMES, ODD, max_size=4),
    st.builds(lambda inner: {"options": inner}, st.dictionaries(NAMES, ODD, max_size=3) | HOSTILE),
    st.dictionaries(NAMES, ODD, max_size=3).map(HostileDict),
)

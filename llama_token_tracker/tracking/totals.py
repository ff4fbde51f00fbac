"""`Totals`: running sums of recorded calls, by kind of call, by scope and by tag.

Adding a call changes one `Row` for its kind, its scope and each of its tags. It's unpriced until
somebody asks for a cost.
"""

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import setitem
from typing import Any, Final, NamedTuple, TypeAlias

from llama_token_tracker._lock import Change
from llama_token_tracker._log_once import notice, put_off
from llama_token_tracker.events.event import Operation, Status, TokenCountingEvent
from llama_token_tracker.pricing import Cost
from llama_token_tracker.tracking.row import Row
from llama_token_tracker.usage import Source

OTHER: Final = "(other)"
"""What calls are filed under whose own name would be one too many."""

MAX_VALUES: Final = 1_000
"""So many users, scopes, or models have rows of their own; the rest share one."""

MAX_TAGS: Final = 50
"""So many names of tags are told apart."""


class Kind(NamedTuple):
    """What the calls of one row of the totals have in common."""

    operation: Operation
    provider: str | None
    model: str | None
    source: Source
    status: Status


BY_KIND: Final = frozenset(Kind._fields)
"""What calls can be split by besides tags."""


@dataclass(slots=True)
class Pair:
    """Input and output tokens of a list of events."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.completion


Unpriced: TypeAlias = tuple[TokenCountingEvent, int, int]
"""An event whose price wasn't looked up yet, its sign, and its tokens when it was added."""

_Rows: TypeAlias = dict[Any, Row]

_update: Final[Callable[..., object]] = operator.ior  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  # typeshed's gap


class Totals:
    """Running sums by kind of call, by scope and by tag. The caller holds the lock."""

    __slots__ = ("_by_tag", "_kinds", "_unpriced")

    def __init__(self) -> None:
        self._kinds: dict[Kind, Row] = {}
        self._by_tag: dict[str, dict[str, Row]] = {}
        # By their ids, so that of two threads that look up the same price one adds it.
        self._unpriced: dict[int, Unpriced] = {}

    def change(self, change: Change, moves: Iterable[tuple[TokenCountingEvent, int]]) -> None:
        """Have events be added, or with -1 as their sign be taken back.

        Args:
            change: What that is made part of.
            moves: The events with their signs.
        """
        draft = _Draft(self._kinds, self._by_tag)
        unpriced: dict[int, Unpriced] = {}
        for event, sign in moves:
            for table, key in draft.places(event):
                table.row(key).add(event, sign)
            if not event.is_free:
                waiting = (event, sign, event.total_token_count)
                unpriced[id(waiting)] = waiting
        draft.finish(change)
        change.do(_update, self._unpriced, unpriced)

    @property
    def names(self) -> list[str]:
        """What calls can be split by."""
        return list(dict.fromkeys((*Kind._fields, "scope", *list(self._by_tag))))

    @property
    def unpriced(self) -> list[Unpriced]:
        """What waits for its price."""
        return list(self._unpriced.values())

    @property
    def unpriced_events(self) -> int:
        """How many events wait for their price."""
        return len(self._unpriced)

    def add_costs(self, costs: Iterable[tuple[Unpriced, Cost | None]], change: Change) -> None:
        """Have it be added what calls cost, or, of unknown price, leave them unpriced for good.

        Args:
            costs: Of those that were `unpriced`; some may have been added by another thread.
            change: What that is made part of.
        """
        draft, left = _Draft(self._kinds, self._by_tag), self._unpriced.copy()
        for unpriced, cost in costs:
            if left.pop(id(unpriced), None) is None or cost is None:
                continue
            event, sign, tokens = unpriced
            for table, key in draft.places(event):
                if key in table:
                    table.row(key).add_cost(event, cost, tokens, sign)
        draft.finish(change)
        change.dropped.append(self._unpriced)
        change.do(setattr, self, "_unpriced", left)

    def kinds(self) -> dict[Kind, Row]:
        """A copy of the row of every kind of call that occurred."""
        return _copied(self._kinds)

    def all(self) -> Row:
        """What all calls used together."""
        return Row.of(list(self._kinds.values()))

    def by(self, name: str) -> dict[str | None, Row]:
        """Rows by one field of `Kind`, by `scope`, or by a tag.

        Calls that have no such tag are found under `None`. The rows always add up to all.
        """
        if name in BY_KIND:
            split: dict[str | None, Row] = {}
            for kind, row in list(self._kinds.items()):
                split.setdefault(getattr(kind, name), Row()).merge(row)
            return {value: row for value, row in split.items() if row.calls}
        tagged: dict[str | None, Row] = {}
        tagged.update(_copied(self._by_tag.get(name, {})))
        rest = self.all()
        for row in tagged.values():
            rest.merge(row, -1)
        if rest.calls:
            rest.counts = {bucket: count for bucket, count in rest.counts.items() if count}
            tagged[None] = rest
        return tagged

    def state(self) -> tuple[Any, ...]:
        """All of it, to be pickled."""
        return (
            _copied(self._kinds),
            {name: _copied(rows) for name, rows in list(self._by_tag.items())},
            self.unpriced,
        )

    def restore(self, state: tuple[Any, ...]) -> None:
        """Take over the `state` of others."""
        self._kinds, self._by_tag, unpriced = state
        self._unpriced = {id(one): one for one in unpriced}

    def clear(self, change: Change) -> None:
        """Have it start again from nothing."""
        for name in self.__slots__:
            change.dropped.append(getattr(self, name))
            change.do(setattr, self, name, {})


class _Table:
    """The rows of one table as they will be; those that change are copies.

    Args:
        rows: The rows as they are.
    """

    __slots__ = ("_changed", "rows", "size")

    def __init__(self, rows: _Rows) -> None:
        self.rows = rows
        self._changed: _Rows = {}
        self.size = len(rows)

    def __contains__(self, key: object) -> bool:
        return key in self._changed or key in self.rows

    def row(self, key: Any) -> Row:
        """The row of this key, which may be changed."""
        row = self._changed.get(key)
        if row is None:
            known = self.rows.get(key)
            self.size += known is None
            row = self._changed[key] = Row() if known is None else Row.of([known])
        return row

    def finish(self, change: Change) -> None:
        """Have the rows be so."""
        change.do(_update, self.rows, self._changed)


class _Draft:
    """All tables as they will be."""

    __slots__ = ("_by_tag", "_kinds", "_tagged")

    def __init__(self, kinds: _Rows, by_tag: dict[str, _Rows]) -> None:
        self._kinds = _Table(kinds)
        self._by_tag = by_tag
        self._tagged: dict[str, _Table] = {}

    def places(self, event: TokenCountingEvent) -> Iterable[tuple[_Table, Any]]:
        """The tables that an event belongs to, and its row's key in each."""
        kind = (event.operation, event.provider, event.model, event.source, event.status)
        table = self._kinds
        if kind not in table and table.size >= MAX_VALUES:
            _notice_other("too many models", event.model)
            kind = (event.operation, event.provider, OTHER, event.source, event.status)
        yield table, Kind(*kind)
        if event.scope is not None:
            yield self._of("scope", event.scope)
        for name, value in event.tags.items():
            if name not in BY_KIND:
                yield self._of(name, value)

    def _of(self, name: str, value: str) -> tuple[_Table, str]:
        # In this order: for all but new names the first look is enough.
        if (
            name not in self._tagged
            and name not in self._by_tag
            and len(self._by_tag.keys() | self._tagged.keys()) >= MAX_TAGS
        ):
            _notice_other("too many tags", name)
            name = OTHER
        table = self._tagged.get(name)
        if table is None:
            table = self._tagged[name] = _Table(self._by_tag.get(name, {}))
        if value not in table and table.size >= MAX_VALUES:
            _notice_other("too many values of {}", value, name)
            value = OTHER
        return table, value

    def finish(self, change: Change) -> None:
        """Have all tables be so."""
        self._kinds.finish(change)
        for name, table in self._tagged.items():
            if name not in self._by_tag:
                change.do(setitem, self._by_tag, name, table.rows)
            table.finish(change)


def _notice_other(kind: str, found: object, name: str = "") -> None:
    # The caller holds the lock: what listens to the log, or prints the name, may wait for it.
    with put_off():
        value = found if type(found) is str else type(found).__name__
        notice(kind, value, f"further ones are filed as {OTHER}", name)


def _copied(rows: Mapping[Any, Row]) -> dict[Any, Row]:
    # A list, as the garbage collector may bring another call while this goes on.
    return {key: Row.of([row]) for key, row in list(rows.items()) if row.calls}

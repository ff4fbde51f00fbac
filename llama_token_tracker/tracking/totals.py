"""`Totals`: running sums of recorded calls, by kind of call, by scope and by tag.

Adding a call changes one `Row` for its kind, its scope and each of its tags. It's unpriced until
somebody asks for a cost.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

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

MAX_UNPRICED: Final = 1_000
"""So many calls whose events may be dropped wait for their price."""


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


class Totals:
    """Running sums by kind of call, by scope and by tag. The caller holds the lock."""

    __slots__ = ("_by_tag", "_kinds", "_unpriced")

    def __init__(self) -> None:
        self._kinds: dict[Kind, Row] = {}
        self._by_tag: dict[str, dict[str, Row]] = {}
        # By their ids, so that of two threads that look up the same price one adds it.
        self._unpriced: dict[int, Unpriced] = {}

    def add(self, event: TokenCountingEvent, sign: int = 1) -> None:
        """Add an event, or with `sign=-1` take it back."""
        for rows, key in self._places(event):
            row = rows.get(key)
            if row is None:
                row = rows[key] = Row()
            row.add(event, sign)
        if not event.is_free:
            unpriced = (event, sign, event.total_token_count)
            self._unpriced[id(unpriced)] = unpriced

    def _places(self, event: TokenCountingEvent) -> Iterable[tuple[_Rows, Any]]:
        """The tables that an event belongs to, and its row's key in each."""
        kind = (event.operation, event.provider, event.model, event.source, event.status)
        rows: _Rows = self._kinds
        if kind not in rows:
            if len(rows) >= MAX_VALUES:
                _notice_other("too many models", event.model)
                kind = (event.operation, event.provider, OTHER, event.source, event.status)
            kind = Kind(*kind)
        yield rows, kind
        if event.scope is not None:
            yield self._tagged("scope", event.scope)
        for name, value in event.tags.items():
            if name not in BY_KIND:
                yield self._tagged(name, value)

    def _tagged(self, name: str, value: str) -> tuple[_Rows, str]:
        rows = self._by_tag.get(name)
        if rows is None:
            if len(self._by_tag) >= MAX_TAGS:
                _notice_other("too many tags", name)
                name = OTHER
            rows = self._by_tag.setdefault(name, {})
        if value not in rows and len(rows) >= MAX_VALUES:
            _notice_other(f"too many values of {name}", value)
            value = OTHER
        return rows, value

    @property
    def unpriced(self) -> list[Unpriced]:
        """What waits for its price."""
        return list(self._unpriced.values())

    @property
    def is_pricing_due(self) -> bool:
        """Whether more events wait for their price than should."""
        return len(self._unpriced) > MAX_UNPRICED

    def add_costs(self, costs: Iterable[tuple[Unpriced, Cost | None]]) -> None:
        """Add what calls cost, or, of unknown price, leave them unpriced for good.

        Args:
            costs: Of those that were `unpriced`; some may have been added by another thread.
        """
        for unpriced, cost in costs:
            if self._unpriced.pop(id(unpriced), None) is None or cost is None:
                continue
            event, sign, tokens = unpriced
            for rows, key in self._places(event):
                if key in rows:
                    rows[key].add_cost(event, cost, tokens, sign)
        # A dict never shrinks. The new one is made before the old one is found to be empty: when
        # something is made, the garbage collector may bring another call.
        empty: dict[int, Unpriced] = {}
        if not self._unpriced:
            self._unpriced = empty

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

    def clear(self) -> None:
        """Start again from nothing."""
        self._kinds.clear()
        self._by_tag.clear()
        self._unpriced.clear()


def _notice_other(kind: str, found: object) -> None:
    # The caller holds the lock: what listens to the log, or prints the name, may wait for it.
    with put_off():
        name = found if type(found) is str else type(found).__name__
        notice(kind, name, f"further ones are filed as {OTHER}")


def _copied(rows: Mapping[Any, Row]) -> dict[Any, Row]:
    # A list, as the garbage collector may bring another call while this goes on.
    return {key: Row.of([row]) for key, row in list(rows.items()) if row.calls}

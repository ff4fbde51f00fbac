"""An account of calls: two lists of events, and running sums. A handler has one, and each scope.

Users may edit the lists as any list. The sums follow by what an edit adds and removes.
"""

import functools
import operator
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Self, SupportsIndex, TypeAlias, TypeGuard

from llama_token_tracker._lock import LOCK, Change, make
from llama_token_tracker._log_once import notice, put_off, say_late
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.tracking.correlation import DeferredCalls
from llama_token_tracker.tracking.totals import MAX_VALUES, OTHER, Pair, Totals

FAILED_KEPT: Final = 1_000
"""So many calls that failed before anything was billed are kept, the newest."""

MAX_UNPRICED: Final = 1_000
"""So many more events wait for their price than the lists hold; then it's looked up."""

_List: TypeAlias = list[TokenCountingEvent]
"""Its methods, called as `_List.append(events, …)`, change a list and leave the sums alone."""

_Moves: TypeAlias = list[tuple[TokenCountingEvent, int]]

_NOTHING: Final = slice(0, 0)


class Account:
    """The events of calls and their running sums.

    Args:
        catch_up: Makes and lists the events of all calls that have ended; called without the lock.
        deferred: The calls that wait for their answers to be retrieved.
        max_events: How many events each list holds at the most; the oldest go first, and
            stay in the sums. `None` keeps all.
        include_failed: Whether calls that failed before anything was billed are listed
            among the others too.
    """

    def __init__(
        self,
        catch_up: Callable[[], None],
        deferred: DeferredCalls,
        *,
        max_events: int | None,
        include_failed: bool,
    ) -> None:
        self._deferred = deferred
        self.max_events = max_events
        self.include_failed = include_failed
        self.totals = Totals()
        self.failed: deque[TokenCountingEvent] = deque(maxlen=FAILED_KEPT)
        self.llm = Entries(self.totals, catch_up)
        self.embedding = Entries(self.totals, catch_up)
        self.uncounted: dict[str, int] = {}

    @property
    def pending_calls(self) -> int:
        """How many of its calls wait for their answers to be retrieved."""
        return self._deferred.number(self)

    @property
    def is_pricing_due(self) -> bool:
        """Whether many events are kept for their price alone, and no more by the lists."""
        listed = _List.__len__(self.llm.events) + _List.__len__(self.embedding.events)
        return self.totals.unpriced_events > listed + MAX_UNPRICED

    def add(self, events: Iterable[TokenCountingEvent], change: Change) -> None:
        """Have events be added to their lists and the sums; the caller holds the lock."""
        llm: _List = []
        embedding: _List = []
        failed: _List = []
        unlisted: _List = []
        for event in events:
            listed = embedding if event.operation == "embedding" else llm
            if event.status == "failed" and not event.total_token_count:
                failed.append(event)
                listed = listed if self.include_failed else unlisted
            listed.append(event)
        change.dropped.extend(islice(self.failed, len(failed)))
        for event in failed:
            change.do(self.failed.append, event)
        self.llm.add(llm, self.max_events, change)
        self.embedding.add(embedding, self.max_events, change)
        self.totals.change(change, [(event, 1) for event in (*llm, *embedding, *unlisted)])

    def note_uncounted(self, place: str, change: Change) -> None:
        """Have a request be noted that can't be counted; the caller holds the lock."""
        known = self.uncounted
        key = place if place in known or len(known) < MAX_VALUES else OTHER
        change.do(dict[str, int].__setitem__, known, key, known.get(key, 0) + 1)

    def reset(self, change: Change) -> None:
        """Have it start again from nothing; the caller holds the lock."""
        self.totals.clear(change)
        change.dropped.append(self.failed)
        change.do(setattr, self, "uncounted", dict[str, int]())
        change.do(setattr, self, "failed", deque[TokenCountingEvent](maxlen=FAILED_KEPT))
        self.llm.reset(change)
        self.embedding.reset(change)

    def state(self) -> dict[str, Any]:
        """Events and sums, to be pickled; the caller holds the lock."""
        return {
            "totals": self.totals.state(),
            "failed": list(self.failed),
            "uncounted": dict(self.uncounted),
            "entries": [
                (list(entries.listed()), entries.pair.prompt, entries.pair.completion)
                for entries in (self.llm, self.embedding)
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the events and sums of another account; this one is empty."""
        self.totals.restore(state["totals"])
        self.failed.extend(state["failed"])
        self.uncounted = state["uncounted"]
        for entries, (events, prompt, completion) in zip(
            (self.llm, self.embedding), state["entries"], strict=True
        ):
            _List.extend(entries.events, events)
            entries.pair = Pair(prompt, completion)


class Entries:
    """One list of an account, and the input and output tokens of its events.

    Attributes:
        events: The list.
        pair: The tokens.
        catch_up: Makes and lists the events of all calls that have ended.
    """

    __slots__ = ("_totals", "catch_up", "events", "pair")

    def __init__(self, totals: Totals, catch_up: Callable[[], None]) -> None:
        self._totals = totals
        self.catch_up = catch_up
        self.pair = Pair()
        self.events = EventList(self)

    def add(self, events: _List, most: int | None, change: Change) -> None:
        """Have events be added to the list, which is then shortened to the newest.

        What the others used stays in the sums.
        """
        if not events:
            return
        change.do(_List.extend, self.events, events)
        self._add_up(change, [(event, 1) for event in events])
        length = _List.__len__(self.events) + len(events)
        if most is not None and length > most:
            surplus = slice(0, length - most)
            change.dropped.append([*_List.__getitem__(self.events, surplus), *events])
            change.do(_List.__delitem__, self.events, surplus)

    def listed(self) -> Iterator[TokenCountingEvent]:
        """The events that are in the list by now."""
        return _List.__iter__(self.events)

    def newest(self, most: int) -> list[TokenCountingEvent]:
        """The last events that are in the list by now, newest last."""
        first = max(0, _List.__len__(self.events) - most)
        return _List.__getitem__(self.events, slice(first, None))

    def reset(self, change: Change) -> None:
        """Have a new list be started from zero; the old one stays as it is."""
        change.dropped.append(self.events)
        change.do(setattr, self, "pair", Pair())
        change.do(setattr, self, "events", EventList(self))

    def replace(self, events: Iterable[TokenCountingEvent]) -> None:
        """Start a new list of these events, from zero; the old one stays as it is."""
        if events is self.events:
            return  # `events += [...]` has changed the list and now assigns it.
        self.catch_up()
        events = list(events)
        self.check(events)
        new = EventList(self)
        _List.extend(new, events)

        def prepare(change: Change) -> None:
            change.do(setattr, self, "events", new)
            self.edit(change, list(self.listed()), events)

        _made(prepare)

    def check(self, events: Iterable[TokenCountingEvent]) -> None:
        """Raise what adding these events to the sums would raise, and add nothing."""
        moves, change = [(event, 1) for event in events], Change()
        self._add_up(change, moves)
        Totals().change(change, _own(moves))

    def edit(self, change: Change, removed: _List, added: Iterable[TokenCountingEvent]) -> None:
        """Have the sums follow an edit of the list; the caller holds the lock.

        Args:
            change: What that is made part of.
            removed: The events that it takes out.
            added: The events that it puts in, checked.
        """
        change.dropped.append(removed)
        moves = [(event, -1) for event in removed if self._is_readable(event)]
        moves.extend((event, 1) for event in added)
        self._add_up(change, moves)
        self._totals.change(change, _own(moves))

    def _add_up(self, change: Change, moves: _Moves) -> None:
        prompt, completion = self.pair.prompt, self.pair.completion
        for event, sign in moves:
            prompt += sign * event.prompt_token_count
            completion += sign * event.completion_token_count
        change.do(setattr, self, "pair", Pair(prompt, completion))

    def _is_readable(self, event: TokenCountingEvent) -> bool:
        try:
            self.check([event])
        except Exception as error:  # noqa: BLE001 - somebody has edited it into nonsense
            notice("a removed event could not be read", error, "the totals keep its tokens")
            return False
        return True


def _own(moves: _Moves) -> _Moves:
    """Those of our own events: one of LlamaIndex's own, put in by hand, knows no buckets."""
    return [move for move in moves if isinstance(move[0], TokenCountingEvent)]  # pyright: ignore[reportUnnecessaryIsInstance]


def _made(prepare: Callable[[Change], object]) -> None:
    """Make a change, and log and let go of what it drops without the lock."""
    with LOCK, put_off():
        change = make(prepare)
    say_late()
    # An event's finalizer may be the user's.
    del change


class EventList(list[TokenCountingEvent]):
    """A list of events whose edits by hand show in the totals, as they do in LlamaIndex.

    Whoever reads it finds all calls that have ended. Copies and pickles of it are plain lists.
    What is the caller's (iterators, indices, comparisons, sort keys) runs before the lock is
    taken.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Entries) -> None:
        super().__init__()
        self._entries = entries

    @property
    def _owner(self) -> Entries | None:
        """Whose list it is; `None` if that has a new one by now, and this is one like any other."""
        return self._entries if self._entries.events is self else None

    def catch_up(self) -> None:
        """Make and list the events of all calls that have ended."""
        owner = self._owner
        if owner is not None:
            owner.catch_up()

    def _edit(
        self,
        method: Callable[..., object],
        *args: Any,
        at: slice = _NOTHING,
        added: Sequence[TokenCountingEvent] = (),
    ) -> _List:
        """Change the list by a function in C, and the sums by what that removes and adds.

        Args:
            method: The function, such as `_List.insert`; it changes the list or raises.
            args: What it's called with: nothing that runs code of the caller's.
            at: Where it removes events.
            added: The events that it adds.

        Returns:
            What it has removed.
        """
        if self._owner is not None:
            self._owner.check(added)
        removed: _List = []

        def prepare(change: Change) -> None:
            removed[:] = _List.__getitem__(self, at)
            change.do(method, self, *args)
            if self._owner is not None:
                self._owner.edit(change, removed.copy(), added)

        _made(prepare)
        return removed

    def append(self, event: TokenCountingEvent, /) -> None:
        """Add an event at the end."""
        self.catch_up()
        self._edit(_List.append, event, added=[event])

    def extend(self, events: Iterable[TokenCountingEvent], /) -> None:
        """Add events at the end."""
        self.catch_up()
        read: list[TokenCountingEvent] = []
        try:
            read.extend(events)
        finally:
            # As in any list, what an iterator yields before it raises is added.
            self._edit(_List.extend, read, added=read)

    def insert(self, index: SupportsIndex, event: TokenCountingEvent, /) -> None:
        """Add an event before a position."""
        self.catch_up()
        self._edit(_List.insert, _resolved(index), event, added=[event])

    def clear(self) -> None:
        """Remove all events."""
        self.catch_up()
        self._edit(_List.clear, at=slice(None))

    def pop(self, index: SupportsIndex = -1, /) -> TokenCountingEvent:
        """Remove the event at a position, and return it."""
        self.catch_up()
        index = _resolved(index)
        removed = self._edit(_List.pop, index, at=_span(index))
        return removed[0]

    def remove(self, value: Any, /) -> None:
        """Remove the first event that equals a value."""
        self.catch_up()
        while True:
            events = _List.copy(self)
            for index, event in enumerate(events):  # noqa: B007 - used after the loop
                if event is value or event == value:
                    break
            else:
                msg = "list.remove(x): x not in list"
                raise ValueError(msg)
            # Unless somebody has moved it while it was compared.
            if self._removed(index, event):
                return

    def _removed(self, index: int, event: TokenCountingEvent) -> bool:
        """Remove an event if it's at this position."""
        is_there = False

        def prepare(change: Change) -> None:
            nonlocal is_there
            removed = _List.__getitem__(self, slice(index, index + 1))
            is_there = bool(removed) and removed[0] is event
            if is_there:
                change.do(_List.__delitem__, self, index)
                if self._owner is not None:
                    self._owner.edit(change, removed, ())

        _made(prepare)
        return is_there

    def reverse(self) -> None:
        """Turn the order of the events around."""
        self.catch_up()
        self._edit(_List.reverse)

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """Sort the events; those that are recorded meanwhile come last."""
        self.catch_up()
        events = sorted(_List.copy(self), key=key, reverse=reverse)

        def prepare(change: Change) -> None:
            held = _List.copy(self)
            left = Counter(map(id, held))
            kept: _List = []
            for event in (*events, *held):
                if left[id(event)]:
                    left[id(event)] -= 1
                    kept.append(event)
            change.do(_List.__setitem__, self, slice(None), kept)

        _made(prepare)

    def __delitem__(self, key: Any, /) -> None:
        self.catch_up()
        key = _resolved(key)
        self._edit(_List.__delitem__, key, at=_span(key))

    def __setitem__(self, key: Any, value: Any, /) -> None:
        self.catch_up()
        key, added = _resolved(key), [value]
        if _is_slice(key):
            added = []
            # What isn't iterable `list` itself refuses, in words of its own.
            if hasattr(value, "__iter__") or hasattr(value, "__getitem__"):
                value = added = list(value)
        self._edit(_List.__setitem__, key, value, at=_span(key), added=added)

    def __iadd__(self, events: Iterable[Any], /) -> Self:  # type: ignore[misc,override]  # like `list`'s
        self.extend(events)
        return self

    def __imul__(self, times: SupportsIndex, /) -> Self:
        events = list(self)
        product = events * _resolved(times)
        if events and not product:
            self.clear()
        else:
            self.extend(product[len(events) :])
        return self

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[TokenCountingEvent]]]:
        """Travel as a plain list: totals belong to the account."""
        return list, (list(self),)

    def __reduce_ex__(self, _protocol: Any, /) -> Any:
        """The same for every protocol."""
        return self.__reduce__()


def _is_slice(key: object) -> "TypeGuard[slice[Any, Any, Any]]":
    return isinstance(key, slice)


def _resolved(key: Any) -> Any:
    """An index or slice in plain numbers; what is neither stays, for `list` to refuse."""
    if _is_slice(key):
        key = slice(_resolved(key.start), _resolved(key.stop), _resolved(key.step))
        key.indices(0)  # Refuses what is no number, as a list does before it reads a value.
        return key
    return operator.index(key) if hasattr(key, "__index__") else key


def _span(key: object) -> "slice[Any, Any, Any]":
    """The slice that an index or slice stands for: an empty one where there's nothing."""
    if isinstance(key, int):
        return slice(key, key + 1 or None)
    return key if _is_slice(key) else _NOTHING


def _complete(name: str) -> Callable[..., Any]:
    """A method of `list` that first makes and lists the events of all calls that have ended."""
    plain = getattr(list, name)

    @functools.wraps(plain)
    def method(self: EventList, *args: Any, **kwargs: Any) -> Any:
        self.catch_up()
        return plain(self, *args, **kwargs)

    return method


for _name in (
    "copy",
    "count",
    "index",
    "__add__",
    "__contains__",
    "__eq__",
    "__getitem__",
    "__iter__",
    "__len__",
    "__mul__",
    "__ne__",
    "__repr__",
    "__reversed__",
    "__rmul__",
):
    setattr(EventList, _name, _complete(_name))

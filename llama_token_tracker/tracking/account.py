"""An account of calls: two lists of events, and running sums. A handler has one, and each scope.

Users may edit the lists as any list. The sums follow by what an edit adds and removes.
"""

import functools
import operator
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Self, SupportsIndex, TypeAlias, TypeGuard, TypeVar

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice, put_off, say_late
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.tracking.totals import Pair, Totals

FAILED_KEPT: Final = 1_000
"""So many calls that failed before anything was billed are kept, the newest."""

_List: TypeAlias = list[TokenCountingEvent]
"""Its methods, called as `_List.append(events, …)`, change a list and leave the sums alone."""

_NOTHING: Final = slice(0, 0)
_T = TypeVar("_T")


class Account:
    """The events of calls and their running sums.

    Args:
        catch_up: Makes and lists the events of all calls that have ended; called without the lock.
        max_events: How many events each list holds at the most; the oldest go first, and
            stay in the sums. `None` keeps all.
        include_failed: Whether calls that failed before anything was billed are listed
            among the others too.
    """

    def __init__(
        self, catch_up: Callable[[], None], *, max_events: int | None, include_failed: bool
    ) -> None:
        self.max_events = max_events
        self.include_failed = include_failed
        self.totals = Totals()
        self.failed: deque[TokenCountingEvent] = deque(maxlen=FAILED_KEPT)
        self.llm = Entries(self.totals, catch_up)
        self.embedding = Entries(self.totals, catch_up)

    def add(self, event: TokenCountingEvent) -> None:
        """Add an event to its list and the sums; the caller holds the lock."""
        entries = self.embedding if event.operation == "embedding" else self.llm
        if event.status == "failed" and not event.total_token_count:
            self.failed.append(event)
            if not self.include_failed:
                self.totals.add(event)
                return
        entries.add(event)
        if self.max_events is not None:
            entries.drop_oldest(self.max_events)

    def reset(self) -> None:
        """Start again from nothing; the caller holds the lock."""
        self.totals.clear()
        self.failed.clear()
        self.llm.reset()
        self.embedding.reset()

    def state(self) -> dict[str, Any]:
        """Events and sums, to be pickled; the caller holds the lock."""
        return {
            "totals": self.totals.state(),
            "failed": list(self.failed),
            "entries": [
                (list(entries.listed()), entries.pair.prompt, entries.pair.completion)
                for entries in (self.llm, self.embedding)
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the events and sums of another account; this one is empty."""
        self.totals.restore(state["totals"])
        self.failed.extend(state["failed"])
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

    def add(self, event: TokenCountingEvent) -> None:
        """Add an event to the list and the sums; the caller holds the lock."""
        _List.append(self.events, event)
        _count(self.pair, self._totals, event, 1)

    def drop_oldest(self, most: int) -> None:
        """Shorten the list to so many events; what the others used stays in the sums."""
        surplus = _List.__len__(self.events) - most
        if surplus > 0:
            _List.__delitem__(self.events, slice(0, surplus))

    def listed(self) -> Iterator[TokenCountingEvent]:
        """The events that are in the list by now."""
        return _List.__iter__(self.events)

    def newest(self, most: int) -> list[TokenCountingEvent]:
        """The last events that are in the list by now, newest last."""
        first = max(0, _List.__len__(self.events) - most)
        return _List.__getitem__(self.events, slice(first, None))

    def reset(self) -> None:
        """Start a new list from zero; the old one stays as it is. The caller holds the lock."""
        self.pair = Pair()
        self.events = EventList(self)

    def replace(self, events: Iterable[TokenCountingEvent]) -> None:
        """Start a new list of these events, from zero; the old one stays as it is."""
        if events is self.events:
            return  # `events += [...]` has changed the list and now assigns it.
        self.catch_up()
        events = list(events)
        self.check(events)
        new = EventList(self)
        _List.extend(new, events)
        with LOCK, put_off():
            # Kept beyond the lock: an event's finalizer may be the user's.
            removed = list(self.listed())
            self.edit(partial(setattr, self, "events", new), removed, events)
        say_late()

    def check(self, events: Iterable[TokenCountingEvent]) -> None:
        """Raise what adding these events to the sums would raise, and add nothing."""
        pair, totals = Pair(), Totals()
        for event in events:
            _count(pair, totals, event, 1)

    def edit(
        self,
        change: Callable[[], _T],
        removed: Iterable[TokenCountingEvent],
        added: Iterable[TokenCountingEvent],
    ) -> _T:
        """Change the list, and the sums with it; the caller holds the lock.

        Args:
            change: Changes the list, or raises and leaves it as it is: one call of a function
                in C, which nothing interrupts.
            removed: The events that it takes out.
            added: The events that it puts in, checked.

        Returns:
            What `change` returns.
        """
        moves = [(event, -1) for event in removed]
        moves.extend((event, 1) for event in added)
        try:
            result = change()
            self._count_all(moves)
        except KeyboardInterrupt:
            # Raised between two steps, so the list is changed. A single event may be half-counted.
            self._count_all(moves)
            raise
        return result

    def _count_all(self, moves: list[tuple[TokenCountingEvent, int]]) -> None:
        """Add events to the sums or take them out, from the last one on, until none is left."""
        while moves:
            try:
                _count(self.pair, self._totals, *moves.pop())
            except Exception as error:  # noqa: BLE001 - somebody has edited it into nonsense
                notice("a removed event could not be read", error, "the totals keep its tokens")


def _count(pair: Pair, totals: Totals, event: TokenCountingEvent, sign: int) -> None:
    """Add an event to sums, or with `sign=-1` take it out."""
    prompt, completion = sign * event.prompt_token_count, sign * event.completion_token_count
    pair.prompt += prompt
    pair.completion += completion
    # One of LlamaIndex's own, put in by hand, knows no buckets.
    if isinstance(event, TokenCountingEvent):  # pyright: ignore[reportUnnecessaryIsInstance]
        totals.add(event, sign)


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
        method: Callable[..., _T],
        *args: Any,
        at: slice = _NOTHING,
        added: Sequence[TokenCountingEvent] = (),
    ) -> _T:
        """Change the list by a method of `list`, and the sums by what it removes and adds.

        Args:
            method: The method, such as `_List.insert`.
            args: What it's called with: nothing that runs code of the caller's.
            at: Where it removes events.
            added: The events that it adds.
        """
        owner = self._owner
        if owner is not None:
            owner.check(added)
        with LOCK, put_off():
            # Kept beyond the lock: an event's finalizer may be the user's.
            removed = _List.__getitem__(self, at)
            result = self._change(partial(method, self, *args), removed, added)
        say_late()
        return result

    def _change(
        self,
        change: Callable[[], _T],
        removed: Sequence[TokenCountingEvent],
        added: Sequence[TokenCountingEvent],
    ) -> _T:
        """Change the list, and the sums if it still has an owner; the caller holds the lock."""
        owner = self._owner
        return change() if owner is None else owner.edit(change, removed, added)

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
        return self._edit(_List.pop, index, at=_span(index))

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
            with LOCK, put_off():
                removed = _List.__getitem__(self, slice(index, index + 1))
                # Unless somebody has moved it while it was compared.
                is_there = bool(removed) and removed[0] is event
                if is_there:
                    self._change(partial(_List.__delitem__, self, index), removed, ())
            say_late()
            if is_there:
                return

    def sort(self, *, key: Any = None, reverse: bool = False) -> None:
        """Sort the events; those that are recorded meanwhile come last."""
        self.catch_up()
        events = sorted(_List.copy(self), key=key, reverse=reverse)
        with LOCK:
            held = _List.copy(self)
            left = Counter(map(id, held))
            kept: list[TokenCountingEvent] = []
            for event in (*events, *held):
                if left[id(event)]:
                    left[id(event)] -= 1
                    kept.append(event)
            _List.__setitem__(self, slice(None), kept)

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
    "reverse",
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

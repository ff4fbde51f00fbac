"""One account of calls: lists of events and running sums. A handler has one, and every scope.

Whoever edits a list finds the sums edited too. The caller of what says so holds the lock.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, cast

from llama_token_tracker._lock import LOCK
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.tracking.totals import Pair, Totals

FAILED_KEPT: Final = 1_000
"""So many calls that failed before anything was billed are kept, the newest."""


class Book:
    """Lists and running sums of calls.

    Args:
        catch_up: Takes in the calls that were put off.
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
        self.llm = Series(self.totals, catch_up)
        self.embedding = Series(self.totals, catch_up)

    def take(self, event: TokenCountingEvent) -> None:
        """Add an event to its list and the sums; the caller holds the lock."""
        series = self.embedding if event.operation == "embedding" else self.llm
        if event.status == "failed" and not event.total_token_count:
            self.failed.append(event)
            if not self.include_failed:
                self.totals.add(event)
                return
        series.take(event)
        self._trim(series)

    def list_only(self, event: TokenCountingEvent) -> None:
        """List an LLM event whose tokens were added up before; the caller holds the lock."""
        self.llm.list_only(event)
        self._trim(self.llm)

    def _trim(self, series: "Series") -> None:
        if self.max_events is not None:
            series.events.keep_newest(self.max_events)

    def reset(self) -> None:
        """Start again from nothing; the caller holds the lock."""
        self.totals.clear()
        self.failed.clear()
        self.llm.reset()
        self.embedding.reset()

    def state(self) -> dict[str, Any]:
        """What it holds, to be pickled; the caller holds the lock."""
        return {
            "totals": self.totals.state(),
            "failed": list(self.failed),
            "series": [
                (list(series.events.held()), series.pair.prompt, series.pair.completion)
                for series in (self.llm, self.embedding)
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Hold what another held."""
        self.totals.restore(state["totals"])
        self.failed.extend(state["failed"])
        for series, (events, prompt, completion) in zip(
            (self.llm, self.embedding), state["series"], strict=True
        ):
            series.events.fill(events)
            series.pair = Pair(prompt, completion)


class Series:
    """One list of events and its sums."""

    __slots__ = ("_totals", "catch_up", "events", "pair")

    def __init__(self, totals: Totals, catch_up: Callable[[], None]) -> None:
        self._totals = totals
        self.catch_up = catch_up
        self.pair = Pair()
        self.events = EventList(self)

    def take(self, event: TokenCountingEvent) -> None:
        """Add an event to the list and the sums; the caller holds the lock."""
        self.events.put(event)
        self.add(event)

    def list_only(self, event: TokenCountingEvent) -> None:
        """Add an event whose tokens are in the pair already; the caller holds the lock."""
        self.events.put(event)
        self._totals.add(event)

    def put(self, event: TokenCountingEvent) -> None:
        """The same for those who don't hold it."""
        with LOCK:
            self.catch_up()
            self.take(event)

    def add(self, event: TokenCountingEvent, sign: int = 1) -> None:
        """Add an event to the sums, or with `sign=-1` take it back."""
        self.pair.prompt += sign * event.prompt_token_count
        self.pair.completion += sign * event.completion_token_count
        # One of LlamaIndex's own, put in by hand, knows no buckets.
        if isinstance(event, TokenCountingEvent):  # pyright: ignore[reportUnnecessaryIsInstance]
            self._totals.add(event, sign)

    def edit(self, change: Callable[[], Any]) -> Any:
        """Let somebody change the list, and the sums follow."""
        with LOCK:
            self.catch_up()
            # Of what is in the list: calls that are recorded meanwhile wait until this is done.
            for event in self.events.held():
                self.add(event, -1)
            try:
                return change()
            finally:
                for event in self.events.held():
                    self.add(event)

    def replace(self, events: Iterable[TokenCountingEvent]) -> None:
        """Put other events in the place of the list's."""
        if events is self.events:
            return  # `events += [...]` has changed the list and now assigns it.
        events = list(events)
        with LOCK:
            self.catch_up()
            for event in self.events.held():
                self.add(event, -1)
            self.events.release()
            self.events = EventList(self)
            for event in events:
                self.take(event)

    def reset(self) -> None:
        """Start a new list; whoever holds the old one keeps it as it is."""
        self.events.release()
        self.pair = Pair()
        self.events = EventList(self)


class EventList(list[TokenCountingEvent]):
    """A list of events whose edits by hand show in the totals, as they do in LlamaIndex.

    Whoever reads it finds all that was recorded, also events that were put off. Copies and
    pickles of it are plain lists.
    """

    __slots__ = ("_series",)

    def __init__(self, series: Series) -> None:
        super().__init__()
        self._series: Series | None = series

    def append(self, event: TokenCountingEvent, /) -> None:
        """Add an event, and what it used to the totals."""
        if self._series is None:
            super().append(event)
        else:
            self._series.put(event)

    def put(self, event: TokenCountingEvent) -> None:
        """Add an event and leave the totals alone."""
        super().append(event)

    def held(self) -> Iterator[TokenCountingEvent]:
        """The events that are in the list by now."""
        return super().__iter__()

    def newest(self, count: int) -> list[TokenCountingEvent]:
        """The last events that are in the list by now, newest last."""
        return super().__getitem__(slice(max(0, super().__len__() - count), None))

    def fill(self, events: Iterable[TokenCountingEvent]) -> None:
        """Add events and leave the totals alone."""
        super().extend(events)

    def release(self) -> None:
        """Belong to no totals any more."""
        self._series = None

    def catch_up(self) -> None:
        """Make the events that were put off."""
        if self._series is not None:
            self._series.catch_up()

    def keep_newest(self, count: int) -> None:
        """Forget the oldest events; what they used stays in the totals."""
        surplus = super().__len__() - count
        if surplus > 0:
            super().__delitem__(slice(0, surplus))

    def __reduce__(self) -> tuple[type[list[Any]], tuple[list[TokenCountingEvent]]]:
        """Travel as a plain list: totals belong to the tracker."""
        return list, (list(self),)

    def __reduce_ex__(self, _protocol: Any, /) -> Any:
        """The same for every protocol."""
        return self.__reduce__()


def _followed(name: str) -> Callable[..., Any]:
    """A method of `list` that tells the totals what it did."""
    plain = getattr(list, name)

    @functools.wraps(plain)
    def method(self: EventList, *args: Any, **kwargs: Any) -> Any:
        series = self._series  # pyright: ignore[reportPrivateUsage]  # a method of it, made here
        if series is None:
            return plain(self, *args, **kwargs)
        # Whatever an iterator does when it's read, it does before the totals are touched.
        args = tuple([list(cast("Any", arg)) if isinstance(arg, Iterator) else arg for arg in args])
        return series.edit(lambda: plain(self, *args, **kwargs))

    return method


for _name in (
    "clear",
    "extend",
    "insert",
    "pop",
    "remove",
    "__delitem__",
    "__iadd__",
    "__imul__",
    "__setitem__",
):
    setattr(EventList, _name, _followed(_name))


def _complete(name: str) -> Callable[..., Any]:
    """A method of `list` that first makes the events that were put off."""
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
    "sort",
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

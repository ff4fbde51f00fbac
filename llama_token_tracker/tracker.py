"""Where events go: lists, running totals, and the lock around both."""

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final, Protocol, TypeAlias, cast

from llama_token_tracker.event import TokenCountingEvent
from llama_token_tracker.lock import LOCK
from llama_token_tracker.totals import Kind, Pair, Sum, Totals
from llama_token_tracker.usage import Usage
from llama_token_tracker.worker import WORKER

_FAILED_KEPT: Final = 1_000

Recipe: TypeAlias = tuple[Any, ...]
"""The input and the output tokens of a call, a function that makes its event, and arguments."""

MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""Texts that wait to be counted take no more than about this; then they are counted."""

MAX_WAITING: Final = 10_000
"""Nor do more calls than this wait."""

_UNSUMMED: Final = 256
"""So many calls are put off before their figures are added up, so that reading stays quick."""


class Uncounted(Protocol):
    """A call whose tokens nobody has counted yet."""

    @property
    def held_bytes(self) -> int:
        """About how much memory it takes until it's counted."""
        ...

    def events(self) -> Iterable[TokenCountingEvent]:
        """Its events; the tokens are counted on the first call."""
        ...


class _Ready:
    """An event that stands in line behind others that aren't counted."""

    __slots__ = ("_event",)
    held_bytes = 0

    def __init__(self, event: TokenCountingEvent) -> None:
        self._event = event

    def events(self) -> Iterable[TokenCountingEvent]:
        return (self._event,)


class Tracker:
    """Records events and adds them up, from any number of threads at once.

    Args:
        max_events: How many events each list holds at the most; the oldest go first and
            stay in the totals. `None` keeps all until `reset()`.
        include_failed: Whether calls that failed before anything was billed are listed
            among the others too.
    """

    def __init__(self, *, max_events: int | None = None, include_failed: bool = False) -> None:
        if max_events is not None and max_events < 0:
            msg = f"max_events is {max_events}; give a number from 0 on, or None for no limit."
            raise ValueError(msg)
        self.max_events = max_events
        self.include_failed = include_failed
        self._totals = Totals()
        # Appended to without the lock; taken from its front with it.
        self._pending: list[Recipe | Uncounted] = []
        self._summed = 0
        self._unsummed = _UNSUMMED if max_events is None else min(_UNSUMMED, max_events)
        self._sum_up_at = self._unsummed
        self._uncounted = 0
        self._held_bytes = 0
        self._failed: deque[TokenCountingEvent] = deque(maxlen=_FAILED_KEPT)
        self._llm = _Series(self._totals, self.catch_up)
        self._embedding = _Series(self._totals, self.catch_up)

    def record(self, event: TokenCountingEvent) -> None:
        """Take in one call."""
        with LOCK:
            if self._uncounted:
                self._wait(_Ready(event))
            else:
                self._catch_up()
                self._take(event)

    def _take(self, event: TokenCountingEvent) -> None:
        series = self._embedding if event.operation == "embedding" else self._llm
        if event.status == "failed" and not event.total_token_count:
            self._failed.append(event)
            if not self.include_failed:
                self._totals.add(event)
                return
        series.take(event)
        self._trim(series)

    def record_uncounted(self, call: Uncounted) -> None:
        """Take in a call whose tokens are counted when somebody asks for a figure.

        If too much text waits for that, one thread in the background counts it.
        """
        with LOCK:
            self._wait(call)

    def _wait(self, call: Uncounted) -> None:
        self._pending.append(call)
        self._uncounted += 1
        self._held_bytes += call.held_bytes
        if self._held_bytes > MAX_HELD_BYTES or self._uncounted > MAX_WAITING:
            WORKER.ask(self.catch_up)

    def record_later(self, recipe: Recipe) -> None:
        """Take in one call to a language model, whose event can wait until it's asked for.

        Args:
            recipe: What makes the event. It should hold no more memory than the event will.
        """
        pending = self._pending
        # No lock, which would cost as much as all the rest: adding up waits too.
        pending.append(recipe)
        if len(pending) > self._sum_up_at:
            self._make_room()

    def _make_room(self) -> None:
        with LOCK:
            if self.max_events is not None and len(self._pending) > self.max_events:
                if not self._uncounted:
                    self._catch_up()
                elif len(self._pending) > self.max_events + MAX_WAITING:
                    WORKER.ask(self.catch_up)
            self._sum_up()

    def _sum_up(self) -> None:
        """Add up what was put off since the last time; the caller holds the lock."""
        pair = self._llm.pair
        end = len(self._pending)
        for call in self._pending[self._summed : end]:
            if type(call) is tuple:
                pair.prompt += call[0]
                pair.completion += call[1]
        self._summed = end
        self._sum_up_at = end + self._unsummed

    def catch_up(self) -> None:
        """Make the events that were put off, if there are any."""
        if not self._pending:
            return
        if self._uncounted:
            with LOCK:
                waiting = [call for call in self._pending if not isinstance(call, tuple)]
            # Outside the lock, for counting takes time; backwards, to meet the thread that
            # may be counting already half-way.
            for call in reversed(waiting):
                call.events()
        with LOCK:
            self._catch_up()

    def _catch_up(self) -> None:
        while self._pending:
            self._sum_up()
            done = 0
            try:
                for call in self._pending[: self._summed]:
                    done += 1
                    self._take_waiting(call)
            finally:
                # Also when somebody interrupts it half-way.
                del self._pending[:done]
                self._summed -= done
                self._sum_up_at = self._summed + self._unsummed
        self._held_bytes = 0

    def _take_waiting(self, call: Recipe | Uncounted) -> None:
        if isinstance(call, tuple):
            _, _, make, *arguments = call
            self._llm.list_only(make(*arguments))
            self._trim(self._llm)
        else:
            self._uncounted -= 1
            for event in call.events():
                self._take(event)

    def _count_waiting(self) -> None:
        if self._uncounted:
            self.catch_up()

    def _trim(self, series: "_Series") -> None:
        if self.max_events is not None:
            series.events.keep_newest(self.max_events)

    @property
    def llm_events(self) -> "EventList":
        """The calls to language models, oldest first; yours to edit, the totals follow."""
        self.catch_up()
        return self._llm.events

    @llm_events.setter
    def llm_events(self, events: Iterable[TokenCountingEvent]) -> None:
        self._llm.replace(events)

    @property
    def embedding_events(self) -> "EventList":
        """The embedded texts, oldest first; yours to edit, the totals follow."""
        self.catch_up()
        return self._embedding.events

    @embedding_events.setter
    def embedding_events(self, events: Iterable[TokenCountingEvent]) -> None:
        self._embedding.replace(events)

    @property
    def failed_calls(self) -> list[TokenCountingEvent]:
        """The last thousand calls that failed before anything was billed: zero tokens."""
        self._count_waiting()
        with LOCK:
            return list(self._failed)

    @property
    def llm_totals(self) -> Pair:
        """Input and output tokens of all calls to language models."""
        self._count_waiting()
        with LOCK:
            self._sum_up()
            return replace(self._llm.pair)

    @property
    def embedding_totals(self) -> Pair:
        """Input tokens of all embedded texts."""
        self._count_waiting()
        with LOCK:
            return replace(self._embedding.pair)

    def totals(self) -> dict[Kind, Sum]:
        """A copy of the running sums, by operation, provider, model, source and status."""
        self._count_waiting()
        with LOCK:
            self._catch_up()
            return self._totals.copy()

    @property
    def usage(self) -> Usage:
        """All tokens by bucket, embeddings included."""
        usage = Usage()
        for total in self.totals().values():
            usage += total.usage
        return usage

    def reset(self) -> None:
        """Start again from nothing. A call that is under way counts when it ends."""
        self._count_waiting()
        with LOCK:
            self._catch_up()
            self._totals.clear()
            self._failed.clear()
            self._llm.reset()
            self._embedding.reset()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock, as it stands at one moment."""
        self._count_waiting()
        with LOCK:
            self._catch_up()
            return {
                "max_events": self.max_events,
                "include_failed": self.include_failed,
                "totals": self._totals.copy(),
                "failed": list(self._failed),
                "series": [
                    (list(series.events.held()), series.pair.prompt, series.pair.completion)
                    for series in (self._llm, self._embedding)
                ],
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a tracker of its own, that holds what the pickled one held."""
        self.__init__(  # type: ignore[misc]
            max_events=state["max_events"], include_failed=state["include_failed"]
        )
        self._totals.restore(state["totals"])
        self._failed.extend(state["failed"])
        for series, (events, prompt, completion) in zip(
            (self._llm, self._embedding), state["series"], strict=True
        ):
            series.events.fill(events)
            series.pair = Pair(prompt, completion)


class _Series:
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

    def __init__(self, series: _Series) -> None:
        super().__init__()
        self._series: _Series | None = series

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

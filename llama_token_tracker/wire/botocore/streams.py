"""Event streams, read along while the program reads them: never before, never more.

A stream stays the object that the SDK made, of a class derived from its own. It holds what reads
along, not the other way round, so that one nobody holds any more is known to be left.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from typing import Any, Final

from botocore.eventstream import EventStream

from llama_token_tracker._log_once import notice
from llama_token_tracker.wire.answers.classes import derived
from llama_token_tracker.wire.exchange import Exchange

Keep = Callable[[Any], None]
Newest = list[Any]
"""Holds the message that the newest event was made of, if that's known."""

TakeEvent = Callable[[Exchange, Keep, Any, Newest], object]
"""Reads an event, and gives what may say that it was the last; nobody may change that later."""


# Untyped, for nothing else is known of what they hold.
_STREAM: Final[Any] = EventStream
_LISTS: Final[Any] = (list, tuple)


_PACKED: Final = 1_024
"""So many events are packed together."""


def _nothing() -> None:
    """Pack nothing: nothing is kept."""


class _Reading:
    """Reads the events of one answer."""

    def __init__(self, exchange: Exchange, take_event: TakeEvent, newest: Newest) -> None:
        self._exchange = exchange
        self._newest = newest
        self._keep = exchange.pieces.append if exchange.keeps_pieces else exchange.keep
        self._pack = exchange.pieces.pack if exchange.keeps_pieces else _nothing
        self._take_event = take_event
        self._last: object = None

    def along(self, events: Any) -> Iterator[Any]:
        """The events, as they come."""
        exchange, keep, take_event = self._exchange, self._keep, self._take_event
        newest = self._newest
        try:
            for number, event in enumerate(events, 1):
                try:
                    self._last = take_event(exchange, keep, event, newest) or self._last
                    if not number % _PACKED:
                        self._pack()
                except Exception as error:  # noqa: BLE001 - the answer must reach its reader
                    _unread(error)
                yield event
        except BaseException as error:
            exchange.stopped(error)
            raise
        exchange.end((self._last,))

    async def async_along(self, events: Any) -> AsyncIterator[Any]:
        """The same of aiobotocore's."""
        exchange, keep, take_event = self._exchange, self._keep, self._take_event
        number, newest = 0, self._newest
        try:
            async for event in events:
                number += 1
                try:
                    self._last = take_event(exchange, keep, event, newest) or self._last
                    if not number % _PACKED:
                        self._pack()
                except Exception as error:  # noqa: BLE001 - the answer must reach its reader
                    _unread(error)
                yield event
        except BaseException as error:
            exchange.stopped(error)
            raise
        exchange.end((self._last,))

    def leave(self) -> None:
        """Note that nobody will read on."""
        self._exchange.settle("abandoned")


def _unread(error: Exception) -> None:
    notice("an event of Bedrock's could not be read", error, "its figures may be missing")


@cache
def _watched(kind: Any) -> Any:
    """The class that an event stream of this class becomes."""

    def read(self: Any) -> Iterator[Any]:
        events: Iterator[Any] = kind.__iter__(self)
        for reading in self.llama_token_tracker_readings:
            events = reading.along(events)
        return events

    def async_read(self: Any) -> AsyncIterator[Any]:
        events: AsyncIterator[Any] = kind.__aiter__(self)
        for reading in self.llama_token_tracker_readings:
            events = reading.async_along(events)
        return events

    def parse(self: Any, event: Any) -> Any:
        self.llama_token_tracker_newest[:] = (event,)
        return kind._parse_event(self, event)

    def close(self: Any) -> Any:
        for reading in self.llama_token_tracker_readings:
            reading.leave()
        return kind.close(self)

    methods = {"__iter__": read, "__aiter__": async_read, "_parse_event": parse, "close": close}
    return derived(kind, **methods)


def watch_events(events: Any, exchange: Exchange, take_event: TakeEvent) -> None:
    """Read an event stream along, synchronous or not; its answer has begun."""
    exchange.answered()
    newest: Newest = getattr(events, "llama_token_tracker_newest", [])
    reading = _Reading(exchange, take_event, newest)
    readings: list[_Reading] | None = getattr(events, "llama_token_tracker_readings", None)
    if readings is not None:
        readings.append(reading)
    elif isinstance(events, _STREAM):
        events.llama_token_tracker_readings = [reading]
        events.llama_token_tracker_newest = newest
        events.__class__ = _watched(events.__class__)
    elif isinstance(events, _LISTS):
        # Of somebody who stands for AWS, as in tests: all of it is there.
        for _ in reading.along(events):
            pass
    else:
        notice("a stream of Bedrock's is of no known kind", events.__class__, "it isn't read along")
        exchange.settle("complete")

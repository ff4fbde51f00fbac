"""Event streams, read along while the program reads them: never before, never more.

A stream stays the object that the SDK made, of a class derived from its own. It holds what reads
along, not the other way round, so that one nobody holds any more is known to be left.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache, partial
from itertools import chain, islice
from typing import Any, Final

from botocore.eventstream import EventStream

from llama_token_tracker._log_once import notice
from llama_token_tracker.wire.answers.classes import derived
from llama_token_tracker.wire.exchange import Exchange

Keep = Callable[[Any], None]

TakeEvent = Callable[[Exchange, Keep, Any, Any], object]
"""Reads an event of a stream, and gives what may say that it was the last, unless it's kept; nobody
may change that later."""


# Untyped, for nothing else is known of what they hold.
_STREAM: Final[Any] = EventStream
_LISTS: Final[Any] = (list, tuple)


_BLOCK: Final = 1_024
"""After so many events those that are kept are packed together."""


def _nothing() -> None:
    """Pack nothing: nothing is kept."""


class _Reading:
    """Reads the events of one answer."""

    def __init__(self, exchange: Exchange, take_event: TakeEvent) -> None:
        pieces = exchange.pieces
        self._exchange = exchange
        self._keep = pieces.append if exchange.keeps_pieces else exchange.keep
        self._pack = partial(pieces.pack, _BLOCK // 2) if exchange.keeps_pieces else _nothing
        self._take_event = take_event
        self._last: object = None

    def along(self, events: Any, stream: Any) -> Iterator[Any]:
        """The events of a stream, as they come."""
        exchange, keep, take_event = self._exchange, self._keep, self._take_event
        events = iter(events)
        try:
            for first in events:
                # In blocks, so that nothing is counted for each event.
                for event in chain((first,), islice(events, _BLOCK - 1)):
                    try:
                        told = take_event(exchange, keep, event, stream)
                        if told is not None:
                            self._last = told
                    except Exception as error:  # noqa: BLE001 - the answer must reach its reader
                        _unread(error)
                    yield event
                self._pack()
        except BaseException as error:
            exchange.stopped(error)
            raise
        self._end()

    async def async_along(self, events: Any, stream: Any) -> AsyncIterator[Any]:
        """The same of aiobotocore's."""
        exchange, keep, take_event = self._exchange, self._keep, self._take_event
        number = 0
        try:
            async for event in events:
                number += 1
                try:
                    told = take_event(exchange, keep, event, stream)
                    if told is not None:
                        self._last = told
                    if not number % _BLOCK:
                        self._pack()
                except Exception as error:  # noqa: BLE001 - the answer must reach its reader
                    _unread(error)
                yield event
        except BaseException as error:
            exchange.stopped(error)
            raise
        self._end()

    def _end(self) -> None:
        last = self._exchange.pieces[-1:] if self._last is None else (self._last,)
        self._exchange.end(last)

    def leave(self) -> None:
        """Note that nobody will read on."""
        self._exchange.settle("abandoned")


def _unread(error: Exception) -> None:
    notice("an event of Bedrock's could not be read", error, "its figures may be missing")


@cache
def _watched(kind: Any, *, keeps_message: bool) -> Any:
    """The class that an event stream of this class becomes."""

    def read(self: Any) -> Iterator[Any]:
        events: Iterator[Any] = kind.__iter__(self)
        for reading in self.llama_token_tracker_readings:
            events = reading.along(events, self)
        return events

    def async_read(self: Any) -> AsyncIterator[Any]:
        events: AsyncIterator[Any] = kind.__aiter__(self)
        for reading in self.llama_token_tracker_readings:
            events = reading.async_along(events, self)
        return events

    def parse(self: Any, message: Any) -> Any:
        self.llama_token_tracker_message = message
        return kind._parse_event(self, message)

    def close(self: Any) -> Any:
        for reading in self.llama_token_tracker_readings:
            reading.leave()
        return kind.close(self)

    methods: dict[str, Any] = {"__iter__": read, "__aiter__": async_read, "close": close}
    if keeps_message:
        methods["_parse_event"] = parse
    return derived(kind, **methods)


def message_of(stream: Any) -> bytes:
    """What the newest event of a stream was made of; empty if that isn't known."""
    payload: bytes = getattr(getattr(stream, "llama_token_tracker_message", None), "payload", b"")
    return payload


def watch_events(
    events: Any, exchange: Exchange, take_event: TakeEvent, *, keeps_message: bool = False
) -> None:
    """Read an event stream along, synchronous or not; its answer has begun.

    Args:
        events: The stream.
        exchange: Whose answer it is.
        take_event: Reads each event.
        keeps_message: Whether it may ask what an event was made of.
    """
    exchange.answered()
    reading = _Reading(exchange, take_event)
    readings: list[_Reading] | None = getattr(events, "llama_token_tracker_readings", None)
    if readings is not None:
        readings.append(reading)
    elif isinstance(events, _STREAM):
        events.llama_token_tracker_readings = [reading]
        events.__class__ = _watched(events.__class__, keeps_message=keeps_message)
    elif isinstance(events, _LISTS):
        # Of somebody who stands for AWS, as in tests: all of it is there.
        for _ in reading.along(events, events):
            pass
    else:
        notice("a stream of Bedrock's is of no known kind", events.__class__, "it isn't read along")
        exchange.settle("complete")

"""Event streams, read along while the program reads them: never before, never more.

A stream stays the object that the SDK made, of a class derived from its own. It holds what reads
along, not the other way round, so that one nobody holds any more is known to be left.
"""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from functools import cache, partial
from itertools import filterfalse, islice
from typing import Any, Final, NamedTuple, TypeAlias

from botocore.eventstream import EventStream

from llama_token_tracker._log_once import notice
from llama_token_tracker.wire.answers.classes import derived
from llama_token_tracker.wire.bodies import Pieces
from llama_token_tracker.wire.exchange import Exchange, Read
from llama_token_tracker.wire.plain import PlainRequest

Keep: TypeAlias = Callable[[Any], None]

TakeEvent: TypeAlias = Callable[[Exchange, Keep, Any, bytes], object]
"""Reads an event of a stream, of this payload if that's known, and gives what may say that it was
the last, unless it's kept; nobody may change that later."""


class EventFormat(NamedTuple):
    """How the events of an operation are read.

    Attributes:
        mark: What the payload of a message holds that is a part of what the model said.
        document_of: Gives the JSON document that the payload of a message holds.
        fields_of: Gives what a document tells of tokens, or `None`.
        take_event: Reads what botocore has made of a message, where the figures are wanted at once.
    """

    mark: bytes
    document_of: Callable[[bytes], bytes]
    fields_of: Read
    take_event: TakeEvent


# Untyped, for nothing else is known of what they hold.
_STREAM: Final[Any] = EventStream
_LISTS: Final[Any] = (list, tuple)


_MESSAGES: Final = "_event_generator"
"""Where botocore's streams have the messages that they make their events of."""

_BLOCK: Final = 256
"""After so many events those that are kept are packed together."""


class _Payloads(Pieces):
    """The payloads of a stream as they came, which the program can't change; read as documents."""

    event_format: EventFormat

    def hold_answer(self) -> bool:
        """Whether any of them is a part of what the model said: errors aren't, among others."""
        mark = self.event_format.mark
        return self.packed_number > 0 or any(mark in payload for payload in self[:])

    def read(self, piece: bytes) -> bytes:
        """The document that a payload holds; empty if it can't be read."""
        try:
            return self.event_format.document_of(piece)
        except Exception as error:  # noqa: BLE001 - what others let pass for AWS's may be anything
            _unread(error)
            return b""


class _Reading:
    """Reads the events of one answer along.

    Args:
        exchange: Whose answer it is.
    """

    _last: tuple[object, ...] = ()

    def __init__(self, exchange: Exchange | PlainRequest) -> None:
        self._exchange = exchange

    def hear(self, message: Any) -> None:
        """Take in a message, before it's made into an event."""
        raise NotImplementedError

    def along(self, events: Iterable[Any]) -> Iterator[Any]:
        """The events of a stream, as they come."""
        events = iter(events)
        try:
            # In blocks, so that nothing is done for each event.
            yield from islice(events, _BLOCK)
            for next_one in events:
                self._pack()
                yield next_one
                yield from islice(events, _BLOCK - 1)
        except BaseException as error:
            self._exchange.stopped(error)
            raise
        self._exchange.end(self._last)

    async def async_along(self, events: AsyncIterable[Any]) -> AsyncIterator[Any]:
        """The same of aiobotocore's."""
        number = 0
        try:
            async for event in events:
                yield self._taken(event)
                number += 1
                if not number % _BLOCK:
                    self._pack()
        except BaseException as error:
            self._exchange.stopped(error)
            raise
        self._exchange.end(self._last)

    def _taken(self, event: Any) -> Any:
        return event

    def _pack(self) -> None:
        self._exchange.pieces.pack(_BLOCK)

    def leave(self) -> None:
        """Note that nobody will read on."""
        self._exchange.settle("abandoned")


class _KeptPayloads(_Reading):
    """Keeps what an answer is made of, which is read when somebody asks.

    As bytes alone: whatever else were kept of each message, the collector would have to look at.
    """

    def __init__(self, exchange: Exchange | PlainRequest, event_format: EventFormat) -> None:
        super().__init__(exchange)
        pieces = exchange.pieces = _Payloads()
        pieces.event_format, exchange.read_piece = event_format, event_format.fields_of
        self._keep = pieces.append

    def hear(self, message: Any) -> None:
        """Keep what a message holds."""
        self._keep(message.payload)


class _TakenEvents(_Reading):
    """Reads the events of an answer as they come, for whoever wants their figures at once."""

    def __init__(self, exchange: Exchange, take_event: TakeEvent) -> None:
        super().__init__(exchange)
        keep = exchange.pieces.append if exchange.keeps_pieces else exchange.keep
        self._take_event = partial(take_event, exchange, keep)
        self._payload = b""

    def hear(self, message: Any) -> None:
        """Keep what the newest message holds."""
        self._payload = message.payload

    def along(self, events: Iterable[Any]) -> Iterator[Any]:
        """The events of a stream, as they come."""
        return super().along(map(self._taken, events))

    def _taken(self, event: Any) -> Any:
        try:
            told = self._take_event(event, self._payload)
            if told is not None:
                self._last = (told,)
        except Exception as error:  # noqa: BLE001 - the answer must reach its reader
            _unread(error)
        return event


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

    def close(self: Any) -> Any:
        for reading in self.llama_token_tracker_readings:
            reading.leave()
        return kind.close(self)

    return derived(kind, __iter__=read, __aiter__=async_read, close=close)


def _tell(stream: Any, hear: Callable[[Any], None]) -> None:
    """Tell of each message that a stream is made of."""
    messages: Any = getattr(stream, _MESSAGES)
    # As `hear` gives nothing back, all of them pass.
    told = _async_told if hasattr(messages, "__anext__") else filterfalse
    setattr(stream, _MESSAGES, told(hear, messages))


async def _async_told(hear: Callable[[Any], None], messages: Any) -> AsyncIterator[Any]:
    async for message in messages:
        hear(message)
        yield message


def watch_events(events: Any, exchange: Exchange, event_format: EventFormat) -> None:
    """Read an event stream along, synchronous or not; its answer has begun.

    Args:
        events: The stream.
        exchange: Whose answer it is.
        event_format: How its events are read.
    """
    exchange.answered()
    if isinstance(events, _STREAM):
        _read_along(events, exchange, event_format)
    elif isinstance(events, _LISTS):
        # Of somebody who stands for AWS, as in tests: all of it is there.
        for _ in _TakenEvents(exchange, event_format.take_event).along(events):
            pass
    else:
        notice("a stream of Bedrock's is of no known kind", events.__class__, "it isn't read along")
        exchange.settle("complete")


def _read_along(stream: Any, exchange: Exchange, event_format: EventFormat) -> None:
    is_known = hasattr(stream, _MESSAGES)
    if is_known and exchange.keeps_pieces:
        reading: _Reading = _KeptPayloads(exchange, event_format)
    else:
        reading = _TakenEvents(exchange, event_format.take_event)
    _have_read(stream, reading, is_known)


def keep_events(events: Any, request: PlainRequest, event_format: EventFormat) -> bool:
    """Keep what the answer to a plain request is made of, as the program reads it.

    Returns:
        `False` if its messages can't be heard.
    """
    if not (isinstance(events, _STREAM) and hasattr(events, _MESSAGES)):
        return False
    _have_read(events, _KeptPayloads(request, event_format), True)
    return True


def _have_read(stream: Any, reading: _Reading, is_told: bool) -> None:
    if is_told:
        _tell(stream, reading.hear)
    readings: list[_Reading] | None = getattr(stream, "llama_token_tracker_readings", None)
    if readings is None:
        stream.llama_token_tracker_readings = [reading]
        stream.__class__ = _watched(stream.__class__)
    else:
        readings.append(reading)

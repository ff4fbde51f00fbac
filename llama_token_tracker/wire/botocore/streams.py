"""Answers that come in parts, read along while the program reads them: never before, never more.

Each wrapper stands where botocore's own object stood and hands everything on. It holds that, not
the other way round, so that an answer nobody holds any more is known to be left.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final, Protocol, cast

from botocore.response import StreamingBody

from llama_token_tracker._log_once import notice
from llama_token_tracker.events.call import status_after
from llama_token_tracker.wire.bodies import decoded
from llama_token_tracker.wire.exchange import Exchange

Keep = Callable[[Any], None]
TakeEvent = Callable[[Exchange, Keep, Any], None]


class WatchedEvents:
    """An `EventStream` of botocore's, each of whose events is read on its way."""

    def __init__(self, events: Any, exchange: Exchange, take_event: TakeEvent) -> None:
        self._events = events
        self._exchange = exchange
        self._keep = exchange.pieces.append if exchange.keeps_pieces else exchange.keep
        self._take_event = take_event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)

    def __iter__(self) -> Iterator[Any]:
        """The events, as they come."""
        exchange, keep, take_event = self._exchange, self._keep, self._take_event
        try:
            for event in self._events:
                try:
                    take_event(exchange, keep, event)
                except Exception as error:  # noqa: BLE001 - the answer must reach its reader
                    _unread(error)
                yield event
        except BaseException as error:
            _settle_by(exchange, error)
            raise
        exchange.settle("complete")

    def close(self) -> Any:
        """Close the stream: what hasn't come will not come."""
        self._exchange.settle("abandoned")
        return self._events.close()


class AsyncWatchedEvents(WatchedEvents):
    """The same of aiobotocore's."""

    def __iter__(self) -> Iterator[Any]:
        """Refuse, as aiobotocore's stream does."""
        return iter(self._events)

    def __aiter__(self) -> AsyncIterator[Any]:
        """The events, as they come."""
        return self._watched()

    async def _watched(self) -> AsyncIterator[Any]:
        exchange, keep, take_event = self._exchange, self._keep, self._take_event
        try:
            async for event in self._events:
                try:
                    take_event(exchange, keep, event)
                except Exception as error:  # noqa: BLE001 - the answer must reach its reader
                    _unread(error)
                yield event
        except BaseException as error:
            _settle_by(exchange, error)
            raise
        exchange.settle("complete")


def _unread(error: Exception) -> None:
    notice("an event of Bedrock's could not be read", error, "its figures may be missing")


def _settle_by(exchange: Exchange, error: BaseException) -> None:
    """Settle an exchange by what has ended its reading."""
    # Whoever leaves this iteration may go on with another.
    if not isinstance(error, GeneratorExit):
        exchange.settle(status_after(error))


def watched_events(events: Any, exchange: Exchange, take_event: TakeEvent) -> Any:
    """Wrap an event stream, synchronous or not; its answer has begun."""
    exchange.answered()
    kind = AsyncWatchedEvents if hasattr(events, "__aiter__") else WatchedEvents
    return kind(events, exchange, take_event)


class Reader(Protocol):
    """What takes in the bytes of a body, as they are read."""

    def take_in(self, piece: bytes, amount: int | None, /) -> None:
        """Note that these bytes were read, when so many were asked for."""
        ...


class Whole:
    """Reads a body once all of it has come: until then its figures aren't known.

    Args:
        exchange: Whose answer it is.
        length: How long it is, if a header says so.
    """

    def __init__(self, exchange: Exchange, length: str | None) -> None:
        self._exchange = exchange
        self._missing = int(length) if length is not None and length.isdecimal() else None
        self._read: list[bytes] = []

    def take_in(self, piece: bytes, amount: int | None) -> None:
        """Note that these bytes were read, when so many were asked for."""
        exchange = self._exchange
        if exchange.is_settled:
            return
        exchange.keep(piece)
        self._read.append(piece)
        if self._missing is not None:
            self._missing -= len(piece)
        if amount is None or amount < 0 or not piece or self._missing == 0:
            read, self._read = self._read, []
            if (fields := decoded(b"".join(read))) is not None:
                exchange.add(fields)
            exchange.settle("complete")


class WatchedBody(StreamingBody):
    """A `StreamingBody` of botocore's, read along."""

    reader: Reader

    def read(self, amt: int | None = None) -> bytes:
        """Read at most so many bytes, or all."""
        # Quicker than `super()`.
        piece = StreamingBody.read(self, amt)
        try:
            self.reader.take_in(piece, amt)
        except Exception as error:  # noqa: BLE001 - the answer must reach its reader
            _unread_body(error)
        return piece


def _unread_body(error: Exception) -> None:
    notice("an answer of Bedrock's could not be read", error, "its figures may be missing")


def watched_body(body: Any, response: Any, reader: Reader) -> tuple[Any, bool]:
    """Have a body read along.

    Returns:
        It, or what stands for it now; and whether it's read along, which one of another kind isn't.
    """
    if body.__class__ is StreamingBody:
        # The very body that botocore made, whoever else holds it; and quicker than another.
        body.__class__ = WatchedBody
        body.reader = reader  # type: ignore[attr-defined]  # it is one now
        return body, True
    kind = cast("Any", type(body))
    if (kind.__module__, kind.__qualname__) != _ASYNC_BODY:
        return body, False
    length = response.headers.get("content-length")
    return _async_watched_body(kind)(response.raw, length, reader), True


_ASYNC_BODY: Final = ("aiobotocore.response", "StreamingBody")

_async_bodies: Final[dict[Any, Any]] = {}


def _async_watched_body(base: Any) -> Any:
    """The same of aiobotocore's; made when it's first needed, for few have it."""
    if base not in _async_bodies:

        async def read(self: Any, amt: int | None = None) -> bytes:
            piece: bytes = await base.read(self, amt)
            try:
                self._self_reader.take_in(piece, amt)
            except Exception as error:  # noqa: BLE001 - the answer must reach its reader
                _unread_body(error)
            return piece

        def make(self: Any, raw: Any, length: str | None, reader: Reader) -> None:
            base.__init__(self, raw, length)
            # A proxy keeps what begins like this for itself.
            self._self_reader = reader

        _async_bodies[base] = type("AsyncWatchedBody", (base,), {"__init__": make, "read": read})
    return _async_bodies[base]

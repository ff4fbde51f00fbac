"""The answers that come in parts, heard while the program reads them: never before, never more.

Each wrapper stands where botocore's own object stood and hands everything on. It holds that, not
the other way round, so that an answer nobody holds any more is known to be left.
"""

import weakref
from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, cast

from botocore.response import StreamingBody

from llama_token_tracker.bodies import decoded
from llama_token_tracker.exchange import Exchange
from llama_token_tracker.notices import notice

Hear = Callable[[Exchange, Any], None]

_LEFT: Final = (CancelledError, KeyboardInterrupt)


def hear_converse(exchange: Exchange, event: Any) -> None:
    """Take in one event of ConverseStream."""
    if "contentBlockDelta" in event:
        exchange.keep(event)
    elif "metadata" in event:
        exchange.hear(event["metadata"])


def hear_chunk(exchange: Exchange, event: Any) -> None:
    """Take in one chunk of InvokeModelWithResponseStream."""
    chunk = event.get("chunk", {}).get("bytes", b"")
    exchange.keep(chunk)
    # Every vendor's word for it holds this; most chunks say nothing of it, and are quick.
    if b"oken" in chunk and (fields := decoded(chunk)) is not None:
        exchange.hear(fields)


class HeardEvents:
    """An `EventStream` of botocore's, each of whose events is heard on its way."""

    def __init__(self, events: Any, exchange: Exchange, hear: Hear) -> None:
        self._events = events
        self._exchange = exchange
        self._hear = hear
        # At exit nobody counts any more.
        weakref.finalize(self, exchange.lost).atexit = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._events, name)

    def __iter__(self) -> Iterator[Any]:
        """The events, as they come."""
        with self._settled():
            for event in self._events:
                self._take_in(event)
                yield event

    @contextmanager
    def _settled(self) -> Iterator[None]:
        """Settle the exchange by how reading ends."""
        exchange = self._exchange
        try:
            yield
        except GeneratorExit:
            # Whoever leaves this iteration may go on with another.
            raise
        except _LEFT:
            exchange.settle("abandoned")
            raise
        except BaseException:
            exchange.settle("failed")
            raise
        exchange.settle("complete")

    def _take_in(self, event: Any) -> None:
        try:
            self._hear(self._exchange, event)
        except Exception as error:  # noqa: BLE001 - the answer must reach its reader
            notice("an event of Bedrock's could not be read", error, "its figures may be missing")

    def close(self) -> Any:
        """Close the stream: what hasn't come will not come."""
        self._exchange.settle("abandoned")
        return self._events.close()


class HeardAsyncEvents(HeardEvents):
    """The same of aiobotocore's."""

    def __iter__(self) -> Iterator[Any]:
        """Refuse, as aiobotocore's stream does."""
        return iter(self._events)

    def __aiter__(self) -> AsyncIterator[Any]:
        """The events, as they come."""
        return self._heard()

    async def _heard(self) -> AsyncIterator[Any]:
        with self._settled():
            async for event in self._events:
                self._take_in(event)
                yield event


def heard_events(events: Any, exchange: Exchange, hear: Hear) -> Any:
    """Wrap an event stream, synchronous or not."""
    kind = HeardAsyncEvents if hasattr(events, "__aiter__") else HeardEvents
    return kind(events, exchange, hear)


class _Pieces:
    """The bytes of a body as they are read, until all have come."""

    def __init__(self, exchange: Exchange, length: str | None) -> None:
        self._exchange = exchange
        self._missing = int(length) if length is not None and length.isdecimal() else None
        self._read: list[bytes] = []

    def take_in(self, piece: bytes, amount: int | None) -> None:
        """Note that these bytes were read, when so many were asked for."""
        try:
            self._exchange.keep(piece)
            if not self._exchange.is_settled:
                self._read.append(piece)
            if self._missing is not None:
                self._missing -= len(piece)
            if amount is None or amount < 0 or not piece or self._missing == 0:
                self._finish()
        except Exception as error:  # noqa: BLE001 - the answer must reach its reader
            notice("an answer of Bedrock's could not be read", error, "its figures may be missing")

    def _finish(self) -> None:
        read, self._read = self._read, []
        # If it's settled, the headers have said it all.
        if read and (fields := decoded(b"".join(read))) is not None:
            self._exchange.hear(fields)
        self._exchange.settle("complete")
        self._exchange.is_whole()


class HeardBody(StreamingBody):
    """A `StreamingBody` of botocore's, heard on its way."""

    def __init__(self, raw: Any, length: str | None, exchange: Exchange) -> None:
        # As botocore makes it, of the header; its stubs know only of numbers.
        super().__init__(raw, cast("int", length))
        self._pieces = _Pieces(exchange, length)
        weakref.finalize(self, exchange.lost).atexit = False

    def read(self, amt: int | None = None) -> bytes:
        """Read at most so many bytes, or all."""
        piece = super().read(amt)
        self._pieces.take_in(piece, amt)
        return piece


def heard_body(body: Any, response: Any, length: str | None, exchange: Exchange) -> Any:
    """Put a body that is heard in the place of one that isn't; of another kind, that itself."""
    if type(body) is StreamingBody:
        return HeardBody(response.raw, length, exchange)
    kind = cast("Any", type(body))
    if (kind.__module__, kind.__qualname__) != _ASYNC_BODY:
        return body
    return _heard_async_body(kind)(response.raw, length, exchange)


_ASYNC_BODY: Final = ("aiobotocore.response", "StreamingBody")

_async_bodies: Final[dict[Any, Any]] = {}


def _heard_async_body(base: Any) -> Any:
    """The same of aiobotocore's; made when it's first needed, for few have it."""
    if base not in _async_bodies:

        async def read(self: Any, amt: int | None = None) -> bytes:
            piece: bytes = await base.read(self, amt)
            self._self_pieces.take_in(piece, amt)
            return piece

        def make(self: Any, raw: Any, length: str | None, exchange: Exchange) -> None:
            base.__init__(self, raw, length)
            # A proxy keeps what begins like this for itself.
            self._self_pieces = _Pieces(exchange, length)
            weakref.finalize(self, exchange.lost).atexit = False

        _async_bodies[base] = type("HeardAsyncBody", (base,), {"__init__": make, "read": read})
    return _async_bodies[base]

"""Answers, read along while the program reads them: never before, and never held back.

Each wrapper stands where the transport's own stream stood and hands everything on. It holds that,
not the other way round, so that an answer nobody holds any more is known to be left.
"""

import sys
import weakref
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

from llama_token_tracker._log_once import notice
from llama_token_tracker.extraction.shapes.bedrock import HEADERS
from llama_token_tracker.wire.bodies import decoded, documents_in
from llama_token_tracker.wire.dialects import Dialect
from llama_token_tracker.wire.exchange import Exchange
from llama_token_tracker.wire.httpx.content_encoding import ContentDecoder, UndecodableError
from llama_token_tracker.wire.httpx.documents import Sniffed

_MOST_KEPT: Final = 8 * 1024 * 1024
"""So much of a stream is kept for its event's text, and to count what a provider leaves out."""

_OVERHEAD: Final = 64
"""About so many bytes more each document takes."""

_LAST: Final = 8
"""One of so many documents at the end of a stream says that it's over; figures may follow it."""

_DONE: Final = b"[DONE]"
_COUNTS: Final = tuple(HEADERS.adds)
"""The headers in which Bedrock reports what its models' own words may leave out."""


class Answer:
    """What an answer says, as far as its bytes have passed.

    Args:
        exchange: The request that it answers.
        dialect: How it's worded.
        response: httpx's, or httpx2's.
        headers: Its headers, by their names in lower case.
    """

    def __init__(
        self, exchange: Exchange, dialect: Dialect, response: Any, headers: Mapping[bytes, bytes]
    ) -> None:
        self._exchange = exchange
        self._dialect = dialect
        encoding = headers.get(b"content-encoding", b"identity").decode("latin-1")
        self._decoder = None if encoding == "identity" else ContentDecoder(encoding)
        self._documents = Sniffed(
            headers.get(b"content-type", b""),
            dialect.usage,
            is_read=exchange.operation != "embedding",
        )
        self._hints = [
            dialect.hint,
            *(f'"{value}"'.encode() for _, value in dialect.ends if isinstance(value, str)),
            *(b"true" for _, value in dialect.ends if value is True),
        ]
        self._counts = {
            name: headers[name.encode()].decode("latin-1")
            for name in _COUNTS
            if name.encode() in headers
        }
        self._kept = 0
        self._last: deque[bytes] = deque(maxlen=_LAST)
        self._is_full = self._is_unreadable = False
        self._rest = b""

    def take_in(self, piece: bytes) -> None:
        """Note that these bytes, as they came, go on to the program."""
        if self._is_unreadable:
            return
        try:
            for plain in (piece,) if self._decoder is None else self._decoder.decode(piece):
                for document in self._documents.feed(plain):
                    self._take(document)
        except UndecodableError:
            self._is_unreadable = True  # which was said
        except Exception as error:  # noqa: BLE001 - the answer must reach its reader
            self._is_unreadable = True
            notice("an answer could not be read", error, "its figures may be missing")

    def take_in_all(self, content: bytes) -> None:
        """Note that the whole body is there already, and decoded."""
        self._decoder = None
        self.take_in(content)
        self.end()

    @contextmanager
    def reading(self) -> Generator[None]:
        """Settle the exchange by how reading ends."""
        with self._exchange.reading():
            yield
        self.end()

    def end(self) -> None:
        """Note that all of it has come."""
        exchange = self._exchange
        if exchange.is_settled:
            return
        is_read = self._read_rest()
        if self._is_unreadable:
            exchange.settle("complete")
        elif self._documents.is_stream:
            exchange.end(reversed(self._last))
        else:
            if self._rest and not is_read:
                notice("an answer is no JSON", self._rest, "its tokens are estimated")
            exchange.settle("complete")

    def leave(self) -> None:
        """Note that nobody will read on."""
        if self._exchange.is_settled:
            return
        # Who has read a whole document needn't look for the end behind it.
        if not self._documents.is_stream and self._read_rest():
            self._exchange.settle("complete")
        self._exchange.settle("abandoned")

    def _read_rest(self) -> bool:
        """Take in what no end of a line came after; say whether it was a document."""
        try:
            document = self._rest = b"" if self._is_unreadable else self._documents.rest()
            if not document:
                return False
            if self._documents.is_stream:
                self._take(document)
                return True
            return self._read_whole(document)
        except Exception as error:  # noqa: BLE001 - the answer must reach its reader
            notice("the end of an answer could not be read", error, "its figures may be missing")
            return False

    def _read_whole(self, document: bytes) -> bool:
        fields = decoded(document)
        if fields is None:
            return self._read_several(document)
        self._exchange.keep(document)
        self._exchange.add_all(fields)
        if self._counts and self._exchange.reported().usage is None:
            self._exchange.add_all(self._counts)
        if "error" in self._exchange.reported().not_understood:
            self._exchange.settle("failed")
        return True

    def _read_several(self, content: bytes) -> bool:
        """Read what is no document, but may be a list of them, or one a line."""
        documents = documents_in(content)
        for document in documents or (content,):
            self._take(document)
        return bool(documents)

    def _take(self, document: bytes) -> None:
        exchange = self._exchange
        if document == _DONE:
            exchange.settle("complete")
            return
        self._last.append(document)
        self._kept += len(document) + _OVERHEAD
        if self._kept <= _MOST_KEPT:
            exchange.keep(document)
        elif self._is_full:
            exchange.pass_by()
        else:
            # It can't be read, which stands for all that isn't kept.
            self._is_full = True
            exchange.keep(b"")
        for hint in self._hints:
            # Most documents say nothing of tokens, nor that they are the last, and are quick.
            if hint in document:
                self._read(document)
                break

    def _read(self, document: bytes) -> None:
        fields = decoded(document)
        if fields is None:
            return
        self._exchange.add(fields)
        status = self._dialect.ended(fields)
        if status is not None:
            self._exchange.settle(status)


class _Watched:
    """A response's stream, each of whose pieces is read on its way."""

    def __init__(self, stream: Any, answer: Answer) -> None:
        self._stream = stream
        self._answer = answer
        # At exit nobody counts any more.
        weakref.finalize(self, answer.leave).atexit = False

    def __getattr__(self, name: str) -> Any:
        # Not of a copy that has nothing yet.
        if name == "_stream" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._stream, name)


class _WatchedSync(_Watched):
    """A `SyncByteStream`."""

    def __iter__(self) -> Iterator[bytes]:
        """The bytes, as they come."""
        with self._answer.reading():
            for piece in self._stream:
                self._answer.take_in(piece)
                yield piece

    def close(self) -> None:
        """Close the stream: what hasn't come will not come."""
        self._answer.leave()
        self._stream.close()


class _WatchedAsync(_Watched):
    """An `AsyncByteStream`."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes, as they come."""
        with self._answer.reading():
            async for piece in self._stream:
                self._answer.take_in(piece)
                yield piece

    async def aclose(self) -> None:
        """Close the stream: what hasn't come will not come."""
        self._answer.leave()
        await self._stream.aclose()


def watch_answer(
    exchange: Exchange,
    dialect: Dialect,
    response: Any,
    headers: Mapping[bytes, bytes],
    *,
    is_async: bool,
) -> None:
    """Put a stream that is read along in the place of a response's own.

    Args:
        exchange: The request that is answered.
        dialect: How the answer is worded.
        response: What the transport gave.
        headers: Its headers, by their names in lower case.
        is_async: Which kind of transport it was.
    """
    answer = Answer(exchange, dialect, response, headers)
    if response.is_stream_consumed:
        # A transport that asks nobody may give answers that are whole already.
        answer.take_in_all(response.content)
    else:
        kind = _kind(_library(response), is_async)
        response.stream = kind(response.stream, answer)


@cache
def _kind(library: Any, is_async: bool) -> type[Any]:
    """A stream that is read along, and that httpx, or httpx2, knows for its own kind."""
    watched: type[_Watched]
    if is_async:
        watched, own = _WatchedAsync, library.AsyncByteStream
    else:
        watched, own = _WatchedSync, library.SyncByteStream
    return type(watched.__name__.lstrip("_"), (watched, own), {})


def _library(response: Any) -> Any:
    """The library whose response this is: httpx, or httpx2, which has classes of its own."""
    # A transport may give a subclass, of the same name even.
    *_, own = [kind for kind in type(response).__mro__ if kind.__name__ == "Response"]
    return sys.modules[own.__module__]

"""Answers, read along while the program reads them: never before, and never held back.

Each wrapper stands where the transport's own stream stood and hands everything on. It holds that,
not the other way round, so that an answer nobody holds any more is known to be left.
"""

import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any

from llama_token_tracker._lock import pass_on
from llama_token_tracker.wire.answers.answer import Answer
from llama_token_tracker.wire.answers.stream_usage import Passage


class _Around:
    """What stands around a response's stream."""

    _stream: Any

    def __getattr__(self, name: str) -> Any:
        # Not of a copy that has nothing yet.
        if name == "_stream" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._stream, name)


class _Watched(_Around):
    """A response's stream, each of whose pieces is read on its way."""

    def __init__(self, stream: Any, answer: Answer) -> None:
        self._stream = stream
        self._answer = answer
        # At exit nobody counts any more.
        weakref.finalize(self, answer.leave).atexit = False


class _WatchedSync(_Watched):
    """A `SyncByteStream`."""

    def __iter__(self) -> Iterator[bytes]:
        """The bytes, as they come."""
        answer = self._answer
        try:
            for piece in self._stream:
                answer.take_in(piece)
                yield piece
        except BaseException as error:
            answer.stopped(error)
            raise
        answer.end()

    def close(self) -> None:
        """Close the stream: what hasn't come will not come."""
        self._answer.leave()
        self._stream.close()


class _WatchedAsync(_Watched):
    """An `AsyncByteStream`."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes, as they come."""
        answer = self._answer
        try:
            async for piece in self._stream:
                answer.take_in(piece)
                yield piece
        except BaseException as error:
            answer.stopped(error)
            raise
        answer.end()

    async def aclose(self) -> None:
        """Close the stream: what hasn't come will not come."""
        self._answer.leave()
        await self._stream.aclose()


class _Changed(_Around):
    """A response's stream, whose pieces pass something on their way.

    Attributes:
        undecodable: httpx's error, or httpx2's, for what isn't what its header says.
    """

    undecodable: Any

    def __init__(self, stream: Any, passage: Passage) -> None:
        self._stream = stream
        self._passage = passage

    def _feed(self, piece: bytes) -> bytes:
        try:
            return self._passage.feed(piece)
        except Exception as error:
            pass_on(error)
            raise self.undecodable(str(error)) from error


class _ChangedSync(_Changed):
    """A `SyncByteStream`."""

    def __iter__(self) -> Iterator[bytes]:
        """The bytes, as they come."""
        for piece in self._stream:
            if passed := self._feed(piece):
                yield passed
        if rest := self._passage.rest():
            yield rest

    def close(self) -> None:
        """Close the stream."""
        self._stream.close()


class _ChangedAsync(_Changed):
    """An `AsyncByteStream`."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The bytes, as they come."""
        async for piece in self._stream:
            if passed := self._feed(piece):
                yield passed
        if rest := self._passage.rest():
            yield rest

    async def aclose(self) -> None:
        """Close the stream."""
        await self._stream.aclose()


def change_answer(passage: Passage, response: Any, *, is_async: bool) -> None:
    """Have the bytes of a response that isn't read yet pass something on their way."""
    if not response.is_stream_consumed:
        kind = _kind(library_of(response, "Response"), _ChangedAsync if is_async else _ChangedSync)
        response.stream = kind(response.stream, passage)


def watch_answer(answer: Answer, response: Any, *, is_async: bool) -> None:
    """Put a stream that is read along in the place of a response's own.

    Args:
        answer: What takes in its bytes.
        response: What the transport, or the client, gave.
        is_async: Of which kind that was.
    """
    kind = _kind(library_of(response, "Response"), _WatchedAsync if is_async else _WatchedSync)
    response.stream = kind(response.stream, answer)


@cache
def _kind(name: str, around: type[_Around]) -> type[Any]:
    """A stream of ours that httpx, or httpx2, knows for its own kind."""
    library: Any = sys.modules[name]
    own = library.AsyncByteStream if hasattr(around, "aclose") else library.SyncByteStream
    names = {"undecodable": library.DecodingError}
    return type(around.__name__.lstrip("_"), (around, own), names)


def library_of(thing: Any, name: str) -> str:
    """The name of the library whose class this is: httpx, or httpx2.

    Args:
        thing: An object of a class of theirs, or of one that is derived from it.
        name: What the class is called there.
    """
    # A derived one may have the same name.
    *_, own = [kind for kind in type(thing).__mro__ if kind.__name__ == name]
    return own.__module__.partition(".")[0]

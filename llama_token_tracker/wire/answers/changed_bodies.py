"""What programs read bodies from, with bytes that pass something on their way.

urllib3's responses, and the content of aiohttp's: all ways of reading give what has passed.
"""

from asyncio import IncompleteReadError
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import chain
from typing import Any

from llama_token_tracker.wire.answers.classes import content_class, derived
from llama_token_tracker.wire.answers.stream_usage import Passage


class _Passed:
    """What has passed and wasn't read yet.

    Args:
        passage: What the bytes pass.
    """

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self.content = b""

    def add(self, piece: bytes) -> bool:
        """Have some bytes pass, or none if nothing more comes; say whether more may come."""
        self.content += self._passage.feed(piece) if piece else self._passage.rest()
        return bool(piece)

    def has(self, amount: int | None) -> bool:
        """Whether so many of them have passed; of all of them nobody knows."""
        return amount is not None and 0 <= amount <= len(self.content)

    def fill(self, read: Callable[[], bytes], amount: int | None) -> None:
        """Read on until so many have passed, or all."""
        while not self.has(amount) and self.add(read()):
            pass

    def take(self, amount: int | None = None) -> bytes:
        """Give so many of them at the most, or all."""
        end = len(self.content) if amount is None or amount < 0 else amount
        taken, self.content = self.content[:end], self.content[end:]
        return taken

    def through(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Have the last pieces pass, and give what comes of each."""
        for piece in chain(pieces, (b"",)):
            self.add(piece)
            if self.content:
                yield self.take()


# --- urllib3's -----------------------------------------------------------------------------


def change_response(response: Any, passage: Passage) -> None:
    """Have the bytes of a response of urllib3's pass something on their way."""
    response.llama_token_tracker_passed = _Passed(passage)
    response.__class__ = _changed(response.__class__)


@cache
def _changed(kind: Any) -> Any:
    """The class that a response of this class becomes; its other methods read by these."""

    def read(self: Any, amt: int | None = None, *args: Any, **options: Any) -> bytes:
        passed: _Passed = self.llama_token_tracker_passed
        passed.fill(partial(kind.read, self, amt, *args, **options), amt)
        return passed.take(amt)

    def read1(self: Any, amt: int | None = None, *args: Any, **options: Any) -> bytes:
        passed: _Passed = self.llama_token_tracker_passed
        passed.fill(partial(kind.read1, self, amt, *args, **options), 0 if amt == 0 else 1)
        return passed.take(amt)

    def read_chunked(self: Any, *args: Any, **options: Any) -> Iterator[bytes]:
        passed: _Passed = self.llama_token_tracker_passed
        return passed.through(kind.read_chunked(self, *args, **options))

    def stream(self: Any, *args: Any, **options: Any) -> Iterator[bytes]:
        # By those above; it stops at the connection's end, whatever is held back.
        yield from kind.stream(self, *args, **options)
        passed: _Passed = self.llama_token_tracker_passed
        yield from passed.through(())

    return derived(kind, read=read, read1=read1, read_chunked=read_chunked, stream=stream)


# --- aiohttp's -----------------------------------------------------------------------------


def change_content(response: Any, passage: Passage) -> None:
    """Have the bytes of a response of aiohttp's pass something on their way."""
    response.content = _content_class()(response.content)
    response.content._self_passed = _Passed(passage)


async def _fill(self: Any, is_enough: Callable[[bytes], bool]) -> _Passed:
    """Read on until that is enough, or nothing more comes."""
    passed: _Passed = self._self_passed
    while not is_enough(passed.content) and passed.add(await self.__wrapped__.readany()):
        pass
    return passed


async def _readany(self: Any) -> bytes:
    return (await _fill(self, bool)).take()


async def _read(self: Any, n: int = -1) -> bytes:
    if n < 0:
        return b"".join([piece async for piece in self.iter_any()])
    return (await _fill(self, lambda content: n == 0 or bool(content))).take(n)


async def _readexactly(self: Any, n: int) -> bytes:
    passed = await _fill(self, lambda content: len(content) >= n)
    if not passed.has(n):
        raise IncompleteReadError(passed.take(), n)
    return passed.take(n)


async def _readuntil(self: Any, separator: bytes = b"\n", **_: Any) -> bytes:
    passed = await _fill(self, lambda content: separator in content)
    before, found, _rest = passed.content.partition(separator)
    return passed.take(len(before) + len(found))


async def _readline(self: Any, **_: Any) -> bytes:
    return await _readuntil(self)


async def _readchunk(self: Any) -> tuple[bytes, bool]:
    piece = await _readany(self)
    return piece, bool(piece)


def _read_nowait(self: Any, n: int = -1) -> bytes:
    passed: _Passed = self._self_passed
    if piece := self.__wrapped__.read_nowait():
        passed.add(piece)
    return passed.take(n)


def _at_eof(self: Any) -> bool:
    return not self._self_passed.content and self.__wrapped__.at_eof()


@cache
def _content_class() -> Any:
    return content_class(
        readany=_readany,
        read=_read,
        readexactly=_readexactly,
        readuntil=_readuntil,
        readline=_readline,
        readchunk=_readchunk,
        read_nowait=_read_nowait,
        at_eof=_at_eof,
    )

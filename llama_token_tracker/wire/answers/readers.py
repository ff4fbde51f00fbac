"""What programs read bodies from, read along: urllib3's responses, and the content of aiohttp's.

All ways of reading lead there, and what the program gets is what its library made.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Final, Protocol

from llama_token_tracker._log_once import notice
from llama_token_tracker.wire.answers.answer import Answer
from llama_token_tracker.wire.answers.classes import content_class, derived


class Reader(Protocol):
    """What takes in the bytes of a body, as they are read."""

    def take_in(self, piece: bytes, amount: int | None, /) -> None:
        """Note that these bytes were read, when so many were asked for."""
        ...


class _Readers(list[Reader]):
    """Who reads one body along."""

    def hear(self, piece: bytes, amount: int | None) -> None:
        """Tell them that these bytes were read, when so many were asked for."""
        for reader in self:
            try:
                reader.take_in(piece, amount)
            except Exception as error:  # noqa: BLE001 - the answer must reach its reader
                notice("a body could not be read", error, "its figures may be missing")


# --- urllib3's -----------------------------------------------------------------------------


def watch_response(response: Any, reader: Reader) -> None:
    """Have a response of urllib3's be read along."""
    readers: _Readers | None = getattr(response, "llama_token_tracker_readers", None)
    if readers is None:
        readers = response.llama_token_tracker_readers = _Readers()
        response.__class__ = _watched(response.__class__)
    readers.append(reader)


@cache
def _watched(kind: Any) -> Any:
    """The class that a response of this class becomes; its other methods read by these."""

    def read(self: Any, amt: int | None = None, *args: Any, **options: Any) -> bytes:
        piece: bytes = kind.read(self, amt, *args, **options)
        self.llama_token_tracker_readers.hear(piece, amt)
        return piece

    def read1(self: Any, amt: int | None = None, *args: Any, **options: Any) -> bytes:
        piece: bytes = kind.read1(self, amt, *args, **options)
        self.llama_token_tracker_readers.hear(piece, 1 if amt is None else amt)
        return piece

    def read_chunked(
        self: Any, amt: int | None = None, *args: Any, **options: Any
    ) -> Iterator[bytes]:
        for piece in kind.read_chunked(self, amt, *args, **options):
            self.llama_token_tracker_readers.hear(piece, 1)
            yield piece
        self.llama_token_tracker_readers.hear(b"", amt)

    return derived(kind, read=read, read1=read1, read_chunked=read_chunked)


# --- aiohttp's -----------------------------------------------------------------------------


def watch_content(owner: Any, content: Any, reader: Reader) -> None:
    """Have the content of a response of aiohttp's be read along.

    Args:
        owner: The response, whose `content` it is.
        content: That.
        reader: What takes in its bytes.
    """
    readers: _Readers | None = getattr(content, "_self_readers", None)
    if readers is None:
        readers = _Readers()
        owner.content = _content_class()(content)
        owner.content._self_readers = readers
    readers.append(reader)


@cache
def _content_class() -> Any:
    async def readchunk(self: Any) -> tuple[bytes, bool]:
        piece, is_end = await self.__wrapped__.readchunk()
        self._self_readers.hear(piece, 0 if is_end and not piece else 1)
        return piece, is_end

    async def read_some(self: Any, n: int = -1) -> bytes:
        piece: bytes = await self.__wrapped__.read(n)
        self._self_readers.hear(piece, n)
        return piece

    def read_nowait(self: Any, n: int = -1) -> bytes:
        piece: bytes = self.__wrapped__.read_nowait(n)
        self._self_readers.hear(piece, 1 if piece else 0)
        return piece

    def reading(name: str) -> Any:
        async def read(self: Any, *args: Any, **options: Any) -> bytes:
            piece: bytes = await getattr(self.__wrapped__, name)(*args, **options)
            self._self_readers.hear(piece, 1)
            return piece

        return read

    return content_class(
        read=read_some,
        readchunk=readchunk,
        read_nowait=read_nowait,
        **{name: reading(name) for name in _READ},
    )


_READ: Final = ("readany", "readline", "readuntil", "readexactly")


# --- for what is read along as its bytes come ----------------------------------------------


class Along:
    """Takes in an answer's bytes, until its last.

    Args:
        answer: The answer.
        is_over: Says whether nothing more will come.
    """

    def __init__(self, answer: Answer, is_over: Callable[[], bool]) -> None:
        self._answer = answer
        self._is_over = is_over

    def take_in(self, piece: bytes, amount: int | None, /) -> None:
        """Note that these bytes were read, when so many were asked for."""
        if piece:
            self._answer.take_in(piece)
        is_last = amount is None or amount < 0 or (not piece and amount > 0)
        if is_last or self._is_over():
            self._answer.end()

"""Bodies, read along while the program reads them, in whichever way it does.

That is heard below the SDK's own object, in what it reads from: urllib3's response, or aiohttp's.
All ways of reading lead there, and what the program gets is what the SDK made.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from io import BytesIO
from typing import Any, Final, Protocol

from urllib3.response import HTTPResponse

from llama_token_tracker._log_once import notice
from llama_token_tracker.wire.bodies import decoded
from llama_token_tracker.wire.botocore.streams import derived
from llama_token_tracker.wire.exchange import Exchange


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
        if exchange.is_settled or amount == 0:
            return
        exchange.keep(piece)
        self._read.append(piece)
        if self._missing is not None:
            self._missing -= len(piece)
        if amount is None or amount < 0 or not piece or self._missing == 0:
            content, self._read = b"".join(self._read), []
            if (fields := decoded(content)) is not None:
                exchange.add(fields)
            elif content:
                notice("an answer of Bedrock's is no JSON", content, "its figures are missing")
            exchange.settle("abandoned" if self._missing else "complete")


class _Readers(list[Reader]):
    """Who reads one body along."""

    def hear(self, piece: bytes, amount: int | None) -> None:
        """Tell them that these bytes were read, when so many were asked for."""
        for reader in self:
            try:
                reader.take_in(piece, amount)
            except Exception as error:  # noqa: BLE001 - the answer must reach its reader
                notice(
                    "an answer of Bedrock's could not be read", error, "its figures may be missing"
                )


def watch_body(body: Any, reader: Reader) -> bool:
    """Have a body read along; say whether it is, which one of an unknown kind isn't."""
    raw = getattr(body, "_raw_stream", None)
    if isinstance(raw, HTTPResponse):
        _watch_response(raw, reader)
    elif isinstance(raw, BytesIO):
        # Of somebody who stands for AWS, as in tests: all of it is there.
        reader.take_in(raw.getvalue()[raw.tell() :], None)
    elif (content := getattr(body, "content", None)).__class__.__module__ == "aiohttp.streams":
        _watch_content(body, content, reader)
    else:
        notice("a body of Bedrock's is of no known kind", body.__class__, "it isn't read along")
        return False
    return True


# --- urllib3's -----------------------------------------------------------------------------


def _watch_response(response: Any, reader: Reader) -> None:
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


def _watch_content(body: Any, content: Any, reader: Reader) -> None:
    readers: _Readers | None = getattr(content, "_self_readers", None)
    if readers is None:
        readers = _Readers()
        body.__wrapped__.content = _content_class()(content)
        body.content._self_readers = readers
    readers.append(reader)


@cache
def _content_class() -> Any:
    """What stands for aiohttp's `StreamReader`, which has no room for who reads along."""

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

    def iterating(name: str) -> Any:
        def iterate(self: Any, *args: Any) -> Any:
            # By aiohttp's own method, which reads by those above.
            return getattr(self.__class__, name)(self, *args)

        return iterate

    # With aiobotocore comes wrapt. A proxy keeps what begins with `_self_` for itself.
    return type(
        "Content",
        (import_module("wrapt").ObjectProxy,),
        {
            "read": read_some,
            "readchunk": readchunk,
            "read_nowait": read_nowait,
            **{name: reading(name) for name in _READ},
            **{name: iterating(name) for name in _ITERATED},
        },
    )


_READ: Final = ("readany", "readline", "readuntil", "readexactly")
_ITERATED: Final = ("__aiter__", "iter_any", "iter_chunked", "iter_chunks")

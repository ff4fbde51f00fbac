"""`Content-Encoding` undone piece by piece: gzip, deflate, Brotli and Zstandard.

Output comes in small pieces, however much a piece of input unpacks to, so that a few kilobytes
that stand for hundreds of megabytes never take that much memory.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from itertools import chain
from typing import Any, Final, Protocol

from llama_token_tracker._lock import LOADING
from llama_token_tracker._log_once import notice

_PIECE: Final = 65_536
"""A piece of output has so many bytes at the most."""

_PLAIN: Final = frozenset({"", "identity"})
_MOST_ENCODINGS: Final = 5
"""More in a row are refused, as by httpx2: each takes memory, and nobody needs two."""


class UndecodableError(Exception):
    """Nothing here undoes an encoding in bounded memory; that was logged."""


class _Decoder(Protocol):
    """Undoes one encoding.

    Attributes:
        step: How many bytes `decode` may be given at once.
    """

    step: int

    def decode(self, piece: bytes) -> Iterable[bytes]:
        """Give what a piece stands for, as far as it can be told yet."""
        ...


class ContentDecoder:
    """Undoes the encodings of one body.

    An encoding that isn't known is left as it is, as httpx does.

    Args:
        encoding: The body's `Content-Encoding`: one name, or several with commas between them.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._decoders: list[_Decoder] | None = None

    def decode(self, raw: bytes) -> Iterable[bytes]:
        """Give what these bytes stand for, as far as it can be told yet.

        Returns:
            Pieces of at most 64 KiB, each decoded when it's asked for.

        Raises:
            UndecodableError: The library that undoes it isn't installed, or can't be told to stop.
            Exception: The decoding library's own error: the bytes aren't what the header says.
            ValueError: There are too many encodings.
        """
        if self._decoders is None:
            self._decoders = _decoders(self._encoding)
        pieces: Iterable[bytes] = (raw,)
        for decoder in self._decoders:
            pieces = _decoded(decoder, pieces)
        return _cut(pieces, _PIECE)


def _decoded(decoder: _Decoder, pieces: Iterable[bytes]) -> Iterator[bytes]:
    return chain.from_iterable(map(decoder.decode, _cut(pieces, decoder.step)))


def _cut(pieces: Iterable[bytes], most: int) -> Iterator[bytes]:
    """Cut pieces so that none is longer than `most`."""
    for piece in pieces:
        for start in range(0, len(piece), most):
            yield piece[start : start + most]


def is_known(encoding: str) -> bool:
    """Whether all of a body's encodings are known, or it has none."""
    return all(name in _PLAIN or name in _DECODERS for name in _names(encoding))


def _names(encoding: str) -> list[str]:
    return [name.strip().lower() for name in encoding.split(",")]


def _decoders(encoding: str) -> list[_Decoder]:
    """Find what undoes the encodings that were applied one after the other, last first."""
    names = _names(encoding)
    if len(names) > _MOST_ENCODINGS:
        msg = f"a body has {len(names)} encodings; at most {_MOST_ENCODINGS} are undone."
        raise ValueError(msg)
    found: list[_Decoder] = []
    for name in reversed(names):
        if name in _PLAIN:
            continue
        make = _DECODERS.get(name)
        if make is None:
            notice("an answer's Content-Encoding isn't known", name, "it is read as it is")
            continue
        try:
            found.append(make())
        except (ImportError, UndecodableError) as error:
            way_out = f"figures are missing; pip install {_PACKAGES[name]}"
            notice("nothing here undoes the Content-Encoding {}", error, way_out, name)
            raise UndecodableError from error
    return found


class _Zlib:
    """gzip or deflate: one member; what follows it is left out, as httpx does.

    Args:
        format: zlib's `wbits`, which tell the format.
    """

    # What zlib leaves of its input is copied with each piece of output: not much, then.
    step = 16_384

    def __init__(self, format: int) -> None:
        self._inflate = zlib.decompressobj(format)

    def decode(self, piece: bytes) -> Iterator[bytes]:
        while not self._inflate.eof:  # behind the end zlib would only pile it up
            plain = self._inflate.decompress(piece, _PIECE)
            yield plain
            piece = self._inflate.unconsumed_tail
            if not piece and len(plain) < _PIECE:
                return


_ZLIB_HEADER: Final = 2
"""So many bytes tell whether it's there."""


class _Deflate:
    """deflate with zlib's header, or without it, as some servers send it and httpx takes it."""

    step = _Zlib.step

    def __init__(self) -> None:
        self._head = b""
        self._inflate: _Zlib | None = None

    def decode(self, piece: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            piece = self._head = self._head + piece
            if len(piece) < _ZLIB_HEADER:
                return iter(())
            try:
                zlib.decompressobj().decompress(piece, 1)
                self._inflate = _Zlib(zlib.MAX_WBITS)
            except zlib.error:
                self._inflate = _Zlib(-zlib.MAX_WBITS)
        return self._inflate.decode(piece)


class _Brotli:
    """Brotli, by the package `brotli` or `brotlicffi`, which from 1.2 on can be told to stop."""

    step = _PIECE

    def __init__(self) -> None:
        brotli = _first_of("brotli", "brotlicffi")
        decompressor = brotli.Decompressor()
        # brotlicffi calls it `decompress`.
        self._process: Any = getattr(decompressor, "decompress", None) or decompressor.process
        try:
            self._process(b"", output_buffer_limit=_PIECE)
        except TypeError:
            # A few bytes may stand for hundreds of megabytes.
            msg = "it has no limit for its output"
            raise UndecodableError(msg) from None

    def decode(self, piece: bytes) -> Iterator[bytes]:
        while plain := self._process(piece, output_buffer_limit=_PIECE):
            yield plain
            piece = b""


_WINDOW_LOG: Final = 23
"""A window of 8 MiB, which no encoder may exceed for HTTP.

Source:
    RFC 9659, "Window Sizing for Zstandard Content Encoding" (checked 2026-11-28).
"""


class _Zstd:
    """Zstandard frames, by Python's own module or its backport."""

    step = _PIECE

    def __init__(self, library: Any) -> None:
        limit = {library.DecompressionParameter.window_log_max: _WINDOW_LOG}
        self._new: Callable[[], Any] = lambda: library.ZstdDecompressor(options=limit)
        self._frame = self._new()

    def decode(self, piece: bytes) -> Iterator[bytes]:
        while True:
            yield self._frame.decompress(piece, _PIECE)
            piece = b""
            if self._frame.eof:
                piece = self._frame.unused_data
                self._frame = self._new()
            if not piece and self._frame.needs_input:
                return


class _Zstandard:
    """Zstandard frames, by the package `zstandard`, which can't be told to stop."""

    # A block takes 4 bytes at least and gives 128 KiB at the most: 4 MiB, then.
    step = 128

    def __init__(self, library: Any) -> None:
        decompressor = library.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
        self._new: Callable[[], Any] = decompressor.decompressobj
        self._frame = self._new()

    def decode(self, piece: bytes) -> Iterator[bytes]:
        while piece:
            yield self._frame.decompress(piece)
            if not self._frame.eof:
                return
            piece = self._frame.unused_data
            self._frame = self._new()


def _zstd() -> _Decoder:
    # With httpx comes zstandard; httpx2 brings the backport, up to Python 3.13.
    library = _first_of("zstandard", "backports.zstd", "compression.zstd")
    return (_Zstandard if library.__name__ == "zstandard" else _Zstd)(library)


def _first_of(*names: str) -> Any:
    """Import the first of these modules that is installed.

    Raises:
        ModuleNotFoundError: None is.
    """
    for name in names:
        try:
            with LOADING:
                return import_module(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(" or ".join(names))


_PACKAGES: Final = {"br": "'httpx[brotli]' 'brotli>=1.2'", "zstd": "'httpx[zstd]'"}

_DECODERS: Final[Mapping[str, Callable[[], _Decoder]]] = {
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _zstd,
}
"""The encodings that httpx knows.

Source:
    `SUPPORTED_DECODERS` of httpx 0.28 and httpx2 2.16 (checked 2026-11-28).
"""

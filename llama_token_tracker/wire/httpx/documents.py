"""Splits an answer's bytes into JSON documents, as they arrive and in bounded memory.

Server-sent events are parsed here, because httpx-sse and the SDKs' parsers pull lines out of a
response, and this code is only handed the bytes that the program pulls.
"""

import json
import re
from collections.abc import Iterator
from typing import Final, Protocol

_LONGEST: Final = 1_048_576
"""A longer document isn't kept whole: its usage is read from its end."""

_END: Final = 16_384
"""So much is kept of the end of a document that is too long."""

_FIELD: Final = b"data:"


class Documents(Protocol):
    """Finds the documents in bytes that arrive in pieces."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add some bytes, and give the documents that end in them."""
        ...

    def rest(self) -> bytes:
        """Give what is left at the end of the bytes: the last document, or a part of one."""
        ...


class _Document:
    """The document that is arriving: all of it, or its end if it's too long.

    Args:
        keys: The keys whose values are usage.
        longest: How many bytes are kept at the most.
    """

    __slots__ = ("_is_cut", "_keys", "_longest", "_pieces", "length")

    def __init__(self, keys: tuple[str, ...], longest: int) -> None:
        self._keys = keys
        self._longest = longest
        self._pieces: list[bytes] = []
        self.length = 0
        self._is_cut = False

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.length += len(piece)
        if self.length > (2 * _END if self._is_cut else self._longest):
            end = b"".join(self._pieces)[-_END:]
            self._pieces, self.length, self._is_cut = [end], len(end), True

    def take(self) -> bytes:
        """Give the document, and start with the next."""
        pieces, is_cut = self._pieces, self._is_cut
        self._pieces, self.length, self._is_cut = [], 0, False
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        return _figures(content, self._keys) if is_cut else content.strip()


def _figures(end: bytes, keys: tuple[str, ...]) -> bytes:
    """Read the usage at the end of a document, as a document of its own.

    Within a JSON text each quotation mark is escaped, so no text that a model or a user wrote looks
    like a key.
    """
    text, found = end.decode(errors="replace"), dict[str, object]()
    for key in keys:
        for place in re.finditer(rf'"{key}"\s*:\s*', text):
            try:
                # The last one stands: figures come after what they are about.
                found[key] = json.JSONDecoder().raw_decode(text, place.end())[0]
            except (ValueError, RecursionError):
                continue
    return json.dumps(found).encode()


class Whole:
    """A body that is one document."""

    def __init__(self, keys: tuple[str, ...], *, longest: int = _LONGEST) -> None:
        self._document = _Document(keys, longest)

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Keep them; the document ends with the body."""
        self._document.add(piece)
        return iter(())

    def rest(self) -> bytes:
        """The body."""
        return self._document.take()


class Lines:
    """A stream with a document on each line."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._document = _Document(keys, _LONGEST)
        self._rest = b""
        self._is_within = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add some bytes, and give the documents that end in them."""
        *lines, rest = (self._rest + piece).split(b"\n")
        # Before anything is given: whoever takes it may leave.
        self._rest = b""
        for line in lines:
            self._add(line)
            if self._ends(line) and (document := self._document.take()):
                yield document
            self._is_within = False
        if len(rest) > _END:
            self._add(rest)
            self._is_within, rest = True, b""
        self._rest = rest

    def rest(self) -> bytes:
        """The last document, if no end of line came after it."""
        self._add(self._rest)
        self._rest = b""
        return self._document.take()

    def _add(self, line: bytes) -> None:
        self._document.add(line)

    def _ends(self, line: bytes) -> bool:
        return True


class Events(Lines):
    """A stream of server-sent events, of which each `data` is a document.

    Source:
        https://html.spec.whatwg.org/multipage/server-sent-events.html, "Parsing an event stream"
        (checked 2026-11-22). Lines that end in a lone CR, which no provider sends, aren't known.
    """

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add some bytes, and give the documents that end in them."""
        if (
            len(piece) <= _END
            and piece.startswith(_FIELD)
            and piece.find(b"\n") == len(piece) - 2
            and piece.endswith(b"\n\n")
            and self._is_empty
        ):
            # Most pieces are one event, and quick.
            return iter((piece[len(_FIELD) :].strip(),))
        return super().feed(piece)

    @property
    def _is_empty(self) -> bool:
        return not (self._rest or self._is_within or self._document.length)

    def _add(self, line: bytes) -> None:
        if self._is_within:
            self._document.add(line)
        elif line.startswith(_FIELD):
            # Lines of one event are joined by this; in front it's taken off again.
            self._document.add(b"\n" + line[len(_FIELD) :])

    def _ends(self, line: bytes) -> bool:
        return not (self._is_within or line.strip())


def documents_of(kind: bytes, keys: tuple[str, ...], *, is_read: bool) -> Documents:
    """Choose how an answer's bytes are read.

    Args:
        kind: Its media type.
        keys: The keys whose values are usage.
        is_read: Whether more than usage is wanted.
    """
    if b"event-stream" in kind:
        return Events(keys)
    if b"ndjson" in kind or b"stream+json" in kind or b"jsonl" in kind:
        return Lines(keys)
    return Whole(keys) if is_read else Whole(keys, longest=_END)

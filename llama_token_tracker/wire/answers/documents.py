"""Splits an answer's bytes into JSON documents, as they arrive and in bounded memory.

Server-sent events are parsed here, because httpx-sse and the SDKs' parsers pull lines out of a
response, and this code is only handed the bytes that the program pulls.
"""

import json
import re
from base64 import b64decode
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any, Final, Protocol

from llama_token_tracker._log_once import notice

_LONGEST: Final = 400 * 1024
"""A longer document isn't kept whole: its usage alone is looked for, wherever it stands."""

_END: Final = 16_384
"""So much is kept of such a document, and of a usage in it at the most."""

_VALUE: Final = re.compile(rb"\s*:\s*(.{,%d})" % _END, re.DOTALL)

DATA: Final = b"data:"


def longest(*, is_read: bool) -> int:
    """So long a body is kept whole, if more than its usage is wanted or not."""
    return _LONGEST if is_read else _END


class Documents(Protocol):
    """Finds the documents in bytes that arrive in pieces."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add some bytes, and give the documents that end in them."""
        ...

    def rest(self) -> bytes:
        """Give what is left at the end of the bytes: the last document, or a part of one."""
        ...


class _Document:
    """The document that is arriving: all of it, or its usage if it's too long.

    Args:
        keys: The keys whose values are usage.
        longest: How many bytes are kept at the most.
    """

    __slots__ = ("_figures", "_keys", "_longest", "_pieces", "length")

    def __init__(self, keys: tuple[str, ...], longest: int) -> None:
        self._keys = keys
        self._longest = longest
        self._pieces: list[bytes] = []
        self.length = 0
        self._figures: dict[str, object] | None = None

    def add(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self.length += len(piece)
        if self.length > (self._longest if self._figures is None else 2 * _END):
            content = b"".join(self._pieces)
            self._figures = (self._figures or {}) | _figures(content, self._keys)
            # What begins in the rest may not be there yet.
            end = content[-_END:]
            self._pieces, self.length = [end], len(end)

    def take(self) -> bytes:
        """Give the document, and start with the next."""
        pieces, figures = self._pieces, self._figures
        self._pieces, self.length, self._figures = [], 0, None
        content = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if figures is None:
            return content.strip()
        figures |= _figures(content, self._keys)
        if not figures:
            notice("an answer is too long to be kept", content, "its output is estimated")
        return json.dumps(figures).encode()


def _figures(content: bytes, keys: tuple[str, ...]) -> dict[str, object]:
    """Read the usage in a part of a document.

    Within a JSON text each quotation mark is escaped, so no text that a model or a user wrote looks
    like a key.
    """
    found = dict[str, object]()
    for key in keys:
        # The last one stands: figures come after what they are about, and are found soon.
        place = content.rfind(name := b'"%b"' % key.encode())
        while place >= 0 and key not in found:
            value = _VALUE.match(content, place + len(name))
            if value is not None:
                text = value[1].decode(errors="replace")
                with suppress(ValueError, RecursionError):
                    found[key] = json.JSONDecoder().raw_decode(text)[0]
            place = content.rfind(name, 0, place)
    return found


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
            and piece.startswith(DATA)
            and piece.find(b"\n") == len(piece) - 2
            and piece.endswith(b"\n\n")
            and self._is_empty
        ):
            # Most pieces are one event, and quick.
            return iter((piece[len(DATA) :].strip(),))
        return super().feed(piece)

    @property
    def _is_empty(self) -> bool:
        return not (self._rest or self._is_within or self._document.length)

    def _add(self, line: bytes) -> None:
        if self._is_within:
            self._document.add(line)
        elif line.startswith(DATA):
            # Lines of one event are joined by this; in front it's taken off again.
            self._document.add(b"\n" + line[len(DATA) :])

    def _ends(self, line: bytes) -> bool:
        return not (self._is_within or line.strip())


SPACE: Final = b" \t\r\n"
FIELDS: Final = tuple(name + b":" for name in (b"data", b"event", b"id", b"retry", b""))
"""How server-sent events begin; with the last, comments do."""
_JSON: Final = (b"{", b"[")
_EVENTS: Final = b"event-stream"
_FRAMED: Final = b"vnd.amazon.eventstream"
_LINED: Final = re.compile(rb"ndjson|stream\+json|jsonl")


def chunk_of(payload: bytes) -> bytes | None:
    """The model's own document in a message of InvokeModelWithResponseStream, if it holds one."""
    fields = json.loads(payload or b"{}")
    return b64decode(fields["bytes"]) if "bytes" in fields else None


class Frames:
    """A stream in AWS's binary framing, as InvokeModelWithResponseStream answers.

    An exception is given as Anthropic words one.
    """

    def __init__(self) -> None:
        # Whoever speaks to Bedrock over httpx reads such streams by botocore, too.
        self._buffer: Any = import_module("botocore.eventstream").EventStreamBuffer()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add some bytes, and give the documents that end in them."""
        self._buffer.add_data(piece)
        for message in self._buffer:
            document = chunk_of(message.payload)
            if document is not None:
                yield document
            elif message.headers.get(":message-type") != "event":
                fields = json.loads(message.payload or b"{}")
                yield json.dumps({"type": "error", "error": fields}).encode()

    def rest(self) -> bytes:
        """Nothing: a part of a frame can't be read."""
        return b""


class Sniffed:
    """Bytes of which their beginning tells what they are, whatever their media type says.

    Args:
        kind: The media type.
        keys: The keys whose values are usage.
        is_read: Whether more than usage is wanted.

    Attributes:
        chosen: What finds the documents, once that is known.
    """

    def __init__(self, kind: bytes, keys: tuple[str, ...], *, is_read: bool) -> None:
        self._kind = kind.lower()
        self._keys = keys
        self._is_read = is_read
        self._head = b""
        self.chosen: Documents | None = None

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Add some bytes, and give the documents that end in them."""
        if self.chosen is not None:
            return self.chosen.feed(piece)
        if _FRAMED in self._kind:
            self.chosen = Frames()
            return self.chosen.feed(piece)
        head = (self._head + piece).lstrip(SPACE)
        self._head = b""
        if not head.startswith(_JSON):
            if BOM_UTF8.startswith(head):
                self._head = head
                return iter(())
            head = head.removeprefix(BOM_UTF8).lstrip(SPACE)
            if any(field.startswith(head) for field in FIELDS):
                # Not before it's told.
                self._head = head
                return iter(())
        self.chosen = self._choose(head)
        return self.chosen.feed(head)

    def rest(self) -> bytes:
        """Give what is left at the end of the bytes: the last document, or a part of one."""
        return self._head if self.chosen is None else self.chosen.rest()

    @property
    def is_stream(self) -> bool:
        """Whether it's a stream of documents; before anything has come, by the media type."""
        if self.chosen is None:
            kind = self._kind
            return _EVENTS in kind or _FRAMED in kind or _LINED.search(kind) is not None
        return not isinstance(self.chosen, Whole)

    def _choose(self, head: bytes) -> Documents:
        is_json = head.startswith(_JSON)
        if head.startswith(FIELDS) or (_EVENTS in self._kind and not is_json):
            return Events(self._keys)
        if _LINED.search(self._kind):
            return Lines(self._keys)
        return Whole(self._keys, longest=longest(is_read=self._is_read))

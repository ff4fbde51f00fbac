"""An answer over HTTP, read along while its bytes go to the program."""

import re
from collections import deque
from collections.abc import Mapping
from typing import Final

from llama_token_tracker._log_once import notice
from llama_token_tracker.events.event import Operation
from llama_token_tracker.extraction.reader import describes_error
from llama_token_tracker.extraction.shapes.bedrock import HEADERS
from llama_token_tracker.wire.answers.content_encoding import ContentDecoder, UndecodableError
from llama_token_tracker.wire.answers.documents import Sniffed, longest
from llama_token_tracker.wire.bodies import LAST, Json, decoded, documents_in
from llama_token_tracker.wire.dialects import Dialect
from llama_token_tracker.wire.exchange import Exchange

_MOST_KEPT: Final = 8 * 1024 * 1024
"""So much of a stream is kept, packed, for its event's text and to count what isn't reported."""

_PACKED: Final = 128 * 1024
"""The documents of so many bytes are packed together."""

_OVERHEAD: Final = 64
"""About so many bytes more each document takes."""

_DONE: Final = b"[DONE]"
_COUNTS: Final = {name.encode(): name for name in HEADERS.adds}
"""The headers in which Bedrock reports what its models' own words may leave out."""

_JSON: Final = b"application/json"
_NEXT_OBJECT: Final = re.compile(rb"\}[ \t\r]*\n\s*\{")
"""Between objects that stand each on lines of its own; within one there's a comma."""


def unread(
    operation: Operation, dialect: Dialect, headers: Mapping[bytes, bytes], content: bytes
) -> bytes:
    """The one object that a body holds, if it may wait until somebody asks; else nothing.

    Args:
        operation: What was asked for.
        dialect: How it's worded.
        headers: The answer's headers, by their names in lower case.
        content: The body, decoded, all of it.
    """
    if (
        headers.get(b"content-type", b"").partition(b";")[0] == _JSON
        and len(content) <= longest(is_read=operation != "embedding")
        and _COUNTS.keys().isdisjoint(headers)
        and _may_wait(dialect, document := content.strip())
    ):
        return document
    return b""


def _may_wait(dialect: Dialect, document: bytes) -> bool:
    """Whether it's one object, as far as can be seen, of which nothing is needed by now."""
    return (
        dialect.deferral is None
        and document[:1] == b"{"
        and document[-1:] == b"}"
        and (b"\n" not in document or _NEXT_OBJECT.search(document) is None)
    )


class Answer:
    """What an answer says, as far as its bytes have passed.

    Args:
        exchange: The request that it answers.
        dialect: How it's worded.
        headers: Its headers, by their names in lower case.
        is_plain: Whether its bytes are handed over decoded.
    """

    def __init__(
        self,
        exchange: Exchange,
        dialect: Dialect,
        headers: Mapping[bytes, bytes],
        *,
        is_plain: bool = False,
    ) -> None:
        self._exchange = exchange
        self._dialect = dialect
        encoding = b"" if is_plain else headers.get(b"content-encoding", b"identity")
        is_plain = is_plain or encoding == b"identity"
        self._decoder = None if is_plain else ContentDecoder(encoding.decode("latin-1"))
        self._documents = Sniffed(
            headers.get(b"content-type", b""),
            dialect.usage,
            is_read=exchange.operation != "embedding",
        )
        self._hints = dialect.hints
        self._counts: dict[str, str] = {}
        if not _COUNTS.keys().isdisjoint(headers):
            told = _COUNTS.keys() & headers.keys()
            self._counts = {_COUNTS[key]: headers[key].decode("latin-1") for key in told}
        self._kept, self._unpacked = 0, _PACKED
        self._last: deque[bytes] = deque(maxlen=LAST)
        self._is_full = self._is_unreadable = False
        # Where the rest of a stream can be retrieved.
        self._place = ""
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

    def stopped(self, error: BaseException) -> None:
        """Note that this error has ended its reading."""
        # Whoever leaves an iteration may go on with another.
        if isinstance(error, GeneratorExit) or not self._defers():
            self._exchange.stopped(error)

    def end(self) -> None:
        """Note that all of it has come."""
        exchange = self._exchange
        if exchange.is_settled:
            return
        is_read = self._read_rest()
        if self._defers():
            return
        if self._is_unreadable:
            exchange.settle("complete")
        elif self._documents.is_stream:
            exchange.end(tuple(reversed(self._last)))
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
        if not self._defers():
            self._exchange.settle("abandoned")

    def _defers(self) -> bool:
        """Have a call in the background go on without a reader, until it's retrieved."""
        if self._place and not self._exchange.is_settled:
            self._exchange.defer(self._place)
        return bool(self._place)

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
        may_wait = not self._counts and _may_wait(self._dialect, document)
        if may_wait and self._exchange.add_unread(document):
            return True
        fields = decoded(document)
        if fields is None:
            return self._read_several(document)
        self._exchange.keep(document)
        self._exchange.add_all(fields)
        if self._counts and self._exchange.reported().usage is None:
            self._exchange.add_all(self._counts)
        if self._exchange.is_error(fields):
            self._exchange.settle("failed")
        self._note_status(fields)
        self._defers()
        return True

    def _note_status(self, fields: Json) -> None:
        """Note whether an answer says that the call is over, or where it's retrieved once it is."""
        deferral = self._dialect.deferral
        if deferral is None:
            return
        # What a framework's call streams is over when that call is.
        if self._exchange.keeps_pieces or not self._documents.is_stream:
            self._place = self._place or deferral.place_of(fields, self._exchange.path)
        status = deferral.ended(fields)
        if status is not None:
            self._exchange.finish(status)

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
            if self._kept > self._unpacked:
                exchange.pieces.pack()
                self._kept = sum(map(len, exchange.pieces.packed))
                self._unpacked = self._kept + _PACKED
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
        self._note_status(fields)
        status = "failed" if describes_error(fields) else self._dialect.ended(fields)
        if status is not None:
            self._exchange.finish(status)

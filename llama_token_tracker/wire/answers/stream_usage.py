"""What was asked for of a stream's usage, taken out of the answer's bytes again.

The program sees what it would have seen without: each event is handed on as it is, but the one
that tells the usage alone isn't, and an empty `usage` in the others isn't either.
"""

import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.wire.answers.content_encoding import ContentDecoder, is_known
from llama_token_tracker.wire.answers.documents import DATA, FIELDS, SPACE
from llama_token_tracker.wire.bodies import decoded

_LONGEST: Final = 65_536
"""An event that is longer tells more than a usage, and isn't held back until its end."""

_END: Final = re.compile(rb"\r?\n\r?\n")
_LONGEST_END: Final = 3
_KEY: Final = b'"usage"'
# Within a JSON text each quotation mark is escaped: so no text of a model's looks like a key.
_EMPTY: Final = re.compile(rb'\s*,\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,\s*')
_NAMED: Final = b"stream_options"


class Passage(Protocol):
    """What an answer's bytes pass on their way to the program."""

    def feed(self, piece: bytes) -> bytes:
        """Take in some bytes, and give those that go on."""
        ...

    def rest(self) -> bytes:
        """Give what was held back, as nothing more comes."""
        ...


class WithoutUsage:
    """Server-sent events without what tells of usage; anything else passes as it is."""

    def __init__(self) -> None:
        self._held = b""
        self._is_passing = False

    def feed(self, piece: bytes) -> bytes:
        """Take in some bytes, and give those that go on: all but an event that isn't whole yet."""
        content, start, passed = self._held + piece, 0, list[bytes]()
        for end in _END.finditer(content):
            event = content[start : end.end()]
            passed.append(event if self._is_passing else _without_usage(event))
            self._is_passing, start = False, end.end()
        self._held = content[start:]
        if self._is_passing or len(self._held) > _LONGEST or not _may_be_event(self._held):
            # The end may be cut in two.
            self._is_passing, before = True, self._held[:-_LONGEST_END]
            passed.append(before)
            self._held = self._held[len(before) :]
        return b"".join(passed)

    def rest(self) -> bytes:
        """Give what no end came after."""
        held, self._held = self._held, b""
        return held if self._is_passing else _without_usage(held)


def _may_be_event(content: bytes) -> bool:
    head = content.lstrip(SPACE)
    return any(head.startswith(field) or field.startswith(head) for field in FIELDS)


def _without_usage(event: bytes) -> bytes:
    if _KEY not in event:
        return event
    lines = (line[len(DATA) :] for line in event.splitlines() if line.startswith(DATA))
    fields = decoded(b"\n".join(lines)) or {}
    if fields.get("usage", event) is None:
        without, number = _EMPTY.subn(b"", event)
        return without if number == 1 else event
    return b"" if "usage" in fields and fields.get("choices") == [] else event


class Decoded:
    """Bytes that are decoded before they go on.

    Args:
        decoder: What undoes their encoding.
        passage: What they pass then.
    """

    def __init__(self, decoder: ContentDecoder, passage: Passage) -> None:
        self._decoder = decoder
        self._passage = passage

    @classmethod
    def of(cls, encoding: str, passage: Passage) -> "Decoded | None":
        """Such bytes; `None` if nothing here undoes their encoding, which is said."""
        decoder, problem = ContentDecoder(encoding), None if is_known(encoding) else encoding
        try:
            decoder.decode(b"")
        except Exception as error:  # noqa: BLE001 - a server may say anything
            pass_on(error)
            problem = str(error)
        if problem is None:
            return cls(decoder, passage)
        notice("a stream's usage can't be taken out of its answer", problem, "it stays in")
        return None

    def feed(self, piece: bytes) -> bytes:
        """Take in some bytes, and give those that go on.

        Raises:
            Exception: The decoding library's own error: the bytes aren't what the header says.
        """
        return b"".join(map(self._passage.feed, self._decoder.decode(piece)))

    def rest(self) -> bytes:
        """Give what was held back, as nothing more comes."""
        return self._passage.rest()


class Refusal:
    """A refusal, read along: it may be for what was asked.

    Args:
        encoding: What its bytes are encoded with.
        refused: Is told what it says, if it names that.
    """

    def __init__(self, encoding: str, refused: Callable[[bytes], Any]) -> None:
        self._decoder = ContentDecoder(encoding)
        self._refused: Callable[[bytes], Any] | None = refused
        self._content = b""

    def feed(self, piece: bytes) -> bytes:
        """Take in some bytes, all of which go on."""
        try:
            self._read(piece)
        except Exception as error:  # noqa: BLE001 - a server may say anything
            pass_on(error)
            self._refused = None
            notice("a refusal could not be read", error, "its stream's usage is asked for again")
        return piece

    def _read(self, piece: bytes) -> None:
        refused = self._refused
        if refused is None or len(self._content) > _LONGEST:
            return
        self._content += b"".join(self._decoder.decode(piece))
        if _NAMED in self._content:
            self._refused = None
            refused(self._content)

    def rest(self) -> bytes:
        """Give nothing, for nothing was held back."""
        return b""

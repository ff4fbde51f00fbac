"""Bodies of requests and answers as JSON, and pieces of an answer put together."""

import json
import pickle
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import Any, Final, TypeAlias, cast

from llama_token_tracker._log_once import notice
from llama_token_tracker.extraction.parts import Part, Text, Thinking

Json: TypeAlias = dict[str, Any]


def decoded(body: object) -> Json | None:
    """A body as JSON; `None` for anything that is no object."""
    if not isinstance(body, str | bytes | bytearray):
        return None
    try:
        fields: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return cast("Json", fields) if isinstance(fields, dict) else None


def documents_in(content: bytes) -> list[bytes]:
    """The documents of a JSON list of them, or of lines of which each is one; else none."""
    try:
        listed: object = json.loads(content)
    except (ValueError, RecursionError):
        lines = [line for line in content.splitlines() if line.strip()]
        if len(lines) > 1 and all(decoded(line) is not None for line in lines):
            return lines
        return []
    entries = cast("list[object]", listed) if isinstance(listed, list) else []
    return [json.dumps(entry).encode() for entry in entries]


_SOME: Final = 512


def joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Put neighbouring pieces of one kind together, as tokenizers must see them."""
    whole: list[Part] = []
    for kind, run in groupby(parts, key=type):
        if issubclass(kind, Text | Thinking):
            texts = (part.text for part in run if isinstance(part, Text | Thinking) and part.text)
            whole.append(kind(_concatenated(texts)))
        else:
            whole += run
    return tuple(whole)


def _concatenated(texts: Iterator[str]) -> str:
    """Put texts together, some at a time: pieces take ten times the memory of the whole."""

    def some() -> str:
        return "".join(islice(texts, _SOME))

    return "".join(iter(some, ""))


_NEWEST: Final = 16
LAST: Final = 8
"""One of so many pieces at the end of a stream says that it's over; figures may follow it."""


class Pieces(list[Any]):
    """The pieces of an answer, in their order; of a long stream's all but the newest are packed.

    Attributes:
        packed: Those that are, in blocks.
        packed_number: How many these are.
    """

    packed: tuple[bytes, ...] = ()
    packed_number = 0

    def __len__(self) -> int:
        """How many there are, packed or not."""
        return self.packed_number + super().__len__()

    def __iter__(self) -> Iterator[Any]:
        """All of them, one block after the other."""
        for block in self.packed:
            yield from pickle.loads(zlib.decompress(block))
        yield from map(self.read, super().__iter__())

    def hold_answer(self) -> bool:
        """Whether any of them is a part of what the model said."""
        return len(self) > 0

    def read(self, piece: Any) -> Any:
        """What is read of a piece that came."""
        return piece

    def newest(self) -> list[Any]:
        """The last of them, the newest first."""
        return [*map(self.read, reversed(self[-LAST:]))]

    def pack(self, most: int = _NEWEST) -> None:
        """Have all but the newest take a tenth of their memory or less, until they are read.

        Args:
            most: No more than so many may lie unpacked.
        """
        if super().__len__() <= most:
            return
        older = [*super().__iter__()][:-_NEWEST]
        try:
            block = zlib.compress(pickle.dumps([*map(self.read, older)]), 1)
        except Exception as error:  # noqa: BLE001 - what others let pass for AWS's may be anything
            notice("pieces of an answer can't be packed", error, "they take more memory")
            return
        packed, number, end = (*self.packed, block), self.packed_number + len(older), len(older)
        # Without a call in between, so that nothing interrupts it.
        self.packed, self.packed_number = packed, number
        del self[:end]

    def clear(self) -> None:
        """Let go of all."""
        super().clear()
        self.packed, self.packed_number = (), 0

"""The interface of tokenizers, and the class of those of this package.

Every tokenizer says whether its figures are the model's own (`counted`) or
those of a stand-in (`estimated`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from llama_token_tracker.tokenizers.memo import Memo
from llama_token_tracker.usage import Source


@runtime_checkable
class Tokenizer(Protocol):
    """Counts the tokens of texts."""

    @property
    def name(self) -> str:
        """What counts, for example `o200k_base`."""
        ...

    @property
    def source(self) -> Source:
        """`counted` by the model's own tokenizer, `estimated` by a stand-in."""
        ...

    def count(self, text: str) -> int:
        """Count the tokens of one text. Never raises on content."""
        ...

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, in order."""
        ...


class Counter(Protocol):
    """The part of a tokenizer that does the work."""

    @property
    def name(self) -> str:
        """What counts."""
        ...

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Count each text, in order."""
        ...


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A counter with the source of its figures and a memo.

    Attributes:
        counter: What counts; tokenizers of several models may share one.
        source: Whether the figures are the model's own.
        frame: Tokens that a message of this model costs beside its text. Not
            part of `count`: a frame is paid once a message, not once a text.
        memo: Counts by content.
    """

    counter: Counter
    source: Source
    frame: int = 0
    memo: Memo = field(default_factory=Memo, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What counts."""
        return self.counter.name

    def count(self, text: str) -> int:
        """Count the tokens of one text."""
        return self.count_many((text,))[0]

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, in order; equal texts once."""
        return self.memo.count_many(texts, self.counter.count_many)

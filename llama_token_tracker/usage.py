"""What one call used, in tokens.

Buckets are inclusive: cache reads and writes are part of `input_tokens`, reasoning is
part of `output_tokens`. `None` means that the provider did not say, which is not zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final, Literal, Self, TypeAlias

from llama_token_tracker._printable import printable
from llama_token_tracker.errors import UsageShapeError

Source: TypeAlias = Literal["reported", "counted", "estimated"]
"""Where a count comes from: the provider's own figure; the model's own tokenizer, or the one
you gave; a stand-in tokenizer, or content that no tokenizer covers."""


# Not slotted: an instance holds only the buckets that were reported and finds `None` for the
# others on the class, which makes one on the hot path four times as fast.
@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one call, or of several added up.

    Every count is a whole number of tokens, or `None` where nothing was reported. A part is
    only reported together with its whole. Adding two usages adds bucket by bucket; `None`
    plus a number is the number.

    Attributes:
        input_tokens: All that went in and was billed: uncached, cache reads and writes.
        output_tokens: All that came out and was billed, reasoning included.
        cache_read_tokens: The part of the input that was served from a prompt cache.
        cache_write_tokens: The part of the input that was written to a prompt cache.
        cache_write_5m_tokens: The part of the writes that is kept for five minutes.
        cache_write_1h_tokens: The part of the writes that is kept for one hour.
        reasoning_tokens: The part of the output that the model thought and did not say.
        input_audio_tokens: The part of the input that was sound.
        input_image_tokens: The part of the input that was pictures.
        output_audio_tokens: The part of the output that was sound.
        output_image_tokens: The part of the output that was pictures.
        seen_input_tokens: What the model read, where a provider bills another figure
            than it reports as read (Cohere); no part of the sums above.
        seen_output_tokens: The same for what the model wrote.

    Raises:
        UsageShapeError: A count is no whole number or negative, or a part exceeds its whole or
            stands without it.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_audio_tokens: int | None = None
    input_image_tokens: int | None = None
    output_audio_tokens: int | None = None
    output_image_tokens: int | None = None
    seen_input_tokens: int | None = None
    seen_output_tokens: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be true of any call."""
        counts = self.reported()
        for name, count in counts.items():
            if type(count) is not int:
                msg = f"{name} is {printable(count)}; give a whole number of tokens, or None."
                raise UsageShapeError(msg)
        problem = contradiction(counts)
        if problem is not None:
            raise UsageShapeError(problem)

    @classmethod
    def of(cls, counts: dict[str, int]) -> Self:
        """Make one of counts that are known to agree with each other.

        Args:
            counts: Tokens by bucket name, for which `contradiction` found nothing. The dict
                becomes the usage's own.
        """
        usage = object.__new__(cls)
        object.__setattr__(usage, "__dict__", counts)
        return usage

    def __add__(self, other: "Usage") -> "Usage":
        """Add bucket by bucket; what neither side reports stays unreported."""
        if not isinstance(other, Usage):  # pyright: ignore[reportUnnecessaryIsInstance]
            return NotImplemented
        counts = self.reported()
        for name, count in other.reported().items():
            counts[name] = counts.get(name, 0) + count
        return Usage.of(counts)

    @property
    def total_tokens(self) -> int:
        """Input plus output tokens; what was not reported counts as nothing here."""
        return (self.input_tokens or 0) + (self.output_tokens or 0)

    @property
    def uncached_input_tokens(self) -> int | None:
        """The part of the input that neither came from a cache nor was written to one."""
        if self.input_tokens is None:
            return None
        cached = (self.cache_read_tokens or 0) + (self.cache_write_tokens or 0)
        return self.input_tokens - cached

    def __repr__(self) -> str:
        buckets = ", ".join(f"{name}={count}" for name, count in self.reported().items())
        return f"{type(self).__name__}({buckets})"

    def reported(self) -> dict[str, int]:
        """The buckets that hold a figure, by name."""
        return {name: count for name, count in self.__dict__.items() if count is not None}


BUCKETS: Final = tuple(field.name for field in fields(Usage))
"""The names of all buckets, in the order in which they are declared."""

WHOLES: Final = {
    "cache_read_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "cache_write_5m_tokens": "cache_write_tokens",
    "cache_write_1h_tokens": "cache_write_tokens",
    "reasoning_tokens": "output_tokens",
    "input_audio_tokens": "input_tokens",
    "input_image_tokens": "input_tokens",
    "output_audio_tokens": "output_tokens",
    "output_image_tokens": "output_tokens",
}
"""Which bucket each part belongs to."""

WHOLE_SUMS: Final = frozenset({"input_tokens", "output_tokens"})
"""The two buckets that are parts of nothing."""

WHOLES_OF_CALL: Final = ("input_tokens", "output_tokens")
"""The same, in the order of a call."""


def root(bucket: str) -> str:
    """The bucket of a call that this one is part of, or itself."""
    while bucket in WHOLES:
        bucket = WHOLES[bucket]
    return bucket


EXCLUSIVE_PARTS: Final = (
    ("cache_read_tokens", "cache_write_tokens"),
    ("cache_write_5m_tokens", "cache_write_1h_tokens"),
    ("input_audio_tokens", "input_image_tokens"),
    ("output_audio_tokens", "output_image_tokens"),
)
"""Parts of one whole that share no token, so that their sum may not exceed it either."""


def contradiction(counts: Mapping[str, int]) -> str | None:
    """Say what cannot be true of these counts, or `None` if nothing speaks against them.

    Args:
        counts: Tokens by bucket name, reported buckets only.
    """
    for name, count in counts.items():
        if count < 0:
            return f"{name} is {count}; a count of tokens cannot be negative."
    parts, pairs = _relations(tuple(counts))
    for name, whole in parts:
        if whole not in counts:
            return f"{name} ({counts[name]}) is reported without {whole}, which it is a part of."
        if counts[name] > counts[whole]:
            return (
                f"{name} ({counts[name]}) exceeds {whole} ({counts[whole]}); "
                "buckets are inclusive: the whole holds its parts."
            )
    for left, right in pairs:
        whole, total = WHOLES[left], counts[left] + counts[right]
        if total > counts[whole]:
            return (
                f"{left} + {right} ({total}) exceed {whole} ({counts[whole]}); "
                "buckets are inclusive: the whole holds its parts."
            )
    return None


_Pairs: TypeAlias = tuple[tuple[str, str], ...]


@lru_cache(maxsize=512)
def _relations(names: tuple[str, ...]) -> tuple[_Pairs, _Pairs]:
    """Of these buckets, the parts with their wholes, and the parts that share no token."""
    pairs = tuple(pair for pair in EXCLUSIVE_PARTS if {*pair} <= {*names})
    return tuple((name, WHOLES[name]) for name in names if name in WHOLES), pairs


_WEAKNESS: dict[Source, int] = {"reported": 0, "counted": 1, "estimated": 2}


def weaker(left: Source, right: Source) -> Source:
    """Of two sources, the one that says less about the bill."""
    return left if _WEAKNESS[left] >= _WEAKNESS[right] else right

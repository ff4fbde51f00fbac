"""Claude's counts: 3 and later by ctok, 1 and 2 by the published vocabulary.

ctok reconstructs Claude's counts from recorded `count_tokens` answers. It needs
Python 3.12; elsewhere a weighted sum of other tokenizers stands in.
"""

import sys
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from math import ceil
from typing import Final

from llama_token_tracker._lock import LOADING
from llama_token_tracker._log_once import notice
from llama_token_tracker.tokenizers.bpe import BytePairCounter
from llama_token_tracker.tokenizers.text import order_marks, repair
from llama_token_tracker.tokenizers.vocabularies import CLAUDE_65K, OPENAI

# The last major version whose counts ctok's authors have compared with the
# API's (ctok 1.3.0: Opus 4.8, Sonnet 5, Fable 5).
NEWEST_MEASURED: Final = 5

# A message's frame and the weights of the stand-in, by the first version of a
# family. The frames are ctok's own. The weights apply to the counts of
# o200k_base and claude_65k and to the numbers of small and of capital letters; they are a
# least-squares fit of relative errors against ctok 1.3.0 on 180 texts of
# English, German, Russian, Chinese and Japanese prose, Python code and JSON.
# On texts left out of the fit the mean error is 6 % for 3.0 and 7 % from 4.7
# on; 95 of 100 texts are within 15 %.
_FAMILIES: Final = (
    ((4, 8), 6, (0.73, 0.45, 0.09, 0.5)),
    ((4, 7), 11, (0.73, 0.45, 0.09, 0.5)),
    ((3, 0), 7, (0.73, 0.41, 0.0, 0.0)),
)
# The same fit for claude_65k alone, when o200k_base isn't on this machine.
_WEIGHTS_WITHOUT_O200K: Final = {(4, 8): 1.25, (4, 7): 1.25, (3, 0): 1.05}
LATEST: Final = (4, 8)


def frame(version: tuple[int, int]) -> int:
    """Return the tokens of a message's frame, beside its text.

    Source:
        ctok 1.3.0, `message_overhead` of each family, measured against the
        API's `count_tokens` for one user message.
    """
    return next(tokens for first, tokens, _ in _FAMILIES if version >= first)


class CtokCounter:
    """Counts as ctok does, less the frame of a message.

    Args:
        version: The model's version.
    """

    def __init__(self, version: tuple[int, int]) -> None:
        self._version = ".".join(map(str, version))
        self._frame = frame(version)
        self._stand_in = ClaudeEstimate(version)

    @property
    def name(self) -> str:
        """Says that ctok counts, and for which version."""
        return f"ctok-{self._version}"

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Count each text, in order, without its frame."""
        return [self._count(text) for text in texts]

    def _count(self, text: str) -> int:
        if not text:
            return 0
        try:
            return _token_count()(order_marks(repair(text)), self._version) - self._frame
        # No content may raise; ctok checks itself by assertions.
        except Exception as error:  # noqa: BLE001
            notice("ctok could not count a text", error, "it is estimated")
            return self._stand_in.count_many((text,))[0]


@cache
def _token_count() -> Callable[[str, str], int]:
    with LOADING:
        # Not in the type checkers' environment on 3.11.
        counts: Callable[[str, str], int] = import_module("ctok").token_count
    return counts


class ClaudeEstimate:
    """A stand-in for the tokenizer of Claude 3 and later.

    Args:
        version: The model's version.
    """

    def __init__(self, version: tuple[int, int]) -> None:
        self._first, _, self._weights = next(family for family in _FAMILIES if version >= family[0])

    @property
    def name(self) -> str:
        """What stands in, and for which family."""
        return f"estimate-for-claude-{self._first[0]}.{self._first[1]}"

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Estimate each text, in order."""
        claude = legacy_counter().count_many(texts)
        o200k = _o200k()
        if not o200k.is_available:
            weight = _WEIGHTS_WITHOUT_O200K[self._first]
            return [ceil(weight * count) for count in claude]
        by_o200k, by_claude, by_lower, by_upper = self._weights
        return [
            ceil(
                by_o200k * first
                + by_claude * second
                + by_lower * sum("a" <= letter <= "z" for letter in text)
                + by_upper * sum("A" <= letter <= "Z" for letter in text)
            )
            for text, first, second in zip(texts, o200k.count_many(texts), claude, strict=True)
        ]


def counter(version: tuple[int, int] | None) -> tuple[CtokCounter | ClaudeEstimate, bool]:
    """Return what counts for Claude 3 and later, and whether that is its own.

    Args:
        version: The model's version; `None` if its name doesn't say it, which
            is taken for the newest.
    """
    if find_spec("ctok") is None:
        _hint()
        return ClaudeEstimate(version or LATEST), False
    is_measured = version is not None and version[0] <= NEWEST_MEASURED
    return CtokCounter(version or LATEST), is_measured


@cache
def legacy_counter() -> BytePairCounter:
    """Return the published tokenizer of Claude 1, 2 and instant.

    Source:
        The npm package `@anthropic-ai/tokenizer` 0.0.4: NFKC, then byte pairs.
    """
    return BytePairCounter(CLAUDE_65K, normalize=_nfkc)


@cache
def _o200k() -> BytePairCounter:
    return BytePairCounter(OPENAI["o200k_base"])


def _nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", order_marks(repair(text)))


def _hint() -> None:
    notice(
        "no ctok to count for Claude 3 and later",
        f"Python {sys.version_info.major}.{sys.version_info.minor}",
        "figures are estimated; exact ones need Python 3.12 and `pip install ctok`",
    )

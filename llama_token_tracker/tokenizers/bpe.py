r"""Exact byte-pair counts, whatever the text.

tiktoken is the reference. It has one weak spot: its regular expressions find
whitespace before other text with `\s+(?!\S)`, which keeps a state for each
character and panics at a million of them (a `BaseException`). Long runs are
therefore cut out where the expressions are proven to split, and counted as the
single pieces that they are.

The proof. Let R be a maximal run of whitespace; with `\s*[\r\n]+` in the
expression, of whitespace other than newlines, so that a match of that rule ends
before R or covers all of it. (1) A piece ends where R starts: no rule matches a
character other than whitespace and then whitespace, except that punctuation
takes newlines with it, and those are not in R. (2) If a character F that is no
whitespace follows, `\s+(?!\S)` takes all of R but its last character, which may
be the prefix of F's piece; before a newline R isn't cut. (3) At the end of the
text `\s+(?!\S)` takes all of R; `\s++$`, where there is such a rule, takes the
newlines before R as well, but needs no states, so R is left alone there.
(4) The rules look ahead by one character at most and never back, so what
follows a cut is split as it would be in the whole text, and what precedes it
ends in F-like characters or in newlines, which the rules take in either case.
"""

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from llama_token_tracker._lock import LOADING
from llama_token_tracker.errors import TokenizerError
from llama_token_tracker.tokenizers.accelerator import accelerated
from llama_token_tracker.tokenizers.text import repair
from llama_token_tracker.tokenizers.vocabularies import Vocabulary, is_present, load_ranks

if TYPE_CHECKING:
    import tiktoken

# tiktoken keeps a million states; a tenth of that leaves room.
LONG_RUN: Final = 100_000

# Unicode's White_Space, as Rust's `\s`; Python's has four controls more.
_SPACES: Final = r"\t\x0b\x0c \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# Never encoded, but without any tiktoken looks for "" at every character.
_UNUSED_SPECIAL_TOKEN: Final = {"<|endoftext|>": 1 << 30}

# Runs are found from 64 characters on, so that the search stays linear.
_RUN_WITHOUT_NEWLINES: Final = re.compile(f"[{_SPACES}]{{64,}}+")
_RUN: Final = re.compile(rf"[{_SPACES}\r\n]{{64,}}+")


class BytePairCounter:
    """Counts with one vocabulary: tiktoken's figures, faster where that agrees.

    Args:
        vocabulary: The vocabulary to count with.
        accelerate: Use the accelerator if it is installed and agrees.
        normalize: Applied to each text first.
        long_run: From this length on, runs of whitespace are cut out.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        accelerate: bool = True,
        normalize: Callable[[str], str] | None = None,
        long_run: int = LONG_RUN,
    ) -> None:
        self._vocabulary = vocabulary
        self._accelerate = accelerate
        self._normalize = normalize
        self._long_run = long_run
        self._encoding: tiktoken.Encoding | None = None
        self._whole_pieces: tiktoken.Encoding | None = None

    @property
    def name(self) -> str:
        """The encoding's name."""
        return self._vocabulary.name

    @property
    def is_available(self) -> bool:
        """Whether this machine can count with it, without a network."""
        return self._fast() is not None or is_present(self._vocabulary)

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Count each text, in order.

        Raises:
            TokenizerError: The vocabulary isn't on this machine; see
                `is_available`.
        """
        if self._normalize is not None:
            texts = [self._normalize(text) for text in texts]
        fast = self._fast()
        if fast is not None:
            counts = fast(texts)
            if counts is not None:
                return counts
        encoding = self._load()
        return [self._count(encoding, text) for text in texts]

    def _fast(self) -> Callable[[Sequence[str]], list[int] | None] | None:
        return accelerated(self.name) if self._accelerate else None

    def _count(self, encoding: "tiktoken.Encoding", text: str) -> int:
        if len(text) < self._long_run:
            return _length(encoding, text)
        return sum(
            _length(self._piece_encoding() if is_piece else encoding, part)
            for part, is_piece in self._parts(text)
        )

    def _parts(self, text: str) -> Iterator[tuple[str, bool]]:
        """Cut `text` so that its parts' counts add up to its own.

        Yields:
            A part, and whether it is a single piece of the pre-tokenizer.
        """
        vocabulary = self._vocabulary
        # tiktoken repairs each text by itself; a cut must not part a pair.
        text = repair(text)
        runs = _RUN_WITHOUT_NEWLINES if vocabulary.splits_at_newlines else _RUN
        done = 0
        for run in runs.finditer(text):
            start, end = run.span()
            if end - start < self._long_run:
                continue
            if end == len(text):
                if vocabulary.keeps_final_whitespace:
                    continue
            elif text[end] in "\r\n":
                continue
            else:
                end -= 1
            yield text[done:start], False
            yield text[start:end], True
            done = end
        yield text[done:], False

    def _load(self) -> "tiktoken.Encoding":
        encoding = self._encoding
        if encoding is None:
            with LOADING:
                encoding = self._encoding = self._encoding or self._build(self._vocabulary.pattern)
        return encoding

    def _piece_encoding(self) -> "tiktoken.Encoding":
        """Return an encoding that takes any text as a single piece."""
        encoding = self._whole_pieces
        if encoding is None:
            with LOADING:
                encoding = self._whole_pieces = self._whole_pieces or self._build("(?s:.+)")
        return encoding

    def _build(self, pattern: str) -> "tiktoken.Encoding":
        import tiktoken  # Here, because it takes longer to import than this room.

        ranks = load_ranks(self._vocabulary)
        if ranks is None:
            msg = (
                f"The vocabulary {self.name} is not on this machine; install "
                "llama-index-core, or let tiktoken cache it once by "
                f"tiktoken.get_encoding({self.name!r}) where there is a network."
            )
            raise TokenizerError(msg)
        return tiktoken.Encoding(
            self.name,
            pat_str=pattern,
            mergeable_ranks=ranks,
            special_tokens=_UNUSED_SPECIAL_TOKEN,
        )


def _length(encoding: "tiktoken.Encoding", text: str) -> int:
    # An array spares a list of ids, which is a twentieth of the time; but numpy
    # starts threads when it is imported, so only if somebody else has done that.
    if "numpy" not in sys.modules:
        return len(encoding.encode_ordinary(text))
    try:
        return len(encoding.encode_to_numpy(text, disallowed_special=()))
    except UnicodeEncodeError:
        return len(encoding.encode_to_numpy(repair(text), disallowed_special=()))

"""Byte-pair vocabularies, read from files that are already here.

Nothing is fetched: OpenAI's vocabularies come from the files that
llama-index-core ships or that tiktoken has cached, the one of Claude 1 and 2
from this package. A file counts only if its hash is the published one.
"""

import base64
import gzip
import hashlib
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Vocabulary:
    r"""A byte-pair encoding: its ranks' file and the pattern that splits text.

    Attributes:
        name: The encoding's name.
        pattern: The pre-tokenizer's regular expression.
        file: What the file is called in a tiktoken cache (the SHA-1 of its
            address) or in this package's data.
        sha256: The file's hash.
        splits_at_newlines: Whether a run of whitespace ends a piece after its
            last newline (`\s*[\r\n]+`).
        keeps_final_whitespace: Whether whitespace at the text's end is one
            piece, found without backtracking (`\s++$`).
    """

    name: str
    pattern: str
    file: str
    sha256: str
    splits_at_newlines: bool = False
    keeps_final_whitespace: bool = False


_R50K_PATTERN: Final = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++"
    r"|\s++$|\s+(?!\S)|\s"
)
_CL100K_PATTERN: Final = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
_O200K_PATTERN: Final = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

# Source: `tiktoken_ext/openai_public.py` of tiktoken 0.14.0 (checked
# 2026-11-22). `o200k_harmony` and `p50k_edit` differ from their base in special
# tokens alone, and `gpt2` is `r50k_base` in another file format; special tokens
# are plain text here, so each counts as its base.
OPENAI: Final = {
    vocabulary.name: vocabulary
    for vocabulary in (
        Vocabulary(
            "r50k_base",
            _R50K_PATTERN,
            "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4",
            "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
            keeps_final_whitespace=True,
        ),
        Vocabulary(
            "p50k_base",
            _R50K_PATTERN,
            "ec7223a39ce59f226a68acc30dc1af2788490e15",
            "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
            keeps_final_whitespace=True,
        ),
        Vocabulary(
            "cl100k_base",
            _CL100K_PATTERN,
            "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
            "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
            splits_at_newlines=True,
            keeps_final_whitespace=True,
        ),
        Vocabulary(
            "o200k_base",
            _O200K_PATTERN,
            "fb374d419588a4632f3f557e76b4b70aebbca790",
            "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
            splits_at_newlines=True,
        ),
    )
}
SAME_COUNTS_AS: Final = {
    "gpt2": "r50k_base",
    "p50k_edit": "p50k_base",
    "o200k_harmony": "o200k_base",
}

# Source: the npm package `@anthropic-ai/tokenizer` 0.0.4, `claude.json`.
CLAUDE_65K: Final = Vocabulary(
    "claude_65k",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "claude_65k.bin.gz",
    "d62e7ac6f968491bb53139a4e040d07c3f6985fe87d8295c25a0b0ba80eac642",
)
# Rank of the first token: the five special tokens come before it.
_CLAUDE_FIRST_RANK: Final = 5


def openai_vocabulary(encoding: str) -> Vocabulary | None:
    """Return the vocabulary of one of tiktoken's encodings, if it is known."""
    return OPENAI.get(SAME_COUNTS_AS.get(encoding, encoding))


@cache
def is_present(vocabulary: Vocabulary) -> bool:
    """Tell whether the vocabulary's file is on this machine, unharmed."""
    return _content(vocabulary) is not None


def load_ranks(vocabulary: Vocabulary) -> dict[bytes, int] | None:
    """Read the ranks of a vocabulary.

    Returns:
        A rank for each token, or `None` when no file with the published hash
        is on this machine.
    """
    content = _content(vocabulary)
    if content is None:
        return None
    if vocabulary is CLAUDE_65K:
        return _packed_ranks(gzip.decompress(content))
    ranks: dict[bytes, int] = {}
    for line in content.splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def _packed_ranks(packed: bytes) -> dict[bytes, int]:
    """Unpack a count, the tokens' lengths and the tokens, in order of rank."""
    (number,) = struct.unpack_from("<I", packed)
    lengths = struct.unpack_from(f"<{number}H", packed, 4)
    ranks: dict[bytes, int] = {}
    start = 4 + 2 * number
    for rank, length in enumerate(lengths, _CLAUDE_FIRST_RANK):
        ranks[packed[start : start + length]] = rank
        start += length
    return ranks


def _content(vocabulary: Vocabulary) -> bytes | None:
    for path in _places(vocabulary):
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() == vocabulary.sha256:
            return content
    return None


def _places(vocabulary: Vocabulary) -> Iterator[Path]:
    if vocabulary is CLAUDE_65K:
        yield Path(str(files("llama_token_tracker.tokenizers") / "data" / vocabulary.file))
        return
    # Looked up without importing: llama_index is no dependency of this room.
    spec = find_spec("llama_index")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(root, "core", "_static", "tiktoken_cache", vocabulary.file)
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if folder := os.environ.get(variable):
            yield Path(folder, vocabulary.file)
    yield Path(tempfile.gettempdir(), "data-gym-cache", vocabulary.file)

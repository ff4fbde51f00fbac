"""Vocabularies are those of tiktoken and of Anthropic, and are found offline."""

import hashlib
from pathlib import Path

import pytest

from llama_token_tracker.tokenizers.vocabularies import (
    CLAUDE_65K,
    OPENAI,
    SAME_COUNTS_AS,
    is_present,
    load_ranks,
    openai_vocabulary,
)

openai_public = pytest.importorskip("tiktoken_ext.openai_public")


@pytest.mark.parametrize("name", OPENAI)
def test_the_table_says_what_tiktoken_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns, hashes and cache names are those of the installed tiktoken."""
    asked: list[tuple[str, str]] = []

    def note(address: str, expected_hash: str) -> dict[bytes, int]:
        asked.append((address, expected_hash))
        return {}

    monkeypatch.setattr(openai_public, "load_tiktoken_bpe", note)
    pattern = openai_public.ENCODING_CONSTRUCTORS[name]()["pat_str"]

    [(address, sha256)] = asked
    vocabulary = OPENAI[name]
    assert vocabulary.pattern == pattern
    assert vocabulary.sha256 == sha256
    # tiktoken's own choice of a file name; no security depends on it.
    assert vocabulary.file == hashlib.sha1(address.encode()).hexdigest()


def test_every_encoding_of_tiktoken_is_known() -> None:
    """Each encoding has a vocabulary, its own or an equal one."""
    for encoding in openai_public.ENCODING_CONSTRUCTORS:
        assert openai_vocabulary(encoding) is not None


@pytest.mark.parametrize(("encoding", "base"), SAME_COUNTS_AS.items())
def test_encodings_that_differ_in_special_tokens_share_a_vocabulary(
    encoding: str, base: str
) -> None:
    """Special tokens are plain text here, so the base counts as well."""
    assert openai_vocabulary(encoding) is OPENAI[base]


@pytest.mark.parametrize(("name", "size"), [("cl100k_base", 100_256), ("o200k_base", 199_998)])
def test_bundled_vocabularies_are_complete(name: str, size: int) -> None:
    """Both of llama-index-core's vocabularies are read in full."""
    ranks = load_ranks(OPENAI[name])

    assert ranks is not None
    assert len(ranks) == size


def test_claudes_vocabulary_is_part_of_the_package() -> None:
    """64,995 tokens, ranked from 5 on, as in claude.json."""
    ranks = load_ranks(CLAUDE_65K)

    assert ranks is not None
    assert list(ranks.values()) == list(range(5, 65_000))
    assert ranks[b"!"] == 5
    assert all(bytes([byte]) in ranks for byte in range(256))


def test_a_damaged_file_is_no_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file whose hash is not the published one counts as absent."""
    vocabulary = OPENAI["p50k_base"]
    (tmp_path / vocabulary.file).write_bytes(b"IQ== 0\n")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    is_present.cache_clear()

    assert load_ranks(vocabulary) is None
    assert not is_present(vocabulary)

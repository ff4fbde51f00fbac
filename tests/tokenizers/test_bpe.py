"""Counts are tiktoken's, and no text is too much."""

import dataclasses
import threading
from functools import cache

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.errors import TokenizerError
from llama_token_tracker.tokenizers.bpe import BytePairCounter
from llama_token_tracker.tokenizers.vocabularies import (
    CLAUDE_65K,
    OPENAI,
    Vocabulary,
    is_present,
    load_ranks,
)

# Drawn examples take their time.
pytestmark = pytest.mark.slow

_CL100K = OPENAI["cl100k_base"]
# The older encodings' pattern; their vocabularies are not at hand, any will do.
_OLDER = dataclasses.replace(
    _CL100K,
    pattern=OPENAI["r50k_base"].pattern,
    splits_at_newlines=False,
    keeps_final_whitespace=True,
)
_VOCABULARIES = {
    "cl100k": _CL100K,
    "o200k": OPENAI["o200k_base"],
    "older": _OLDER,
    "claude": CLAUDE_65K,
}
_MILLION = 1_000_000


@cache
def _encoding(key: str) -> tiktoken.Encoding:
    vocabulary = _VOCABULARIES[key]
    ranks = load_ranks(vocabulary)
    assert ranks is not None
    return tiktoken.Encoding(
        key, pat_str=vocabulary.pattern, mergeable_ranks=ranks, special_tokens={}
    )


@cache
def _counter(key: str, long_run: int, *, accelerate: bool = False) -> BytePairCounter:
    return BytePairCounter(_VOCABULARIES[key], accelerate=accelerate, long_run=long_run)


_run = st.tuples(
    st.sampled_from("aA1!/'sé中\u0301😀 \t\x0b\r\n\x1c\x85\xa0\u2028\u3000\ud83d\ude00"),
    st.one_of(st.integers(1, 3), st.integers(60, 130)),
)


@pytest.mark.parametrize("key", _VOCABULARIES)
@given(runs=st.lists(_run, max_size=12))
def test_cutting_out_long_runs_changes_no_count(key: str, runs: list[tuple[str, int]]) -> None:
    """A text cut at its runs of whitespace has the tokens of the whole text."""
    text = "".join(character * times for character, times in runs)

    expected = len(_encoding(key).encode_ordinary(text))
    assert _counter(key, 64).count_many([text]) == [expected]


@pytest.mark.parametrize("key", ["cl100k", "o200k"])
@given(texts=st.lists(st.text(st.characters()), max_size=5))
def test_counts_are_tiktokens(key: str, texts: list[str]) -> None:
    """Any text counts as `encode_ordinary` counts it."""
    expected = [len(_encoding(key).encode_ordinary(text)) for text in texts]
    assert _counter(key, 100_000).count_many(texts) == expected


def test_whitespace_is_what_rust_calls_whitespace() -> None:
    """The runs' classes are those of the tokenizer's regular expressions."""
    from llama_token_tracker.tokenizers.bpe import _RUN, _RUN_WITHOUT_NEWLINES

    ranks = load_ranks(_CL100K)
    assert ranks is not None
    spaces_only = tiktoken.Encoding(
        "spaces", pat_str=r"\s", mergeable_ranks=ranks, special_tokens={}
    )
    characters = [chr(i) for i in range(0x110000) if not 0xD800 <= i <= 0xDFFF]
    in_rust = {c for c in characters if spaces_only.encode_ordinary(c)}

    assert {c for c in characters if _RUN.fullmatch(c * 64)} == in_rust
    without = {c for c in characters if _RUN_WITHOUT_NEWLINES.fullmatch(c * 64)}
    assert without == in_rust - {"\r", "\n"}


@pytest.mark.slow
@pytest.mark.parametrize("accelerate", [False, True])
@pytest.mark.parametrize("key", ["cl100k", "o200k"])
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (" " * 999_999 + "a", (7814, 7814)),
        (" " * _MILLION, (7813, 7813)),
        ("\t" * 1_200_000 + "x", (75001, 75001)),
        ("\u00a0" * 1_200_000 + "a", (150002, 150003)),
        ("a" * _MILLION, (125000, 125000)),
        ("A" * _MILLION, (125000, 125000)),
        ("😀" * (_MILLION // 4), (500000, 250000)),
        ("\n" * _MILLION + "a", (31251, 62501)),
    ],
    ids=["spaces-a", "spaces", "tabs", "nbsp", "a", "A", "emoji", "newlines"],
)
def test_a_megabyte_of_one_character_is_counted(
    key: str, text: str, tokens: tuple[int, int], *, accelerate: bool
) -> None:
    """Where tiktoken panics, the count is the accelerator's, and right."""
    counter = _counter(key, 100_000, accelerate=accelerate)

    assert counter.count_many([text]) == [tokens[key == "o200k"]]


def test_special_token_text_is_plain_text() -> None:
    """What looks like a special token counts as the text that it is."""
    assert _counter("cl100k", 100_000).count_many(["<|endoftext|>"]) == [7]


def test_a_vocabulary_that_is_not_here_is_named() -> None:
    """Counting without a vocabulary says which one, and where to get it."""
    nowhere = Vocabulary("nowhere", r"\s+", "nowhere.tiktoken", "0" * 64)
    counter = BytePairCounter(nowhere)

    assert not counter.is_available
    with pytest.raises(TokenizerError, match="nowhere is not on this machine"):
        counter.count_many(["a"])
    is_present.cache_clear()


def test_threads_share_a_counter() -> None:
    """A counter that is used first by several threads counts right in each."""
    counter = BytePairCounter(_CL100K, accelerate=False)
    counts: list[int] = []

    def work() -> None:
        counts.extend(counter.count_many(["Hello, world!"] * 50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [4] * 200

"""The memo counts a text once, and stays within its bytes."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.tokenizers.memo import Memo


class _Asked:
    """Counts letters and notes which texts it was asked for."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: list[str]) -> list[int]:
        self.texts += texts
        return [len(text) for text in texts]


@given(st.lists(st.lists(st.text(st.characters(), max_size=3))))
def test_every_text_gets_its_own_count(batches: list[list[str]]) -> None:
    """Counts come in the order of the texts, whatever is remembered."""
    memo = Memo()
    for texts in batches:
        assert memo.count_many(texts, _Asked()) == [len(text) for text in texts]


@given(st.lists(st.lists(st.text(max_size=3))))
def test_a_distinct_text_is_counted_once(batches: list[list[str]]) -> None:
    """Neither within a batch nor between batches is a text counted again."""
    memo, asked = Memo(), _Asked()
    for texts in batches:
        memo.count_many(texts, asked)

    assert sorted(asked.texts) == sorted({text for texts in batches for text in texts})


@given(st.integers(0, 2000), st.lists(st.text()))
def test_the_memo_stays_within_its_bound(max_bytes: int, texts: list[str]) -> None:
    """No more counts are remembered than the bound has room for."""
    memo = Memo(max_bytes)
    memo.count_many(texts, _Asked())

    assert len(memo) * 200 <= max_bytes


def test_the_text_seen_longest_ago_is_forgotten_first() -> None:
    """A full memo drops what was not seen for the longest time."""
    memo, asked = Memo(max_bytes=400), _Asked()
    for text in ("a", "b", "a", "c", "a", "b"):
        memo.count_many([text], asked)

    assert asked.texts == ["a", "b", "c", "b"]


def test_lone_surrogates_are_told_apart() -> None:
    """Texts that can't be encoded have a memory of their own."""
    memo = Memo()
    assert memo.count_many(["\ud800", "\ud800\ud801"], _Asked()) == [1, 2]


def test_threads_get_the_counts_of_their_own_texts() -> None:
    """Counts never change places under threads."""
    memo = Memo(max_bytes=4000)
    wrong: list[str] = []

    def work(letter: str) -> None:
        for size in range(300):
            texts = [letter * size, letter]
            if memo.count_many(texts, _Asked()) != [size, 1]:
                wrong.append(letter)

    threads = [threading.Thread(target=work, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong

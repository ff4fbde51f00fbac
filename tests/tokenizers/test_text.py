"""Repairs leave every count as it is."""

import unicodedata
from typing import Literal, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.tokenizers.text import order_marks, repair

_Form: TypeAlias = Literal["NFC", "NFD", "NFKC", "NFKD"]
_MARKS = "\u0301\u0316\u0344\u0f73\u0f75\u0f81\u0f71\u20dd\u0300\u05b0"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_without_lone_surrogates_is_left_alone(text: str) -> None:
    """Text that can be encoded is returned as it is."""
    assert repair(text) is text


@given(st.text(st.characters(categories=("Cs", "Lu", "So"))))
def test_repaired_text_can_be_encoded(text: str) -> None:
    """After repair no lone surrogate is left."""
    repair(text).encode()


def test_a_pair_of_surrogates_becomes_its_character() -> None:
    """Surrogates side by side are joined, a lone one becomes U+FFFD."""
    assert repair("\ud83d\ude00 \ud83d") == "😀 \ufffd"


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@given(runs=st.lists(st.tuples(st.sampled_from("aé가\u1100" + _MARKS), st.integers(1, 300))))
def test_ordered_marks_normalize_to_the_same_text(form: _Form, runs: list[tuple[str, int]]) -> None:
    """Putting marks in order changes no normalization form."""
    text = "".join(character * times for character, times in runs)

    assert unicodedata.normalize(form, order_marks(text)) == unicodedata.normalize(form, text)


@pytest.mark.slow
@given(st.lists(st.sampled_from(_MARKS), min_size=256, max_size=400))
def test_long_runs_of_mixed_marks_are_ordered_without_loss(marks: list[str]) -> None:
    """Any mix of marks, however long, stays canonically equivalent."""
    text = "a" + "".join(marks)

    assert unicodedata.normalize("NFC", order_marks(text)) == unicodedata.normalize("NFC", text)


def test_a_long_run_of_marks_comes_back_sorted() -> None:
    """Marks of a long run stand in order of their combining class."""
    ordered = order_marks("a" + "\u0301\u0316" * 1000)

    classes = [unicodedata.combining(mark) for mark in ordered[1:]]
    assert classes == sorted(classes)

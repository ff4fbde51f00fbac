"""Claude's counts are the published ones, or ctok's, or marked."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_token_tracker.extraction.parts import Message
from llama_token_tracker.tokenizers import count_messages, get_tokenizer
from llama_token_tracker.tokenizers.claude import (
    ClaudeEstimate,
    CtokCounter,
    counter,
    frame,
    legacy_counter,
)
from tests.needs import needs

_VERSIONS = [(3, 0), (3, 5), (4, 6), (4, 7), (4, 8), (5, 0)]
_JOKE = "Here's one: Why can't AI assistants tell jokes? Because they lack a sense of humor!"


@pytest.mark.parametrize("model", ["claude-2.1", "claude-v1", "claude-instant-1.2"])
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("who are you?", 4),
        ("My name is Claude. I'm an AI assistant created by Anthropic.", 16),
        ("Human: tell me a joke about ai", 8),
        (_JOKE, 20),
        ("hello world!", 3),
        ("™", 1),
        ("ϰ", 1),
        ("", 0),
    ],
)
def test_claude_1_and_2_give_the_published_figures(model: str, text: str, tokens: int) -> None:
    """The figures that Anthropic's tokenizer package and its users published."""
    tokenizer = get_tokenizer(model)

    assert (tokenizer.count(text), tokenizer.source) == (tokens, "counted")


def test_special_tokens_of_claude_are_plain_text() -> None:
    """`<EOT>` in a document is four tokens of text, not an end of text."""
    assert legacy_counter().count_many(["<EOT>"]) == [4]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_claude_1_and_2_count_the_normalized_text(text: str) -> None:
    """A text and its NFKC form have the same count."""
    normalized = unicodedata.normalize("NFKC", text)
    counts = legacy_counter().count_many([text, normalized])

    assert counts[0] == counts[1]


@needs("ctok")
@pytest.mark.parametrize("version", _VERSIONS)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
@settings(max_examples=50)
def test_a_user_message_counts_as_ctok_counts_it(version: tuple[int, int], text: str) -> None:
    """Text and frame together are ctok's figure for one user message."""
    import ctok

    name = ".".join(map(str, version))
    expected = ctok.token_count(text, name)

    assert CtokCounter(version).count_many([text])[0] + frame(version) == expected
    counted = count_messages([Message.of("user", text)], model=f"claude-opus-{name}")
    assert (counted.tokens, counted.source) == (expected, "counted")


@needs("ctok")
@pytest.mark.parametrize("version", _VERSIONS)
def test_frames_are_ctoks(version: tuple[int, int]) -> None:
    """A message's frame is as long as ctok makes it."""
    import ctok

    tokens = ctok.tokenize("x", ".".join(map(str, version)))

    assert tokens.count("⟨pad⟩") == frame(version)


def test_a_frame_is_not_part_of_a_text() -> None:
    """Two texts cost no frame, and an empty one nothing at all."""
    tokenizer = get_tokenizer("claude-sonnet-4-5")

    assert tokenizer.count("") == 0
    assert tokenizer.frame == 7
    assert tokenizer.count_many(["Hello", "Hello"])[0] < tokenizer.frame


@needs("ctok")
@pytest.mark.parametrize("version", _VERSIONS)
def test_the_stand_in_is_near_ctok(version: tuple[int, int]) -> None:
    """The estimate of plain English is within a fifth of ctok's count."""
    text = (__doc__ or "") + " ".join(
        test.__doc__ or "" for test in (test_frames_are_ctoks, test_a_frame_is_not_part_of_a_text)
    )

    [exact] = CtokCounter(version).count_many([text])
    [estimate] = ClaudeEstimate(version).count_many([text])
    assert abs(estimate - exact) <= exact / 5


@given(st.lists(st.text(st.characters())))
def test_the_stand_in_counts_any_text(texts: list[str]) -> None:
    """An estimate is never negative, and 0 for no text alone."""
    for text, count in zip(texts, ClaudeEstimate((4, 8)).count_many(texts), strict=True):
        assert (count > 0) == bool(text)


def test_without_ctok_the_stand_in_counts_and_the_hint_comes_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing ctok is no error, and it is told how to get it."""
    monkeypatch.setitem(sys.modules, "ctok", None)

    chosen = [counter((3, 5)), counter((4, 8))]
    assert [is_own for _, is_own in chosen] == [False, False]
    [record] = caplog.records
    assert "pip install ctok" in record.message


def test_the_newest_versions_count_as_the_newest_family() -> None:
    """Models after the last measured generation are counted, but marked."""
    counts, is_own = counter((9, 0))

    assert not is_own
    assert counts.count_many(["Hello"])[0] > 0


@pytest.mark.parametrize("text", ["\ud800", "a" * 100_000, " " * 100_000, "\x00\ufdd0\ue000"])
def test_no_text_is_too_much_for_claude(text: str) -> None:
    """Lone surrogates, long runs and non-characters are counted."""
    for model in ("claude-2", "claude-3-opus", "claude-opus-4-8"):
        assert get_tokenizer(model).count(text) > 0

"""Counting text when the provider is silent."""

import pickle
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.utils import get_tokenizer

from llama_token_tracker.notices import forget_notices
from llama_token_tracker.tokenizer import TextCounter

SPECIAL = "What does <|endoftext|> mean in a document?"


class PanicException(BaseException):
    """What a panic in Rust code becomes in Python: no `Exception`."""


@pytest.fixture(autouse=True)
def _notices_anew() -> Iterator[None]:
    """Let every test hear its own notices."""
    forget_notices()
    yield
    forget_notices()


@pytest.fixture
def cl100k() -> tiktoken.Encoding:
    """The encoding that LlamaIndex carries, without a download."""
    return get_tokenizer().func.__self__


def counter(tokenizer: Any) -> TextCounter:
    """A counter with this tokenizer, or with LlamaIndex's for `None`."""
    return TextCounter(tokenizer, get_tokenizer)


def test_a_given_tokenizer_counts():
    """What you give is what counts, and the source says so."""
    assert counter(str.split).count(["a b c", "", "d"]) == (4, "counted")


def test_the_stand_in_is_an_estimate(cl100k: tiktoken.Encoding):
    """Without a tokenizer LlamaIndex's own counts, and the source says that it's a stand-in."""
    text = "The quick brown fox."
    assert counter(None).count([text]) == (len(cl100k.encode(text)), "estimated")
    assert counter(None).tokenizer is get_tokenizer()


def test_the_stand_in_is_loaded_when_it_is_needed():
    """A counter that never counts loads nothing."""
    loaded = []

    def stand_in() -> Any:
        loaded.append(True)
        return str.split

    late = TextCounter(None, stand_in)
    assert not loaded
    assert late.count(["a b"]) == (2, "estimated")
    assert loaded == [True]


def test_a_stand_in_that_cannot_be_loaded_is_replaced(caplog: pytest.LogCaptureFixture):
    """Without any tokenizer, four characters are taken for a token."""

    def stand_in() -> Any:
        raise OSError

    assert TextCounter(None, stand_in).count(["12345678", "9"]) == (3, "estimated")
    assert "the tokenizer failed: found OSError" in caplog.text


@pytest.mark.parametrize("form", ["encode", "partial"])
def test_special_tokens_in_a_document_are_text(cl100k: tiktoken.Encoding, form: str):
    """LlamaIndex's documented tokenizer raises on `<|endoftext|>`; here it is text."""
    tokenizer = cl100k.encode if form == "encode" else partial(cl100k.encode, allowed_special="all")
    expected = len(cl100k.encode(SPECIAL, disallowed_special=()))
    assert counter(tokenizer).count([SPECIAL]) == (expected, "counted")


def test_other_tiktoken_calls_are_left_alone(cl100k: tiktoken.Encoding):
    """A tokenizer of your own making is called as you made it."""
    assert counter(cl100k.encode_ordinary).count(["a b"]) == (2, "counted")
    assert counter(lambda text: cl100k.encode(text)).count(["a b"]) == (2, "counted")


def test_lone_surrogates_are_counted(cl100k: tiktoken.Encoding):
    """Text that is no valid Unicode has tokens too."""
    for tokenizer in (None, cl100k.encode):
        count, _ = counter(tokenizer).count(["\ud800 half a pair"])
        assert count > 0


def fail(error: BaseException) -> Any:
    """A tokenizer that raises."""

    def tokenizer(_text: str) -> list[int]:
        raise error

    return tokenizer


class Falsy:
    """A tokenizer that is empty when it's asked whether it is anything."""

    def __len__(self) -> int:
        """Be nothing."""
        return 0

    def __call__(self, text: str) -> list[str]:
        """Split."""
        return text.split()


class Endless:
    """Tokens without number."""

    def __len__(self) -> int:
        """Be more than any."""
        return 2**70


FAILING = {
    "raises": fail(ValueError("no")),
    "panics": fail(PanicException("no")),
    "gives a number": lambda _text: 5,
    "gives nothing": lambda _text: None,
    "gives a generator": lambda text: (char for char in text),
    "is endless": lambda _text: Endless(),
    "is none at all": 5,
    "takes no argument": lambda: [],
}


@pytest.mark.parametrize("tokenizer", FAILING.values(), ids=FAILING)
def test_a_tokenizer_that_fails_is_replaced(tokenizer: Any, caplog: pytest.LogCaptureFixture):
    """Where a tokenizer fails the text is estimated by its length, and that's logged once."""
    failing = counter(tokenizer)
    for _ in range(2):
        assert failing.count(["12345678", "9"]) == (3, "estimated")
    assert len(caplog.records) == 1


def test_one_failure_does_not_spoil_the_rest():
    """Texts that the tokenizer can count are counted by it."""

    def picky(text: str) -> list[str]:
        if "!" in text:
            raise ValueError(text)
        return text.split()

    assert counter(picky).count(["a b c", "1234567!"]) == (5, "estimated")
    assert counter(picky).count(["a b c"]) == (3, "counted")


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_leaving_is_no_failure(error: type[BaseException]):
    """What ends the program ends it."""
    with pytest.raises(error):
        counter(fail(error())).count(["a"])


def test_a_tokenizer_may_be_empty():
    """A tokenizer is used whatever its own truth or length."""
    assert counter(Falsy()).count(["a b"]) == (2, "counted")


def test_a_counter_can_be_pickled():
    """A counter that has counted travels, and counts on."""
    used = counter(str.split)
    used.count(["a"])
    twin = pickle.loads(pickle.dumps(used))
    assert twin.count(["a b"]) == (2, "counted")


@given(st.lists(st.text(alphabet=st.characters(codec=None))))
def test_any_text_can_be_counted(texts: list[str]):
    """Counting raises nothing, and is the sum of the texts' counts."""
    one = counter(None)
    total, _ = one.count(texts)
    assert total == sum(one.count([text])[0] for text in texts)
    assert total >= 0

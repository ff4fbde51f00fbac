"""Which tokenizer counts: the one given, the model's own, or LlamaIndex's."""

import pickle

import pytest

from llama_token_tracker.tokenizers.selection import Tokenizers


def none() -> object:
    """No global tokenizer."""
    return None


def in_words() -> object:
    """A global tokenizer of words."""
    return str.split


def test_a_given_tokenizer_counts_for_every_model():
    """What was given goes before what is known."""
    given = Tokenizers(str.split, none)
    assert given.of("gpt-4o") is given.of(None)
    assert (given.of(None).count("a b c"), given.of(None).source) == (3, "counted")


def test_a_known_model_has_its_own():
    """The global tokenizer is not asked for a model that is known."""
    assert Tokenizers(None, in_words).of("gpt-4o").name == "o200k_base"


@pytest.mark.parametrize("model", [None, "nobodys-model"])
def test_the_global_tokenizer_stands_in(model: str | None):
    """For other models it counts, and is marked."""
    tokenizer = Tokenizers(None, in_words).of(model)
    assert (tokenizer.count("a b c"), tokenizer.source) == (3, "estimated")


@pytest.mark.parametrize("model", [None, "nobodys-model"])
def test_without_one_cl100k_stands_in(model: str | None):
    """LlamaIndex's default, without loading LlamaIndex's."""
    tokenizer = Tokenizers(None, none).of(model)
    assert (tokenizer.name, tokenizer.source) == ("cl100k_base", "estimated")


def test_a_global_tokenizer_that_cannot_count_is_passed_over():
    """It was given to somebody else: no error of ours, but a notice."""
    assert Tokenizers(None, lambda: 5).of(None).name == "cl100k_base"


def test_it_can_be_pickled():
    """A copy counts with the same."""
    copy = pickle.loads(pickle.dumps(Tokenizers(str.split, none)))
    assert copy.of(None).count("a b") == 2

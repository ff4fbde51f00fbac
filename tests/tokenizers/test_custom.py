"""What is given as `tokenizer=` counts right, or is refused at once."""

import functools
from pathlib import Path
from typing import Any

import pytest
import tiktoken

from llama_token_tracker.errors import LlamaTokenTrackerError, TokenizerError
from llama_token_tracker.tokenizers import Tokenizer, as_tokenizer, get_tokenizer
from llama_token_tracker.tokenizers.custom import length
from llama_token_tracker.tokenizers.vocabularies import OPENAI, load_ranks
from tests.needs import needs

_TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def hugging_face() -> Any:
    """A tokenizer of words, with a special token, truncation and padding."""
    tokenizers = pytest.importorskip("tokenizers")
    words = ["[UNK]", "<s>", "the", "cat", "sat", "on", "mat"]
    vocabulary = {word: index for index, word in enumerate(words)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer


@pytest.fixture
def encoding() -> tiktoken.Encoding:
    """cl100k_base as a user would have it, special tokens included."""
    ranks = load_ranks(OPENAI["cl100k_base"])
    assert ranks is not None
    return tiktoken.Encoding(
        "cl100k_base",
        pat_str=OPENAI["cl100k_base"].pattern,
        mergeable_ranks=ranks,
        special_tokens={"<|endoftext|>": 100_257},
    )


def test_a_function_counts_the_tokens_it_returns() -> None:
    """LlamaIndex's kind of tokenizer, from a text to a list."""
    tokenizer = as_tokenizer(str.split)

    assert tokenizer.count_many([_TEXT, "a b"]) == [6, 2]
    assert tokenizer.source == "counted"
    assert "split" in tokenizer.name


def test_a_tokenizers_tokenizer_counts_text_alone(hugging_face: Any) -> None:
    """No special tokens are added, and `<s>` in a text is plain text."""
    tokenizer = as_tokenizer(hugging_face)

    assert tokenizer.count(_TEXT) == 6
    # <, s, > by the pre-tokenizer, where the special token would be one.
    assert tokenizer.count("<s> the") == 4


def test_truncation_and_padding_of_the_given_tokenizer_do_not_count(
    hugging_face: Any,
) -> None:
    """A tokenizer set up for a model's input still counts the whole text."""
    hugging_face.enable_truncation(4)
    hugging_face.enable_padding(length=10)

    assert as_tokenizer(hugging_face).count(_TEXT) == 6
    # The user's own stays as it was.
    assert len(hugging_face.encode(_TEXT).ids) == 10
    hugging_face.no_truncation()
    hugging_face.no_padding()


class _Halves:
    """A pre-tokenizer in Python, which can't be copied."""

    def pre_tokenize(self, pretokenized: Any) -> None:
        pretokenized.split(lambda index, text: [text[:3], text[3:]])


def test_a_tokenizer_that_cannot_be_copied_is_used_as_it_is() -> None:
    """A tokenizer with a part written in Python still counts."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"the": 0, "cat": 1}, unk_token="the")
    )
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.PreTokenizer.custom(_Halves())

    assert as_tokenizer(tokenizer).count("thecat") == 2


def test_a_tokenizer_that_fails_on_a_text_costs_the_exact_count_alone() -> None:
    """A vocabulary without a token for the unknown raises; we estimate."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: index for index, word in enumerate(["Hello", ",", "world"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()

    assert as_tokenizer(tokenizer).count_many(["Hello world", "a b c d"]) == [2, 4]


def test_a_tokenizer_json_is_read_from_its_path(hugging_face: Any, tmp_path: Path) -> None:
    """A path, as a string or a `Path`, is the tokenizer in that file."""
    path = tmp_path / "tokenizer.json"
    hugging_face.save(str(path))

    assert as_tokenizer(path).count(_TEXT) == 6
    assert as_tokenizer(str(path)).count(_TEXT) == 6


@needs("transformers")
def test_a_transformers_tokenizer_counts_its_ids(hugging_face: Any) -> None:
    """A transformers tokenizer counts ids, not the keys of its answer."""
    import transformers

    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=hugging_face, unk_token="[UNK]")

    assert as_tokenizer(fast).count(_TEXT) == 6
    assert length(fast(_TEXT)) == 7
    assert length(fast([_TEXT])) == 7


def test_an_encoding_counts_its_ids(hugging_face: Any) -> None:
    """What `tokenizers` returns is as long as its ids."""
    assert as_tokenizer(hugging_face.encode).count(_TEXT) == 7


@pytest.mark.parametrize("how", ["itself", "encode", "partial", "encode_ordinary"])
def test_tiktokens_encodings_count_special_text_as_plain(
    encoding: tiktoken.Encoding, how: str
) -> None:
    """The `encode` that LlamaIndex documents no longer raises on a document."""
    given = {
        "itself": encoding,
        "encode": encoding.encode,
        "partial": functools.partial(encoding.encode, allowed_special="all"),
        "encode_ordinary": encoding.encode_ordinary,
    }[how]

    assert as_tokenizer(given).count("<|endoftext|>") == 7
    assert as_tokenizer(given).count(" " * 999_999 + "a") == 7814


def test_an_encoding_of_ones_own_counts_with_its_own_ranks() -> None:
    """A tiktoken encoding that no table knows is used as it is."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    own = tiktoken.Encoding("own", pat_str=r"\S+", mergeable_ranks=ranks, special_tokens={})

    assert as_tokenizer(own.encode).count("ab cd") == 4


def test_a_tokenizer_of_ours_is_taken_as_it_is() -> None:
    """A `Tokenizer` needs no wrapping."""
    tokenizer = get_tokenizer("gpt-4o")

    assert isinstance(tokenizer, Tokenizer)
    assert as_tokenizer(tokenizer) is tokenizer


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, "a NoneType, which is not callable"),
        (42, "a int, which is not callable"),
        (dict, "The tokenizer the class dict raised ValueError"),
        (len, "returned int 12"),
        (lambda text: None, "returned NoneType None"),
        (lambda text: {"tokens": [1]}, "a mapping without input_ids"),
        (str.upper, "returned str 'HELLO, WORLD'"),
        (lambda text: 1 / 0, "raised ZeroDivisionError"),
        (lambda: [], "raised TypeError"),
        ("no/such/tokenizer.json", "where there is no file"),
    ],
)
def test_what_cannot_count_is_refused_where_it_is_given(given: object, found: str) -> None:
    """The error says what was found."""
    with pytest.raises(TokenizerError, match=found) as caught:
        as_tokenizer(given)

    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LlamaTokenTrackerError)


def test_the_way_out_is_part_of_the_error() -> None:
    """The error says what to give instead."""
    with pytest.raises(TokenizerError, match=r"give a tokenizers\.Tokenizer"):
        as_tokenizer(42)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path) -> None:
    """A file of another kind is named in the error."""
    pytest.importorskip("tokenizers")
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")

    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        as_tokenizer(path)


def test_a_function_that_fails_on_a_text_costs_the_exact_count_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Content never raises: the stand-in counts, and that is logged."""

    def picky(text: str) -> list[str]:
        if "!" in text:
            msg = "no shouting"
            raise ValueError(msg)
        return text.split()

    tokenizer = as_tokenizer(picky)
    assert tokenizer.count_many(["a b c", "Hello, world!"]) == [3, 4]
    assert "no shouting" in caplog.text


def test_an_interrupt_is_passed_on() -> None:
    """Ctrl-C while counting stops the program."""

    def interrupted(text: str) -> list[str]:
        if text == "stop":
            raise KeyboardInterrupt
        return text.split()

    with pytest.raises(KeyboardInterrupt):
        as_tokenizer(interrupted).count("stop")


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([], 0),
        ([1, 2], 2),
        ([7], 1),
        (["a"], 1),
        ((1, 2, 3), 3),
        (b"abc", 3),
        ([[1, 2, 3]], 3),
        ({"input_ids": [1, 2], "attention_mask": [1, 1], "x": []}, 2),
        ({"input_ids": [[1, 2, 3, 4]]}, 4),
    ],
)
def test_the_length_of_an_answer_is_that_of_its_ids(tokens: object, expected: int) -> None:
    """Lists, mappings with `input_ids` and batches of one are looked through."""
    assert length(tokens) == expected


def test_arrays_count_their_elements() -> None:
    """Arrays of one and of two dimensions count ids, a single id included."""
    numpy = pytest.importorskip("numpy")

    assert length(numpy.array([1, 2, 3])) == 3
    assert length(numpy.array([5])) == 1
    assert length(numpy.array([[1, 2, 3]])) == 3

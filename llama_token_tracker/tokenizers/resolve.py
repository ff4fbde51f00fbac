"""From a model's name to its tokenizer."""

from functools import cache
from typing import Final, overload

from llama_token_tracker._lock import LOADING
from llama_token_tracker._log_once import notice, put_off, say_late
from llama_token_tracker._printable import printable
from llama_token_tracker.errors import TokenizerError
from llama_token_tracker.tokenizers import claude
from llama_token_tracker.tokenizers.base import TextTokenizer
from llama_token_tracker.tokenizers.bpe import BytePairCounter
from llama_token_tracker.tokenizers.models import Model, identify
from llama_token_tracker.tokenizers.vocabularies import OPENAI, openai_vocabulary

# More names than any program uses; past it, the oldest are forgotten.
_MAX_MODELS: Final = 1024

_by_model: dict[str, TextTokenizer] = {}


def get_tokenizer(model: str) -> TextTokenizer:
    """Return the tokenizer of a model.

    Nothing is fetched, and no text is read yet. A stand-in is logged once for
    each model.

    Args:
        model: The model's name: bare, with a path, a Bedrock id or ARN, a
            Vertex id.

    Returns:
        The model's own tokenizer (`source="counted"`), or a stand-in
        (`source="estimated"`).

    Raises:
        TokenizerError: `model` is no string.
    """
    # Typed, but the handler passes on what an LLM says its model is.
    if not isinstance(model, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = (
            f"model= is {type(model).__qualname__} {model!r:.60}; give the model's "
            'name as a string, for example "gpt-4o".'
        )
        raise TokenizerError(msg)
    tokenizer = _by_model.get(model)
    if tokenizer is None:
        with LOADING, put_off():
            tokenizer = _resolve(model)
        say_late()
        _say_if_estimated(model, tokenizer)
        tokenizer = _by_model.setdefault(model, tokenizer)
        for oldest in list(_by_model)[: max(0, len(_by_model) - _MAX_MODELS)]:
            _by_model.pop(oldest, None)
    return tokenizer


@overload
def count_tokens(text: str, *, model: str) -> int: ...
@overload
def count_tokens(text: list[str], *, model: str) -> list[int]: ...


def count_tokens(text: str | list[str], *, model: str) -> int | list[int]:
    """Count the tokens of a text, or of each of several.

    Counts text alone: for the frame of messages, see `count_messages`.

    Args:
        text: A text or a list of texts.
        model: The model's name, as for `get_tokenizer`.

    Returns:
        A figure, or a list of figures in the order of the texts.

    Raises:
        TypeError: `text` is neither.
    """
    tokenizer = get_tokenizer(model)
    if isinstance(text, str):
        return tokenizer.count(text)
    if not isinstance(text, list | tuple) or not all(isinstance(one, str) for one in text):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"text is {printable(text)}; give a text, or a list of texts."
        raise TypeError(msg)
    return tokenizer.count_many(text)


def is_known(model: str) -> bool:
    """Tell whether a table knows the model, be its tokenizer installed or not."""
    return identify(model).provider != "other"


@cache
def stand_in() -> TextTokenizer:
    """Return the tokenizer for models whose own isn't known.

    cl100k_base, with which LlamaIndex counts; without it, what there is.
    """
    for name in ("cl100k_base", "o200k_base"):
        counter = _openai_counter(name)
        if counter is not None:
            return TextTokenizer(counter, "estimated")
    return TextTokenizer(claude.legacy_counter(), "estimated")


def _resolve(model: str) -> TextTokenizer:
    tokenizer = _own(identify(model))
    return stand_in() if tokenizer is None else tokenizer


def _say_if_estimated(model: str, tokenizer: TextTokenizer) -> None:
    if tokenizer.source == "estimated":
        notice(
            "no tokenizer of the model {} is known or installed",
            tokenizer.name,
            "its figures are estimated with that; to count with its own, give it as tokenizer=",
            printable(model),
        )


def _own(model: Model) -> TextTokenizer | None:
    if model.provider == "claude":
        return _claude(model.version, is_legacy=model.is_legacy)
    if model.encoding is not None:
        return _openai(model.encoding)
    return None


@cache
def _claude(version: tuple[int, int] | None, *, is_legacy: bool) -> TextTokenizer:
    if is_legacy:
        return TextTokenizer(claude.legacy_counter(), "counted")
    counter, is_own = claude.counter(version)
    return TextTokenizer(
        counter,
        "counted" if is_own else "estimated",
        frame=claude.frame(version or claude.LATEST),
    )


@cache
def _openai(encoding: str) -> TextTokenizer | None:
    counter = _openai_counter(encoding)
    return None if counter is None else TextTokenizer(counter, "counted")


@cache
def _openai_counter(encoding: str) -> BytePairCounter | None:
    vocabulary = openai_vocabulary(encoding)
    if vocabulary is None:
        return None
    if vocabulary.name != encoding:
        return _openai_counter(vocabulary.name)
    counter = BytePairCounter(OPENAI[encoding])
    return counter if counter.is_available else None

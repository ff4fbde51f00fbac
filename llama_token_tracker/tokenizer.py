"""Counts text when the provider is silent."""

from collections.abc import Callable, Iterable, Sized
from functools import partial
from typing import Any, TypeAlias, cast

from llama_token_tracker.event import Source
from llama_token_tracker.notices import notice

Tokenizer: TypeAlias = Callable[[str], Sized]

_CHARS_PER_TOKEN = 4


class TextCounter:
    """Counts with the tokenizer it was given, or else with a stand-in loaded when first needed.

    Args:
        tokenizer: Text to tokens, or `None` for the stand-in.
        stand_in: Gives the stand-in.
    """

    def __init__(self, tokenizer: Tokenizer | None, stand_in: Callable[[], Tokenizer]) -> None:
        self.source: Source = "estimated" if tokenizer is None else "counted"
        self._tokenizer = tokenizer
        self._stand_in = stand_in
        self._encode: Tokenizer | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that was given, or the stand-in."""
        return self._stand_in() if self._tokenizer is None else self._tokenizer

    def count(self, texts: Iterable[str]) -> tuple[int, Source]:
        """Count texts.

        Returns:
            Tokens of all texts together, and how good that figure is: where the tokenizer
            fails, four characters are taken for a token, and the source is `estimated`.
        """
        total, source = 0, self.source
        for text in texts:
            try:
                encode = self._encode
                if encode is None:
                    encode = self._encode = _plainly(self.tokenizer)
                total += len(encode(text))
            except BaseException as error:
                if not _is_tokenizers_own(error):
                    raise
                notice("the tokenizer failed", error, "the text is estimated by its length")
                total += -(-len(text) // _CHARS_PER_TOKEN)
                source = "estimated"
        return total, source

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made when it's needed."""
        return {**self.__dict__, "_encode": None}


def _plainly(tokenizer: Any) -> Tokenizer:
    """Make a tiktoken encoder take the text of special tokens for text.

    A document may well say `<|endoftext|>`; by default tiktoken raises there.
    """
    wrapped: Any = tokenizer
    encode, options = wrapped, dict[str, Any]()
    if isinstance(tokenizer, partial):
        encode, options = wrapped.func, wrapped.keywords
    owner = getattr(encode, "__self__", None)
    if (
        str(type(owner).__module__).partition(".")[0] == "tiktoken"
        and getattr(encode, "__name__", "") == "encode"
        and options.keys() <= {"allowed_special", "disallowed_special"}
    ):
        return cast("Tokenizer", partial(encode, disallowed_special=()))
    return cast("Tokenizer", tokenizer)


def _is_tokenizers_own(error: BaseException) -> bool:
    # A panic in Rust code is no Exception, yet nothing the user's call should die of.
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"

"""Which tokenizer counts when a provider is silent: yours, or the model's own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import TokenizerError
from llama_token_tracker.tokenizers import (
    TextTokenizer,
    Tokenizer,
    as_tokenizer,
    get_tokenizer,
    is_known,
    stand_in,
)


class Tokenizers:
    """The tokenizer that a user gave, or else each model's own.

    Args:
        given: What the user gave, or `None`.
        usual: Gives the tokenizer for models that aren't known, or `None` for our own choice.

    Raises:
        TokenizerError: `given` can't count tokens.
    """

    def __init__(self, given: object, usual: Callable[[], object]) -> None:
        self.given = given
        self._usual = usual
        self._own = None if given is None else as_tokenizer(given)
        self._seen: object = None
        self._stand_in: Tokenizer = stand_in()

    def of(self, model: str | None) -> Tokenizer:
        """The tokenizer to count a model's texts with."""
        if self._own is not None:
            return self._own
        if model is not None and is_known(model):
            return get_tokenizer(model)
        usual = self._usual()
        if usual is not None and usual is not self._seen:
            self._stand_in, self._seen = _marked(usual), usual
        if model is not None and usual is None:
            get_tokenizer(model)  # says once which stand-in counts for it
        return self._stand_in

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made of the rest."""
        return {"given": self.given, "_usual": self._usual}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Check what was given again: it may have been read from a file."""
        self.__init__(state["given"], state["_usual"])  # type: ignore[misc]


def _marked(usual: object) -> Tokenizer:
    try:
        tokenizer = as_tokenizer(usual)
    except TokenizerError as error:
        notice("LlamaIndex's global tokenizer can't count", error, "a stand-in counts instead")
        return stand_in()
    if isinstance(tokenizer, TextTokenizer):
        return replace(tokenizer, source="estimated")
    return tokenizer

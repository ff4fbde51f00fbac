"""Which tokenizer counts a model's texts: the user's, the model's own, or a default."""

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
    """Chooses the tokenizer for each model.

    The user's counts for every model. Without it a known model has its own; any other is
    estimated with the default, or with the package's stand-in (`tokenizers.stand_in`).

    Args:
        given: The user's tokenizer, in any form that `as_tokenizer` takes, or `None`.
        default: Returns the default tokenizer of the moment, or `None` if there is none.

    Raises:
        TokenizerError: `given` can't count tokens.
    """

    def __init__(self, given: object, default: Callable[[], object]) -> None:
        self.given = given
        self._default = default
        self._users = None if given is None else as_tokenizer(given)
        self._last_default: object = None
        # Loaded here, so that no call waits for it; and not at all where the user's own counts.
        self._fallback: Tokenizer = stand_in() if self._users is None else self._users

    def of(self, model: str | None) -> Tokenizer:
        """Choose the tokenizer for a model; `None` if its name isn't known."""
        if self._users is not None:
            return self._users
        if model is not None and is_known(model):
            return get_tokenizer(model)
        default = self._default()
        if default is not None and default is not self._last_default:
            self._fallback, self._last_default = _estimating(default), default
        if model is not None and default is None:
            get_tokenizer(model)  # logs once which stand-in counts for it
        return self._fallback

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is made of the rest."""
        return {"given": self.given, "default": self._default}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Check the user's tokenizer again: it may have been read from a file."""
        self.__init__(**state)  # type: ignore[misc]


def _estimating(default: object) -> Tokenizer:
    """Make a tokenizer of the default, whose figures are estimates: it isn't the model's own."""
    try:
        tokenizer = as_tokenizer(default)
    except TokenizerError as error:
        notice("LlamaIndex's global tokenizer can't count", error, "a stand-in counts instead")
        return stand_in()
    if isinstance(tokenizer, TextTokenizer):
        return replace(tokenizer, source="estimated")
    return tokenizer

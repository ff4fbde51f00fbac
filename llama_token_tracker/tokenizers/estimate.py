"""Upper estimates of what a call may use, made in microseconds before it is sent.

They size a budget's reservation; once the call has ended, its usage takes their place.
"""

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, SupportsIndex, cast

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.extraction.fields import MAX_TOKENS
from llama_token_tracker.extraction.messages import messages_of
from llama_token_tracker.extraction.parts import Message, Part, Text, Thinking, ToolCall, ToolResult
from llama_token_tracker.tokenizers.request_fields import NESTED
from llama_token_tracker.usage import Source

_BYTES_PER_TOKEN: Final = 3
"""English has about 4 bytes to a token, code and Chinese about 3: the fewer, the safer."""

_TOKENS_PER_MESSAGE: Final = 8
"""What providers put around a message; none is known to take more."""

_TOKENS_PER_IMAGE: Final = 1_600
"""What an image or a page costs at the most with Claude, and more than with OpenAI at `low`.

Source:
    https://docs.anthropic.com/en/docs/build-with-claude/vision (checked 2026-11-22).
"""

_OUTPUT_LIMITS: Final = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "maxOutputTokens",
    "max_new_tokens",
    "maxTokens",
    "max_tokens_to_sample",
    "max_gen_len",
    "maxTokenCount",
    "num_predict",
)
"""Names that providers and LlamaIndex's integrations have for the limit of output tokens."""

_LIMITS_AND_NESTED: Final = frozenset((*_OUTPUT_LIMITS, *NESTED))

_NOT_STATED: Final = "it is taken to state no limit, and default_max_tokens is reserved"


class ByteTokenizer:
    """Estimates texts by their bytes, in microseconds, where counting can't keep up."""

    name = "bytes"
    source: Source = "estimated"

    def count(self, text: str) -> int:
        """Estimate one text."""
        return -(-len(text.encode(errors="surrogatepass")) // _BYTES_PER_TOKEN)

    def count_many(self, texts: Sequence[str]) -> list[int]:
        """Estimate each text, in order."""
        return [self.count(text) for text in texts]


def expected_input(prompt: object, tools: object = None) -> int:
    """Estimate the input tokens of a prompt. Never raises, whatever it holds.

    Args:
        prompt: A text, or messages in any form.
        tools: The tools that are sent along.
    """
    try:
        return _of_prompt(prompt, tools)
    except Exception as error:  # noqa: BLE001 - a foreign prompt may raise anything when read
        notice("a prompt could not be estimated", error, "its input is not reserved")
        return 0


def _of_prompt(prompt: object, tools: object) -> int:
    tokens = len(str(tools).encode(errors="replace")) // _BYTES_PER_TOKEN if tools else 0
    if isinstance(prompt, str):
        return tokens + _of_text(prompt)
    messages = messages_of(prompt)
    return tokens + _TOKENS_PER_MESSAGE * len(messages) + sum(_of_parts(m.parts) for m in messages)


def expected_texts(texts: Iterable[str]) -> int:
    """Estimate the input tokens of texts that are embedded."""
    return sum(expected_input(text) for text in texts)


def _of_text(text: str) -> int:
    return -(-len(text.encode(errors="replace")) // _BYTES_PER_TOKEN)


def _of_parts(parts: Iterable[Part | Message]) -> int:
    tokens = 0
    for part in parts:
        match part:
            case Text(text) | Thinking(text):
                tokens += _of_text(text)
            case ToolCall(name, arguments):
                tokens += _of_text(name + arguments) + _TOKENS_PER_MESSAGE
            case ToolResult(parts=inner) | Message(parts=inner):
                tokens += _of_parts(inner) + _TOKENS_PER_MESSAGE
            case _:
                tokens += _of_text(getattr(part, "text", "") or "") or _TOKENS_PER_IMAGE * (
                    getattr(part, "pages", 0) or 1
                )
    return tokens


def stated_output(*arguments: object) -> int | None:
    """Read the limit of output tokens that a call states.

    Args:
        arguments: Where it may stand: the call's own arguments first, then the settings of its
            model. What is no mapping is passed over.

    Returns:
        The limit, for all answers that are asked for together; `None` if none is stated.
    """
    for given in arguments:
        # Asked of its class, as an object may raise when it's asked itself.
        if issubclass(type(given), Mapping):
            try:
                limit = _limit(cast("Mapping[str, Any]", given))
            except Exception as error:  # noqa: BLE001 - a foreign mapping may raise anything
                notice("a call's options could not be read", error, _NOT_STATED)
                continue
            if limit is not None:
                return limit
    return None


def _limit(given: Mapping[str, Any]) -> int | None:
    if _LIMITS_AND_NESTED.isdisjoint(given):
        return None  # quick for most
    nested = [given.get(name) for name in NESTED]
    for place in (given, *nested):
        if place is None or not issubclass(type(place), Mapping):
            continue
        found = cast("Mapping[str, Any]", place)
        for name in _OUTPUT_LIMITS:
            limit = _number(found[name], name) if name in found else None
            if limit is not None:
                # So many answers are asked for at once.
                return min(limit * (_number(given.get("n"), "n") or 1), MAX_TOKENS)
    return None


def _number(value: object, name: str) -> int | None:
    """Read an option; `None` for none, as is what's below 1: -1 and the like say "no limit"."""
    if value is None:
        return None
    number = value if type(value) is int else _whole(value)
    if number is None or number > MAX_TOKENS:
        notice("no number of tokens in a call's {}", value, _NOT_STATED, name)
        return None
    return number if number > 0 else None


def _whole(value: object) -> int | None:
    """A whole number of any other class, such as numpy's, or a float's."""
    try:
        if type(value) is float:
            return int(value) if value.is_integer() else None
        return None if type(value) is bool else operator.index(cast("SupportsIndex", value))
    except Exception as error:  # noqa: BLE001 - no number at all, or one of a foreign kind
        pass_on(error)
        return None

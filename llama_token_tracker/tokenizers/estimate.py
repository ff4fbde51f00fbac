"""Upper estimates of what a call may use, made in microseconds before it is sent.

They size a budget's reservation; once the call has ended, its usage takes their place.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast

from llama_token_tracker._log_once import notice
from llama_token_tracker.extraction.messages import messages_of
from llama_token_tracker.extraction.parts import Message, Part, Text, Thinking, ToolCall, ToolResult
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

_NESTED: Final = (
    "additional_kwargs",
    "generation_config",
    "generationConfig",
    "config",
    "options",
    "inferenceConfig",
    "textGenerationConfig",
)
"""Names of mappings that it stands in, if not beside the other arguments."""


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
        if isinstance(given, Mapping):
            found = cast("Mapping[str, Any]", given)
            limit = _limit(found)
            if limit is not None:
                return limit * _answers(found)
    return None


def _limit(given: Mapping[str, Any]) -> int | None:
    nested = [given.get(name) for name in _NESTED]
    for place in (given, *nested):
        if isinstance(place, Mapping):
            found = cast("Mapping[str, Any]", place)
            for name in _OUTPUT_LIMITS:
                limit = found.get(name)
                # -1 and the like: no limit.
                if type(limit) is int and limit > 0:
                    return limit
    return None


def _answers(given: Mapping[str, Any]) -> int:
    """Read how many answers are asked for at once."""
    number = given.get("n")
    return number if type(number) is int and number > 1 else 1

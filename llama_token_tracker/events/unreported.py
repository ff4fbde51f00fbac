"""Counts what a provider did not report, with the model's own tokenizer where there is one.

Nothing here raises: what can't be counted is estimated by its length, and marked.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from llama_token_tracker._log_once import notice
from llama_token_tracker.extraction.messages import tools_of
from llama_token_tracker.extraction.parts import (
    Document,
    Message,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from llama_token_tracker.tokenizers import Tokenizer, count_messages
from llama_token_tracker.tokenizers.message_rules import shows_all_it_writes, takes_messages_alone
from llama_token_tracker.tokenizers.request_fields import tools_in, uncovered
from llama_token_tracker.usage import Source, weaker

_CHARS_PER_TOKEN: Final = 4


class Count(NamedTuple):
    """A number of tokens, and where it comes from."""

    tokens: int
    source: Source


NOTHING: Final = Count(0, "estimated")

Lookup = Callable[[], Tokenizer]
"""Gives the tokenizer of a call's model; asked only if something is to be counted."""


def count_prompt(
    prompt: str | Sequence[Message] | None,
    options: Mapping[str, Any],
    lookup: Lookup,
    model: str | None,
) -> Count:
    """Count what was sent.

    Args:
        prompt: A text, or messages; `None` counts as nothing.
        options: What else the request holds: tools, among others.
        lookup: Gives the tokenizer.
        model: The model's name, or `None` if unknown.
    """
    if prompt is None:
        return NOTHING

    def count() -> Count:
        tokenizer = lookup()
        if isinstance(prompt, str) and not takes_messages_alone(model or ""):
            is_covered = next(uncovered(options), None) is None
            source = _source_of(tokenizer) if is_covered else "estimated"
            return Count(tokenizer.count(prompt), source)
        counted = count_messages(
            (Message.of("user", prompt),) if isinstance(prompt, str) else prompt,
            model=model or "",
            tools=tools_of(tools_in(options)),
            tokenizer=tokenizer,
            options=options,
        )
        return Count(counted.tokens, weaker(counted.source, _source_of(tokenizer)))

    return _safely(count, [prompt] if isinstance(prompt, str) else prompt)


def count_answer(parts: Sequence[Part], lookup: Lookup, model: str | None) -> Count:
    """Count what came back."""
    if not parts:
        return NOTHING

    def count() -> Count:
        tokenizer = lookup()
        tokens = sum(tokenizer.count_many(list(texts_in(parts))))
        # How thoughts and calls of tools are written is the provider's secret.
        is_seen = shows_all_it_writes(model or "") and all(isinstance(p, Text) for p in parts)
        return Count(tokens, _source_of(tokenizer) if is_seen else "estimated")

    return _safely(count, parts)


def count_apart(texts: Sequence[str], lookup: Lookup) -> list[Count]:
    """Count texts that are no parts of one prompt, each by itself."""
    try:
        tokenizer = lookup()
        return [Count(n, _source_of(tokenizer)) for n in tokenizer.count_many(list(texts))]
    except Exception as error:  # noqa: BLE001 - a figure is asked for long after the call
        notice("a text could not be counted", error, "it is estimated by its length")
        return [Count(_by_length(text), "estimated") for text in texts]


def _by_length(text: str) -> int:
    return -(-len(text) // _CHARS_PER_TOKEN)


def _safely(count: Callable[[], Count], content: Sequence[Any]) -> Count:
    try:
        return count()
    except Exception as error:  # noqa: BLE001 - a figure is asked for long after the call
        notice("a text could not be counted", error, "it is estimated by its length")
        texts = [part for part in content if isinstance(part, str)] or texts_in(content)
        return Count(sum(_by_length(text) for text in texts), "estimated")


def _source_of(tokenizer: Tokenizer) -> Source:
    """The tokenizer's source; one that has ever failed and was stood in for is not trusted."""
    failed = getattr(getattr(tokenizer, "counter", None), "has_failed", False)
    return "estimated" if failed else tokenizer.source


def texts_in(parts: Iterable[Part | Message]) -> Iterable[str]:
    """The texts of parts and of what is inside them, those of tools included."""
    for part in parts:
        match part:
            case Text(text) | Thinking(text):
                yield text
            case ToolCall(name, arguments):
                yield name
                yield arguments
            case Document(text):
                yield text
            case ToolResult(parts=inner) | Message(parts=inner):
                yield from texts_in(inner)
            case _:
                pass

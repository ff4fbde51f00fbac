"""What a provider said of a call's tokens, and the event of that and of our own counts.

What a provider said stands; where it was silent our own count does, marked as such.
"""

from typing import Any, NamedTuple, TypeVar

from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.events.unreported import Count
from llama_token_tracker.usage import Source, Usage

AnyEvent = TypeVar("AnyEvent", bound=TokenCountingEvent)


class Said(NamedTuple):
    """What a provider said of a call's tokens.

    Attributes:
        usage: The figures, if there are any.
        prompt_source: Whether those of the prompt surely hold all of it.
        output_is_sure: Whether those of the answer do.
    """

    usage: Usage | None
    prompt_source: Source
    output_is_sure: bool

    @property
    def prompt(self) -> int | None:
        """Tokens of the prompt."""
        return None if self.usage is None else self.usage.input_tokens

    @property
    def is_all_of_the_answer(self) -> bool:
        """Whether nothing of the answer is left to count."""
        usage = self.usage
        return self.output_is_sure and usage is not None and usage.output_tokens is not None

    @property
    def is_all(self) -> bool:
        """Whether nothing is left to count."""
        return self.prompt is not None and self.is_all_of_the_answer


def event_of(
    kind: type[AnyEvent], fields: dict[str, Any], said: Said, prompt: Count, answer: Count
) -> AnyEvent:
    """Make an event of what the provider said, and of what was counted where it was silent.

    Args:
        kind: The event's class.
        fields: What else is known of the call, by the event's fields.
        said: What the provider said.
        prompt: Our own count of the prompt.
        answer: Our own count of the answer.
    """
    usage = said.usage
    if usage is not None and usage.input_tokens is not None:
        prompt = Count(usage.input_tokens, said.prompt_source)
    reported = None if usage is None else usage.output_tokens
    # Of a stream that was left, more may have come than the last figure says.
    if reported is not None and (said.output_is_sure or answer.tokens <= reported):
        answer = Count(reported, "reported")
    if usage is None or not prompt.source == answer.source == "reported":
        usage = _filled(usage, prompt.tokens, answer.tokens)
    return kind(
        **fields,
        prompt_token_count=prompt.tokens,
        completion_token_count=answer.tokens,
        usage=usage,
        prompt_source=prompt.source,
        completion_source=answer.source,
    )


def embedded(
    kind: type[AnyEvent], fields: dict[str, Any], text: str, is_sure: bool, prompt: Count
) -> AnyEvent:
    """Make the event of one embedded text, of which it may not be sure that it was embedded."""
    source: Source = prompt.source if is_sure else "estimated"
    return kind(
        **fields,
        prompt=text,
        prompt_token_count=prompt.tokens,
        completion_token_count=0,
        usage=Usage.of({"input_tokens": prompt.tokens}),
        prompt_source=source,
        completion_source=source,
    )


def _filled(usage: Usage | None, prompt_tokens: int, completion_tokens: int) -> Usage:
    """Put our own counts where the provider was silent, beside what it said."""
    counts = {} if usage is None else usage.reported()
    counts["input_tokens"] = prompt_tokens
    counts["output_tokens"] = completion_tokens
    return Usage.of(counts)

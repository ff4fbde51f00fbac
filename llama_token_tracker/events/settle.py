"""From a call that has ended to its events: the one place where figures get their labels.

What a provider said stands; where it was silent our own count does, marked as such.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import ASKED_FOR_USAGE
from llama_token_tracker._printable import printable
from llama_token_tracker.events.call import Call, Settings
from llama_token_tracker.events.event import BY_UNITS, Status, TokenCountingEvent
from llama_token_tracker.events.transcripts import EmbeddedTexts, Transcript
from llama_token_tracker.events.unreported import (
    NOTHING,
    Count,
    Lookup,
    count_answer,
    count_apart,
    count_prompt,
)
from llama_token_tracker.extraction import DEFERRED, Reported
from llama_token_tracker.usage import Source, Usage, root, weaker


class Ending(NamedTuple):
    """How a call ended, and when.

    Attributes:
        status: How.
        started_s: When it had started, in seconds since 1970.
        duration_s: How long it took, in seconds.
        has_answer: Whether anything came back.
    """

    status: Status
    started_s: float
    duration_s: float
    has_answer: bool = True


class Ended(NamedTuple):
    """A call that has ended, and all that is needed to make its events.

    Attributes:
        call: The call.
        reported: What its provider said.
        answer: What was sent and what came back.
        ending: How it ended.
        settings: How whoever counts wants events to be made.
    """

    call: Call
    reported: Reported
    answer: Transcript
    ending: Ending
    settings: Settings

    @property
    def is_free(self) -> bool:
        """Whether it failed before anything was billed."""
        return (
            self.ending.status == "failed"
            and not self.ending.has_answer
            and self.reported.usage is None
            and not self.reported.not_understood
        )

    @property
    def has_nothing_to_count(self) -> bool:
        """Whether there are no tokens that a provider could have billed beyond those it tells."""
        return self.is_free or self.call.operation in BY_UNITS

    @property
    def status(self) -> Status:
        """How it ended, now that it's known whether anything came back."""
        status, has_answer = self.ending.status, self.ending.has_answer
        if self.reported.usage is None and DEFERRED in self.reported.not_understood:
            return "unanswered"
        is_answered = has_answer or self.reported.usage is not None
        return "failed" if status == "unanswered" and is_answered else status

    @property
    def needs_counting(self) -> bool:
        """Whether a tokenizer must count it: its provider has not said all of it."""
        if self.has_nothing_to_count:
            return False
        if self.call.operation == "embedding":
            return not all(group.reported.covers_input for group in self.answer.embedded())
        return not self.reported.covers_call


def settle(ended: Ended) -> list[TokenCountingEvent]:
    """Make the events of a call: one, or one for each embedded text."""
    call, reported, answer, ending, settings = ended
    call.identify()
    lookup = partial(settings.tokenizer, call.model)
    has_none = ended.has_nothing_to_count
    if call.operation == "embedding" and not has_none:
        return [
            event
            for group in answer.embedded()
            for event in _embedded(_facts(call, ended.status, ending), group, lookup, settings)
        ]
    reported = reported.of_model(call.model)
    _say_how_to_ask(ended)
    prompt, said = _told(reported) if has_none else _counted(call, reported, answer, lookup)
    shown, completion = answer.printed()
    return [
        settings.event_class(
            prompt=shown,
            completion=completion,
            prompt_token_count=prompt.tokens,
            completion_token_count=said.tokens,
            usage=_usage(reported.usage, prompt, said),
            prompt_source=prompt.source,
            completion_source=said.source,
            not_understood=reported.not_understood,
            served=reported.served,
            **_facts(call, ended.status, ending, reported.request_id),
        )
    ]


def _say_how_to_ask(ended: Ended) -> None:
    """Say once a model how to ask for the usage of its streams, where that must be asked for."""
    call = ended.call
    if (
        call.is_streamed
        and ended.ending.status == "complete"
        and ended.reported.usage is None
        and call.provider in ASKED_FOR_USAGE
    ):
        notice(
            "streams without usage of {}",
            call.provider,
            "our own count stands in for the bill; to have the provider report it, give "
            f"{ended.settings.ask_for_usage}, or watch(..., ask_for_usage=True)",
            printable(call.model),
        )


def _told(reported: Reported) -> tuple[Count, Count]:
    """What was sent and what came back, as far as that is reported."""
    sent, came = reported.input_tokens, reported.output_tokens
    return (
        NOTHING if sent is None else Count(sent, reported.input_source),
        NOTHING if came is None else Count(came, reported.output_source),
    )


def _counted(
    call: Call, reported: Reported, answer: Transcript, lookup: Lookup
) -> tuple[Count, Count]:
    """What was sent and what came back: as reported, else counted.

    Zero beside a text that isn't empty stands for nothing said. Of a stream that was left, more may
    have come than the last figure says.
    """
    said = Count(reported.output_tokens or 0, reported.output_source)
    if not reported.covers_output:
        own = count_answer(answer.answer(), lookup, call.model)
        if reported.output_tokens is None or own.tokens > said.tokens:
            said = own
        elif not reported.output_is_complete:
            # What has come since is within it, as far as we can count that.
            said = Count(said.tokens, "estimated")
    total = reported.total_alone
    if total is not None:
        # The total is the provider's, where to split it is our guess.
        said = Count(min(said.tokens, total), "estimated")
        return Count(total - said.tokens, "estimated"), said
    prompt = Count(reported.input_tokens or 0, reported.input_source)
    if not reported.covers_input:
        own = count_prompt(answer.prompt(), answer.options(), lookup, call.model)
        if reported.input_tokens is None or own.tokens:
            prompt = own
    if not reported.not_understood:
        return prompt, said
    doubts = Reported(None, not_understood=reported.not_understood)
    return (
        Count(prompt.tokens, weaker(prompt.source, doubts.input_source)),
        Count(said.tokens, weaker(said.source, doubts.output_source)),
    )


def _usage(reported: Usage | None, prompt: Count, answer: Count) -> Usage:
    """Put our own counts where the provider was silent, beside what it said."""
    if reported is not None and prompt.source == answer.source == "reported":
        return reported
    counts = {} if reported is None else reported.reported()
    for whole, count in (("input_tokens", prompt.tokens), ("output_tokens", answer.tokens)):
        if not counts.get(whole):
            # Parts of a zero are zeros, and say as little.
            counts = {name: n for name, n in counts.items() if root(name) != whole}
        counts[whole] = count
    return Usage.of(counts)


def _facts(
    call: Call, status: Status, ending: Ending, request_id: str | None = None
) -> dict[str, Any]:
    """What an event says of its call, whatever that used: whose it was, when, and its ids."""
    outermost = call.outermost
    return {
        "event_id": outermost.event_id,
        "inner_event_id": call.event_id,
        # What a watched client has told, or else the answer.
        "request_id": call.request_id or request_id,
        "span_id": outermost.span_id,
        "inner_span_id": call.span_id,
        "provider": call.provider,
        "model": call.model,
        "operation": call.operation,
        "status": status,
        "started_s": ending.started_s,
        "duration_s": ending.duration_s,
    }


# --- embeddings ----------------------------------------------------------------------------

_NO_TEXT: Final = ("",)


def _embedded(
    facts: dict[str, Any], group: EmbeddedTexts, lookup: Lookup, settings: Settings
) -> list[TokenCountingEvent]:
    """Make an event a text; together they add up to what was reported for all exactly."""
    # Of a picture there is no text, but there may be a figure.
    texts = group.texts or _NO_TEXT
    counts = _counts(group.sent or texts, group, lookup)
    parts = group.reported.served.split([count.tokens for count in counts])
    return [
        settings.event_class(
            prompt=text if settings.keeps_text else "",
            completion="",
            prompt_token_count=count.tokens,
            completion_token_count=0,
            usage=Usage.of({"input_tokens": count.tokens}),
            prompt_source=source,
            completion_source=source,
            not_understood=group.reported.not_understood,
            served=served,
            **facts,
        )
        for text, count, served in zip(texts, counts, parts, strict=True)
        for source in (_certain(count.source, group),)
    ]


def _certain(source: Source, group: EmbeddedTexts) -> Source:
    return weaker(source, group.reported.input_source) if group.is_certain else "estimated"


def _counts(texts: Sequence[str], group: EmbeddedTexts, lookup: Lookup) -> list[Count]:
    total = group.reported.input_tokens
    if total and len(texts) == 1:
        return [Count(total, "reported")]
    own = [NOTHING] * len(texts) if group.is_picture else count_apart(texts, lookup)
    if total is None or (not total and any(count.tokens for count in own)):
        return own
    parts = shares(total, [count.tokens for count in own])
    return [Count(part, "reported") for part in parts]


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """Split a whole number by weights into whole numbers that add up to it.

    Args:
        total: What is split, from 0 on.
        weights: By what; if all are 0, evenly.

    Returns:
        Each weight's part: rounded down, and one more for those whose remainder is largest.
    """
    if not weights:
        return []
    if not any(weights):
        weights = [1] * len(weights)
    whole = sum(weights)
    parts = [total * weight // whole for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda index: total * weights[index] % whole, reverse=True
    )
    for index in by_remainder[: total - sum(parts)]:
        parts[index] += 1
    return parts

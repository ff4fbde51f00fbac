"""Embedded texts that share one figure: what a provider reported for all texts of a request.

One event a text, and the events of a request add up to its figure exactly.
"""

from collections.abc import Callable, Sequence

from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.events.unreported import Count, counted_apart
from llama_token_tracker.tokenizers import Tokenizer


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


class SharedTexts:
    """The texts of one embedding request, whose figure is known or must be counted.

    Args:
        held_bytes: About how much memory they take until they are looked at.
        texts: Gives the texts; called once.
        total: What the provider reported for all of them, or `None` if it was silent.
        tokenizer: Gives the tokenizer; looked up when it is needed.
        make: Makes the event of a text.
    """

    __slots__ = ("_events", "_make", "_texts", "_tokenizer", "_total", "held_bytes")

    def __init__(
        self,
        held_bytes: int,
        texts: Callable[[], Sequence[str]],
        total: int | None,
        tokenizer: Callable[[], Tokenizer],
        make: Callable[[str, Count], TokenCountingEvent],
    ) -> None:
        self.held_bytes = held_bytes
        self._texts = texts
        self._total = total
        self._tokenizer = tokenizer
        self._make = make
        self._events: list[TokenCountingEvent] | None = None

    def events(self) -> list[TokenCountingEvent]:
        """An event a text; two threads that ask at once find the same."""
        if self._events is None:
            # Of an image there is no text, but there is a figure.
            texts = list(self._texts()) or [""]
            counts = self._counts(texts)
            self._events = [
                self._make(text, count) for text, count in zip(texts, counts, strict=True)
            ]
            self._texts = tuple
        return self._events

    def _counts(self, texts: Sequence[str]) -> list[Count]:
        total = self._total
        if total is not None and len(texts) == 1:
            return [Count(total, "reported")]
        own = counted_apart(self._tokenizer, texts)
        if total is None:
            return own
        parts = shares(total, [count.tokens for count in own])
        return [Count(part, "reported") for part in parts]

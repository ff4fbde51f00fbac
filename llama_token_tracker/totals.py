"""Running sums: what all calls used together, and each kind of call by itself.

Adding a call is one dictionary look-up and a few additions, whatever came before it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from llama_token_tracker.event import (
    Operation,
    Source,
    Status,
    TokenCountingEvent,
)
from llama_token_tracker.usage import Usage


class Kind(NamedTuple):
    """What the calls of one running sum have in common."""

    operation: Operation
    provider: str | None
    model: str | None
    source: Source
    status: Status


@dataclass(slots=True)
class Sum:
    """Calls of one kind, and what they used."""

    calls: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def usage(self) -> Usage:
        """Tokens by bucket; `None` where none of the calls reported any."""
        return Usage.of(dict(self.counts))


@dataclass(slots=True)
class Pair:
    """Input and output tokens of a list of events."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.completion


class Totals:
    """Running sums by kind of call. The caller holds the lock."""

    __slots__ = ("_sums",)

    def __init__(self) -> None:
        self._sums: dict[Kind, Sum] = {}

    def add(self, event: TokenCountingEvent, sign: int = 1) -> None:
        """Add an event, or with `sign=-1` take it back."""
        kind = (
            event.operation,
            event.provider,
            event.model,
            event.source,
            event.status,
        )
        total = self._sums.get(kind)  # type: ignore[call-overload]  # a Kind is such a tuple
        if total is None:
            total = self._sums[Kind(*kind)] = Sum()
        total.calls += sign
        counts = total.counts
        for name, count in event.usage.__dict__.items():
            if count is not None:
                counts[name] = counts.get(name, 0) + sign * count
        if not total.calls:
            del self._sums[Kind(*kind)]

    def copy(self) -> dict[Kind, Sum]:
        """Every kind of call that occurred, and its sum as it stands now."""
        return {kind: Sum(total.calls, dict(total.counts)) for kind, total in self._sums.items()}

    def restore(self, sums: dict[Kind, Sum]) -> None:
        """Hold these sums, as after unpickling."""
        self._sums = dict(sums)

    def clear(self) -> None:
        """Start again from nothing."""
        self._sums.clear()

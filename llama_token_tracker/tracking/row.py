"""`Row`: what calls that have something in common used and cost, as a running sum."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Self

from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.pricing import Cost
from llama_token_tracker.usage import Source, Usage


@dataclass(slots=True, repr=False)
class Row:
    """What calls used that have something in common: one row of a table.

    Rows are running sums: adding a call is a few dictionary look-ups and additions. Those that
    are handed out are copies, to which no call is added any more.

    Attributes:
        calls: How many there were.
        usage: Their tokens by bucket, embeddings included.
        counted: The part of input and output that was counted, not reported.
        estimated: The part of them that was estimated.
        cost_usd: What they cost in US dollars, as far as that is known; `None` if it's known
            of none of them.
        estimated_usd: The part of it that isn't surely what was billed: of calls whose tokens
            weren't all reported or priced, or that didn't complete.
        unpriced_calls: How many calls `cost_usd` leaves out, because their price is unknown.
        unpriced_tokens: How many tokens those used.
        cache_savings_usd: What tokens that were read from a cache would have cost more
            without it.
        cache_write_usd: What writing to a cache cost.
    """

    calls: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])
    """Tokens by bucket."""
    unreported: dict[Source, dict[str, int]] = field(default_factory=dict[Source, dict[str, int]])
    """The part of input and output, by source, that no provider reported."""
    priced_tokens: int = 0
    priced_usd: Decimal = Decimal(0)
    estimated_usd: Decimal = Decimal(0)
    unpriced_calls: int = 0
    unpriced_tokens: int = 0
    cache_savings_usd: Decimal = Decimal(0)
    cache_write_usd: Decimal = Decimal(0)

    @classmethod
    def of(cls, rows: Iterable["Row"]) -> Self:
        """Make a new row, the sum of these."""
        total = cls()
        for row in rows:
            total.merge(row)
        return total

    @property
    def usage(self) -> Usage:
        """Tokens by bucket; `None` where none of the calls reported any."""
        return Usage.of(dict(self.counts))

    @property
    def total_tokens(self) -> int:
        """Input plus output tokens."""
        return self.usage.total_tokens

    @property
    def counted(self) -> Usage:
        """The input and output tokens that were counted."""
        return Usage.of(dict(self.unreported.get("counted", {})))

    @property
    def estimated(self) -> Usage:
        """The input and output tokens that were estimated."""
        return Usage.of(dict(self.unreported.get("estimated", {})))

    @property
    def cost_usd(self) -> Decimal | None:
        """What the calls cost, or `None` if none of them has a price."""
        is_known = self.priced_tokens or self.priced_usd or not self.unpriced_calls
        return self.priced_usd if is_known else None

    def add(self, event: TokenCountingEvent, sign: int = 1) -> None:
        """Add an event, unpriced, or with `sign=-1` take it back."""
        self.calls += sign
        counts = self.counts
        for name, count in event.usage.__dict__.items():
            if count is not None:
                counts[name] = counts.get(name, 0) + sign * count
        prompt, completion = event.prompt_source, event.completion_source
        if prompt != "reported":
            self._mark(prompt, "input_tokens", sign * event.prompt_token_count)
        if completion != "reported":
            self._mark(completion, "output_tokens", sign * event.completion_token_count)
        if not event.is_free:
            self.unpriced_calls += sign
            self.unpriced_tokens += sign * event.total_token_count

    def _mark(self, source: Source, bucket: str, count: int) -> None:
        marked = self.unreported.setdefault(source, {})
        marked[bucket] = marked.get(bucket, 0) + count

    def add_cost(self, event: TokenCountingEvent, cost: Cost, tokens: int, sign: int = 1) -> None:
        """Price an event that was added before, or one that was taken back.

        Args:
            event: The event.
            cost: What it cost.
            tokens: How many it used when it was added.
            sign: 1, or -1 if it was taken back.
        """
        self.unpriced_calls -= sign
        self.unpriced_tokens -= sign * tokens
        self.priced_tokens += sign * tokens
        self.priced_usd += sign * cost.usd
        self.cache_savings_usd += sign * cost.cache_savings_usd
        self.cache_write_usd += sign * cost.cache_write_usd
        if not event.is_billed(cost):
            self.estimated_usd += sign * cost.usd

    def merge(self, other: "Row", sign: int = 1) -> None:
        """Add another row, or with `sign=-1` take it away."""
        self.calls += sign * other.calls
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + sign * count
        for source, marked in other.unreported.items():
            for name, count in marked.items():
                self._mark(source, name, sign * count)
        self.priced_tokens += sign * other.priced_tokens
        self.priced_usd += sign * other.priced_usd
        self.estimated_usd += sign * other.estimated_usd
        self.unpriced_calls += sign * other.unpriced_calls
        self.unpriced_tokens += sign * other.unpriced_tokens
        self.cache_savings_usd += sign * other.cache_savings_usd
        self.cache_write_usd += sign * other.cache_write_usd

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={getattr(self, name)!r}' for name in _SHOWN)})"


_SHOWN: Final = (
    "calls",
    "usage",
    "counted",
    "estimated",
    "cost_usd",
    "estimated_usd",
    "unpriced_calls",
    "unpriced_tokens",
    "cache_savings_usd",
)

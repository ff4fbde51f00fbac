"""Running sums: what all calls used together, and each kind of call by itself.

Adding a call is a few dictionary look-ups and additions, whatever came before it. Prices are
looked up when a cost is asked for.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any, Final, NamedTuple, TypeAlias

from llama_token_tracker._log_once import notice
from llama_token_tracker.events.event import Operation, Status, TokenCountingEvent
from llama_token_tracker.usage import Source, Usage

OTHER: Final = "(other)"
"""What calls are filed under whose own name would be one too many."""

MAX_VALUES: Final = 1_000
"""So many users, scopes, or models have sums of their own; the rest have one together."""

MAX_TAGS: Final = 50
"""So many names of tags are told apart."""

MAX_UNPRICED: Final = 1_000
"""So many calls whose events may be dropped wait for their price."""


class Kind(NamedTuple):
    """What the calls of one running sum have in common."""

    operation: Operation
    provider: str | None
    model: str | None
    source: Source
    status: Status


BY_KIND: Final = frozenset(Kind._fields)
"""What calls can be split by besides tags."""


@dataclass(slots=True)
class CostSum:
    """What calls cost together, in US dollars.

    Attributes:
        usd: All together, as far as it's known.
        cache_savings_usd: What tokens read from a cache would have cost more without it.
        cache_write_usd: What writing to the cache cost.
        estimated_usd: The part of `usd` that isn't surely what was billed: of calls whose
            tokens weren't all reported or priced, or that didn't complete.
        unpriced_calls: How many calls are left out, because their price is unknown.
        unpriced_tokens: How many tokens those used.
    """

    usd: Decimal = Decimal(0)
    cache_savings_usd: Decimal = Decimal(0)
    cache_write_usd: Decimal = Decimal(0)
    estimated_usd: Decimal = Decimal(0)
    unpriced_calls: int = 0
    unpriced_tokens: int = 0

    def add(self, event: TokenCountingEvent, sign: int) -> None:
        """Add an event, or with `sign=-1` take it back."""
        cost = event.cost
        if cost is None:
            self.unpriced_calls += sign
            self.unpriced_tokens += sign * event.total_token_count
            return
        self.usd += sign * cost.usd
        self.cache_savings_usd += sign * cost.cache_savings_usd
        self.cache_write_usd += sign * cost.cache_write_usd
        if not (cost.is_whole and event.source == "reported" and event.status == "complete"):
            self.estimated_usd += sign * cost.usd


@dataclass(slots=True)
class Sum:
    """Calls that have something in common, and what they used.

    Attributes:
        calls: How many they are.
        counts: Their tokens by bucket.
        unreported: The part of input and output, by source, that no provider reported.
        cost: What they cost.
    """

    calls: int = 0
    counts: dict[str, int] = field(default_factory=dict[str, int])
    unreported: dict[Source, dict[str, int]] = field(default_factory=dict[Source, dict[str, int]])
    cost: CostSum = field(default_factory=CostSum)

    @property
    def usage(self) -> Usage:
        """Tokens by bucket; `None` where none of the calls reported any."""
        return Usage.of(dict(self.counts))

    def add(self, event: TokenCountingEvent, sign: int) -> None:
        """Add an event's tokens, or with `sign=-1` take them back."""
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

    def _mark(self, source: Source, bucket: str, count: int) -> None:
        marked = self.unreported.setdefault(source, {})
        marked[bucket] = marked.get(bucket, 0) + count

    def part(self, source: Source) -> Usage:
        """The input and output tokens that come from this source, which isn't "reported"."""
        return Usage.of(dict(self.unreported.get(source, {})))

    def merge(self, other: "Sum", sign: int = 1) -> None:
        """Add another sum, or with `sign=-1` take it away."""
        self.calls += sign * other.calls
        for name, count in other.counts.items():
            self.counts[name] = self.counts.get(name, 0) + sign * count
        for source, marked in other.unreported.items():
            for name, count in marked.items():
                self._mark(source, name, sign * count)
        for part in fields(CostSum):
            mine, theirs = getattr(self.cost, part.name), getattr(other.cost, part.name)
            setattr(self.cost, part.name, mine + sign * theirs)


@dataclass(slots=True)
class Pair:
    """Input and output tokens of a list of events."""

    prompt: int = 0
    completion: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.prompt + self.completion


_Sums: TypeAlias = dict[Any, Sum]


class Totals:
    """Running sums by kind of call, by scope and by tag. The caller holds the lock."""

    __slots__ = ("_by_tag", "_kinds", "_unpriced")

    def __init__(self) -> None:
        self._kinds: dict[Kind, Sum] = {}
        self._by_tag: dict[str, dict[str, Sum]] = {}
        self._unpriced: list[tuple[TokenCountingEvent, int]] = []

    def add(self, event: TokenCountingEvent, sign: int = 1) -> None:
        """Add an event, or with `sign=-1` take it back."""
        for sums, key in self._places(event):
            total = sums.get(key)
            if total is None:
                total = sums[key] = Sum()
            total.add(event, sign)
        self._unpriced.append((event, sign))

    def _places(self, event: TokenCountingEvent) -> Iterable[tuple[_Sums, Any]]:
        """The sums that an event belongs to, and its key in each."""
        kind = (event.operation, event.provider, event.model, event.source, event.status)
        sums: _Sums = self._kinds
        if kind not in sums:
            if len(sums) >= MAX_VALUES:
                notice("too many models", event.model, f"further ones are filed as {OTHER}")
                kind = (event.operation, event.provider, OTHER, event.source, event.status)
            kind = Kind(*kind)
        yield sums, kind
        if event.scope is not None:
            yield self._tagged("scope", event.scope)
        for name, value in event.tags.items():
            if name not in BY_KIND:
                yield self._tagged(name, value)

    def _tagged(self, name: str, value: str) -> tuple[_Sums, str]:
        sums = self._by_tag.get(name)
        if sums is None:
            if len(self._by_tag) >= MAX_TAGS:
                notice("too many tags", name, f"further ones are filed as {OTHER}")
                name = OTHER
            sums = self._by_tag.setdefault(name, {})
        if value not in sums and len(sums) >= MAX_VALUES:
            notice(f"too many values of {name}", value, f"further ones are filed as {OTHER}")
            value = OTHER
        return sums, value

    @property
    def unpriced(self) -> list[TokenCountingEvent]:
        """The events that wait for their price."""
        return [event for event, _ in self._unpriced]

    @property
    def waits_too_long(self) -> bool:
        """Whether more events wait for their price than should."""
        return len(self._unpriced) > MAX_UNPRICED

    def price(self) -> None:
        """Add up what the calls cost that came since the last time."""
        while self._unpriced:
            event, sign = self._unpriced.pop()
            for sums, key in self._places(event):
                if key in sums and event.total_token_count:
                    sums[key].cost.add(event, sign)

    def kinds(self) -> dict[Kind, Sum]:
        """A copy of the sum of every kind of call that occurred."""
        return _copied(self._kinds)

    def all(self) -> Sum:
        """What all calls used together."""
        return merged(self._kinds.values())

    def by(self, name: str) -> dict[str | None, Sum]:
        """Sums by one field of `Kind`, by `scope`, or by a tag.

        Calls that have no such tag are found under `None`. The values always add up to all.
        """
        if name in BY_KIND:
            split: dict[str | None, Sum] = {}
            for kind, total in self._kinds.items():
                split.setdefault(getattr(kind, name), Sum()).merge(total)
            return {value: total for value, total in split.items() if total.calls}
        tagged: dict[str | None, Sum] = {}
        tagged.update(_copied(self._by_tag.get(name, {})))
        rest = self.all()
        for total in tagged.values():
            rest.merge(total, -1)
        if rest.calls:
            rest.counts = {bucket: count for bucket, count in rest.counts.items() if count}
            tagged[None] = rest
        return tagged

    def state(self) -> tuple[Any, ...]:
        """What it holds, to be pickled."""
        return (
            _copied(self._kinds),
            {name: _copied(sums) for name, sums in self._by_tag.items()},
            list(self._unpriced),
        )

    def restore(self, state: tuple[Any, ...]) -> None:
        """Hold what another held."""
        self._kinds, self._by_tag, self._unpriced = state

    def clear(self) -> None:
        """Start again from nothing."""
        self._kinds.clear()
        self._by_tag.clear()
        self._unpriced.clear()


def merged(sums: Iterable[Sum]) -> Sum:
    """A new sum of these."""
    together = Sum()
    for one in sums:
        together.merge(one)
    return together


def _copied(sums: Mapping[Any, Sum]) -> dict[Any, Sum]:
    return {key: merged([total]) for key, total in sums.items() if total.calls}

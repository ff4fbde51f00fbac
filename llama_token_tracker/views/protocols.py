"""What views know of the things they draw: an `Event` and a `Row`, as protocols."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Protocol

from llama_token_tracker.pricing import Cost
from llama_token_tracker.usage import Source, Usage


class Event(Protocol):
    """One call to a provider; `TokenCountingEvent` says what its attributes mean."""

    prompt: str
    completion: str
    prompt_token_count: int
    completion_token_count: int
    total_token_count: int
    usage: Usage
    prompt_source: Source
    completion_source: Source
    provider: str | None
    model: str | None
    duration_s: float | None
    scope: str | None
    not_understood: tuple[str, ...]

    @property
    def operation(self) -> str:
        """What the provider was asked for."""
        ...

    @property
    def status(self) -> str:
        """How the call ended."""
        ...

    @property
    def tags(self) -> Mapping[str, str]:
        """What is known of its origin."""
        ...

    @property
    def started_at(self) -> datetime | None:
        """When it started, in UTC."""
        ...

    @property
    def is_free(self) -> bool:
        """Whether it surely cost nothing."""
        ...

    @property
    def source(self) -> Source:
        """Where its figures come from: the weaker of the two sources."""
        ...

    @property
    def cost(self) -> Cost | None:
        """What it cost; `None` if its price is unknown."""
        ...


class Row(Protocol):
    """What some calls used together; `llama_token_tracker.Row` says what its attributes mean."""

    calls: int
    estimated_usd: Decimal
    unpriced_calls: int
    unpriced_tokens: int

    @property
    def usage(self) -> Usage:
        """Tokens by bucket."""
        ...

    @property
    def total_tokens(self) -> int:
        """Input plus output tokens."""
        ...

    @property
    def counted(self) -> Usage:
        """The part of input and output that was counted."""
        ...

    @property
    def estimated(self) -> Usage:
        """The part of input and output that was estimated."""
        ...

    @property
    def cost_usd(self) -> Decimal | None:
        """What the calls cost, as far as that is known."""
        ...

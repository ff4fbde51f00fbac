"""What is recorded of one call to a provider."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from os import urandom
from typing import Any, Final, Literal, TypeAlias

from llama_token_tracker._lock import LOADING
from llama_token_tracker.pricing import UNSAID, Cost, Prices, Served
from llama_token_tracker.usage import Source, Usage, weaker

Status: TypeAlias = Literal["complete", "abandoned", "failed", "unanswered"]
"""How a call ended: with its answer; by the caller's will, before it; by an error that refused it
or cut its answer off; or without any answer that was seen, though it may have been billed."""

Operation: TypeAlias = Literal[
    "chat", "completion", "embedding", "rerank", "image", "transcription", "speech"
]
"""What the provider was asked for."""

BY_UNITS: Final[frozenset[Operation]] = frozenset({"rerank", "image", "transcription", "speech"})
"""Operations that are billed by other units, unless the answer reports tokens."""

NOT_REPORTED = Usage()


def _new_id() -> str:
    return urandom(16).hex()


_USUAL_PRICES = Prices()


@dataclass(repr=False)
class TokenCountingEvent:
    """One call to a provider: what it was, what it used and how we know.

    The first six fields are those of LlamaIndex's event, in its order and with its meaning.

    Attributes:
        prompt: The text that was sent, messages one below the other with their roles.
        completion: The text that came back; of an unfinished stream, as much as came.
        completion_token_count: Tokens that came back, reasoning included.
        prompt_token_count: Tokens that were sent, cache reads and writes included.
        total_token_count: The two together.
        event_id: Id of the outermost LlamaIndex call, as other callback handlers see it.
        usage: The tokens by bucket. Buckets that the provider did not report are `None`,
            input and output excepted: where it was silent they hold our own count.
        prompt_source: Where `prompt_token_count` comes from.
        completion_source: Where `completion_token_count` comes from.
        status: How the call ended.
        operation: What the provider was asked for.
        provider: The provider's name in OpenTelemetry's list, or `None` if unknown.
        model: The model's id as LlamaIndex names it, or `None` if unknown.
        started_s: When the innermost call started, in seconds since 1970.
        duration_s: How long it took, in seconds; a stream, until it was drained or left.
        inner_event_id: Id of the innermost call, the one that spoke to the provider.
        span_id: The outermost call's span on the instrumentation dispatcher.
        inner_span_id: The innermost call's.
        scope: The scopes it started in, outermost first, with slashes between; or `None`.
        served: How it was served, as far as its answer tells: model, tier, speed, region, the
            cost that the provider states, and what is billed apart from tokens.
        tags: What the scopes and LlamaIndex's `instrument_tags` said of it.
        not_understood: What the provider said of its tokens that no table knows, as paths in its
            usage, and names of figures that another one contradicts. Its cost isn't whole then.
        request_id: What its provider calls the request, in a header of the answer: by it a bill's
            line, or the provider's support, can be asked for. Known where a client was watched, and
            of answers that say it: boto3's, and those of OpenAI's SDK but for streams.
        id: The event's own id, which no other has: a UUID, as 32 hexadecimal digits.
    """

    prompt: str
    completion: str
    completion_token_count: int
    prompt_token_count: int
    total_token_count: int = 0
    event_id: str = ""
    usage: Usage = NOT_REPORTED
    prompt_source: Source = "estimated"
    completion_source: Source = "estimated"
    status: Status = "complete"
    operation: Operation = "chat"
    provider: str | None = None
    model: str | None = None
    started_s: float | None = None
    duration_s: float | None = None
    inner_event_id: str = ""
    span_id: str | None = None
    inner_span_id: str | None = None
    scope: str | None = None
    served: Served = UNSAID
    tags: dict[str, str] = field(default_factory=dict[str, str])
    not_understood: tuple[str, ...] = ()
    request_id: str | None = None
    id: str = field(default_factory=_new_id, compare=False)

    def __post_init__(self) -> None:
        """Add the two counts up, whatever total was passed."""
        self.total_token_count = self.prompt_token_count + self.completion_token_count

    @property
    def started_at(self) -> datetime | None:
        """When the innermost call started, in UTC; `None` if that isn't known, or is no time."""
        if self.started_s is None:
            return None
        try:
            return datetime.fromtimestamp(self.started_s, UTC)
        except (ValueError, OverflowError, OSError):
            return None  # no calendar has such a day

    def price_with(self, prices: Prices) -> None:
        """Take the cost from these prices, not from the usual ones."""
        self.__dict__["_prices"] = prices

    @property
    def cost(self) -> Cost | None:
        """What it cost, by its usage, model and time; `None` if its price is unknown.

        Looked up when it's first asked for, and kept.
        """
        known: dict[str, Any] = self.__dict__
        if "_cost" not in known:
            prices: Prices = known.get("_prices", _USUAL_PRICES)
            cost = prices.cost(
                self.usage,
                provider=self.provider,
                model=self.model,
                at=self.started_at or datetime.now(UTC),
                operation=self.operation,
                served=self.served,
            )
            if cost is not None and (self.not_understood or self.status == "unanswered"):
                cost = replace(cost, is_whole=False)
            known["_cost"] = cost
        kept: Cost | None = known["_cost"]
        return kept

    @property
    def cost_usd(self) -> Decimal | None:
        """What it cost in US dollars; `None` if its price is unknown."""
        cost = self.cost
        return None if cost is None else cost.usd

    def is_billed(self, cost: Cost) -> bool:
        """Whether this cost of it is surely what was billed.

        It's whole, of figures that the provider reported, and of a call that gave its answer.
        """
        return cost.is_whole and self.source == "reported" and self.status == "complete"

    @property
    def units(self) -> dict[str, float]:
        """What is billed apart from tokens, by name: 3 of `search_units`, for example."""
        return dict(self.served.units or {})

    @property
    def is_free(self) -> bool:
        """Whether it surely cost nothing: it failed before anything was used."""
        return self.status == "failed" and not (self.total_token_count or self.served.units)

    @property
    def source(self) -> Source:
        """Where the figures come from: the weaker of the two sources."""
        return weaker(self.prompt_source, self.completion_source)

    def to_dict(self) -> dict[str, Any]:
        """All that is known of the call, cost, source and tags included, as plain values.

        Returns:
            Texts, numbers, booleans, `None`, and dicts of these: what JSON can say. `usage` holds
            the buckets that are known; `started_at` is in ISO 8601, UTC; `cost_usd` is a text, so
            that no digit is lost, and `None` if the price is unknown.
        """
        started_at, cost = self.started_at, self.cost
        return {
            "id": self.id,
            "event_id": self.event_id,
            "inner_event_id": self.inner_event_id,
            "span_id": self.span_id,
            "inner_span_id": self.inner_span_id,
            "operation": self.operation,
            "provider": self.provider,
            "model": self.model,
            "status": self.status,
            "source": self.source,
            "prompt_source": self.prompt_source,
            "completion_source": self.completion_source,
            "prompt_token_count": self.prompt_token_count,
            "completion_token_count": self.completion_token_count,
            "total_token_count": self.total_token_count,
            "usage": self.usage.reported(),
            "cost_usd": None if cost is None else str(cost.usd),
            "cost_is_whole": cost is not None and cost.is_whole,
            "started_at": None if started_at is None else started_at.isoformat(),
            "duration_s": self.duration_s,
            "scope": self.scope,
            **self.served.to_dict(),
            "tags": dict(self.tags),
            "not_understood": list(self.not_understood),
            "request_id": self.request_id,
            "prompt": self.prompt,
            "completion": self.completion,
        }

    def __repr__(self) -> str:
        return f"<{self}>"

    def __str__(self) -> str:
        """The call in one line."""
        with LOADING:
            from llama_token_tracker.views.card import Call
            from llama_token_tracker.views.figures import with_fallback

        shown = with_fallback(lambda: str(Call.of(self)), lambda why: why)
        return f"TokenCountingEvent {shown}"

    def _repr_html_(self) -> str:
        """The event as HTML, for a notebook."""
        # Late: nobody but a notebook needs it.
        with LOADING:
            from llama_token_tracker.views import html
            from llama_token_tracker.views.card import EventCard

        return html.safely(lambda: html.event_card(EventCard.of(self)), type(self).__name__)

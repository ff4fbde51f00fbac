"""Ledgers with calls in them, written by `Ledger` itself."""

import random
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from llama_token_tracker import Ledger, Price, Prices, TokenCountingEvent, Usage

START = datetime(2026, 3, 27, 20, 17, 3, 250_000, UTC)
"""Two days before the clocks of Berlin go forward."""

MODELS = ("gpt-4o", "gpt-4o-mini", "nobody's")
STATUSES = ("complete", "complete", "complete", "failed", "unanswered", "abandoned")


def event(at: datetime = START, **fields: object) -> TokenCountingEvent:
    """A call, reported and complete unless something else is said."""
    usage = Usage(input_tokens=1_013, output_tokens=211, cache_read_tokens=500)
    known: dict[str, object] = {
        "usage": usage,
        "prompt_source": "reported",
        "completion_source": "reported",
        "provider": "openai",
        "model": "gpt-4o",
        "started_s": at.timestamp(),
        "duration_s": 1.25,
        "scope": "request/step",
        "tags": {"user": "ada"},
    } | fields
    return TokenCountingEvent("a prompt", "an answer", 211, 1_013, **known)  # type: ignore[arg-type]


def calls(number: int, *, days: float = 6, seed: int = 1) -> list[TokenCountingEvent]:
    """Calls of any kind over some days."""
    chance = random.Random(seed)
    made: list[TokenCountingEvent] = []
    for _ in range(number):
        at = START + timedelta(microseconds=chance.randrange(int(days * 86_400_000_000)))
        user = chance.choice(("ada", "bob", None))
        made.append(
            event(
                at,
                usage=Usage(
                    input_tokens=chance.randrange(10_000),
                    output_tokens=chance.randrange(7, 1_000),
                    reasoning_tokens=chance.choice((None, 0, 7)),
                ),
                model=chance.choice(MODELS),
                status=chance.choice(STATUSES),
                scope=chance.choice(("request", "request/step", "requests", None)),
                tags={"team": "red"} if user is None else {"user": user, "team": "blue"},
            )
        )
    return made


def fill(target: str, events: Iterable[TokenCountingEvent], **options: object) -> None:
    """Write calls to a ledger and close it."""
    with Ledger(target, **options) as ledger:  # type: ignore[arg-type]
        for one in events:
            ledger(one)


def own_price(one: TokenCountingEvent) -> TokenCountingEvent:
    """The same call, by a price of the user's own."""
    one.price_with(Prices(prices={str(one.model): Price(1, 2)}))
    return one

"""What the loopback provider is told to answer, and what it remembers of a call.

`Billed` holds inclusive figures: `input` contains cache reads and writes, `output` contains
reasoning. Each format translates them into what its provider really puts on the wire.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Literal

__all__ = ["Billed", "Call", "Ending", "Reply", "ToolCall", "figures"]

Ending = Literal["open", "finished", "cut", "left"]
"""How an answer ended: not yet, sent whole, cut by the server, or left by the client."""


@dataclass(frozen=True, slots=True)
class Billed:
    """Tokens of one call as its provider bills them, in inclusive buckets.

    Attributes:
        input: All tokens of the request, cache reads and writes among them.
        output: All tokens of the answer, reasoning among them.
        cache_read: The part of `input` read from a cache; `None` where nothing is said.
        cache_write: The part of `input` written to a cache, whatever its lifetime.
        cache_write_1h: The part of `cache_write` that lives for an hour.
        reasoning: The part of `output` that was thought and not said.
    """

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None

    def __post_init__(self) -> None:
        """Refuse figures that no provider could have sent."""
        if self.cached > self.input:
            msg = f"cache reads and writes ({self.cached}) exceed input ({self.input})."
            raise ValueError(msg)
        if (self.reasoning or 0) > self.output:
            msg = f"reasoning ({self.reasoning}) exceeds output ({self.output})."
            raise ValueError(msg)

    @property
    def cached(self) -> int:
        """The part of `input` that was read from or written to a cache."""
        return (self.cache_read or 0) + (self.cache_write or 0)

    @property
    def uncached(self) -> int:
        """The part of `input` that no cache had a hand in."""
        return self.input - self.cached

    @property
    def said(self) -> int:
        """The part of `output` that isn't reasoning."""
        return self.output - (self.reasoning or 0)

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.input + self.output


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool that the model asks for."""

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer.

    Attributes:
        text: What the model says. May be empty.
        usage: What the call costs; `None` lets the provider draw figures of its own.
        tool_calls: Tools the model asks for after its text.
        thinking: Reasoning in words, sent by the formats that have a place for it.
        status: The HTTP status; anything from 400 on is an error in the provider's own shape.
        chunks: Into how many pieces a stream cuts the text.
        cut_after: After how many pieces the connection is cut.
        stall_after: After how many pieces the answer halts until the client leaves.
        usage_missing: Whether the answer says nothing about its tokens.
        terse: Whether a stream's last usage leaves out what an earlier one said.
        delay_s: Seconds to wait before the answer.
        embedding: The vector sent for each text of an embedding call.
    """

    text: str = "Canberra is the capital."
    usage: Billed | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    thinking: str = ""
    status: int = 200
    chunks: int = 4
    cut_after: int | None = None
    stall_after: int | None = None
    usage_missing: bool = False
    terse: bool = False
    delay_s: float = 0.0
    embedding: tuple[float, ...] = (0.25, 0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call as the provider saw it.

    Attributes:
        number: Position among all calls, from 0.
        api: Which format answered, such as `bedrock.converse`.
        path: The path asked for.
        model: The model asked for.
        request: The request's JSON.
        status: The HTTP status that was sent.
        streamed: Whether the answer was a stream.
        billed: What the call costs, or `None` for one that was refused.
        reported: What the bytes sent so far say it costs; `None` while they say nothing.
        ended: How the answer ended.
    """

    number: int
    api: str
    path: str
    model: str
    request: Mapping[str, object]
    status: int
    streamed: bool
    billed: Billed | None
    reported: Billed | None = None
    ended: Ending = "open"

    @property
    def usage_on_wire(self) -> bool:
        """Whether the whole bill went over the wire."""
        return self.billed is not None and self.reported == self.billed


def figures() -> Iterator[Billed]:
    """Draw bills that no tokenizer gives by chance and that no two calls share."""
    inputs, outputs = _primes(20_000), _primes(3_000)
    while True:
        yield Billed(input=next(inputs), output=next(outputs))


def _primes(above: int) -> Iterator[int]:
    return (n for n in count(above) if all(n % d for d in range(2, int(n**0.5) + 1)))

"""A call to a provider that has started: what was asked, of whom, and where in the program."""

import sys
from time import perf_counter
from typing import Any, Final, NamedTuple

from llama_token_tracker.events.event import Operation, Status, TokenCountingEvent
from llama_token_tracker.events.failures import is_free
from llama_token_tracker.pricing import Prices
from llama_token_tracker.tokenizers import Tokenizer, get_tokenizer
from llama_token_tracker.tokenizers.selection import Tokenizers

MAX_OPEN: Final = 1 << 20
"""More calls than about this are never open at once; beyond it the oldest are given up."""

MANY_OPEN: Final = 10_000
"""Where more than this are open, those are given up that have been so for very long."""

OPEN_S: Final = 3_600.0
"""So long a call may be open even then, in seconds; no provider takes that long."""

LOOKED_AT_EVERY: Final = 256
"""At so many open calls, and each multiple, it's looked for those to be given up."""


def is_given_up(oldest: "Call", number: int) -> bool:
    """Whether the oldest of so many open calls is given up, and counted as abandoned.

    Its end won't come: whoever should tell of it has forgotten it.
    """
    return number > MAX_OPEN or (number > MANY_OPEN and oldest.began < perf_counter() - OPEN_S)


def status_after(error: BaseException | None) -> Status:
    """How a call ended that this was raised in; `None` stands for its answer.

    What ends a call by its caller's will is no error. A call that has failed, and of which nothing
    has come, is known to be free.
    """
    if error is None:
        return "complete"
    # Not imported for this: where it isn't there, nothing was cancelled.
    asyncio: Any = sys.modules.get("asyncio")
    is_left = isinstance(error, GeneratorExit | KeyboardInterrupt) or (
        asyncio is not None and isinstance(error, asyncio.CancelledError)
    )
    if is_left:
        return "abandoned"
    return "failed" if is_free(error) else "unanswered"


class Settings(NamedTuple):
    """How whoever counts wants events to be made.

    Attributes:
        tokenizers: What counts where a provider says nothing; by default each model's own.
        keeps_text: Whether events keep prompts and completions.
        event_class: The class of the events.
        prices: What tokens cost.
        ask_for_usage: How a program asks for the usage of a stream, where it must.
    """

    tokenizers: Tokenizers | None = None
    keeps_text: bool = True
    event_class: type[TokenCountingEvent] = TokenCountingEvent
    prices: Prices = Prices()
    ask_for_usage: str = 'stream_options={"include_usage": True}'

    def tokenizer(self, model: str | None) -> Tokenizer:
        """What counts the texts of a model that reports nothing."""
        tokenizers = self.tokenizers
        return get_tokenizer(model or "") if tokenizers is None else tokenizers.of(model)


class Call:
    """A call that has started; each framework, and the wire, adds what it alone knows.

    Not slotted: what most calls never need is found on the class, which makes one cheap.

    Attributes:
        event_id: Its id, as whoever told of it names it.
        request_id: What its provider calls the request, where a watched client has told that.
        span_id: The span of LlamaIndex's dispatcher that it runs in.
        provider: The provider's name in OpenTelemetry's list, or `None` if unknown.
        model: The model's id, or `None` if unknown.
        operation: What is asked for.
        parent: The call that made this one, or `None`.
        context: The scope and the tags it started in; see `tracking.scopes`.
        reservation: What it holds in budgets until it's settled; see `tracking.charging`.
        refusal: What a budget would have raised at its start, if that could have stopped it.
        is_stopped: Whether a budget has refused a request of its.
        is_streamed: Whether its answer came in parts.
        is_structured: Whether its prompt is the arguments of a method that gives users' objects.
        began: When it started, by the clock that durations are measured with, in seconds.
    """

    event_id: str = ""
    request_id: str | None = None
    span_id: str | None = None
    provider: str | None = None
    model: str | None = None
    operation: Operation = "chat"
    parent: "Call | None" = None
    context: Any = None
    reservation: Any = None
    refusal: Exception | None = None
    is_stopped: bool = False
    is_streamed: bool = False
    is_structured: bool = False
    began: float

    @property
    def outermost(self) -> "Call":
        """The call that the user made, as far as anybody else hears of it."""
        return self

    def identify(self) -> None:
        """Find out provider and model, where that was put off until somebody needs them."""

    def expected_tokens(self) -> tuple[int, int | None]:
        """How many tokens it will send and may get back, roughly; the latter `None` if unstated.

        Asked before it's sent, where a budget limits it. Never raises.
        """
        raise NotImplementedError

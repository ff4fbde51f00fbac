"""What a loopback provider is told to answer, and what it remembers of a call.

A usage is the package's own, in inclusive buckets: each format translates it into what its
provider really puts on the wire.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import count
from typing import Final, Literal, TypeAlias

from llama_token_tracker.errors import LoopbackError
from llama_token_tracker.usage import Usage

FIRST_ERROR: Final = 400
"""From this HTTP status on an answer is a refusal."""

_LAST_STATUS: Final = 599

Ending: TypeAlias = Literal["open", "finished", "cut", "left"]
"""How an answer ended: not yet, sent whole, cut as scripted, or left by the client."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool that the model asks for.

    Attributes:
        name: The tool.
        arguments: What it's called with, as JSON can hold it.

    Raises:
        LoopbackError: The arguments can't be sent as JSON.
    """

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict[str, object])

    def __post_init__(self) -> None:
        """Refuse what can't go over the wire."""
        _check_json(f"a call of {self.name!r}", self.arguments)


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer.

    Attributes:
        text: What the model says. May be empty.
        usage: What the call costs. `"drawn"` lets the provider draw figures that no tokenizer
            gives by chance; with `None` the answer says nothing about its tokens.
        tool_calls: Tools that the model asks for after its text.
        thinking: Reasoning in words, sent by the formats that have a place for it.
        guardrail: Whether a guardrail of Bedrock stepped in; `text` is then what it says.
        status: The HTTP status; anything from 400 on is an error in the provider's own shape,
            and costs nothing.
        chunks: Into how many pieces a stream cuts the text.
        cut_after: After how many pieces of a stream the connection is cut.
        stall_after: After how many pieces of a stream nothing more comes, until the client leaves.
        delay_s: Seconds before the answer.
        pause_s: Seconds between two pieces of a stream.
        terse: Whether the last usage of Claude's stream leaves out what an earlier one said,
            as on Bedrock.
        embedding: The vector for each text of an embedding call.

    Raises:
        LoopbackError: No provider could answer like this.
    """

    text: str = "Canberra is the capital."
    usage: Usage | Literal["drawn"] | None = "drawn"
    _: KW_ONLY
    tool_calls: Sequence[ToolCall] = ()
    thinking: str = ""
    guardrail: bool = False
    status: int = 200
    chunks: int = 4
    cut_after: int | None = None
    stall_after: int | None = None
    delay_s: float = 0.0
    pause_s: float = 0.0
    terse: bool = False
    embedding: Sequence[float] = (0.25, 0.5, 0.75)

    def __post_init__(self) -> None:
        """Refuse what no provider could answer."""
        _check_json("text or thinking", [self.text, self.thinking])
        _check_usage(self.usage)
        if not (self.status == 200 or FIRST_ERROR <= self.status <= _LAST_STATUS):
            msg = f"status is {self.status!r}; a reply is answered with 200 or from 400 to 599."
            raise LoopbackError(msg)
        for name, least in _LEAST.items():
            number = getattr(self, name)
            if number is not None and number < least:
                msg = f"{name} is {number}; it can't be less than {least}."
                raise LoopbackError(msg)


_LEAST: Final = {"chunks": 1, "cut_after": 0, "stall_after": 0, "delay_s": 0, "pause_s": 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP call as the provider saw it.

    Attributes:
        number: Its position among all calls, from 0 on.
        api: Which format answered, such as `bedrock.converse`; empty where none knows the path.
        path: The path asked for.
        model: The model asked for.
        body: The request's JSON.
        status: The HTTP status that was sent.
        streamed: Whether the answer was a stream.
        billed: What the call costs, said or not; `None` for one that was refused or is free.
        reported: What the bytes sent so far say it costs, in the buckets that the format has
            words for; `None` while they say nothing.
        ended: How the answer ended.
    """

    number: int
    api: str
    path: str
    model: str
    body: Mapping[str, object]
    status: int
    streamed: bool
    billed: Usage | None
    reported: Usage | None = None
    ended: Ending = "open"


def drawn_usages() -> Iterator[Usage]:
    """Draw bills that no tokenizer gives by chance, and of which no two share a figure."""
    inputs, outputs = _primes(20_000), _primes(3_000)
    while True:
        yield Usage(input_tokens=next(inputs), output_tokens=next(outputs))


def _primes(above: int) -> Iterator[int]:
    return (n for n in count(above) if all(n % d for d in range(2, int(n**0.5) + 1)))


def _check_usage(usage: object) -> None:
    if usage is None or usage == "drawn":
        return
    if not isinstance(usage, Usage):
        msg = f"usage is {usage!r}; give a Usage, None for a silent provider, or 'drawn'."
        raise LoopbackError(msg)
    if usage.input_tokens is None:
        msg = f"{usage} has no input_tokens; a provider that says anything says those."
        raise LoopbackError(msg)


def _check_json(what: str, value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        msg = f"{what} can't be sent as JSON: {error}"
        raise LoopbackError(msg) from error

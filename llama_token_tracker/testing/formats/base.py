"""What every format shares: a request comes in, frames of bytes go out.

A format knows nothing of sockets, and the server knows nothing of formats.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple, TypeAlias

from llama_token_tracker.testing.replies import Reply, ToolCall
from llama_token_tracker.usage import Usage

JSON: Final = "application/json"
SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"

Payload: TypeAlias = Mapping[str, object]
"""One JSON object: a whole answer, or one event of a stream."""

INPUT: Final = ("input_tokens",)
"""The bucket that an embedding is billed in."""

SUMS: Final = ("input_tokens", "output_tokens")
"""The buckets that every chat is billed in."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as far as a format cares.

    Attributes:
        id: What the answer is called, different for each.
        model: The model asked for.
        body: The request's JSON.
    """

    id: str
    model: str
    body: Payload

    @property
    def wants_stream(self) -> bool:
        """Whether the body asks for a stream."""
        return bool(self.body.get("stream"))


@dataclass(frozen=True, slots=True)
class Figures:
    """A usage as formats write it: whole numbers, and the parts that they keep apart.

    Attributes:
        usage: What is written, in inclusive buckets.
    """

    usage: Usage

    @property
    def input(self) -> int:
        """All tokens of the request."""
        return self.usage.input_tokens or 0

    @property
    def output(self) -> int:
        """All tokens of the answer."""
        return self.usage.output_tokens or 0

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.usage.total_tokens

    @property
    def cache_read(self) -> int:
        """The part of the input read from a cache."""
        return self.usage.cache_read_tokens or 0

    @property
    def cache_write(self) -> int:
        """The part of the input written to a cache, however long it's kept."""
        return self.usage.cache_write_tokens or 0

    @property
    def cache_write_1h(self) -> int:
        """The part of the writes that is kept for an hour; the rest is for five minutes."""
        short, hour = self.usage.cache_write_5m_tokens, self.usage.cache_write_1h_tokens
        if hour is None:
            return 0 if short is None else self.cache_write - short
        return hour

    @property
    def uncached(self) -> int:
        """The part of the input that no cache had a hand in."""
        return self.usage.uncached_input_tokens or 0

    @property
    def reasoning(self) -> int:
        """The part of the output that was thought and not said."""
        return self.usage.reasoning_tokens or 0

    def only(self, buckets: Iterable[str]) -> "Figures":
        """Leave out the buckets that a format has no words for."""
        counts = self.usage.reported()
        return Figures(Usage.of({name: counts[name] for name in buckets if name in counts}))

    def written(self, output: int) -> "Figures":
        """Say what is known when so many tokens of the answer are out."""
        reasoning = self.usage.reasoning_tokens
        if reasoning is not None:
            reasoning = min(reasoning, output)
        return Figures(replace(self.usage, output_tokens=output, reasoning_tokens=reasoning))


class Chunk(NamedTuple):
    """One event of a stream.

    Attributes:
        payload: What it says.
        content: Whether it carries a piece of the model's text.
        reports: What the stream has said about its cost once this is out, if anything.
    """

    payload: Payload
    content: bool = False
    reports: Figures | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """A run of bytes that's written at once; `content` and `reports` are a chunk's."""

    data: bytes
    content: bool = False
    reports: Usage | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that goes back for one request."""

    content_type: str
    frames: Sequence[Frame]
    streamed: bool = False
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


Respond: TypeAlias = Callable[[Request, Reply, Figures | None], Answer]
"""Turns a scripted reply into an answer; without figures it says nothing about its tokens."""


Refuse: TypeAlias = Callable[[int, str], Answer]
"""Turns an HTTP status and a text into the provider's own error."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests a format answers, and what it can say of their cost.

    Attributes:
        api: What the route is called in `Call.api`.
        pattern: The paths; a group called `model` names the model.
        respond: Writes the answer.
        refuse: Writes an error.
        buckets: The buckets of a usage that the wire has words for.
        kind: What is billed: a chat in full, an embedding for its input, a count not at all.
        id_header: The header that carries the answer's id, if there is one.
    """

    api: str
    pattern: re.Pattern[str]
    respond: Respond
    refuse: Refuse
    buckets: Sequence[str] = SUMS
    kind: Literal["chat", "embedding", "count"] = "chat"
    id_header: str = ""

    def bill(self, usage: Usage) -> Usage | None:
        """Say what a call that is answered costs."""
        if self.kind == "embedding":
            return Figures(usage).only(INPUT).usage
        return usage if self.kind == "chat" else None


def dumps(payload: object) -> bytes:
    """Encode as JSON, as compactly as providers do."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def plain(
    payload: Payload,
    figures: Figures | None = None,
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Answer with one JSON document."""
    frame = Frame(dumps(payload), reports=None if figures is None else figures.usage)
    return Answer(JSON, [frame], status=status, headers=headers or {})


def stream(
    content_type: str,
    chunks: Iterable[Chunk],
    encode: Callable[[Payload], bytes],
    *,
    end: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """Answer with a stream of events.

    Args:
        content_type: The stream's media type.
        chunks: What it says.
        encode: Frames one event.
        end: What comes after the last one.
        headers: HTTP headers besides the media type.
    """
    frames = [
        Frame(encode(payload), content, None if reports is None else reports.usage)
        for payload, content, reports in chunks
    ]
    if end:
        frames.append(Frame(end))
    return Answer(content_type, frames, streamed=True, headers=headers or {})


def sse(payload: Payload) -> bytes:
    """Frame one server-sent event."""
    return b"data: " + dumps(payload) + b"\n\n"


def typed_sse(payload: Payload) -> bytes:
    """Frame one server-sent event that's named after its type."""
    return b"event: " + str(payload["type"]).encode() + b"\n" + sse(payload)


def ndjson(payload: Payload) -> bytes:
    """Frame one line of newline-delimited JSON."""
    return dumps(payload) + b"\n"


def pieces(text: str, number: int) -> list[str]:
    """Cut a text into at most `number` pieces of about the same length; an empty text has none."""
    size = max(1, -(-len(text) // number))
    return [text[start : start + size] for start in range(0, len(text), size)]


def arguments_text(call: ToolCall) -> str:
    """Write a tool's arguments as the JSON text that some providers send."""
    return dumps(dict(call.arguments)).decode()

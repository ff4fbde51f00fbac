"""What every format shares: a request comes in, frames of bytes go out.

A format knows nothing of sockets, and the server knows nothing of formats.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..replies import Billed, Reply

__all__ = [
    "JSON",
    "NDJSON",
    "SSE",
    "Answer",
    "Frame",
    "Refuse",
    "Request",
    "Respond",
    "Route",
    "count_texts",
    "dumps",
    "ndjson",
    "pieces",
    "plain",
    "sse",
    "up_to",
]

JSON, SSE, NDJSON = "application/json", "text/event-stream", "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as far as a format cares."""

    path: str
    model: str
    body: Mapping[str, object]

    @property
    def wants_stream(self) -> bool:
        """Whether the body asks for a stream."""
        return bool(self.body.get("stream"))


@dataclass(frozen=True, slots=True)
class Frame:
    """A run of bytes that's written at once.

    Attributes:
        data: The bytes.
        content: Whether they carry a piece of the model's text.
        reports: What the answer has said about its cost once these are out, if anything.
    """

    data: bytes
    content: bool = False
    reports: Billed | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything that goes back for one request."""

    content_type: str
    frames: Sequence[Frame]
    streamed: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)


class Respond(Protocol):
    """Turn a scripted reply into an answer; `usage` is `None` when nothing is to be said of it."""

    def __call__(self, request: Request, reply: Reply, usage: Billed | None) -> Answer:
        """Answer one request."""


class Refuse(Protocol):
    """Turn an HTTP status into the provider's own error."""

    def __call__(self, status: int, text: str) -> Answer:
        """Refuse one request."""


@dataclass(frozen=True, slots=True)
class Route:
    """Which requests a format answers. A group called `model` in the pattern names the model."""

    api: str
    pattern: re.Pattern[str]
    respond: Respond
    refuse: Refuse


def dumps(payload: object) -> bytes:
    """Encode as JSON, as compactly as providers do."""
    return json.dumps(payload, ensure_ascii=False, separators=(",", ":")).encode()


def plain(
    payload: object, usage: Billed | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Answer with one JSON document."""
    return Answer(JSON, [Frame(dumps(payload), reports=usage)], headers=headers or {})


def sse(payload: object, name: str | None = None) -> bytes:
    """Frame one server-sent event."""
    head = b"event: " + name.encode() + b"\n" if name else b""
    return head + b"data: " + dumps(payload) + b"\n\n"


def ndjson(payload: object) -> bytes:
    """Frame one line of newline-delimited JSON."""
    return dumps(payload) + b"\n"


def pieces(text: str, number: int) -> list[str]:
    """Cut a text into at most `number` pieces of about the same length; an empty text has none."""
    size = max(1, -(-len(text) // max(1, number)))
    return [text[start : start + size] for start in range(0, len(text), size)]


def up_to(usage: Billed, part: int, parts: int) -> Billed:
    """Say what `usage` was when `part` of `parts` pieces were out, as running counts do."""
    done = usage.output * part // max(1, parts)
    thought = None if usage.reasoning is None else min(usage.reasoning, done)
    return Billed(
        usage.input, done, usage.cache_read, usage.cache_write, usage.cache_write_1h, thought
    )


def count_texts(value: object) -> int:
    """Count the texts of an embedding request."""
    return len(value) if isinstance(value, list) else 1

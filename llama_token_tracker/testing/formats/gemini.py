"""Gemini: generateContent, and streamGenerateContent as server-sent events.

`promptTokenCount` contains the cache; thoughts come on top of `candidatesTokenCount`. Every chunk
of a stream reports, with a running count of the answer.

Source:
    https://ai.google.dev/api/generate-content, GenerateContentResponse, UsageMetadata
    (checked 2026-11-22).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from llama_token_tracker.testing.formats.base import (
    SSE,
    SUMS,
    Answer,
    Chunk,
    Figures,
    Payload,
    Request,
    Respond,
    Route,
    dumps,
    pieces,
    plain,
    stream,
)
from llama_token_tracker.testing.replies import Reply

_BUCKETS: Final = (*SUMS, "cache_read_tokens", "reasoning_tokens")
_ERRORS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


def _usage(figures: Figures) -> dict[str, object]:
    shape: dict[str, object] = {
        "promptTokenCount": figures.input,
        "candidatesTokenCount": figures.output - figures.reasoning,
        "totalTokenCount": figures.total,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": figures.input}],
    }
    if figures.usage.cache_read_tokens is not None:
        shape["cachedContentTokenCount"] = figures.cache_read
    if figures.usage.reasoning_tokens is not None:
        shape["thoughtsTokenCount"] = figures.reasoning
    return shape


def _payload(
    request: Request, parts: Sequence[Payload], finish: str | None, figures: Figures | None
) -> dict[str, object]:
    content: dict[str, object] = {"role": "model"}
    if parts:
        content["parts"] = parts
    candidate: dict[str, object] = {"content": content, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    shape: dict[str, object] = {
        "candidates": [candidate],
        "modelVersion": request.model,
        "responseId": request.id,
    }
    return shape if figures is None else shape | {"usageMetadata": _usage(figures)}


def _thoughts(reply: Reply) -> list[Payload]:
    return [{"text": reply.thinking, "thought": True}] if reply.thinking else []


def _tools(reply: Reply) -> list[Payload]:
    return [
        {"functionCall": {"name": call.name, "args": dict(call.arguments)}}
        for call in reply.tool_calls
    ]


def _generate(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    said: list[Payload] = [{"text": reply.text}] if reply.text else []
    parts = [*_thoughts(reply), *said, *_tools(reply)]
    return plain(_payload(request, parts, "STOP", figures), figures)


def _generate_stream(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    return stream(SSE, _chunks(request, reply, figures), _sse)


def _chunks(request: Request, reply: Reply, figures: Figures | None) -> Iterator[Chunk]:
    said: list[list[Payload]] = [[{"text": part}] for part in pieces(reply.text, reply.chunks)]
    # An answer without any part still is one chunk.
    groups = [group for group in (_thoughts(reply), *said, _tools(reply)) if group] or [[]]
    for number, parts in enumerate(groups, 1):
        last = number == len(groups)
        if figures is None or last:
            running = figures
        else:
            running = figures.written(figures.output * number // len(groups))
        payload = _payload(request, parts, "STOP" if last else None, running)
        yield Chunk(payload, parts in said, running)


def _sse(payload: Payload) -> bytes:
    # Google ends its lines as HTTP does.
    return b"data: " + dumps(payload) + b"\r\n\r\n"


def _refuse(status: int, text: str) -> Answer:
    error = {"code": status, "message": text, "status": _ERRORS.get(status, "INTERNAL")}
    return plain({"error": error}, status=status)


def _route(api: str, method: str, respond: Respond) -> Route:
    path = rf"/gemini/v1(?:beta)?/models/(?P<model>[^:]+):{method}"
    return Route(f"gemini.{api}", re.compile(path), respond, _refuse, _BUCKETS)


ROUTES: Final = (
    _route("generate", "generateContent", _generate),
    _route("stream", "streamGenerateContent", _generate_stream),
)

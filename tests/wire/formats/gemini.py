"""Gemini: generateContent and streamGenerateContent as server-sent events.

`promptTokenCount` contains the cache; thoughts come on top of `candidatesTokenCount`. Every chunk
of a stream reports, with a running count of the answer.

Source:
    Gemini API reference, GenerateContentResponse, UsageMetadata (checked 2026-11-22).
"""

from __future__ import annotations

import re

from ..replies import Billed, Reply
from .base import SSE, Answer, Frame, Request, Route, dumps, pieces, plain, up_to

__all__ = ["ROUTES"]

_ERRORS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


def _usage(usage: Billed) -> dict[str, object]:
    shape: dict[str, object] = {
        "promptTokenCount": usage.input,
        "candidatesTokenCount": usage.said,
        "totalTokenCount": usage.total,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input}],
    }
    if usage.cache_read is not None:
        shape["cachedContentTokenCount"] = usage.cache_read
    if usage.reasoning is not None:
        shape["thoughtsTokenCount"] = usage.reasoning
    return shape


def _chunk(
    request: Request, parts: list[dict[str, object]], finish: str | None, usage: Billed | None
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
        "responseId": "loopback",
    }
    return shape if usage is None else shape | {"usageMetadata": _usage(usage)}


def _thoughts(reply: Reply) -> list[dict[str, object]]:
    return [{"text": reply.thinking, "thought": True}] if reply.thinking else []


def _tools(reply: Reply) -> list[dict[str, object]]:
    return [
        {"functionCall": {"name": call.name, "args": dict(call.arguments)}}
        for call in reply.tool_calls
    ]


def _generate(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    said: list[dict[str, object]] = [{"text": reply.text}] if reply.text else []
    parts = [*_thoughts(reply), *said, *_tools(reply)]
    return plain(_chunk(request, parts, "STOP", usage), usage)


def _generate_stream(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    texts: list[list[dict[str, object]]] = [
        [{"text": part}] for part in pieces(reply.text, reply.chunks)
    ]
    groups = [group for group in (_thoughts(reply), *texts, _tools(reply)) if group] or [[]]
    frames = []
    for number, parts in enumerate(groups, 1):
        last = number == len(groups)
        running = usage and (usage if last else up_to(usage, number, len(groups)))
        chunk = _chunk(request, parts, "STOP" if last else None, running)
        data = b"data: " + dumps(chunk) + b"\r\n\r\n"
        frames.append(Frame(data, parts in texts, running))
    return Answer(SSE, frames, streamed=True)


def _refuse(status: int, text: str) -> Answer:
    error = {"code": status, "message": text, "status": _ERRORS.get(status, "INTERNAL")}
    return plain({"error": error})


_MODEL = r"/gemini/v1(?:beta)?/models/(?P<model>[^:]+)"
ROUTES = [
    Route("gemini.generate", re.compile(_MODEL + ":generateContent"), _generate, _refuse),
    Route(
        "gemini.stream", re.compile(_MODEL + ":streamGenerateContent"), _generate_stream, _refuse
    ),
]

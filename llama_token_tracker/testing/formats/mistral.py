"""Mistral's chat completions, plain and as server-sent events.

A stream reports in its last chunk, beside the finish reason.

Source:
    https://docs.mistral.ai/api/#tag/chat (checked 2026-11-22).
"""

import re
from collections.abc import Iterator
from typing import Final

from llama_token_tracker.testing.formats.base import (
    SSE,
    SUMS,
    Answer,
    Chunk,
    Figures,
    Payload,
    Request,
    Route,
    arguments_text,
    pieces,
    plain,
    sse,
    stream,
)
from llama_token_tracker.testing.replies import Reply

_CREATED: Final = 1_760_000_000


def _usage(figures: Figures) -> dict[str, object]:
    shape: dict[str, object] = {
        "prompt_tokens": figures.input,
        "completion_tokens": figures.output,
        "total_tokens": figures.total,
    }
    if figures.usage.cache_read_tokens is not None:
        shape["prompt_tokens_details"] = {"cached_tokens": figures.cache_read}
    return shape


def _payload(request: Request, kind: str, choice: Payload, usage: Payload) -> Payload:
    return {
        "id": request.id,
        "object": kind,
        "created": _CREATED,
        "model": request.model,
        "choices": [{"index": 0} | dict(choice)],
    } | dict(usage)


def _tools(reply: Reply) -> dict[str, object]:
    if not reply.tool_calls:
        return {}
    calls = [
        {
            # The SDK wants nine letters or digits.
            "id": f"loopback{n}",
            "type": "function",
            "index": n,
            "function": {"name": call.name, "arguments": arguments_text(call)},
        }
        for n, call in enumerate(reply.tool_calls)
    ]
    return {"tool_calls": calls}


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


def _chat(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    if request.wants_stream:
        chunks = _chunks(request, reply, figures)
        return stream(SSE, chunks, sse, end=b"data: [DONE]\n\n")
    message = {"role": "assistant", "content": reply.text} | _tools(reply)
    choice = {"message": message, "finish_reason": _finish(reply)}
    # The SDK refuses a whole answer without usage, so a silent one says null counts.
    usage = {} if figures is None else _usage(figures)
    return plain(_payload(request, "chat.completion", choice, {"usage": usage}), figures)


def _chunks(request: Request, reply: Reply, figures: Figures | None) -> Iterator[Chunk]:
    kind = "chat.completion.chunk"

    def payload(delta: Payload) -> Payload:
        return _payload(request, kind, {"delta": delta, "finish_reason": None}, {})

    yield Chunk(payload({"role": "assistant", "content": ""}))
    for part in pieces(reply.text, reply.chunks):
        yield Chunk(payload({"content": part}), content=True)
    last = {"delta": {"content": ""} | _tools(reply), "finish_reason": _finish(reply)}
    usage = {} if figures is None else {"usage": _usage(figures)}
    yield Chunk(_payload(request, kind, last, usage), reports=figures)


def _refuse(status: int, text: str) -> Answer:
    error = {"object": "error", "message": text, "type": "invalid_request", "code": str(status)}
    return plain(error, status=status)


ROUTES: Final = (
    Route(
        "mistral.chat",
        re.compile(r"/mistral/v1/chat/completions"),
        _chat,
        _refuse,
        (*SUMS, "cache_read_tokens"),
    ),
)

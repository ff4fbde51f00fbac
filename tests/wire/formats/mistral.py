"""Mistral's chat completions, plain and as server-sent events.

A stream reports in its last chunk, beside the finish reason.

Source:
    Mistral AI API reference, "Chat" (checked 2026-11-22).
"""

from __future__ import annotations

import re

from ..replies import Billed, Reply
from .base import SSE, Answer, Frame, Request, Route, dumps, pieces, plain, sse

__all__ = ["ROUTES"]


def _usage(usage: Billed) -> dict[str, object]:
    shape: dict[str, object] = {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
    }
    if usage.cache_read is not None:
        shape["prompt_tokens_details"] = {"cached_tokens": usage.cache_read}
    return shape


def _shape(
    request: Request, kind: str, choice: dict[str, object], usage: Billed | None
) -> dict[str, object]:
    shape: dict[str, object] = {
        "id": "loopback",
        "object": kind,
        "created": 1_760_000_000,
        "model": request.model,
        "choices": [{"index": 0} | choice],
    }
    return shape if usage is None else shape | {"usage": _usage(usage)}


def _tools(reply: Reply) -> dict[str, object]:
    if not reply.tool_calls:
        return {}
    calls = [
        {
            "id": f"loopback{n}",
            "type": "function",
            "index": n,
            "function": {"name": call.name, "arguments": dumps(dict(call.arguments)).decode()},
        }
        for n, call in enumerate(reply.tool_calls)
    ]
    return {"tool_calls": calls}


def _chat(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    finish = "tool_calls" if reply.tool_calls else "stop"
    if not request.wants_stream:
        message = {"role": "assistant", "content": reply.text} | _tools(reply)
        choice: dict[str, object] = {"message": message, "finish_reason": finish}
        # The SDK refuses a whole answer without usage, so a silent one says null counts.
        silent: dict[str, object] = {} if usage else {"usage": {}}
        return plain(_shape(request, "chat.completion", choice, usage) | silent, usage)

    def frame(delta: dict[str, object], *, text: bool = False) -> Frame:
        choice: dict[str, object] = {"delta": delta, "finish_reason": None}
        return Frame(sse(_shape(request, "chat.completion.chunk", choice, None)), text)

    frames = [frame({"role": "assistant", "content": ""})]
    frames += [frame({"content": part}, text=True) for part in pieces(reply.text, reply.chunks)]
    last: dict[str, object] = {"delta": {"content": ""} | _tools(reply), "finish_reason": finish}
    shape = _shape(request, "chat.completion.chunk", last, usage)
    frames += [Frame(sse(shape), reports=usage), Frame(b"data: [DONE]\n\n")]
    return Answer(SSE, frames, streamed=True)


def _refuse(status: int, text: str) -> Answer:
    error = {"object": "error", "message": text, "type": "invalid_request", "code": str(status)}
    return plain(error)


ROUTES = [
    Route("mistral.chat", re.compile(r"/mistral/v1/chat/completions"), _chat, _refuse),
]

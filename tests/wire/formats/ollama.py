"""Ollama's `/api/chat`, plain and as newline-delimited JSON.

`prompt_eval_count` and `eval_count` stand beside the message, in a stream only in the last line.

Source:
    Ollama's docs/api.md, "Generate a chat completion" (checked 2026-11-22).
"""

from __future__ import annotations

import re

from ..replies import Billed, Reply
from .base import NDJSON, Answer, Frame, Request, Route, ndjson, pieces, plain

__all__ = ["ROUTES"]


def _line(request: Request, message: dict[str, object], *, done: bool) -> dict[str, object]:
    return {
        "model": request.model,
        "created_at": "2026-11-22T10:00:00.000000Z",
        "message": {"role": "assistant", "content": ""} | message,
        "done": done,
    }


def _end(usage: Billed | None) -> dict[str, object]:
    end: dict[str, object] = {"done_reason": "stop", "total_duration": 17_000_000}
    if usage is None:
        return end
    return end | {"prompt_eval_count": usage.input, "eval_count": usage.output}


def _tools(reply: Reply) -> dict[str, object]:
    if not reply.tool_calls:
        return {}
    calls = [
        {"function": {"name": call.name, "arguments": dict(call.arguments)}}
        for call in reply.tool_calls
    ]
    return {"tool_calls": calls}


def _thinking(reply: Reply) -> dict[str, object]:
    return {"thinking": reply.thinking} if reply.thinking else {}


def _chat(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    # Ollama streams unless it's told not to.
    if request.body.get("stream") is False:
        message = {"content": reply.text} | _thinking(reply) | _tools(reply)
        return plain(_line(request, message, done=True) | _end(usage), usage)
    frames = []
    if reply.thinking:
        frames.append(Frame(ndjson(_line(request, _thinking(reply), done=False))))
    frames += [
        Frame(ndjson(_line(request, {"content": part}, done=False)), content=True)
        for part in pieces(reply.text, reply.chunks)
    ]
    if reply.tool_calls:
        frames.append(Frame(ndjson(_line(request, _tools(reply), done=False))))
    frames.append(Frame(ndjson(_line(request, {}, done=True) | _end(usage)), reports=usage))
    return Answer(NDJSON, frames, streamed=True)


def _refuse(status: int, text: str) -> Answer:
    del status
    return plain({"error": text})


ROUTES = [Route("ollama.chat", re.compile(r"/ollama/api/chat"), _chat, _refuse)]

"""Cohere's first API: chat and generate, plain and as newline-delimited JSON.

`meta.billed_units` is the bill; `meta.tokens` is what the model saw, with the frame that Cohere
puts round a prompt and doesn't charge for. Here the two always differ.

Source:
    Cohere API v1 reference, "Chat", "Generate" (checked 2026-11-22).
"""

from __future__ import annotations

import re

from ..replies import Billed, Reply
from .base import Answer, Frame, Request, Route, ndjson, pieces, plain

__all__ = ["ROUTES"]

_STREAM = "application/stream+json"
_UNBILLED = 66


def _meta(usage: Billed | None) -> dict[str, object]:
    meta: dict[str, object] = {"api_version": {"version": "1"}}
    if usage is None:
        return {"meta": meta}
    meta["billed_units"] = {
        "input_tokens": float(usage.input),
        "output_tokens": float(usage.output),
    }
    meta["tokens"] = {
        "input_tokens": float(usage.input + _UNBILLED),
        "output_tokens": float(usage.output),
    }
    if usage.cache_read is not None:
        meta["cached_tokens"] = float(usage.cache_read)
    return {"meta": meta}


def _tools(reply: Reply) -> dict[str, object]:
    if not reply.tool_calls:
        return {}
    calls = [{"name": call.name, "parameters": dict(call.arguments)} for call in reply.tool_calls]
    return {"tool_calls": calls}


def _chat(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    whole: dict[str, object] = {
        "response_id": "loopback",
        "generation_id": "loopback",
        "text": reply.text,
        "chat_history": [],
        "finish_reason": "COMPLETE",
    }
    whole |= _tools(reply) | _meta(usage)
    if not request.wants_stream:
        return plain(whole, usage)

    def line(kind: str, **rest: object) -> bytes:
        return ndjson({"is_finished": kind == "stream-end", "event_type": kind} | rest)

    frames = [Frame(line("stream-start", generation_id="loopback"))]
    frames += [
        Frame(line("text-generation", text=part), content=True)
        for part in pieces(reply.text, reply.chunks)
    ]
    if reply.tool_calls:
        frames.append(Frame(line("tool-calls-generation", text="", **_tools(reply))))
    end = line("stream-end", finish_reason="COMPLETE", response=whole)
    return Answer(_STREAM, [*frames, Frame(end, reports=usage)], streamed=True)


def _generate(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    generation = {"id": "loopback", "text": reply.text, "finish_reason": "COMPLETE"}
    whole: dict[str, object] = {"id": "loopback", "generations": [generation], "prompt": ""}
    if not request.wants_stream:
        return plain(whole | _meta(usage), usage)
    frames = [
        Frame(
            ndjson({"event_type": "text-generation", "text": part, "is_finished": False}),
            content=True,
        )
        for part in pieces(reply.text, reply.chunks)
    ]
    end = {"event_type": "stream-end", "is_finished": True, "finish_reason": "COMPLETE"}
    frames.append(Frame(ndjson(end | {"response": whole | _meta(usage)}), reports=usage))
    return Answer(_STREAM, frames, streamed=True)


def _refuse(status: int, text: str) -> Answer:
    del status
    return plain({"message": text})


ROUTES = [
    Route("cohere.chat", re.compile(r"/cohere/v1/chat"), _chat, _refuse),
    Route("cohere.generate", re.compile(r"/cohere/v1/generate"), _generate, _refuse),
]

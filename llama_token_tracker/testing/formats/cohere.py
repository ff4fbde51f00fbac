"""Cohere's first API: chat and generate, plain and as newline-delimited JSON.

`meta.billed_units` is the bill; `meta.tokens` is what the model saw, with the frame that Cohere
puts round a prompt and doesn't charge for. Here the two always differ.

Source:
    https://docs.cohere.com/v1/reference/chat, …/generate (checked 2026-11-22).
"""

import re
from collections.abc import Iterator
from typing import Final

from llama_token_tracker.testing.formats.base import (
    SUMS,
    Answer,
    Chunk,
    Figures,
    Payload,
    Request,
    Route,
    ndjson,
    pieces,
    plain,
    stream,
)
from llama_token_tracker.testing.replies import Reply

_BUCKETS: Final = (*SUMS, "cache_read_tokens")
_STREAM: Final = "application/stream+json"
_UNBILLED: Final = 66


def _meta(figures: Figures | None) -> dict[str, object]:
    meta: dict[str, object] = {"api_version": {"version": "1"}}
    if figures is None:
        return {"meta": meta}
    # Cohere counts in floats.
    answer = float(figures.output)
    meta["billed_units"] = {"input_tokens": float(figures.input), "output_tokens": answer}
    meta["tokens"] = {"input_tokens": float(figures.input + _UNBILLED), "output_tokens": answer}
    if figures.usage.cache_read_tokens is not None:
        meta["cached_tokens"] = float(figures.cache_read)
    return {"meta": meta}


def _tools(reply: Reply) -> dict[str, object]:
    if not reply.tool_calls:
        return {}
    calls = [{"name": call.name, "parameters": dict(call.arguments)} for call in reply.tool_calls]
    return {"tool_calls": calls}


def _chat(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    whole: dict[str, object] = {
        "response_id": request.id,
        "generation_id": request.id,
        "text": reply.text,
        "chat_history": [],
        "finish_reason": "COMPLETE",
    }
    whole |= _tools(reply) | _meta(figures)
    if request.wants_stream:
        return stream(_STREAM, _chat_events(reply, whole, figures), ndjson)
    return plain(whole, figures)


def _chat_events(
    reply: Reply, whole: dict[str, object], figures: Figures | None
) -> Iterator[Chunk]:
    yield Chunk(_event("stream-start", generation_id=whole["generation_id"]))
    yield from _texts(reply)
    if reply.tool_calls:
        yield Chunk(_event("tool-calls-generation", text="", **_tools(reply)))
    yield _end(whole, figures)


def _generate(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    generation = {"id": request.id, "text": reply.text, "finish_reason": "COMPLETE"}
    whole: dict[str, object] = {"id": request.id, "generations": [generation], "prompt": ""}
    whole |= _meta(figures)
    if request.wants_stream:
        return stream(_STREAM, [*_texts(reply), _end(whole, figures)], ndjson)
    return plain(whole, figures)


def _event(kind: str, **rest: object) -> Payload:
    return {"is_finished": kind == "stream-end", "event_type": kind} | rest


def _texts(reply: Reply) -> Iterator[Chunk]:
    for part in pieces(reply.text, reply.chunks):
        yield Chunk(_event("text-generation", text=part), content=True)


def _end(whole: dict[str, object], figures: Figures | None) -> Chunk:
    return Chunk(_event("stream-end", finish_reason="COMPLETE", response=whole), reports=figures)


def _refuse(status: int, text: str) -> Answer:
    return plain({"message": text}, status=status)


ROUTES: Final = (
    Route("cohere.chat", re.compile(r"/cohere/v1/chat"), _chat, _refuse, _BUCKETS),
    Route("cohere.generate", re.compile(r"/cohere/v1/generate"), _generate, _refuse, _BUCKETS),
)

"""Ollama's `/api/chat`, plain and as newline-delimited JSON.

`prompt_eval_count` and `eval_count` stand beside the message, in a stream only in the last line.

Source:
    https://github.com/ollama/ollama/blob/main/docs/api.md, "Generate a chat completion"
    (checked 2026-11-22).
"""

import re
from collections.abc import Iterator
from typing import Final

from llama_token_tracker.testing.formats.base import (
    NDJSON,
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


def _line(request: Request, message: Payload, *, done: bool = False) -> dict[str, object]:
    return {
        "model": request.model,
        "created_at": "2026-11-22T10:00:00.000000Z",
        "message": {"role": "assistant", "content": ""} | dict(message),
        "done": done,
    }


def _last(request: Request, message: Payload, figures: Figures | None) -> dict[str, object]:
    line = _line(request, message, done=True)
    line |= {"done_reason": "stop", "total_duration": 17_000_000}
    if figures is None:
        return line
    return line | {"prompt_eval_count": figures.input, "eval_count": figures.output}


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


def _chat(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    # Ollama streams unless it's told not to.
    if request.body.get("stream") is not False:
        return stream(NDJSON, _lines(request, reply, figures), ndjson)
    message = {"content": reply.text} | _thinking(reply) | _tools(reply)
    return plain(_last(request, message, figures), figures)


def _lines(request: Request, reply: Reply, figures: Figures | None) -> Iterator[Chunk]:
    if reply.thinking:
        yield Chunk(_line(request, _thinking(reply)))
    for part in pieces(reply.text, reply.chunks):
        yield Chunk(_line(request, {"content": part}), content=True)
    if reply.tool_calls:
        yield Chunk(_line(request, _tools(reply)))
    yield Chunk(_last(request, {}, figures), reports=figures)


def _refuse(status: int, text: str) -> Answer:
    return plain({"error": text}, status=status)


ROUTES: Final = (Route("ollama.chat", re.compile(r"/ollama/api/chat"), _chat, _refuse),)

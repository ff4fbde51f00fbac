"""OpenAI's chat completions, plain and as server-sent events.

Source:
    https://platform.openai.com/docs/api-reference/chat (checked 2026-11-22).
"""

import re
from collections.abc import Iterator
from typing import Final

from llama_token_tracker.testing.formats.base import (
    Answer,
    Chunk,
    Figures,
    Payload,
    Request,
    Route,
    arguments_text,
    pieces,
)
from llama_token_tracker.testing.formats.openai.completions import BUCKETS, streamed, whole
from llama_token_tracker.testing.formats.openai.errors import refuse
from llama_token_tracker.testing.replies import Reply


def _respond(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    if request.wants_stream:
        return streamed(request, "chat.completion.chunk", _deltas(reply), figures)
    message: dict[str, object] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["tool_calls"] = [
            _tool_call(n, call.name, arguments_text(call))
            for n, call in enumerate(reply.tool_calls)
        ]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": _finish(reply),
    }
    return whole(request, "chat.completion", choice, figures)


def _deltas(reply: Reply) -> Iterator[Chunk]:
    yield Chunk(_choice({"role": "assistant", "content": "", "refusal": None}))
    for part in pieces(reply.text, reply.chunks):
        yield Chunk(_choice({"content": part}), content=True)
    for n, call in enumerate(reply.tool_calls):
        yield Chunk(_choice({"tool_calls": [{"index": n} | _tool_call(n, call.name, "")]}))
        for part in pieces(arguments_text(call), 2):
            more = {"index": n, "function": {"arguments": part}}
            yield Chunk(_choice({"tool_calls": [more]}))
    yield Chunk(_choice({}, _finish(reply)))


def _choice(delta: Payload, finish: str | None = None) -> Payload:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _tool_call(n: int, name: str, arguments: str) -> dict[str, object]:
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{n}", "type": "function", "function": function}


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


ROUTE: Final = Route(
    "openai.chat",
    re.compile(r"/openai/v1/chat/completions"),
    _respond,
    refuse,
    BUCKETS,
    id_header="x-request-id",
)

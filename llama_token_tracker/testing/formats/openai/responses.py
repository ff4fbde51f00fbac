"""OpenAI's Responses, plain and as server-sent events.

`input_tokens` contain the cache, `output_tokens` contain reasoning. A stream reports in
`response.completed`.

Source:
    https://platform.openai.com/docs/api-reference/responses, …/responses-streaming
    (checked 2026-11-22).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
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
    stream,
    typed_sse,
)
from llama_token_tracker.testing.formats.openai.errors import refuse
from llama_token_tracker.testing.replies import Reply

_CREATED: Final = 1_760_000_000
_NO_PROBS: Final[Payload] = {"logprobs": []}
_EMPTY: Final[Mapping[object, Payload]] = {
    "message": {"content": []},
    "function_call": {"arguments": ""},
}


def _respond(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    whole = _response(request, "completed", _output(reply), figures)
    if not request.wants_stream:
        return plain(whole, figures)
    events = [*_events(request, reply), Chunk(_event("completed", response=whole), False, figures)]
    chunks = (
        Chunk({**payload, "sequence_number": n}, text, reports)
        for n, (payload, text, reports) in enumerate(events)
    )
    return stream(SSE, chunks, typed_sse)


def _response(
    request: Request, status: str, output: Sequence[Payload], figures: Figures | None
) -> dict[str, object]:
    return {
        "id": f"resp_{request.id}",
        "object": "response",
        "created_at": _CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": request.model,
        "output": output,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None if figures is None else _usage(figures),
    }


def _usage(figures: Figures) -> dict[str, object]:
    return {
        "input_tokens": figures.input,
        # The SDK's model requires both keys.
        "input_tokens_details": {
            "cached_tokens": figures.cache_read,
            "cache_write_tokens": figures.cache_write,
        },
        "output_tokens": figures.output,
        "output_tokens_details": {"reasoning_tokens": figures.reasoning},
        "total_tokens": figures.total,
    }


def _output(reply: Reply) -> list[Payload]:
    items: list[Payload] = []
    if reply.thinking:
        summary = [{"type": "summary_text", "text": reply.thinking}]
        items.append({"type": "reasoning", "id": "rs_0", "summary": summary})
    if reply.text or not reply.tool_calls:
        part: Payload = {"type": "output_text", "text": reply.text, "annotations": [], **_NO_PROBS}
        message = {"type": "message", "id": "msg_0", "role": "assistant"}
        items.append({**message, "status": "completed", "content": [part]})
    items += [
        {
            "type": "function_call",
            "id": f"fc_{n}",
            "call_id": f"call_{n}",
            "name": call.name,
            "arguments": arguments_text(call),
            "status": "completed",
        }
        for n, call in enumerate(reply.tool_calls)
    ]
    return items


def _events(request: Request, reply: Reply) -> Iterator[Chunk]:
    begun = _response(request, "in_progress", [], None)
    yield Chunk(_event("created", response=begun))
    yield Chunk(_event("in_progress", response=begun))
    for index, item in enumerate(_output(reply)):
        added = {**item, "status": "in_progress", **_EMPTY.get(item["type"], {})}
        yield Chunk(_event("output_item.added", output_index=index, item=added))
        at = {"output_index": index, "item_id": item["id"]}
        if item["type"] == "message":
            yield from _text_events(reply, at)
        if item["type"] == "function_call":
            yield from _argument_events(item, at)
        yield Chunk(_event("output_item.done", output_index=index, item=item))


def _text_events(reply: Reply, at: Payload) -> Iterator[Chunk]:
    place: Payload = {**at, "content_index": 0}
    rest: Payload = {**place, **_NO_PROBS}
    part: Payload = {"type": "output_text", "text": "", "annotations": [], **_NO_PROBS}
    yield Chunk(_event("content_part.added", part=part, **place))
    for text in pieces(reply.text, reply.chunks):
        yield Chunk(_event("output_text.delta", delta=text, **rest), content=True)
    yield Chunk(_event("output_text.done", text=reply.text, **rest))
    yield Chunk(_event("content_part.done", part={**part, "text": reply.text}, **place))


def _argument_events(item: Payload, at: Payload) -> Iterator[Chunk]:
    arguments = str(item["arguments"])
    for part in pieces(arguments, 2):
        yield Chunk(_event("function_call_arguments.delta", delta=part, **at))
    rest = {**at, "arguments": arguments, "name": item["name"]}
    yield Chunk(_event("function_call_arguments.done", **rest))


def _event(kind: str, **rest: object) -> Payload:
    return {"type": f"response.{kind}", **rest}


ROUTE: Final = Route(
    "openai.responses",
    re.compile(r"/openai/v1/responses"),
    _respond,
    refuse,
    (*SUMS, "cache_read_tokens", "cache_write_tokens", "reasoning_tokens"),
    id_header="x-request-id",
)

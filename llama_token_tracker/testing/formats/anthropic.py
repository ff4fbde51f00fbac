"""Anthropic Messages, plain and as server-sent events, and their count of tokens.

`input_tokens` leaves out both cache buckets. A stream reports in `message_start` and again,
cumulatively, in `message_delta`; with `Reply.terse` the second says only `output_tokens`, as
Claude on Bedrock does.

Source:
    https://docs.anthropic.com/en/api/messages, …/messages-streaming, …/messages-count-tokens,
    …/errors (checked 2026-11-22).
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
    stream,
    typed_sse,
)
from llama_token_tracker.testing.replies import Reply

BUCKETS: Final = (
    *SUMS,
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
)
"""What Claude's messages have words for."""

_ERRORS: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_ONLY_FIRST: Final = frozenset({"cache_creation", "service_tier"})
_SIGNATURE: Final = "c2ln"


def usage_of(figures: Figures) -> dict[str, object]:
    """Write figures as Anthropic's `usage`."""
    shape: dict[str, object] = {
        "input_tokens": figures.uncached,
        "cache_creation_input_tokens": figures.cache_write,
        "cache_read_input_tokens": figures.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": figures.cache_write - figures.cache_write_1h,
            "ephemeral_1h_input_tokens": figures.cache_write_1h,
        },
        "output_tokens": figures.output,
        "service_tier": "standard",
    }
    if figures.usage.reasoning_tokens is not None:
        shape["output_tokens_details"] = {"thinking_tokens": figures.reasoning}
    return shape


def body(request: Request, reply: Reply, figures: Figures | None) -> dict[str, object]:
    """Write a whole message."""
    content: list[Payload] = []
    if reply.thinking:
        content.append(
            {"type": "thinking", "thinking": reply.thinking, "signature": _SIGNATURE},
        )
    if reply.text:
        content.append({"type": "text", "text": reply.text})
    content += [
        {"type": "tool_use", "id": f"toolu_{n}", "name": call.name, "input": dict(call.arguments)}
        for n, call in enumerate(reply.tool_calls)
    ]
    message: dict[str, object] = {
        "id": f"msg_{request.id}",
        "type": "message",
        "role": "assistant",
        "model": request.model,
        "content": content,
        "stop_reason": _stop_reason(reply),
        "stop_sequence": None,
    }
    return message if figures is None else message | {"usage": usage_of(figures)}


def events(request: Request, reply: Reply, figures: Figures | None) -> Iterator[Chunk]:
    """Write a message as the events of a stream."""
    # The first event knows the whole input, and one token of the answer.
    begun = figures and figures.written(min(1, figures.output))
    message = body(request, Reply(text=""), begun) | {"stop_reason": None}
    yield Chunk({"type": "message_start", "message": message}, reports=begun)
    for index, (opening, deltas) in enumerate(_blocks(reply)):
        at: Payload = {"index": index}
        yield Chunk({"type": "content_block_start", "content_block": opening, **at})
        for delta in deltas:
            text = delta["type"] == "text_delta"
            yield Chunk({"type": "content_block_delta", "delta": delta, **at}, text)
        yield Chunk({"type": "content_block_stop", **at})
    last: dict[str, object] = {
        "type": "message_delta",
        "delta": {"stop_reason": _stop_reason(reply), "stop_sequence": None},
        "usage": {} if figures is None else _last_usage(reply, figures),
    }
    # Only the last event could have said how much was thought.
    said = BUCKETS[:-1] if reply.terse else BUCKETS
    yield Chunk(last, reports=figures and figures.only(said))
    yield Chunk({"type": "message_stop"})


def _stop_reason(reply: Reply) -> str:
    return "tool_use" if reply.tool_calls else "end_turn"


def _last_usage(reply: Reply, figures: Figures) -> dict[str, object]:
    if reply.terse:
        return {"output_tokens": figures.output}
    return {key: value for key, value in usage_of(figures).items() if key not in _ONLY_FIRST}


def _blocks(reply: Reply) -> Iterator[tuple[Payload, list[Payload]]]:
    if reply.thinking:
        deltas: list[Payload] = [
            {"type": "thinking_delta", "thinking": part} for part in pieces(reply.thinking, 2)
        ]
        deltas.append({"type": "signature_delta", "signature": _SIGNATURE})
        yield {"type": "thinking", "thinking": "", "signature": ""}, deltas
    if reply.text:
        yield (
            {"type": "text", "text": ""},
            [{"type": "text_delta", "text": part} for part in pieces(reply.text, reply.chunks)],
        )
    for n, call in enumerate(reply.tool_calls):
        parts = pieces(arguments_text(call), 2)
        yield (
            {"type": "tool_use", "id": f"toolu_{n}", "name": call.name, "input": {}},
            [{"type": "input_json_delta", "partial_json": part} for part in parts],
        )


def _respond(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    if request.wants_stream:
        return stream(SSE, events(request, reply, figures), typed_sse)
    return plain(body(request, reply, figures), figures)


def _count(_: Request, __: Reply, figures: Figures | None) -> Answer:
    return plain({"input_tokens": 0 if figures is None else figures.input})


def _refuse(status: int, text: str) -> Answer:
    error = {"type": _ERRORS.get(status, "api_error"), "message": text}
    return plain({"type": "error", "error": error}, status=status)


_ON_VERTEX_AI: Final = (
    r"/anthropic/v1/projects/[^/]+/locations/[^/]+/publishers/anthropic/models/"
    r"(?P<model>[^/:]+):(?:streamR|r)awPredict"
)
"""Source: https://docs.anthropic.com/en/api/claude-on-vertex-ai (checked 2026-11-29)."""

ROUTES: Final = (
    Route(
        "anthropic.count_tokens",
        re.compile(r"/anthropic/v1/messages/count_tokens"),
        _count,
        _refuse,
        kind="count",
        id_header="request-id",
    ),
    Route(
        "anthropic.messages",
        re.compile(r"/anthropic/v1/messages"),
        _respond,
        _refuse,
        BUCKETS,
        id_header="request-id",
    ),
    Route(
        "anthropic.vertex",
        re.compile(_ON_VERTEX_AI),
        _respond,
        _refuse,
        BUCKETS,
        id_header="request-id",
    ),
)

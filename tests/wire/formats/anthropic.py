"""Anthropic Messages, plain and as server-sent events.

`input_tokens` leaves out both cache buckets. A stream reports in `message_start` and again,
cumulatively, in `message_delta`; with `Reply.terse` the second says only `output_tokens`, as
Claude on Bedrock does.

Source:
    Anthropic API reference, "Messages" and "Streaming Messages" (checked 2026-11-22).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..replies import Billed, Reply
from .base import JSON, SSE, Answer, Frame, Request, Route, dumps, pieces, plain, sse

__all__ = ["ROUTES", "body", "events", "usage_of"]

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def usage_of(usage: Billed) -> dict[str, object]:
    """Write a bill as Anthropic's `usage`."""
    write, hour = usage.cache_write or 0, usage.cache_write_1h or 0
    shape: dict[str, object] = {
        "input_tokens": usage.uncached,
        "cache_creation_input_tokens": write,
        "cache_read_input_tokens": usage.cache_read or 0,
        "cache_creation": {
            "ephemeral_5m_input_tokens": write - hour,
            "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": usage.output,
        "service_tier": "standard",
    }
    if usage.reasoning is not None:
        shape["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return shape


def body(model: str, reply: Reply, usage: Billed | None) -> dict[str, object]:
    """Write a whole message."""
    content: list[dict[str, object]] = []
    if reply.thinking:
        content.append({"type": "thinking", "thinking": reply.thinking, "signature": "c2ln"})
    if reply.text:
        content.append({"type": "text", "text": reply.text})
    content += [
        {"type": "tool_use", "id": f"toolu_{n}", "name": call.name, "input": dict(call.arguments)}
        for n, call in enumerate(reply.tool_calls)
    ]
    message: dict[str, object] = {
        "id": "msg_loopback",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": "tool_use" if reply.tool_calls else "end_turn",
        "stop_sequence": None,
    }
    return message if usage is None else message | {"usage": usage_of(usage)}


def events(
    model: str, reply: Reply, usage: Billed | None
) -> Iterator[tuple[dict[str, object], bool, Billed | None]]:
    """Write a stream: each event, whether it carries text, and what is reported by then."""
    # The first event knows the whole input and one token of the answer.
    begun = usage and Billed(
        usage.input, 1, usage.cache_read, usage.cache_write, usage.cache_write_1h
    )
    start = body(model, Reply(text=""), begun) | {"stop_reason": None}
    yield {"type": "message_start", "message": start}, False, begun
    for index, (opening, deltas) in enumerate(_blocks(reply)):
        yield (
            {"type": "content_block_start", "index": index, "content_block": opening},
            False,
            begun,
        )
        for delta in deltas:
            yield (
                {"type": "content_block_delta", "index": index, "delta": delta},
                delta["type"] == "text_delta",
                begun,
            )
        yield {"type": "content_block_stop", "index": index}, False, begun
    stop = "tool_use" if reply.tool_calls else "end_turn"
    last: dict[str, object] = {
        "type": "message_delta",
        "delta": {"stop_reason": stop, "stop_sequence": None},
        "usage": _last_usage(reply, usage),
    }
    yield last, False, usage
    yield {"type": "message_stop"}, False, usage


def _last_usage(reply: Reply, usage: Billed | None) -> dict[str, object]:
    if usage is None:
        return {}
    if reply.terse:
        return {"output_tokens": usage.output}
    shape = usage_of(usage)
    return {key: shape[key] for key in shape if key not in {"cache_creation", "service_tier"}}


def _blocks(reply: Reply) -> Iterator[tuple[dict[str, object], list[dict[str, object]]]]:
    if reply.thinking:
        deltas: list[dict[str, object]] = [
            {"type": "thinking_delta", "thinking": part} for part in pieces(reply.thinking, 2)
        ]
        yield (
            {"type": "thinking", "thinking": "", "signature": ""},
            [*deltas, {"type": "signature_delta", "signature": "c2ln"}],
        )
    if reply.text:
        yield (
            {"type": "text", "text": ""},
            [{"type": "text_delta", "text": part} for part in pieces(reply.text, reply.chunks)],
        )
    for n, call in enumerate(reply.tool_calls):
        arguments = dumps(dict(call.arguments)).decode()
        yield (
            {"type": "tool_use", "id": f"toolu_{n}", "name": call.name, "input": {}},
            [{"type": "input_json_delta", "partial_json": part} for part in pieces(arguments, 2)],
        )


def _respond(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    if not request.wants_stream:
        return plain(body(request.model, reply, usage), usage)
    frames = [
        Frame(sse(payload, str(payload["type"])), text, reported)
        for payload, text, reported in events(request.model, reply, usage)
    ]
    return Answer(SSE, frames, streamed=True)


def _refuse(status: int, text: str) -> Answer:
    error = {"type": _ERRORS.get(status, "api_error"), "message": text}
    return Answer(JSON, [Frame(dumps({"type": "error", "error": error}))])


def _count(_: Request, reply: Reply, usage: Billed | None) -> Answer:
    """Answer `count_tokens`: one figure, which costs nothing."""
    del reply
    return plain({"input_tokens": 0 if usage is None else usage.input})


ROUTES = [
    Route("anthropic.count", re.compile(r"/anthropic/v1/messages/count_tokens"), _count, _refuse),
    Route("anthropic.messages", re.compile(r"/anthropic/v1/messages"), _respond, _refuse),
]

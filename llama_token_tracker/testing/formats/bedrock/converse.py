"""Bedrock's Converse and ConverseStream.

`inputTokens` leaves the cache out; `totalTokens` contains it. A stream reports in `metadata`, its
last event. Where a guardrail stepped in, the stop reason says so.

Source:
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html,
    …/API_runtime_ConverseStream.html, …/API_runtime_TokenUsage.html (checked 2026-11-22).
"""

from collections.abc import Iterator
from typing import Final

from llama_token_tracker.testing.formats.base import (
    SUMS,
    Answer,
    Chunk,
    Figures,
    Payload,
    Request,
    arguments_text,
    pieces,
    plain,
    stream,
)
from llama_token_tracker.testing.formats.bedrock.eventstream import STREAM, event
from llama_token_tracker.testing.replies import Reply

BUCKETS: Final = (
    *SUMS,
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_5m_tokens",
    "cache_write_1h_tokens",
)
"""What Converse has words for."""

_METRICS: Final = {"latencyMs": 17}
_SIGNATURE: Final = "c2ln"


def message(reply: Reply) -> dict[str, object]:
    """Write the message and why it ends; Nova's own answers have this shape too."""
    content: list[Payload] = []
    if reply.thinking:
        thought = {"text": reply.thinking, "signature": _SIGNATURE}
        content.append({"reasoningContent": {"reasoningText": thought}})
    if reply.text:
        content.append({"text": reply.text})
    content += [
        {"toolUse": {"toolUseId": f"tooluse_{n}", "name": c.name, "input": dict(c.arguments)}}
        for n, c in enumerate(reply.tool_calls)
    ]
    return {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": _stop_reason(reply),
    }


def events(reply: Reply) -> Iterator[Chunk]:
    """Write the same as the events of a stream, each under its name; metadata is not among them."""
    yield Chunk({"messageStart": {"role": "assistant"}})
    for index, (opening, deltas) in enumerate(_blocks(reply)):
        at = {"contentBlockIndex": index}
        if opening is not None:
            yield Chunk({"contentBlockStart": {**at, "start": opening}})
        for delta in deltas:
            yield Chunk({"contentBlockDelta": {**at, "delta": delta}}, "text" in delta)
        yield Chunk({"contentBlockStop": at})
    yield Chunk({"messageStop": {"stopReason": _stop_reason(reply)}})


def respond(_: Request, reply: Reply, figures: Figures | None) -> Answer:
    """Answer Converse."""
    return plain({**message(reply), "metrics": _METRICS, **_usage(figures)}, figures)


def respond_streaming(_: Request, reply: Reply, figures: Figures | None) -> Answer:
    """Answer ConverseStream."""
    metadata = Chunk({"metadata": {"metrics": _METRICS, **_usage(figures)}}, reports=figures)
    return stream(STREAM, [*events(reply), metadata], _encode)


def _encode(payload: Payload) -> bytes:
    [(name, content)] = payload.items()
    return event(name, content)


def _usage(figures: Figures | None) -> dict[str, object]:
    if figures is None:
        return {}
    shape: dict[str, object] = {
        "inputTokens": figures.uncached,
        "outputTokens": figures.output,
        "totalTokens": figures.total,
    }
    usage = figures.usage
    if usage.cache_read_tokens is not None:
        shape["cacheReadInputTokens"] = figures.cache_read
    if usage.cache_write_tokens is not None:
        shape["cacheWriteInputTokens"] = figures.cache_write
    lifetimes = {"1h": usage.cache_write_1h_tokens, "5m": usage.cache_write_5m_tokens}
    details = [
        {"ttl": ttl, "inputTokens": number}
        for ttl, number in lifetimes.items()
        if number is not None
    ]
    return {"usage": shape | {"cacheDetails": details} if details else shape}


def _stop_reason(reply: Reply) -> str:
    if reply.guardrail:
        return "guardrail_intervened"
    return "tool_use" if reply.tool_calls else "end_turn"


def _blocks(reply: Reply) -> Iterator[tuple[Payload | None, list[Payload]]]:
    if reply.thinking:
        thoughts: list[Payload] = [
            {"reasoningContent": {"text": part}} for part in pieces(reply.thinking, 2)
        ]
        yield None, [*thoughts, {"reasoningContent": {"signature": _SIGNATURE}}]
    if reply.text:
        yield None, [{"text": part} for part in pieces(reply.text, reply.chunks)]
    for n, call in enumerate(reply.tool_calls):
        yield (
            {"toolUse": {"toolUseId": f"tooluse_{n}", "name": call.name}},
            [{"toolUse": {"input": part}} for part in pieces(arguments_text(call), 2)],
        )

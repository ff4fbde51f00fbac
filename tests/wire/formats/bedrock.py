"""Amazon Bedrock: InvokeModel in four dialects, its stream, and Converse with its stream.

InvokeModel answers in the model's own shape and adds `x-amzn-bedrock-*-token-count` headers; its
stream ends with `amazon-bedrock-invocationMetrics`. Headers, metrics and Converse's `usage` all
leave the cache out of the input; Converse's `totalTokens` contains it.

Source:
    Amazon Bedrock API reference, InvokeModel, InvokeModelWithResponseStream, Converse,
    ConverseStream, TokenUsage; user guide, "Inference request parameters" (checked 2026-11-22).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator

from ..eventstream import event
from ..replies import Billed, Reply
from . import anthropic
from .base import Answer, Frame, Request, Route, count_texts, dumps, pieces, plain, up_to

__all__ = ["ROUTES"]

Chunk = tuple[dict[str, object], bool, Billed | None]

_STREAM = "application/vnd.amazon.eventstream"
_ERRORS = {
    400: "ValidationException",
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    408: "ModelTimeoutException",
    424: "ModelErrorException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


# --- InvokeModel -----------------------------------------------------------------------------


def _invoke(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    dialect = _dialect(request.model)
    shape = _BODIES[dialect](request, reply, usage)
    return plain(shape, usage, _headers(usage, cache="anthropic" in dialect))


def _invoke_stream(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    chunks = list(_STREAMS[_dialect(request.model)](request, reply, usage))
    if usage is not None:
        last, text, _ = chunks[-1]
        chunks[-1] = (last | {"amazon-bedrock-invocationMetrics": _metrics(usage)}, text, usage)
    frames = [
        Frame(event("chunk", {"bytes": base64.b64encode(dumps(chunk)).decode()}), text, reported)
        for chunk, text, reported in chunks
    ]
    return Answer(
        _STREAM, frames, streamed=True, headers={"X-Amzn-Bedrock-Content-Type": "application/json"}
    )


def _dialect(model: str) -> str:
    name = model.rsplit("/", 1)[-1]
    if "embed" in name:
        return "cohere-embed" if "cohere" in name else "titan-embed"
    return next((key for key in _STREAMS if key in name), "anthropic")


def _headers(usage: Billed | None, *, cache: bool) -> dict[str, str]:
    if usage is None:
        return {}
    counts = {"input": usage.uncached, "output": usage.output}
    if cache:
        counts |= {
            "cache-read-input": usage.cache_read or 0,
            "cache-write-input": usage.cache_write or 0,
        }
    latency = {"x-amzn-bedrock-invocation-latency": "17"}
    return latency | {
        f"x-amzn-bedrock-{name}-token-count": str(number) for name, number in counts.items()
    }


def _metrics(usage: Billed) -> dict[str, int]:
    metrics = {
        "inputTokenCount": usage.uncached,
        "outputTokenCount": usage.output,
        "invocationLatency": 17,
        "firstByteLatency": 11,
    }
    if usage.cached:
        metrics |= {
            "cacheReadInputTokenCount": usage.cache_read or 0,
            "cacheWriteInputTokenCount": usage.cache_write or 0,
        }
    return metrics


def _claude(request: Request, reply: Reply, usage: Billed | None) -> dict[str, object]:
    return anthropic.body(request.model, reply, usage)


def _claude_stream(request: Request, reply: Reply, usage: Billed | None) -> Iterator[Chunk]:
    return anthropic.events(request.model, reply, usage)


def _titan(_: Request, reply: Reply, usage: Billed | None) -> dict[str, object]:
    result: dict[str, object] = {"outputText": reply.text, "completionReason": "FINISH"}
    if usage is None:
        return {"results": [result]}
    result["tokenCount"] = usage.output
    return {"inputTextTokenCount": usage.input, "results": [result]}


def _titan_stream(_: Request, reply: Reply, usage: Billed | None) -> Iterator[Chunk]:
    parts = pieces(reply.text, reply.chunks) or [""]
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        chunk: dict[str, object] = {
            "outputText": part,
            "index": 0,
            "completionReason": "FINISH" if last else None,
        }
        if usage is not None:
            chunk["totalOutputTextTokenCount"] = usage.output if last else None
            # Titan says what it read only with the first piece.
            chunk["inputTextTokenCount"] = usage.input if number == 1 else None
        yield chunk, bool(part), usage and Billed(usage.input, usage.output if last else 0)


def _llama(_: Request, reply: Reply, usage: Billed | None) -> dict[str, object]:
    shape: dict[str, object] = {"generation": reply.text, "stop_reason": "stop"}
    if usage is None:
        return shape
    return shape | {
        "prompt_token_count": usage.input,
        "generation_token_count": usage.output,
    }


def _llama_stream(_: Request, reply: Reply, usage: Billed | None) -> Iterator[Chunk]:
    parts = pieces(reply.text, reply.chunks)
    for number, part in enumerate([*parts, ""], 1):
        running = usage and up_to(usage, number, len(parts) + 1)
        chunk: dict[str, object] = {
            "generation": part,
            "stop_reason": None if part else "stop",
        }
        if running is not None:
            chunk["prompt_token_count"] = running.input if number == 1 else None
            chunk["generation_token_count"] = running.output
        yield chunk, bool(part), running


def _mistral(_: Request, reply: Reply, usage: Billed | None) -> dict[str, object]:
    del usage  # Mistral's models say nothing in the body; only the headers do.
    return {"outputs": [{"text": reply.text, "stop_reason": "stop"}]}


def _mistral_stream(_: Request, reply: Reply, usage: Billed | None) -> Iterator[Chunk]:
    del usage
    for part in pieces(reply.text, reply.chunks):
        yield {"outputs": [{"text": part, "stop_reason": None}]}, True, None
    yield {"outputs": [{"text": "", "stop_reason": "stop"}]}, False, None


def _titan_embed(_: Request, reply: Reply, usage: Billed | None) -> dict[str, object]:
    shape: dict[str, object] = {"embedding": list(reply.embedding)}
    return shape if usage is None else shape | {"inputTextTokenCount": usage.input}


def _cohere_embed(request: Request, reply: Reply, usage: Billed | None) -> dict[str, object]:
    del usage  # Only the headers tell.
    texts = request.body.get("texts") or [""]
    vectors = [list(reply.embedding)] * count_texts(texts)
    return {
        "id": "emb_loopback",
        "response_type": "embeddings_floats",
        "embeddings": vectors,
        "texts": texts,
    }


_BODIES: dict[str, Callable[[Request, Reply, Billed | None], dict[str, object]]] = {
    "anthropic": _claude,
    "titan": _titan,
    "llama": _llama,
    "mistral": _mistral,
    "titan-embed": _titan_embed,
    "cohere-embed": _cohere_embed,
}
_STREAMS: dict[str, Callable[[Request, Reply, Billed | None], Iterator[Chunk]]] = {
    "anthropic": _claude_stream,
    "titan": _titan_stream,
    "llama": _llama_stream,
    "mistral": _mistral_stream,
}


# --- Converse --------------------------------------------------------------------------------


def _converse_usage(usage: Billed) -> dict[str, object]:
    shape: dict[str, object] = {
        "inputTokens": usage.uncached,
        "outputTokens": usage.output,
        "totalTokens": usage.total,
    }
    if usage.cache_read is not None:
        shape["cacheReadInputTokens"] = usage.cache_read
    if usage.cache_write is not None:
        shape["cacheWriteInputTokens"] = usage.cache_write
    if usage.cache_write and usage.cache_write_1h is not None:
        short = usage.cache_write - usage.cache_write_1h
        shape["cacheDetails"] = [
            {"ttl": ttl, "inputTokens": number}
            for ttl, number in (("5m", short), ("1h", usage.cache_write_1h))
        ]
    return shape


def _converse(_: Request, reply: Reply, usage: Billed | None) -> Answer:
    content: list[dict[str, object]] = []
    if reply.thinking:
        thought = {"reasoningText": {"text": reply.thinking, "signature": "c2ln"}}
        content.append({"reasoningContent": thought})
    if reply.text:
        content.append({"text": reply.text})
    content += [
        {"toolUse": {"toolUseId": f"tooluse_{n}", "name": c.name, "input": dict(c.arguments)}}
        for n, c in enumerate(reply.tool_calls)
    ]
    shape: dict[str, object] = {
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use" if reply.tool_calls else "end_turn",
        "metrics": {"latencyMs": 17},
    }
    if usage is not None:
        shape["usage"] = _converse_usage(usage)
    return plain(shape, usage)


def _converse_stream(_: Request, reply: Reply, usage: Billed | None) -> Answer:
    frames = [Frame(event("messageStart", {"role": "assistant"}))]
    for index, (opening, deltas) in enumerate(_converse_blocks(reply)):
        if opening is not None:
            start = {"contentBlockIndex": index, "start": opening}
            frames.append(Frame(event("contentBlockStart", start)))
        frames += [
            Frame(
                event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta}),
                content="text" in delta,
            )
            for delta in deltas
        ]
        frames.append(Frame(event("contentBlockStop", {"contentBlockIndex": index})))
    stop = "tool_use" if reply.tool_calls else "end_turn"
    frames.append(Frame(event("messageStop", {"stopReason": stop})))
    metadata: dict[str, object] = {"metrics": {"latencyMs": 17}}
    if usage is not None:
        metadata["usage"] = _converse_usage(usage)
    frames.append(Frame(event("metadata", metadata), reports=usage))
    return Answer(_STREAM, frames, streamed=True)


def _converse_blocks(
    reply: Reply,
) -> Iterator[tuple[dict[str, object] | None, list[dict[str, object]]]]:
    if reply.thinking:
        thoughts: list[dict[str, object]] = [
            {"reasoningContent": {"text": part}} for part in pieces(reply.thinking, 2)
        ]
        yield None, [*thoughts, {"reasoningContent": {"signature": "c2ln"}}]
    if reply.text:
        yield None, [{"text": part} for part in pieces(reply.text, reply.chunks)]
    for n, call in enumerate(reply.tool_calls):
        arguments = dumps(dict(call.arguments)).decode()
        yield (
            {"toolUse": {"toolUseId": f"tooluse_{n}", "name": call.name}},
            [{"toolUse": {"input": part}} for part in pieces(arguments, 2)],
        )


def _count(_: Request, reply: Reply, usage: Billed | None) -> Answer:
    """Answer CountTokens: one figure, which costs nothing."""
    del reply
    return plain({"inputTokens": 0 if usage is None else usage.input})


def _refuse(status: int, text: str) -> Answer:
    kind = _ERRORS.get(status, "InternalServerException")
    return plain({"message": text}, headers={"x-amzn-ErrorType": kind})


def _route(operation: str, api: str, respond: Callable[..., Answer]) -> Route:
    pattern = re.compile(rf"/bedrock/model/(?P<model>.+)/{operation}")
    return Route(f"bedrock.{api}", pattern, respond, _refuse)


ROUTES = [
    _route("invoke", "invoke", _invoke),
    _route("invoke-with-response-stream", "invoke_stream", _invoke_stream),
    _route("count-tokens", "count", _count),
    _route("converse", "converse", _converse),
    _route("converse-stream", "converse_stream", _converse_stream),
]

"""OpenAI: chat completions, completions, responses, embeddings.

`prompt_tokens` and `input_tokens` contain the cache, `completion_tokens` and `output_tokens`
contain reasoning. A stream of the first two reports only with `stream_options.include_usage`, in
a last chunk without choices; Responses report in `response.completed`.

Source:
    OpenAI API reference, "Chat", "Completions", "Responses", "Embeddings" (checked 2026-11-22).
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator, Mapping

from ..replies import Billed, Reply
from .base import SSE, Answer, Frame, Request, Route, count_texts, dumps, pieces, plain, sse

__all__ = ["ROUTES"]

_CREATED = 1_760_000_000
_DONE = Frame(b"data: [DONE]\n\n")
_ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    429: ("requests", "rate_limit_exceeded"),
}


def _usage(usage: Billed) -> dict[str, object]:
    prompt: dict[str, object] = {"cached_tokens": usage.cache_read or 0, "audio_tokens": 0}
    if usage.cache_write is not None:
        prompt["cache_write_tokens"] = usage.cache_write
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning or 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _tool_calls(reply: Reply) -> list[dict[str, object]]:
    return [
        {
            "id": f"call_{n}",
            "type": "function",
            "function": {"name": call.name, "arguments": dumps(dict(call.arguments)).decode()},
        }
        for n, call in enumerate(reply.tool_calls)
    ]


def _finish(reply: Reply) -> str:
    return "tool_calls" if reply.tool_calls else "stop"


def _reports(request: Request, usage: Billed | None) -> Billed | None:
    options = request.body.get("stream_options")
    asked = isinstance(options, Mapping) and bool(options.get("include_usage"))
    return usage if asked else None


# --- Chat completions ------------------------------------------------------------------------


def _chat(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    if request.wants_stream:
        return _stream(request, usage, "chat.completion.chunk", _chat_choices(reply))
    message: dict[str, object] = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["tool_calls"] = _tool_calls(reply)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply)}
    return plain(_head(request, "chat.completion", choice, usage), usage)


def _chat_choices(reply: Reply) -> Iterator[tuple[dict[str, object], bool]]:
    def choice(delta: dict[str, object], finish: str | None = None) -> dict[str, object]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    yield choice({"role": "assistant", "content": "", "refusal": None}), False
    for part in pieces(reply.text, reply.chunks):
        yield choice({"content": part}), True
    for n, call in enumerate(_tool_calls(reply)):
        function = call["function"]
        assert isinstance(function, dict)
        opening = call | {"index": n, "function": {"name": function["name"], "arguments": ""}}
        yield choice({"tool_calls": [opening]}), False
        for part in pieces(function["arguments"], 2):
            yield choice({"tool_calls": [{"index": n, "function": {"arguments": part}}]}), False
    yield choice({}, _finish(reply)), False


# --- Completions -----------------------------------------------------------------------------


def _completions(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    if request.wants_stream:
        return _stream(request, usage, "text_completion", _completion_choices(reply))
    choice = {"index": 0, "text": reply.text, "logprobs": None, "finish_reason": "stop"}
    return plain(_head(request, "text_completion", choice, usage), usage)


def _completion_choices(reply: Reply) -> Iterator[tuple[dict[str, object], bool]]:
    for part in pieces(reply.text, reply.chunks):
        yield {"index": 0, "text": part, "logprobs": None, "finish_reason": None}, True
    yield {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}, False


def _head(
    request: Request, kind: str, choice: dict[str, object] | None, usage: Billed | None
) -> dict[str, object]:
    shape: dict[str, object] = {
        "id": "chatcmpl-loopback",
        "object": kind,
        "created": _CREATED,
        "model": request.model,
        "service_tier": "default",
        "system_fingerprint": "fp_loopback",
        "choices": [] if choice is None else [choice],
    }
    return shape if usage is None else shape | {"usage": _usage(usage)}


def _stream(
    request: Request,
    usage: Billed | None,
    kind: str,
    choices: Iterator[tuple[dict[str, object], bool]],
) -> Answer:
    reported = _reports(request, usage)
    filler: dict[str, object] = {} if reported is None else {"usage": None}
    frames = [
        Frame(sse(_head(request, kind, choice, None) | filler), text) for choice, text in choices
    ]
    if reported is not None:
        frames.append(Frame(sse(_head(request, kind, None, reported)), reports=reported))
    return Answer(SSE, [*frames, _DONE], streamed=True)


# --- Responses -------------------------------------------------------------------------------


def _responses(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    output = _output(reply)
    whole = _response(request, "completed", output, usage)
    if not request.wants_stream:
        return plain(whole, usage)
    events = list(_response_events(request, reply, output))
    events.append(({"type": "response.completed", "response": whole}, False))
    last = len(events) - 1
    frames = [
        Frame(
            sse(payload | {"sequence_number": n}, str(payload["type"])),
            text,
            usage if n == last else None,
        )
        for n, (payload, text) in enumerate(events)
    ]
    return Answer(SSE, frames, streamed=True)


def _response(
    request: Request, status: str, output: list[dict[str, object]], usage: Billed | None
) -> dict[str, object]:
    return {
        "id": "resp_loopback",
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
        "usage": None if usage is None else _response_usage(usage),
    }


def _response_usage(usage: Billed) -> dict[str, object]:
    details: dict[str, object] = {"cached_tokens": usage.cache_read or 0}
    # The SDK's model requires this key since it exists.
    details["cache_write_tokens"] = usage.cache_write or 0
    return {
        "input_tokens": usage.input,
        "input_tokens_details": details,
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning or 0},
        "total_tokens": usage.total,
    }


def _output(reply: Reply) -> list[dict[str, object]]:
    items: list[dict[str, object]] = []
    if reply.thinking:
        summary = [{"type": "summary_text", "text": reply.thinking}]
        items.append({"type": "reasoning", "id": "rs_0", "summary": summary})
    if reply.text or not reply.tool_calls:
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        message = {"type": "message", "id": "msg_0", "role": "assistant"}
        items.append(message | {"status": "completed", "content": [part]})
    items += [
        {
            "type": "function_call",
            "id": f"fc_{n}",
            "call_id": f"call_{n}",
            "name": call.name,
            "arguments": dumps(dict(call.arguments)).decode(),
            "status": "completed",
        }
        for n, call in enumerate(reply.tool_calls)
    ]
    return items


def _response_events(
    request: Request, reply: Reply, output: list[dict[str, object]]
) -> Iterator[tuple[dict[str, object], bool]]:
    begun = _response(request, "in_progress", [], None)
    yield {"type": "response.created", "response": begun}, False
    yield {"type": "response.in_progress", "response": begun}, False
    for index, item in enumerate(output):
        at: dict[str, object] = {"output_index": index, "item_id": item["id"]}
        added = item | {"status": "in_progress"}
        if item["type"] == "message":
            added["content"] = []
        if item["type"] == "function_call":
            added["arguments"] = ""
        yield (
            {"type": "response.output_item.added", "output_index": index, "item": added},
            False,
        )
        if item["type"] == "message":
            for part in pieces(reply.text, reply.chunks):
                delta = {"content_index": 0, "delta": part, "logprobs": []}
                yield at | delta | {"type": "response.output_text.delta"}, True
            done = {"content_index": 0, "text": reply.text, "logprobs": []}
            yield at | done | {"type": "response.output_text.done"}, False
        if item["type"] == "function_call":
            kind, arguments = "response.function_call_arguments", str(item["arguments"])
            for part in pieces(arguments, 2):
                yield at | {"type": f"{kind}.delta", "delta": part}, False
            done = {"arguments": arguments, "name": item["name"]}
            yield at | done | {"type": f"{kind}.done"}, False
        yield {"type": "response.output_item.done", "output_index": index, "item": item}, False


# --- Embeddings ------------------------------------------------------------------------------


def _embeddings(request: Request, reply: Reply, usage: Billed | None) -> Answer:
    vector: object = list(reply.embedding)
    if request.body.get("encoding_format") == "base64":
        packed = struct.pack(f"<{len(reply.embedding)}f", *reply.embedding)
        vector = base64.b64encode(packed).decode()
    data = [
        {"object": "embedding", "index": n, "embedding": vector}
        for n in range(count_texts(request.body.get("input")))
    ]
    shape: dict[str, object] = {"object": "list", "data": data, "model": request.model}
    if usage is not None:
        shape["usage"] = {"prompt_tokens": usage.input, "total_tokens": usage.input}
    return plain(shape, usage)


def _refuse(status: int, text: str) -> Answer:
    kind, code = _ERRORS.get(status, ("server_error", None))
    return plain({"error": {"message": text, "type": kind, "param": None, "code": code}})


ROUTES = [
    Route("openai.chat", re.compile(r"/openai/v1/chat/completions"), _chat, _refuse),
    Route("openai.completions", re.compile(r"/openai/v1/completions"), _completions, _refuse),
    Route("openai.responses", re.compile(r"/openai/v1/responses"), _responses, _refuse),
    Route("openai.embeddings", re.compile(r"/openai/v1/embeddings"), _embeddings, _refuse),
]

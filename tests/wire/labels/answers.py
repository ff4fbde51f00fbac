"""What is answered, in the formats of the wire."""

import base64
import json
from typing import Any

from tests.canned import Canned
from tests.wire.labels.asking import CLAUDE, GPT

SAID = "Canberra is the capital of Australia, and has been that since 1913."


def completion(usage: Any, text: str = SAID) -> dict[str, Any]:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": GPT}
    return {**answer, "choices": [choice], "usage": usage}


def chunks(*usages: Any, within: bool = False) -> list[Any]:
    """A streamed one, with its usages at the end or within the last choice."""
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": GPT}
    said = {"index": 0, "delta": {"role": "assistant", "content": SAID}, "finish_reason": None}
    end: Any = {"index": 0, "delta": {}, "finish_reason": "stop"}
    if within:
        return [{**head, "choices": [said]}, {**head, "choices": [end | {"usage": usages[0]}]}]
    figures = [{**head, "choices": [], "usage": usage} for usage in usages]
    return [{**head, "choices": [said]}, *figures]


def response(usage: Any, text: str = SAID) -> Canned:
    """An answer of the Responses API."""
    content = [{"type": "output_text", "text": text, "annotations": []}]
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    head = {"id": "r", "object": "response", "created_at": 1, "model": GPT, "status": "completed"}
    more = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {**head, **more, "output": [{**item, "content": content}], "usage": usage}


def embeddings(usage: Any) -> Canned:
    """An embedding."""
    one = {"object": "embedding", "index": 0, "embedding": [0.1]}
    return {"object": "list", "model": "voyage-3", "data": [one], "usage": usage}


def message(usage: Any, text: str = SAID) -> Canned:
    """A message of Anthropic's."""
    head = {"id": "m", "type": "message", "role": "assistant", "model": CLAUDE}
    content = [{"type": "text", "text": text}]
    return {**head, "content": content, "stop_reason": "end_turn", "usage": usage}


def events(
    start: Any, delta: Any = None, *, error: bool = False, block: tuple[Any, Any] | None = None
) -> list[Any]:
    """A streamed one; without `delta` it ends early.

    Args:
        start: The usage at its beginning.
        delta: That at its end.
        error: Whether it breaks off with an error.
        block: What another block of its content begins with, and its one part.
    """
    head = {"id": "m", "type": "message", "role": "assistant", "model": CLAUDE, "content": []}
    told: list[Any] = [
        {"type": "message_start", "message": {**head, "usage": start}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": SAID},
        },
    ]
    if block is not None:
        begun, part = block
        told.append({"type": "content_block_start", "index": 1, "content_block": begun})
        if part is not None:
            told.append({"type": "content_block_delta", "index": 1, "delta": part})
        told.append({"type": "content_block_stop", "index": 1})
    if delta is not None:
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        told.append({"type": "content_block_stop", "index": 0})
        told.append({"type": "message_delta", "delta": end, "usage": delta})
        told.append({"type": "message_stop"})
    if error:
        told.append({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})
    return told


def conversed(usage: Any, text: str = SAID, stop: str = "end_turn") -> Canned:
    """An answer of Converse."""
    output = {"message": {"role": "assistant", "content": [{"text": text}]}}
    return {"output": output, "stopReason": stop, "usage": usage, "metrics": {"latencyMs": 1}}


def conversed_stream(usage: Any, text: str = SAID, stop: str = "end_turn") -> list[Any]:
    """A streamed one."""
    return [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}),
        ("messageStop", {"stopReason": stop}),
        ("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
    ]


def on_aws(answer: Any) -> Canned:
    """A stream of Anthropic's as InvokeModel gives it."""
    return [
        ("chunk", {"bytes": base64.b64encode(json.dumps(event).encode()).decode()})
        for event in answer
    ]

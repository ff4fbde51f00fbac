"""What is read of the answer to each operation, once it has begun.

Only what is gone later, or may be changed by then, is taken at once; figures and texts are looked
at when somebody asks for them. Importing this loads botocore.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final, TypeAlias

from llama_token_tracker.extraction.shapes.bedrock import HEADERS
from llama_token_tracker.wire.answers.documents import chunk_of
from llama_token_tracker.wire.bodies import decoded
from llama_token_tracker.wire.botocore.bodies import Whole, watch_body
from llama_token_tracker.wire.botocore.streams import EventFormat, Keep, keep_events, watch_events
from llama_token_tracker.wire.dialects import asks_to_embed
from llama_token_tracker.wire.exchange import Exchange
from llama_token_tracker.wire.plain import PlainRequest


def _invoke(exchange: Exchange, parsed: dict[str, Any], _content: bytes) -> None:
    headers: Mapping[str, str] = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    # A model without a name, that of an application inference profile, may have embedded.
    if (
        (exchange.model or "")[:4] == "arn:"
        and _OUTPUT_COUNT not in headers
        and asks_to_embed(exchange.body)
    ):
        exchange.embeds()
    if _INPUT_COUNT in headers or _OUTPUT_COUNT in headers:
        if exchange.keeps_pieces:
            watch_body(parsed["body"], exchange)
        # All of them, as that's quicker than a few.
        exchange.settle("complete", {**headers})
        return
    exchange.answered()
    if not watch_body(parsed["body"], Whole(exchange, headers.get("content-length"))):
        exchange.settle("complete")


def _plain_invoke(request: PlainRequest, parsed: dict[str, Any], _content: bytes) -> bool:
    headers: Mapping[str, str] = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if request.operation == "embedding":
        if _INPUT_COUNT not in headers:
            return False
    elif _OUTPUT_COUNT not in headers or not watch_body(parsed["body"], request):
        return False
    request.answered({**headers}, 0)
    return True


def _invoke_stream(exchange: Exchange, parsed: dict[str, Any], _content: bytes) -> None:
    watch_events(parsed["body"], exchange, _CHUNKS)


def _plain_invoke_stream(request: PlainRequest, parsed: dict[str, Any], _content: bytes) -> bool:
    return keep_events(parsed["body"], request, _CHUNKS)


def _chunk_of(payload: bytes) -> bytes:
    return chunk_of(payload) or b"{}"


def _take_chunk(exchange: Exchange, keep: Keep, event: Any, _payload: bytes) -> object:
    if "chunk" not in event:
        return None
    chunk: bytes = event["chunk"]["bytes"]
    keep(chunk)
    if (fields := _token_fields(chunk)) is not None:
        exchange.add(fields)
    return chunk or None


def _token_fields(chunk: bytes) -> dict[str, Any] | None:
    # Every vendor's word for it holds this; most chunks say nothing of it.
    return decoded(chunk) if b"oken" in chunk else None


_CHUNKS: Final = EventFormat(b'"bytes"', _chunk_of, _token_fields, _take_chunk)


def _converse(exchange: Exchange, parsed: dict[str, Any], content: bytes) -> None:
    # Whatever its status.
    is_answer = "output" in parsed
    if is_answer and content and exchange.add_unread(content):
        exchange.settle("complete")
        return
    # botocore leaves out what it doesn't know.
    told = decoded(content) or deepcopy(parsed)
    if is_answer:
        exchange.keep(told)
        exchange.settle("complete", told)
    else:
        exchange.settle("failed", {**told, "error": "no answer"})


def _plain_converse(request: PlainRequest, parsed: dict[str, Any], content: bytes) -> bool:
    if not content or "output" not in parsed:
        return False
    request.answered_by(content)
    return True


def _converse_stream(exchange: Exchange, parsed: dict[str, Any], _content: bytes) -> None:
    watch_events(parsed["stream"], exchange, _EVENTS)


def _plain_converse_stream(request: PlainRequest, parsed: dict[str, Any], _content: bytes) -> bool:
    return keep_events(parsed["stream"], request, _EVENTS)


def _event_of(payload: bytes) -> bytes:
    return payload or b"{}"


def _event_fields(event: bytes) -> dict[str, Any] | None:
    return decoded(event) if b"oken" in event or b"stopReason" in event else None


def _take_event(exchange: Exchange, keep: Keep, event: Any, payload: bytes) -> object:
    if "contentBlockDelta" in event:
        keep(event)
    elif "messageStop" in event:
        exchange.add_later(deepcopy(event))
    elif "metadata" in event:
        fields = decoded(payload) or deepcopy(event["metadata"])
        exchange.add_later(fields)
        return {"metadata": fields}
    return None


_EVENTS: Final = EventFormat(b'"delta"', _event_of, _event_fields, _take_event)

_INPUT_COUNT, _OUTPUT_COUNT = HEADERS.marks

WatchAnswer: TypeAlias = Callable[[Exchange, dict[str, Any], bytes], None]
"""Takes in the parsed answer of a request, and its body as far as that has come, or has it read
along."""

OPERATIONS: Final[dict[str, WatchAnswer]] = {
    "InvokeModel": _invoke,
    "InvokeModelWithResponseStream": _invoke_stream,
    "Converse": _converse,
    "ConverseStream": _converse_stream,
}
"""By the service's operations, as botocore names them, how their answers are read."""

KeepAnswer: TypeAlias = Callable[[PlainRequest, dict[str, Any], bytes], bool]
"""Keeps the answer of a plain request, as far as that has come or as it comes; `False` if it must
be taken in."""

PLAIN_OPERATIONS: Final[dict[str, KeepAnswer]] = {
    "InvokeModel": _plain_invoke,
    "InvokeModelWithResponseStream": _plain_invoke_stream,
    "Converse": _plain_converse,
    "ConverseStream": _plain_converse_stream,
}
"""The same for plain requests."""

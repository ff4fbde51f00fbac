"""What is read of the answer to each operation, once it has begun.

Only what is gone later, or may be changed by then, is taken at once; figures and texts are looked
at when somebody asks for them. Importing this loads botocore.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final, TypeAlias

from llama_token_tracker.extraction.reader import GUARDED
from llama_token_tracker.extraction.shapes.bedrock import HEADERS
from llama_token_tracker.wire.bodies import decoded
from llama_token_tracker.wire.botocore.bodies import Whole, watch_body
from llama_token_tracker.wire.botocore.streams import Keep, TakeEvent, message_of, watch_events
from llama_token_tracker.wire.dialects import asks_to_embed
from llama_token_tracker.wire.exchange import Exchange


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


def _invoke_stream(exchange: Exchange, parsed: dict[str, Any], _content: bytes) -> None:
    take_event: TakeEvent = _read_chunk
    if exchange.keeps_pieces:
        exchange.read_piece, take_event = _token_fields, _keep_chunk
    watch_events(parsed["body"], exchange, take_event)


def _keep_chunk(_exchange: Exchange, keep: Keep, event: Any, _stream: Any) -> None:
    if "chunk" in event:
        keep(event["chunk"]["bytes"])


def _read_chunk(exchange: Exchange, keep: Keep, event: Any, _stream: Any) -> object:
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


def _converse(exchange: Exchange, parsed: dict[str, Any], content: bytes) -> None:
    told = _usage(parsed, content)
    if "output" not in parsed:
        # Whatever its status.
        exchange.settle("failed", {**told, "error": "no answer"})
        return
    if exchange.keeps_pieces:
        exchange.pieces += parsed["output"].get("message", {}).get("content", ())
    exchange.settle("complete", told)


def _converse_stream(exchange: Exchange, parsed: dict[str, Any], _content: bytes) -> None:
    watch_events(parsed["stream"], exchange, _read_converse, keeps_message=True)


def _read_converse(exchange: Exchange, keep: Keep, event: Any, stream: Any) -> object:
    if "contentBlockDelta" in event:
        keep(event)
    elif "messageStop" in event and event["messageStop"].get("stopReason") == GUARDED:
        exchange.add_later({"stopReason": GUARDED})
    elif "metadata" in event:
        fields = _usage(event["metadata"], message_of(stream))
        exchange.add_later(fields)
        return {"metadata": fields}
    return None


def _usage(answer: Mapping[str, Any], content: bytes) -> dict[str, Any]:
    """The usage of an answer or of a stream, whatever the program does to that afterwards.

    Args:
        answer: What botocore has made of it: only what it knows itself is there.
        content: What it was made of; empty if that isn't known.
    """
    usage: Any = answer.get("usage") or {}
    details: Any = usage.get("cacheDetails", ())
    # Each key speaks of them, but for the one that has a list, and each entry of that does.
    if content.count(b"oken") > len(usage) + len(details) - bool(details):
        # There are more, or a text speaks of tokens.
        usage = (decoded(content) or {}).get("usage") or usage
    # Copying what lies deep takes time, and cached tokens alone have lists of their own.
    told = {"usage": deepcopy(usage) if details else {**usage}}
    told["stopReason"] = answer.get("stopReason")
    if not _TELLING.isdisjoint(answer):
        told |= {key: {**answer[key]} for key in _SERVED if key in answer}
        if router := answer.get("trace", {}).get("promptRouter"):
            told["trace"] = {"promptRouter": {**router}}
    return told


_INPUT_COUNT, _OUTPUT_COUNT = HEADERS.marks
_SERVED: Final = ("serviceTier", "performanceConfig")
_TELLING: Final = frozenset((*_SERVED, "trace"))
"""What tells how a call was served."""

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

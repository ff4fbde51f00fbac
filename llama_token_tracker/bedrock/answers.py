"""What is heard of the answer to each operation, once it has begun.

Only what is gone later, or may be changed by then, is taken at once; figures and texts are looked
at when somebody asks for them. Importing this loads botocore.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, Final, NamedTuple

from llama_token_tracker.bedrock.bodies import BODIES, CHUNKS, CONVERSE, decoded, is_embedding
from llama_token_tracker.bedrock.streams import heard_body, heard_events
from llama_token_tracker.exchange import Dialect, Exchange
from llama_token_tracker.extraction.bedrock import HEADERS


class Operation(NamedTuple):
    """An operation of the service, and what is heard of its answer.

    Attributes:
        dialect: How its bodies are read.
        hear: Takes in the parsed answer of a request and may put wrappers into it.
    """

    dialect: Dialect
    hear: Callable[[Exchange, Any, dict[str, Any]], None]


def _invoke(exchange: Exchange, response: Any, parsed: dict[str, Any]) -> None:
    headers: Mapping[str, str] = parsed.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if exchange.operation == "embedding" or is_embedding(exchange.model, exchange.body, headers):
        exchange.operation = "embedding"
        exchange.keeps_pieces = False
    counts = {name: headers[name] for name in _COUNTS if name in headers}
    is_counted = not _MARKS.isdisjoint(counts)
    if is_counted:
        exchange.hear_all_later(counts)
    exchange.answered()
    if exchange.keeps_pieces or not is_counted:
        body = parsed["body"]
        parsed["body"] = heard_body(body, response, headers.get("content-length"), exchange)
        is_counted = is_counted or parsed["body"] is body
    if is_counted:
        exchange.settle("complete")


def _invoke_stream(exchange: Exchange, _response: Any, parsed: dict[str, Any]) -> None:
    parsed["body"] = heard_events(parsed["body"], exchange, hear_chunk)
    exchange.answered()


def hear_chunk(exchange: Exchange, event: Any) -> None:
    """Take in one chunk of InvokeModelWithResponseStream."""
    chunk = event.get("chunk", {}).get("bytes", b"")
    exchange.keep(chunk)
    # Every vendor's word for it holds this; most chunks say nothing of it.
    if b"oken" in chunk:
        exchange.hear_later(chunk, decoded)


def _converse(exchange: Exchange, _response: Any, parsed: dict[str, Any]) -> None:
    if exchange.keeps_pieces:
        for block in parsed["output"].get("message", {}).get("content", ()):
            exchange.keep(block)
    exchange.hear_all_later(_usage(parsed))
    exchange.answered()
    exchange.settle("complete")


def _converse_stream(exchange: Exchange, _response: Any, parsed: dict[str, Any]) -> None:
    parsed["stream"] = heard_events(parsed["stream"], exchange, hear_converse)
    exchange.answered()


def hear_converse(exchange: Exchange, event: Any) -> None:
    """Take in one event of ConverseStream."""
    if "contentBlockDelta" in event:
        exchange.keep(event)
    elif "metadata" in event:
        exchange.hear_later(_usage(event["metadata"]))


def _usage(said: Mapping[str, Any]) -> dict[str, Any]:
    """The usage of an answer or of a stream, whatever the program does to that afterwards."""
    usage: Any = said.get("usage")
    # Copying what lies deep takes time, and cached tokens alone have lists of their own.
    return {"usage": deepcopy(usage) if "cacheDetails" in (usage or ()) else dict(usage or {})}


_COUNTS: Final = tuple(HEADERS.adds)
_MARKS: Final = frozenset(HEADERS.marks)

OPERATIONS: Final = {
    "InvokeModel": Operation(BODIES, _invoke),
    "InvokeModelWithResponseStream": Operation(CHUNKS, _invoke_stream),
    "Converse": Operation(CONVERSE, _converse),
    "ConverseStream": Operation(CONVERSE, _converse_stream),
}

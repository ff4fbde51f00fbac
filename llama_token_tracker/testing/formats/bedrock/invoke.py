"""Bedrock's InvokeModel and InvokeModelWithResponseStream: what Bedrock adds to a model's words.

An answer's headers and the `amazon-bedrock-invocationMetrics` in a stream's last chunk count
tokens, whatever the model; both leave the cache out of the input. Where a guardrail stepped in,
`amazon-bedrock-guardrailAction` says so. AWS doesn't document whether such an answer is counted
in headers; here it is, unless the reply's usage is `None`.

Source:
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html,
    …/API_runtime_InvokeModelWithResponseStream.html,
    https://docs.aws.amazon.com/bedrock/latest/userguide/guardrails-use-invoke-api.html
    (checked 2026-11-22).
"""

import base64
from typing import Final

from llama_token_tracker.testing.formats.base import (
    Answer,
    Chunk,
    Figures,
    Payload,
    Request,
    dumps,
    plain,
    stream,
)
from llama_token_tracker.testing.formats.bedrock.dialects import (
    DIALECTS,
    HEADER_BUCKETS,
    Dialect,
)
from llama_token_tracker.testing.formats.bedrock.errors import refuse
from llama_token_tracker.testing.formats.bedrock.eventstream import STREAM, event
from llama_token_tracker.testing.replies import Reply

_INTERVENED: Final = {"amazon-bedrock-guardrailAction": "INTERVENED"}
_COUNT_HEADER: Final = "x-amzn-bedrock-{}-token-count"


def respond(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    """Answer InvokeModel."""
    dialect = _dialect(request)
    if dialect is None:
        return _unknown(request)
    body = dialect.body(request, reply, figures)
    # A guardrail's answer has none of the model's own words for usage.
    buckets = HEADER_BUCKETS if reply.guardrail else dialect.buckets
    return plain(
        body | _guarded(reply),
        figures and figures.only(buckets),
        headers={} if figures is None else count_headers(figures),
    )


def respond_streaming(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    """Answer InvokeModelWithResponseStream."""
    dialect = _dialect(request)
    if dialect is None:
        return _unknown(request)
    *chunks, last = dialect.chunks(request, reply, figures)
    payload = {**last.payload, **_guarded(reply)}
    if figures is not None:
        payload["amazon-bedrock-invocationMetrics"] = _metrics(figures)
    said = figures and figures.only(dialect.buckets)
    return stream(
        STREAM,
        [*chunks, Chunk(payload, last.content, said)],
        _encode,
        headers={"X-Amzn-Bedrock-Content-Type": "application/json"},
    )


def count_headers(figures: Figures, *, output: bool = True) -> dict[str, str]:
    """Write figures as headers.

    Args:
        figures: What they say.
        output: Whether the model writes anything; an embedding model doesn't.
    """
    usage = figures.usage
    counts = {
        "input": figures.uncached,
        "output": figures.output if output else None,
        "cache-read-input": usage.cache_read_tokens,
        "cache-write-input": usage.cache_write_tokens,
    }
    headers = {_COUNT_HEADER.format(name): str(n) for name, n in counts.items() if n is not None}
    return headers | {"x-amzn-bedrock-invocation-latency": "17"}


def _metrics(figures: Figures) -> Payload:
    metrics = {
        "inputTokenCount": figures.uncached,
        "outputTokenCount": figures.output,
        "invocationLatency": 17,
        "firstByteLatency": 11,
    }
    if figures.cache_read or figures.cache_write:
        metrics["cacheReadInputTokenCount"] = figures.cache_read
        metrics["cacheWriteInputTokenCount"] = figures.cache_write
    return metrics


def _dialect(request: Request) -> Dialect | None:
    return next((dialect for dialect in DIALECTS if dialect.speaks(request)), None)


def _unknown(request: Request) -> Answer:
    known = ", ".join(sorted({mark for dialect in DIALECTS for mark in dialect.marks}))
    return refuse(
        400,
        f"the loopback provider knows no body of {request.model!r} for InvokeModel, "
        f"only those of models named like {known}; Converse works with any model.",
    )


def _guarded(reply: Reply) -> dict[str, object]:
    return dict(_INTERVENED) if reply.guardrail else {}


def _encode(payload: Payload) -> bytes:
    return event("chunk", {"bytes": base64.b64encode(dumps(payload)).decode()})

"""Amazon Bedrock's formats: InvokeModel, Converse, their streams, embeddings and CountTokens.

Source of CountTokens:
    https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_CountTokens.html
    (checked 2026-11-22).
"""

import re
from collections.abc import Sequence
from typing import Final, Literal

from llama_token_tracker.testing.formats import anthropic
from llama_token_tracker.testing.formats.base import (
    INPUT,
    SUMS,
    Answer,
    Figures,
    Request,
    Respond,
    Route,
    plain,
)
from llama_token_tracker.testing.formats.bedrock import converse, embeddings, invoke
from llama_token_tracker.testing.formats.bedrock.errors import refuse
from llama_token_tracker.testing.replies import Reply


def _count(_: Request, __: Reply, figures: Figures | None) -> Answer:
    return plain({"inputTokens": 0 if figures is None else figures.input})


def _route(
    api: str,
    path: str,
    respond: Respond,
    buckets: Sequence[str] = SUMS,
    *,
    kind: Literal["chat", "embedding", "count"] = "chat",
) -> Route:
    # An ARN in the place of a model's id has slashes of its own.
    pattern = re.compile(f"/bedrock/model/{path}")
    return Route(
        f"bedrock.{api}", pattern, respond, refuse, buckets, kind, id_header="x-amzn-RequestId"
    )


_MODEL: Final = "(?P<model>.+)"

ROUTES: Final = (
    _route("embed", "(?P<model>.*embed.*)/invoke", embeddings.respond, INPUT, kind="embedding"),
    _route("invoke", f"{_MODEL}/invoke", invoke.respond, anthropic.BUCKETS),
    _route(
        "invoke_stream",
        f"{_MODEL}/invoke-with-response-stream",
        invoke.respond_streaming,
        anthropic.BUCKETS,
    ),
    _route("count_tokens", f"{_MODEL}/count-tokens", _count, kind="count"),
    _route("converse", f"{_MODEL}/converse", converse.respond, converse.BUCKETS),
    _route(
        "converse_stream", f"{_MODEL}/converse-stream", converse.respond_streaming, converse.BUCKETS
    ),
)

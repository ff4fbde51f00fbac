"""Bedrock's embeddings through InvokeModel: Titan's and Cohere's.

Both are counted in the header `x-amzn-bedrock-input-token-count`; Titan also says it in the body.

Source:
    https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-embed-text.html,
    …/model-parameters-embed.html, …/model-parameters-embed-v4.html (checked 2026-11-22).
"""

from typing import cast

from llama_token_tracker.testing.formats.base import Answer, Figures, Request, plain
from llama_token_tracker.testing.formats.bedrock.invoke import count_headers
from llama_token_tracker.testing.replies import Reply


def respond(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    """Answer InvokeModel of an embedding model."""
    write = _cohere if "cohere" in request.model else _titan
    headers = {} if figures is None else count_headers(figures, output=False)
    return plain(write(request, reply, figures), figures, headers=headers)


def _titan(request: Request, reply: Reply, figures: Figures | None) -> dict[str, object]:
    vector = list(reply.embedding)
    shape: dict[str, object] = {"embedding": vector}
    if "v2" in request.model:
        shape["embeddingsByType"] = {"float": vector}
    return shape if figures is None else shape | {"inputTextTokenCount": figures.input}


def _cohere(request: Request, reply: Reply, _: Figures | None) -> dict[str, object]:
    texts = _listed(request, "texts")
    number = len(texts or _listed(request, "inputs") or _listed(request, "images"))
    vectors: object = [list(reply.embedding)] * number
    kinds = _listed(request, "embedding_types")
    return {
        "id": request.id,
        "response_type": "embeddings_by_type" if kinds else "embeddings_floats",
        "embeddings": dict.fromkeys(kinds, vectors) if kinds else vectors,
        "texts": texts,
    }


def _listed(request: Request, key: str) -> list[object]:
    value = request.body.get(key)
    return cast("list[object]", value) if isinstance(value, list) else []

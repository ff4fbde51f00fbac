"""OpenAI's embeddings.

Source:
    https://platform.openai.com/docs/api-reference/embeddings (checked 2026-11-22).
"""

import base64
import re
import struct
from typing import Final, cast

from llama_token_tracker.testing.formats.base import (
    INPUT,
    Answer,
    Figures,
    Request,
    Route,
    plain,
)
from llama_token_tracker.testing.formats.openai.errors import refuse
from llama_token_tracker.testing.replies import Reply


def _respond(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    vector: object = list(reply.embedding)
    if request.body.get("encoding_format") == "base64":
        packed = struct.pack(f"<{len(reply.embedding)}f", *reply.embedding)
        vector = base64.b64encode(packed).decode()
    data = [
        {"object": "embedding", "index": n, "embedding": vector}
        for n in range(_number_of_texts(request.body.get("input")))
    ]
    shape: dict[str, object] = {"object": "list", "data": data, "model": request.model}
    if figures is not None:
        shape["usage"] = {"prompt_tokens": figures.input, "total_tokens": figures.input}
    return plain(shape, figures)


def _number_of_texts(value: object) -> int:
    # One text may come as a string or as its tokens, several as a list of either.
    if not isinstance(value, list):
        return 1
    texts = cast("list[object]", value)
    return 1 if texts and isinstance(texts[0], int) else len(texts)


ROUTE: Final = Route(
    "openai.embeddings",
    re.compile(r"/openai/v1/embeddings"),
    _respond,
    refuse,
    INPUT,
    kind="embedding",
    id_header="x-request-id",
)

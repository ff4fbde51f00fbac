"""What OpenAI's chat completions and its older completions have in common.

`prompt_tokens` contain the cache, `completion_tokens` contain reasoning. A stream reports only
with `stream_options.include_usage`, in a last chunk without choices.

Source:
    https://platform.openai.com/docs/api-reference/completions (checked 2026-11-22).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, cast

from llama_token_tracker.testing.formats.base import (
    SSE,
    SUMS,
    Answer,
    Chunk,
    Figures,
    Payload,
    Request,
    Route,
    pieces,
    plain,
    sse,
    stream,
)
from llama_token_tracker.testing.formats.openai.errors import refuse
from llama_token_tracker.testing.replies import Reply

BUCKETS: Final = (
    *SUMS,
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
)
"""What a completion's usage has words for."""

_CREATED: Final = 1_760_000_000


def completion(
    request: Request, kind: str, choices: Iterable[Payload], usage: Payload
) -> dict[str, object]:
    """Write a completion, or a chunk of one."""
    return {
        "id": f"chatcmpl-{request.id}",
        "object": kind,
        "created": _CREATED,
        "model": request.model,
        "service_tier": "default",
        "system_fingerprint": "fp_loopback",
        "choices": list(choices),
    } | dict(usage)


def whole(request: Request, kind: str, choice: Payload, figures: Figures | None) -> Answer:
    """Answer with a whole completion."""
    usage = {} if figures is None else {"usage": _usage(figures)}
    return plain(completion(request, kind, [choice], usage), figures)


def streamed(
    request: Request, kind: str, choices: Iterable[Chunk], figures: Figures | None
) -> Answer:
    """Answer with a stream of choices, and of usage if the request asks for it."""
    chunks = _chunks(request, kind, choices, figures if _asks_for_usage(request) else None)
    return stream(SSE, chunks, sse, end=b"data: [DONE]\n\n")


def _chunks(
    request: Request, kind: str, choices: Iterable[Chunk], figures: Figures | None
) -> Iterator[Chunk]:
    # Who has asked for usage finds the key in every chunk.
    usage = {} if figures is None else {"usage": None}
    for choice, text, _ in choices:
        yield Chunk(completion(request, kind, [choice], usage), text)
    if figures is not None:
        yield Chunk(completion(request, kind, [], {"usage": _usage(figures)}), reports=figures)


def _asks_for_usage(request: Request) -> bool:
    options = request.body.get("stream_options")
    if not isinstance(options, Mapping):
        return False
    return bool(cast("Mapping[str, object]", options).get("include_usage"))


def _usage(figures: Figures) -> dict[str, object]:
    prompt: dict[str, object] = {
        "cached_tokens": figures.cache_read,
        "audio_tokens": figures.usage.input_audio_tokens or 0,
    }
    if figures.usage.cache_write_tokens is not None:
        prompt["cache_write_tokens"] = figures.cache_write
    return {
        "prompt_tokens": figures.input,
        "completion_tokens": figures.output,
        "total_tokens": figures.total,
        "prompt_tokens_details": prompt,
        "completion_tokens_details": {
            "reasoning_tokens": figures.reasoning,
            "audio_tokens": figures.usage.output_audio_tokens or 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _respond(request: Request, reply: Reply, figures: Figures | None) -> Answer:
    if request.wants_stream:
        return streamed(request, "text_completion", _choices(reply), figures)
    return whole(request, "text_completion", _choice(reply.text, "stop"), figures)


def _choices(reply: Reply) -> Iterator[Chunk]:
    for part in pieces(reply.text, reply.chunks):
        yield Chunk(_choice(part), content=True)
    yield Chunk(_choice("", "stop"))


def _choice(text: str, finish: str | None = None) -> Payload:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


ROUTE: Final = Route(
    "openai.completions",
    re.compile(r"/openai/v1/completions"),
    _respond,
    refuse,
    BUCKETS,
    id_header="x-request-id",
)

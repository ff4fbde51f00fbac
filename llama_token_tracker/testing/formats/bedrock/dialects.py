"""In which words the models answer Bedrock's InvokeModel, each in its own.

A dialect writes the model's own body and stream. What Bedrock adds to both, headers and
`amazon-bedrock-invocationMetrics`, is in `invoke.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from llama_token_tracker.testing.formats import anthropic
from llama_token_tracker.testing.formats.base import (
    SUMS,
    Chunk,
    Figures,
    Payload,
    Request,
    pieces,
)
from llama_token_tracker.testing.formats.bedrock import converse
from llama_token_tracker.testing.replies import Reply

HEADER_BUCKETS: Final = (*SUMS, "cache_read_tokens", "cache_write_tokens")
"""What the headers and the metrics have words for, whatever the model."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one family of models words its answers.

    Attributes:
        source: The page that describes it.
        marks: What a model's name holds, any one of these.
        body: Writes a whole answer.
        chunks: Writes a stream.
        asked_by: The key of a request that is put in this dialect; empty where all are.
        buckets: What the body or the headers have words for.
    """

    source: str
    marks: Sequence[str]
    body: Callable[[Request, Reply, Figures | None], dict[str, object]]
    chunks: Callable[[Request, Reply, Figures | None], Iterator[Chunk]]
    asked_by: str = ""
    buckets: Sequence[str] = HEADER_BUCKETS

    def speaks(self, request: Request) -> bool:
        """Whether a request is answered in this dialect."""
        known = any(mark in request.model for mark in self.marks)
        return known and (not self.asked_by or self.asked_by in request.body)


# --- Titan -----------------------------------------------------------------------------------


def _titan(_: Request, reply: Reply, figures: Figures | None) -> dict[str, object]:
    result: dict[str, object] = {"outputText": reply.text, "completionReason": "FINISH"}
    if figures is None:
        return {"results": [result]}
    result["tokenCount"] = figures.output
    return {"inputTextTokenCount": figures.input, "results": [result]}


def _titan_chunks(_: Request, reply: Reply, figures: Figures | None) -> Iterator[Chunk]:
    parts = pieces(reply.text, reply.chunks) or [""]
    for number, part in enumerate(parts, 1):
        last = number == len(parts)
        payload: dict[str, object] = {
            "outputText": part,
            "index": 0,
            "completionReason": "FINISH" if last else None,
        }
        said = None
        if figures is not None:
            said = figures.only(SUMS).written(figures.output if last else 0)
            payload["totalOutputTextTokenCount"] = figures.output if last else None
            # Titan says what it read only with the first piece.
            payload["inputTextTokenCount"] = figures.input if number == 1 else None
        yield Chunk(payload, bool(part), said)


# --- Llama -----------------------------------------------------------------------------------


def _llama(_: Request, reply: Reply, figures: Figures | None) -> dict[str, object]:
    shape: dict[str, object] = {"generation": reply.text, "stop_reason": "stop"}
    if figures is None:
        return shape
    return shape | {
        "prompt_token_count": figures.input,
        "generation_token_count": figures.output,
    }


def _llama_chunks(_: Request, reply: Reply, figures: Figures | None) -> Iterator[Chunk]:
    parts = [*pieces(reply.text, reply.chunks), ""]
    for number, part in enumerate(parts, 1):
        payload: dict[str, object] = {"generation": part, "stop_reason": None if part else "stop"}
        running = None
        if figures is not None:
            running = figures.only(SUMS).written(figures.output * number // len(parts))
            payload["prompt_token_count"] = figures.input if number == 1 else None
            payload["generation_token_count"] = running.output
        yield Chunk(payload, bool(part), running)


# --- Mistral, whose bodies say nothing of tokens ---------------------------------------------


def _mistral(_: Request, reply: Reply, __: Figures | None) -> dict[str, object]:
    return {"outputs": [{"text": reply.text, "stop_reason": "stop"}]}


def _mistral_chunks(_: Request, reply: Reply, __: Figures | None) -> Iterator[Chunk]:
    for part in pieces(reply.text, reply.chunks):
        yield Chunk({"outputs": [{"text": part, "stop_reason": None}]}, content=True)
    yield Chunk({"outputs": [{"text": "", "stop_reason": "stop"}]})


# --- Cohere's Command, whose bodies say nothing of tokens ------------------------------------


def _command(request: Request, reply: Reply, _: Figures | None) -> dict[str, object]:
    generation = {"id": request.id, "text": reply.text, "finish_reason": "COMPLETE"}
    return {"id": request.id, "generations": [generation], "prompt": ""}


def _command_chunks(_: Request, reply: Reply, __: Figures | None) -> Iterator[Chunk]:
    for part in pieces(reply.text, reply.chunks):
        yield Chunk({"text": part, "is_finished": False}, content=True)
    yield Chunk({"finish_reason": "COMPLETE", "is_finished": True})


# --- Nova, which speaks as Converse does -----------------------------------------------------


def _nova(_: Request, reply: Reply, figures: Figures | None) -> dict[str, object]:
    return converse.message(reply) | _nova_usage(figures)


def _nova_chunks(_: Request, reply: Reply, figures: Figures | None) -> Iterator[Chunk]:
    yield from converse.events(reply)
    yield Chunk({"metadata": {"metrics": {}, "trace": {}, **_nova_usage(figures)}})


def _nova_usage(figures: Figures | None) -> dict[str, object]:
    if figures is None:
        return {}
    usage: Payload = {
        "inputTokens": figures.uncached,
        "outputTokens": figures.output,
        "totalTokens": figures.total,
        "cacheReadInputTokenCount": figures.cache_read,
        "cacheWriteInputTokenCount": figures.cache_write,
    }
    return {"usage": usage}


# --- Claude, asked for a completion or with messages -----------------------------------------


def _claude_text(_: Request, reply: Reply, __: Figures | None) -> dict[str, object]:
    return _completion(reply.text, "stop_sequence")


def _claude_text_chunks(_: Request, reply: Reply, __: Figures | None) -> Iterator[Chunk]:
    for part in pieces(reply.text, reply.chunks):
        yield Chunk(_completion(part, None), content=True)
    yield Chunk(_completion("", "stop_sequence"))


def _completion(text: str, stop_reason: str | None) -> dict[str, object]:
    stop = stop_reason and "\n\nHuman:"
    return {"type": "completion", "completion": text, "stop_reason": stop_reason, "stop": stop}


def _claude(request: Request, reply: Reply, figures: Figures | None) -> dict[str, object]:
    message = anthropic.body(request, reply, figures)
    if not reply.guardrail:
        return message
    # Then it's Bedrock that speaks, and it leaves out what only the model could say.
    return {key: message[key] for key in ("type", "role", "content")}


DIALECTS: Final = (
    Dialect(
        source="https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-text.html",
        marks=("titan-text",),
        body=_titan,
        chunks=_titan_chunks,
    ),
    Dialect(
        source="https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-meta.html",
        marks=("llama",),
        body=_llama,
        chunks=_llama_chunks,
    ),
    Dialect(
        source="https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-mistral-text-completion.html",
        marks=("mistral",),
        body=_mistral,
        chunks=_mistral_chunks,
    ),
    Dialect(
        source="https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-cohere-command.html",
        marks=("cohere.command-text", "cohere.command-light"),
        body=_command,
        chunks=_command_chunks,
    ),
    Dialect(
        source="https://docs.aws.amazon.com/nova/latest/userguide/complete-request-schema-response.html",
        marks=("amazon.nova",),
        body=_nova,
        chunks=_nova_chunks,
    ),
    Dialect(
        source="https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-text-completion.html",
        marks=("claude",),
        asked_by="prompt",
        body=_claude_text,
        chunks=_claude_text_chunks,
    ),
    Dialect(
        source="https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html",
        # An ARN may name no model at all.
        marks=("claude", "arn:"),
        body=_claude,
        chunks=anthropic.events,
        buckets=anthropic.BUCKETS,
    ),
)
"""All dialects; the first that speaks a request's answers it (checked 2026-11-22)."""

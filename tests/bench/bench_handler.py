"""What counting costs: an empty handler, LlamaIndex's and this one, side by side in one run.

Run it with `python -m tests.bench.bench_handler`. Figures are CPU time, the best of many
rounds, in which the handlers take turns so that a slow moment hits them all. Nothing here
passes or fails: compare figures of one run with each other only.
"""

import argparse
import gc
import time
import tracemalloc
from collections.abc import Callable, Iterable
from typing import Any

import anthropic.types as anthropic
from google.genai import types as gemini
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks import TokenCountingHandler as Theirs
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.llms import MockLLM
from openai.types import chat as openai
from openai.types.completion_usage import (
    CompletionTokensDetails,
    CompletionUsage,
    PromptTokensDetails,
)
from rich.console import Console
from rich.table import Table

from llama_token_tracker import TokenCountingHandler as Ours

MESSAGES = [ChatMessage("tell me " * 25, role="user")]
ABOUT = {"class_name": "openai_llm", "model_name": "m"}


class Empty(BaseCallbackHandler):
    """Does nothing: what the callback manager itself costs."""

    def __init__(self) -> None:
        super().__init__([], [])

    def on_event_start(self, *args: Any, **kwargs: Any) -> str:
        """Do nothing."""
        return ""

    def on_event_end(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def start_trace(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def end_trace(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing."""


KINDS: dict[str, Callable[[], Any]] = {"empty": Empty, "LlamaIndex's": Theirs, "ours": Ours}


def response(raw: object, copy: dict[str, Any] | None = None) -> ChatResponse:
    """An answer, as an integration of LlamaIndex hands it over."""
    message = ChatMessage("hello there", role="assistant")
    return ChatResponse(message=message, raw=raw, additional_kwargs=copy or {})


def responses() -> dict[str, ChatResponse]:
    """An answer in each wire shape, made of the SDKs' own objects."""
    copy = {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
    chat = openai.ChatCompletion(
        id="x",
        choices=[],
        created=1,
        model="m",
        object="chat.completion",
        usage=CompletionUsage(
            **copy,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=16, audio_tokens=0),
            completion_tokens_details=CompletionTokensDetails(
                reasoning_tokens=0,
                audio_tokens=0,
                accepted_prediction_tokens=0,
                rejected_prediction_tokens=0,
            ),
        ),
    )
    message = anthropic.Message(
        id="x",
        content=[],
        model="m",
        role="assistant",
        type="message",
        usage=anthropic.Usage(
            input_tokens=3,
            output_tokens=50,
            cache_read_input_tokens=21_500,
            cache_creation_input_tokens=0,
        ),
    )
    converse = {
        "ResponseMetadata": {},
        "output": {},
        "stopReason": "end_turn",
        "usage": {
            "inputTokens": 12,
            "outputTokens": 5,
            "totalTokens": 17,
            "cacheReadInputTokens": 0,
            "cacheWriteInputTokens": 0,
        },
        "metrics": {},
    }
    text = [gemini.ModalityTokenCount(modality=gemini.MediaModality.TEXT, token_count=12)]
    generated, thought = (
        {
            "content": {},
            "finish_reason": "STOP",
            "usage_metadata": gemini.GenerateContentResponseUsageMetadata(
                prompt_token_count=12,
                prompt_tokens_details=text,
                candidates_token_count=5,
                thoughts_token_count=thoughts,
                total_token_count=17 + (thoughts or 0),
            ).model_dump(),
        }
        for thoughts in (None, 90)
    )
    return {
        "openai chat": response(chat, copy),
        "anthropic": response(dict(message)),
        "bedrock converse": response(
            converse, {**copy, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0}
        ),
        "gemini": response(generated, {"thought_signatures": [None], **copy}),
        "gemini, thinking": response(thought, {"thought_signatures": [None], **copy}),
        "plain dict": response({"usage": copy}),
        "no usage": response(None),
    }


def one_after_the_other(answer: ChatResponse, calls: int) -> Callable[[Any], None]:
    """Start and end calls through a callback manager."""
    start = {
        EventPayload.MESSAGES: MESSAGES,
        EventPayload.SERIALIZED: ABOUT,
        EventPayload.ADDITIONAL_KWARGS: {},
    }
    end = {EventPayload.MESSAGES: MESSAGES, EventPayload.RESPONSE: answer}

    def work(handler: Any) -> None:
        manager = CallbackManager([handler])
        for _ in range(calls):
            event_id = manager.on_event_start(CBEventType.LLM, start)
            manager.on_event_end(CBEventType.LLM, end, event_id=event_id)

    return work


def chatting(calls: int) -> Callable[[Any], None]:
    """Ask a mocked model, dispatcher and all."""

    def work(handler: Any) -> None:
        model = MockLLM(max_tokens=2, callback_manager=CallbackManager([handler]))
        for _ in range(calls):
            model.chat(MESSAGES)

    return work


def measured(work: Callable[[Any], None], calls: int, rounds: int) -> dict[str, float]:
    """CPU time of a call in microseconds, by handler, best of all rounds."""
    best = dict.fromkeys(KINDS, float("inf"))
    for _ in range(rounds):
        for name, kind in KINDS.items():
            handler = kind()
            gc.collect()
            began = time.process_time()
            work(handler)
            best[name] = min(best[name], (time.process_time() - began) / calls * 1e6)
    return best


def read_total(events: int) -> dict[str, float]:
    """CPU time of reading a total after so many events, in microseconds."""
    times = {"empty": float("nan")}
    work = one_after_the_other(responses()["plain dict"], events)
    for name, kind in list(KINDS.items())[1:]:
        handler = kind()
        work(handler)
        reads = 5 if kind is Theirs else 5_000
        began = time.process_time()
        for _ in range(reads):
            _ = handler.total_llm_token_count
        times[name] = (time.process_time() - began) / reads * 1e6
    return times


def memory(events: int, *, read: bool) -> dict[str, float]:
    """Memory of an event, in bytes; events may be made when they are first read."""
    sizes = {"empty": float("nan")}
    work = one_after_the_other(responses()["plain dict"], events)
    for name, kind in list(KINDS.items())[1:]:
        handler = kind()
        work(handler)
        handler.reset_counts()
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        work(handler)
        if read:
            len(handler.llm_token_counts)
        gc.collect()
        sizes[name] = (tracemalloc.get_traced_memory()[0] - before) / events
        tracemalloc.stop()
    return sizes


def rows(rounds: int, calls: int) -> Iterable[tuple[str, dict[str, float]]]:
    """Everything that is measured, by name."""
    for name, answer in responses().items():
        number = calls if name != "no usage" else calls // 10
        times = measured(one_after_the_other(answer, number), number, rounds)
        yield f"{name}, µs a call", times
    yield "MockLLM.chat, µs a call", measured(chatting(calls // 10), calls // 10, rounds)
    yield "total after 100,000 events, µs", read_total(100_000)
    yield "memory, bytes an event, unread", memory(5_000, read=False)
    yield "memory, bytes an event, read", memory(5_000, read=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="the best of so many counts")
    parser.add_argument("--calls", type=int, default=400, help="calls of one round")
    options = parser.parse_args()
    # What was imported is no part of any handler's garbage.
    gc.collect()
    gc.freeze()
    table = Table(title="Start and end of a call through a CallbackManager, CPU time")
    table.add_column("what")
    for name in KINDS:
        table.add_column(name, justify="right")
    table.add_column("ours/theirs", justify="right")
    for what, figures in rows(options.rounds, options.calls):
        ratio = figures["ours"] / figures["LlamaIndex's"]
        cells = ["" if figure != figure else f"{figure:,.1f}" for figure in figures.values()]
        table.add_row(what, *cells, f"{ratio:.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

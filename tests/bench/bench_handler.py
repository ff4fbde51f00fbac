"""What counting costs: handlers that do nothing, LlamaIndex's and this one, in one run.

Run it with `python -m tests.bench.bench_handler`. Figures are CPU time, the best of many
rounds, in which the handlers take turns so that a slow moment hits them all. They are those of
the whole process; where work is left to the background, the calling thread's own stand below.
"Empty" is a callback handler that does nothing; "observer" is the same beside an observer that
does nothing on LlamaIndex's dispatcher, which is what any observation of streams costs at the
least. Nothing here passes or fails: compare figures of one run with each other only.
"""

import argparse
import gc
import inspect
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, TypeAlias

import anthropic.types as anthropic
from google.genai import types as gemini
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks import TokenCountingHandler as Theirs
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.instrumentation.span_handlers import NullSpanHandler
from llama_index.core.llms import MockLLM
from openai.types import chat as openai
from openai.types.chat.chat_completion_chunk import Choice as ChunkChoice
from openai.types.chat.chat_completion_chunk import ChoiceDelta
from openai.types.completion_usage import (
    CompletionTokensDetails,
    CompletionUsage,
    PromptTokensDetails,
)
from rich.console import Console
from rich.table import Table

from llama_token_tracker import TokenCountingHandler as Ours
from tests.scripted import Scripted

MESSAGES = [ChatMessage("tell me " * 25, role="user")]
ABOUT = {"class_name": "openai_llm", "model_name": "m"}
CHUNKS: Final = 300

Ratios: TypeAlias = Sequence[tuple[str, str]]
"""Pairs of handlers, the figure of one of which is divided by the other's."""


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


class Observer(Empty):
    """Does nothing either, and has an observer do nothing on LlamaIndex's root dispatcher."""


KINDS: dict[str, Callable[[], Any]] = {
    "empty": Empty,
    "observer": Observer,
    "LlamaIndex's": Theirs,
    "ours": Ours,
}
COUNTING = ("LlamaIndex's", "ours")


class Cost(NamedTuple):
    """CPU time in microseconds.

    Attributes:
        process: Of the whole process, with whatever runs in the background.
        thread: Of the thread that calls.
    """

    process: float
    thread: float


@contextmanager
def observed(handler: object) -> Iterator[None]:
    """Attach an observer that does nothing, as long as an `Observer` is measured."""
    if not isinstance(handler, Observer):
        yield
        return
    root: Any = get_dispatcher()
    spans, events = root.span_handlers, root.event_handlers
    root.span_handlers = [*spans, NullSpanHandler()]
    root.event_handlers = [*events, NullEventHandler()]
    try:
        yield
    finally:
        root.span_handlers, root.event_handlers = spans, events


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


def chunks() -> list[openai.ChatCompletionChunk]:
    """What OpenAI sends in a stream: usage comes with the last chunk, and with no other."""
    usage = CompletionUsage(prompt_tokens=40, completion_tokens=CHUNKS, total_tokens=40 + CHUNKS)
    return [
        openai.ChatCompletionChunk(
            id="x",
            choices=[
                ChunkChoice(index=0, delta=ChoiceDelta(content="word ", role="assistant"))
                for _ in range(number < CHUNKS)
            ],
            created=1,
            model="m",
            object="chat.completion.chunk",
            usage=usage if number == CHUNKS else None,
        )
        for number in range(1, CHUNKS + 1)
    ]


def streaming(calls: int) -> Callable[[Any], None]:
    """Read streams to their ends, dispatcher and all."""
    raws = chunks()

    def work(handler: Any) -> None:
        model = Scripted(raws=raws, callback_manager=CallbackManager([handler]))
        for _ in range(calls):
            for _ in model.stream_complete("hello"):
                pass

    return work


def measured(
    work: Callable[[Any], None],
    calls: int,
    rounds: int,
    kinds: Mapping[str, Callable[[], Any]] = KINDS,
) -> dict[str, Cost]:
    """What a call costs by handler, best of all rounds."""
    best = dict.fromkeys(kinds, Cost(float("inf"), float("inf")))
    for _ in range(rounds):
        for name, kind in kinds.items():
            handler = kind()
            # The handler before is gone with that, and its observer.
            gc.collect()
            with observed(handler):
                began, began_here = time.process_time(), time.thread_time()
                work(handler)
                ended_here, ended = time.thread_time(), time.process_time()
            spent = (ended - began) / calls * 1e6, (ended_here - began_here) / calls * 1e6
            best[name] = Cost(*map(min, best[name], spent))
    return best


def read_total(events: int) -> dict[str, float]:
    """CPU time of reading a total after so many events, in microseconds."""
    times = {}
    work = one_after_the_other(responses()["plain dict"], events)
    for name in COUNTING:
        handler = KINDS[name]()
        work(handler)
        reads = 5_000 if name == "ours" else 5
        began = time.process_time()
        for _ in range(reads):
            _ = handler.total_llm_token_count
        times[name] = (time.process_time() - began) / reads * 1e6
    return times


def memory(events: int, *, read: bool) -> dict[str, float]:
    """Memory of an event, in bytes; events may be made when they are first read."""
    sizes = {}
    work = one_after_the_other(responses()["plain dict"], events)
    for name in COUNTING:
        handler = KINDS[name]()
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


def both_times(what: str, costs: dict[str, Cost]) -> Iterable[tuple[str, dict[str, float]]]:
    """Two rows: where work is left to the background, the calling thread has less of it."""
    yield f"{what}, µs a call", {name: cost.process for name, cost in costs.items()}
    yield "  the calling thread's own", {name: cost.thread for name, cost in costs.items()}


def stream_rows(rounds: int, calls: int) -> Iterable[tuple[str, dict[str, float]]]:
    """A stream, and what is above the observer that does nothing."""
    costs = measured(streaming(calls), calls, rounds)
    yield from both_times(f"a stream of {CHUNKS} chunks", costs)
    above = costs["ours"].process - costs["observer"].process
    yield "  above the observer, µs a call", {"ours": above}
    yield "  above the observer, µs a chunk", {"ours": above / CHUNKS}


def event_rows(rounds: int, calls: int) -> Iterable[tuple[str, dict[str, float]]]:
    """Calls whose events are read, as they may be made when they are first asked for."""
    counting = {name: KINDS[name] for name in COUNTING}
    for name, answer in responses().items():
        number = calls if name != "no usage" else calls // 10
        work = one_after_the_other(answer, number)

        def read(handler: Any, work: Callable[[Any], None] = work) -> None:
            work(handler)
            len(handler.llm_token_counts)

        costs = measured(read, number, rounds, counting)
        yield f"{name}, event read, µs a call", {n: cost.process for n, cost in costs.items()}


def rows(rounds: int, calls: int) -> Iterable[tuple[str, dict[str, float]]]:
    """Everything that is measured of all handlers, by name."""
    for name, answer in responses().items():
        number = calls if name != "no usage" else calls // 10
        costs = measured(one_after_the_other(answer, number), number, rounds)
        both = list(both_times(name, costs))
        yield from both if name == "no usage" else both[:1]
    yield from event_rows(rounds, calls)
    costs = measured(chatting(calls // 10), calls // 10, rounds)
    yield from both_times("MockLLM.chat", costs)
    yield from stream_rows(rounds, max(calls // 100, 1))
    yield "total after 100,000 events, µs", read_total(100_000)
    yield "memory, bytes an event, unread", memory(5_000, read=False)
    yield "memory, bytes an event, read", memory(5_000, read=True)


class WithSink(Ours):
    """Ours, with a sink that counts the events it is given."""

    def __init__(self) -> None:
        self.delivered = 0
        super().__init__(sinks=[self._take])  # type: ignore[call-arg, unused-ignore]  # new

    def _take(self, _event: object) -> None:
        self.delivered += 1


def sink_rows(rounds: int, calls: int) -> Iterable[tuple[str, dict[str, float]]]:
    """A call with and without a sink: in the calling thread, and until its event is there."""
    work = one_after_the_other(responses()["openai chat"], calls)
    kinds = {"no sink": Ours, "one sink": WithSink}

    def until_delivered(handler: Any) -> None:
        work(handler)
        deadline = time.monotonic() + 30
        if not isinstance(handler, WithSink):
            len(handler.llm_token_counts)  # Its events are made here.
            return
        while handler.delivered < calls:
            if time.monotonic() > deadline:
                raise TimeoutError(handler.delivered)
            time.sleep(0.001)

    costs = measured(work, calls, rounds, kinds)
    yield "the calling thread's own, µs a call", {n: cost.thread for n, cost in costs.items()}
    costs = measured(until_delivered, calls, rounds, kinds)
    yield "all until the event is there, µs a call", {n: c.process for n, c in costs.items()}


def show(title: str, figures: Iterable[tuple[str, dict[str, float]]], ratios: Ratios) -> None:
    """Print a table with a row for everything measured, and the ratios of its figures."""
    table = Table(title=title)
    names: list[str] = []
    for what, row in figures:
        if not names:
            names = [*row]
            table.add_column("what")
            for column in (*names, *(f"{one}/{other}" for one, other in ratios)):
                table.add_column(column, justify="right")
        cells = [f"{row[name]:,.1f}" if name in row else "" for name in names]
        quotients = [
            f"{row[one] / row[other]:.3f}" if other in row else "" for one, other in ratios
        ]
        table.add_row(what, *cells, *quotients)
    Console(width=136).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="the best of so many counts")
    parser.add_argument("--calls", type=int, default=400, help="calls of one round")
    options = parser.parse_args()
    # What was imported is no part of any handler's garbage.
    gc.collect()
    gc.freeze()
    show(
        "Start and end of a call through a CallbackManager, CPU time",
        rows(options.rounds, options.calls),
        [("ours", "LlamaIndex's"), ("ours", "empty"), ("ours", "observer")],
    )
    if "sinks" in inspect.signature(Ours).parameters:
        show(
            "A handler with a sink, CPU time",
            sink_rows(options.rounds, options.calls),
            [("one sink", "no sink")],
        )


if __name__ == "__main__":
    main()

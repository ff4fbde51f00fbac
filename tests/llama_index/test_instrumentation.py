"""Exactly once: LlamaIndex's own machinery, and who called whom in it."""

import asyncio
import gc
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from inspect import signature
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.llama_index import instrumentation
from llama_token_tracker.llama_index.instrumentation import is_attached
from llama_token_tracker.llama_index.span_tree import SPANS
from tests.features import needs_names_in_metadata, needs_unread_streams_freed
from tests.interrupts import TimeLimit, handled, interrupted, raising
from tests.scripted import HELLO, Asking, Chatty, Scripted, counted, figures, reported

RAW = reported(100, 20)
STREAM = [reported(100, 0), None, reported(100, 20)]


async def drained(stream: AsyncIterator[Any]) -> list[Any]:
    """All chunks of an asynchronous stream."""
    return [chunk async for chunk in stream]


async def streamed(method: Callable[..., Any], *args: Any) -> list[Any]:
    """All chunks of what an asynchronous method streams."""
    return await drained(await method(*args))


METHODS: dict[str, Callable[[Scripted], object]] = {
    "complete": lambda model: model.complete("hello"),
    "chat": lambda model: model.chat(HELLO),
    "acomplete": lambda model: asyncio.run(model.acomplete("hello")),
    "achat": lambda model: asyncio.run(model.achat(HELLO)),
    "stream_complete": lambda model: list(model.stream_complete("hello")),
    "stream_chat": lambda model: list(model.stream_chat(HELLO)),
    "astream_complete": lambda model: asyncio.run(streamed(model.astream_complete, "hello")),
    "astream_chat": lambda model: asyncio.run(streamed(model.astream_chat, HELLO)),
    "predict": lambda model: model.predict(PromptTemplate("hello")),
}


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """Every test leaves no observer and no span behind."""
    yield
    if is_attached():
        gc.collect()
    assert not is_attached()
    assert len(SPANS) == 0


@pytest.mark.parametrize("kind", [Scripted, Chatty])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_call_is_one_event(method: Callable[[Scripted], object], kind: type[Scripted]):
    """However a model's methods delegate to each other, a call to the provider is one event."""
    handler, model = counted(kind, raw=RAW, raws=STREAM)
    for number in (1, 2):
        method(model)
        assert model.calls == len(handler.llm_token_counts) == number
    assert figures(handler) == [(100, 20)] * 2
    assert {event.source for event in handler.llm_token_counts} == {"reported"}
    assert handler.open_calls == 0


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_silent_call_is_one_event(method: Callable[[Scripted], object]):
    """Where the provider says nothing the call is counted once too."""
    handler, model = counted(raws=[None, None])
    method(model)
    (event,) = handler.llm_token_counts
    assert event.prompt_token_count > 0
    assert event.completion_token_count > 0
    assert event.source == "estimated"


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_refused_call_is_one_failure(method: Callable[[Scripted], object]):
    """A call that fails before anything was billed is one failed call, however deep."""
    handler, model = counted(fails=ConnectionRefusedError("refused"))
    with pytest.raises(ConnectionError):
        method(model)
    assert handler.llm_token_counts == []
    (event,) = handler.failed_calls
    assert (event.total_token_count, event.status) == (0, "failed")
    assert handler.open_calls == 0


@needs_names_in_metadata
def test_ids_are_those_of_both_ends():
    """An event has the outermost call's id, as other handlers see it, and the innermost's."""
    heard: list[str] = []

    class Other(TokenCountingHandler):
        def on_event_start(self, event_type: Any, *args: Any, **kwargs: Any) -> str:
            heard.append(kwargs["event_id"])
            return super().on_event_start(event_type, *args, **kwargs)

    handler = Other()
    Scripted(callback_manager=CallbackManager([handler]), raw=RAW).chat(HELLO)
    (event,) = handler.llm_token_counts
    assert [event.event_id, event.inner_event_id] == heard
    assert str(event.span_id).startswith("Scripted.chat-")
    assert str(event.inner_span_id).startswith("Scripted.complete-")
    assert event.operation == "completion"
    assert event.model == "scripted-1"


def test_the_same_prompt_twice_is_two_calls():
    """Two calls are two, though their prompts and answers are the same."""
    handler, model = counted(raw=RAW)
    model.complete("hello")
    model.complete("hello")
    assert len(handler.llm_token_counts) == 2


# --- models that ask models -----------------------------------------------------------------


def wrapped(handler: TokenCountingHandler, inner: Any, raw: object = None) -> Asking:
    """A model that asks `inner`."""
    return Asking(callback_manager=CallbackManager([handler]), ask=inner, raw=raw)


def test_a_model_that_asks_another_twice_is_two_calls():
    """Only those who speak to a provider count: the two inside, not the one around them."""
    handler, inner = counted(raw=RAW)

    def twice(prompt: str) -> None:
        inner.complete(prompt)
        inner.chat(HELLO)

    outer = wrapped(handler, twice, reported(999, 999))
    outer.chat(HELLO)
    assert figures(handler) == [(100, 20)] * 2
    assert inner.calls == 2
    # Both happened within the one call that the user made.
    assert len({event.event_id for event in handler.llm_token_counts}) == 1
    assert len({event.inner_event_id for event in handler.llm_token_counts}) == 2


def test_what_the_inner_call_did_not_say_the_outer_may():
    """An inner call without usage takes it from the one around it, and is one event."""
    handler, inner = counted()
    wrapped(handler, inner.complete, RAW).chat(HELLO)
    assert figures(handler) == [(100, 20)]
    (event,) = handler.llm_token_counts
    assert event.prompt == "user: hello\nassistant: "


def test_two_silent_calls_are_not_given_one_figure():
    """A figure of the outer call can't be split among two inner ones: both are estimated."""
    handler, inner = counted()
    wrapped(handler, lambda prompt: [inner.complete(prompt), inner.complete(prompt)], RAW).chat(
        HELLO
    )
    assert len(handler.llm_token_counts) == 2
    assert {event.source for event in handler.llm_token_counts} == {"estimated"}


def test_a_model_that_falls_back_to_its_own_provider():
    """When the inner call was refused and the outer reports usage, the outer one was billed."""
    handler, inner = counted(fails=ConnectionRefusedError("refused"))

    def ask(prompt: str) -> None:
        with pytest.raises(ConnectionError):
            inner.complete(prompt)

    wrapped(handler, ask, RAW).chat(HELLO)
    assert figures(handler) == [(100, 20)]
    assert len(handler.failed_calls) == 1


def test_a_model_that_falls_back_to_another():
    """A refused call and one that answered are one failure and one event."""
    handler, refusing = counted(fails=ConnectionRefusedError("refused"))
    answering = Scripted(callback_manager=CallbackManager([handler]), raw=RAW)

    def ask(prompt: str) -> None:
        with pytest.raises(ConnectionError):
            refusing.complete(prompt)
        answering.complete(prompt)

    wrapped(handler, ask, RAW).chat(HELLO)
    assert figures(handler) == [(100, 20)]
    assert len(handler.failed_calls) == 1


def test_a_model_that_embeds_its_prompt_is_still_a_call():
    """Embedding texts within a call is no call to a language model; both are counted."""
    handler = TokenCountingHandler(tokenizer=str.split)
    embedding = MockEmbedding(embed_dim=2, callback_manager=CallbackManager([handler]))
    outer = wrapped(handler, embedding.get_query_embedding, RAW)
    outer.complete("one two three")
    assert figures(handler) == [(100, 20)]
    assert handler.llm_token_counts[0].prompt == "one two three"
    assert handler.total_embedding_token_count == 3


def test_a_silent_answer_in_a_stream_that_nobody_reads():
    """What a stream asked for before its first chunk was billed, read or not."""
    handler, inner = counted()

    class Eager(Scripted):
        """Asks first and streams then."""

        @llm_completion_callback()
        def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            response = inner.complete(prompt)
            return (chunk for chunk in [response])

    Eager(callback_manager=CallbackManager([handler])).stream_complete("hello")
    gc.collect()
    assert len(handler.llm_token_counts) == 1
    assert handler.open_calls == 0


class Fact(BaseModel):
    """What a user may well call their fields."""

    usage: dict[str, int]
    input_tokens: int
    output_tokens: int


@pytest.mark.parametrize("method", ["complete", "chat", "acomplete", "achat"])
def test_a_structured_answer_is_no_usage(method: str):
    """A structured model's `raw` is the user's own object, whatever its fields are called."""
    said = '{"usage": {"input_tokens": 7}, "input_tokens": 8, "output_tokens": 9}'

    class Stating(Scripted):
        """States a fact, and no usage."""

        @llm_completion_callback()
        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            return CompletionResponse(text=said)

    handler = TokenCountingHandler(tokenizer=lambda text: list(text))
    model = Stating(callback_manager=CallbackManager([handler]))
    structured = model.as_structured_llm(Fact)
    structured.callback_manager = model.callback_manager
    call = getattr(structured, method)(HELLO if "chat" in method else "hello")
    response = asyncio.run(call) if method.startswith("a") else call
    assert response.raw.input_tokens == 8
    (event,) = handler.llm_token_counts
    assert event.completion_token_count == len(said)
    assert event.source == "counted"


# --- streams --------------------------------------------------------------------------------


def test_interleaved_streams_are_told_apart():
    """+A +B +C -B -A -C, where C is no part of A: three calls, each with its own figures."""
    handler, first = counted(raws=[reported(1, 1), reported(1, 10)])
    manager = CallbackManager([handler])
    second = Scripted(callback_manager=manager, raws=[reported(2, 1), reported(2, 20)])
    third = Scripted(callback_manager=manager, raws=[reported(3, 1), reported(3, 30)])
    a, b, c = (each.stream_chat(HELLO) for each in (first, second, third))
    next(a), next(b), next(c)
    for stream in (b, a, c):
        list(stream)
    assert figures(handler) == [(2, 20), (1, 10), (3, 30)]
    assert len({event.event_id for event in handler.llm_token_counts}) == 3


def test_a_call_between_two_chunks_is_no_part_of_the_stream():
    """What the reader of a stream asks meanwhile is a call of its own."""
    handler, model = counted(raw=reported(7, 7), raws=STREAM)
    for _ in model.stream_chat(HELLO):
        model.complete("hello")
    assert figures(handler) == [(7, 7)] * 3 + [(100, 20)]
    assert len({event.event_id for event in handler.llm_token_counts}) == 4


@needs_unread_streams_freed
def test_a_stream_that_starts_another_late():
    """A generator that asks for its chunks when it's first read is one call with what it asks."""
    handler, inner = counted(raws=STREAM)
    outer = wrapped(handler, inner.stream_complete)
    other = outer.stream_complete("another")
    assert len(list(outer.stream_complete("hello"))) == 3
    assert figures(handler) == [(100, 20)]
    other.close()
    assert len(handler.llm_token_counts) == 1


def test_an_asynchronous_stream_that_starts_another_late():
    """The same for asynchronous generators."""
    handler, inner = counted(raws=STREAM)

    class Lazy(Scripted):
        """Asks when it's first read."""

        @llm_completion_callback()
        async def astream_complete(
            self, prompt: str, formatted: bool = False, **kwargs: Any
        ) -> Any:
            async def chunks() -> AsyncIterator[Any]:
                async for chunk in await inner.astream_complete(prompt):
                    yield chunk

            return chunks()

    outer = Lazy(callback_manager=CallbackManager([handler]))

    async def two() -> None:
        await asyncio.gather(
            streamed(outer.astream_complete, "a"), streamed(outer.astream_complete, "b")
        )

    asyncio.run(two())
    assert figures(handler) == [(100, 20)] * 2
    assert len({event.event_id for event in handler.llm_token_counts}) == 2
    assert handler.open_calls == 0


LEAVE: dict[str, Callable[[Any], None]] = {
    "close": lambda stream: stream.close(),
    "drop": lambda stream: None,
}


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
@pytest.mark.parametrize("method", ["stream_complete", "stream_chat"])
def test_a_stream_that_is_left_costs_what_came(leave: Callable[[Any], None], method: str):
    """A stream that is closed or dropped early is one event: its prompt, and what came."""
    handler, model = counted(raws=[None] * 5)
    stream = getattr(model, method)(HELLO if method == "stream_chat" else "hello")
    next(stream), next(stream)
    leave(stream)
    del stream
    gc.collect()
    (event,) = handler.llm_token_counts
    assert event.status == "abandoned"
    assert event.completion.endswith("word word ")
    assert event.completion_token_count > 0
    assert event.prompt_token_count > 0
    assert handler.open_calls == 0


def test_a_stream_that_is_left_at_its_figures_has_them():
    """Figures that a chunk carried are the provider's, though the stream was left."""
    handler, model = counted(raws=[None, reported(100, 20), None])
    stream = model.stream_complete("hello")
    next(stream), next(stream)
    stream.close()
    (event,) = handler.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (100, 20)
    assert (event.prompt_source, event.completion_source) == ("reported", "reported")
    assert event.status == "abandoned"


def test_words_after_the_last_figure_are_counted():
    """If more text has come than the last figure knows of, the text is counted."""
    handler, model = counted(raws=[reported(100, 1), None, None, None])
    stream = model.stream_complete("hello")
    for _ in range(4):
        next(stream)
    stream.close()
    (event,) = handler.llm_token_counts
    assert event.prompt_token_count == 100
    assert event.completion_token_count > 1
    assert (event.prompt_source, event.completion_source) == ("reported", "estimated")


def test_a_stream_in_a_cycle_is_found_by_the_collector():
    """A stream that only the garbage collector can drop is counted when it does."""
    handler, model = counted(raws=STREAM)
    stream = model.stream_chat(HELLO)
    next(stream)
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    del stream, cycle
    gc.collect()
    (event,) = handler.llm_token_counts
    assert (event.status, event.prompt_token_count) == ("abandoned", 100)
    assert handler.open_calls == 0


@pytest.mark.parametrize("method", ["stream_complete", "stream_chat"])
def test_a_stream_that_is_never_read_is_no_call(method: str):
    """Nothing was asked for, so nothing is counted, and nothing is kept."""
    handler, model = counted(raws=STREAM)
    stream = getattr(model, method)(HELLO if method == "stream_chat" else "hello")
    del stream
    gc.collect()
    assert (handler.llm_token_counts, handler.failed_calls) == ([], [])
    assert model.calls == handler.open_calls == 0


def test_an_asynchronous_stream_that_is_never_read_is_no_call():
    """The same for asynchronous streams."""
    handler, model = counted(raws=STREAM)

    async def ask() -> None:
        await model.astream_chat(HELLO)
        await asyncio.sleep(0)

    asyncio.run(ask())
    gc.collect()
    assert (handler.llm_token_counts, handler.failed_calls) == ([], [])
    assert handler.open_calls == 0


def test_a_stream_that_is_cut_costs_what_came():
    """An error in the middle of a stream is a failed call that was billed."""
    handler, model = counted(raws=[reported(100, 0), None], fails=ConnectionError("cut"))
    with pytest.raises(ConnectionError):
        list(model.stream_chat(HELLO))
    (event,) = handler.llm_token_counts
    assert (event.status, event.prompt_token_count) == ("failed", 100)
    assert event.completion_token_count > 0
    assert handler.failed_calls == []


@pytest.mark.parametrize("method", ["astream_complete", "astream_chat"])
@pytest.mark.parametrize("way", ["aclose", "cancel", "drop"])
def test_an_asynchronous_stream_that_is_left(method: str, way: str):
    """Closing, cancelling and dropping an asynchronous stream are one event each."""
    handler, model = counted(raws=[reported(100, 0), None, None])

    async def read(started: asyncio.Event, waits: bool) -> None:
        stream = await getattr(model, method)(HELLO if "chat" in method else "hello")
        async for _ in stream:
            started.set()
            if waits:
                await asyncio.sleep(60)
            break
        if way == "aclose":
            await stream.aclose()

    async def leave() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(read(started, way == "cancel"))
        await started.wait()
        if way == "cancel":
            task.cancel()
        await asyncio.wait([task])

    asyncio.run(leave())
    gc.collect()
    (event,) = handler.llm_token_counts
    assert (event.status, event.prompt_token_count) == ("abandoned", 100)
    assert handler.open_calls == 0


def test_a_call_that_is_cancelled_was_sent():
    """A cancelled call costs its prompt: the provider has it."""
    handler = TokenCountingHandler()

    class Slow(Scripted):
        """Takes its time."""

        @llm_completion_callback()
        async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            await asyncio.sleep(60)

    model = Slow(callback_manager=CallbackManager([handler]))

    async def cancel() -> None:
        task = asyncio.create_task(model.acomplete("hello there"))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(cancel())
    (event,) = handler.llm_token_counts
    assert (event.status, event.completion_token_count) == ("abandoned", 0)
    assert event.prompt_token_count == 2


# --- threads and tasks ----------------------------------------------------------------------


def test_a_stream_may_be_read_in_another_thread():
    """A chat engine's thread reads what another thread has asked for."""
    handler, model = counted(raws=STREAM)
    stream = model.stream_chat(HELLO)
    thread = threading.Thread(target=list, args=(stream,))
    thread.start()
    thread.join()
    del stream
    assert figures(handler) == [(100, 20)]


def test_tasks_side_by_side_are_told_apart():
    """Calls of concurrent tasks are no parts of each other."""
    handler, model = counted(raw=RAW, raws=STREAM)

    async def many() -> None:
        await asyncio.gather(
            *[model.achat(HELLO) for _ in range(5)],
            *[streamed(model.astream_chat, HELLO) for _ in range(5)],
        )

    asyncio.run(many())
    assert figures(handler) == [(100, 20)] * 10
    assert len({event.event_id for event in handler.llm_token_counts}) == 10


def test_a_reset_while_calls_are_under_way():
    """A call counts in the period in which it ends."""
    handler, model = counted(raws=STREAM, raw=RAW)
    stream = model.stream_chat(HELLO)
    next(stream)
    model.complete("hello")
    handler.reset_counts()
    assert handler.total_llm_token_count == 0
    list(stream)
    assert figures(handler) == [(100, 20)]


# --- the dispatcher -------------------------------------------------------------------------


def test_the_observer_is_there_while_a_handler_lives():
    """It is attached with the first handler and taken off with the last, at once."""
    root = get_dispatcher()
    before = list(root.span_handlers), list(root.event_handlers)
    first, second = TokenCountingHandler(), TokenCountingHandler()
    assert is_attached()
    assert len(root.span_handlers) == len(before[0]) + 1
    del first
    assert is_attached()
    weak = weakref.ref(second)
    del second
    assert weak() is None
    assert not is_attached()
    assert (root.span_handlers, root.event_handlers) == before


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_while_a_handler_is_dropped_holds_up_nobody():
    """Wherever that is: Python swallows it, and the next handler listens."""

    def dropped(at: int) -> int:
        handlers = [TokenCountingHandler()]
        with suppress(TimeLimit):
            return interrupted(handlers.clear, at)
        return 0

    places = dropped(-1)
    assert places > 0
    with handled(raising):
        for at in range(1, places + 1):
            dropped(at)
            next_one = threading.Thread(target=TokenCountingHandler, daemon=True)
            next_one.start()
            next_one.join(20)
            assert not next_one.is_alive(), at


def test_a_used_handler_can_be_collected():
    """Neither calls nor streams that are still open keep a handler alive."""
    handler, model = counted(raws=STREAM)
    list(model.stream_chat(HELLO))
    stream = model.stream_chat(HELLO)
    next(stream)
    weak = weakref.ref(handler)
    del handler, model
    assert weak() is not None, "the stream's manager still holds it"
    del stream
    gc.collect()
    assert weak() is None


def test_a_stream_outlives_its_handler():
    """A stream whose handler is gone goes on as if there had been none."""
    handler, model = counted(raws=STREAM)
    stream = model.stream_chat(HELLO)
    next(stream)
    model.callback_manager.handlers.clear()
    weak = weakref.ref(handler)
    del handler
    gc.collect()
    assert weak() is None
    assert len(list(stream)) == 2


def test_two_handlers_count_each_for_itself():
    """What one handler counts or resets is nothing to another."""
    handlers = TokenCountingHandler(), TokenCountingHandler()
    one = Scripted(callback_manager=CallbackManager(list(handlers)), raw=RAW, raws=STREAM)
    one.chat(HELLO)
    list(one.stream_chat(HELLO))
    Scripted(callback_manager=CallbackManager([handlers[1]]), raw=RAW).chat(HELLO)
    assert [figures(handler) for handler in handlers] == [[(100, 20)] * 2, [(100, 20)] * 3]


def test_an_inner_model_that_only_another_handler_hears():
    """A handler counts what it hears: the outer model, if the inner one has another manager."""
    inner_handler, inner = counted(raw=reported(1, 1))
    outer_handler = TokenCountingHandler()
    wrapped(outer_handler, inner.complete, RAW).chat(HELLO)
    assert figures(outer_handler) == [(100, 20)]
    assert figures(inner_handler) == [(1, 1)]


def test_other_span_handlers_are_left_alone():
    """Whoever else listens on the dispatcher hears all, before, during and after."""
    root = get_dispatcher()
    before = list(root.span_handlers)
    other = SimpleSpanHandler()
    handler, model = counted(raw=RAW)
    root.add_span_handler(other)
    try:
        model.chat(HELLO)
        del handler, model
        gc.collect()
        assert other in root.span_handlers
        assert len(other.completed_spans) == 2
        assert not is_attached()
    finally:
        root.span_handlers = before


@pytest.fixture
def _cut_off() -> Iterator[None]:
    """Dispatchers of these tests' models that pass nothing on to the root."""
    dispatchers = [
        get_dispatcher(name) for name in (__name__, Scripted.__module__, "llama_index.core.llms")
    ]
    dispatchers += [
        get_dispatcher(f"llama_index.core.llms.{name}") for name in ("custom", "callbacks")
    ]
    for dispatcher in dispatchers:
        dispatcher.propagate = False
    yield
    for dispatcher in dispatchers:
        dispatcher.propagate = True


@pytest.mark.usefixtures("_cut_off")
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_dispatcher_that_is_cut_off_is_heard(method: Callable[[Scripted], object]):
    """Where a dispatcher passes nothing on to its root, the observer sits on it."""
    handler, model = counted(raw=RAW, raws=STREAM)
    method(model)
    assert figures(handler) == [(100, 20)]


def test_a_method_without_a_callback_is_not_heard():
    """A method that LlamaIndex tells nothing of can't be counted; what it asks can."""

    class Quiet(Scripted):
        """Has a method of its own."""

        def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
            return CompletionResponse(text="hi", raw=RAW)

    handler, model = counted(Quiet)
    model.complete("hello")
    assert handler.llm_token_counts == []
    # `chat` is LlamaIndex's, and tells.
    model.chat([ChatMessage("hello")])
    assert figures(handler) == [(100, 20)]


def test_spans_that_never_end_fill_no_memory(monkeypatch: pytest.MonkeyPatch):
    """The oldest are forgotten with all that was noted of them; of new ones it's known as ever."""
    monkeypatch.setattr(instrumentation, "MAX_SPANS", 10)

    class Elsewhere(Scripted):
        """Speaks OpenAI's format to somebody else."""

        api_base: str = "https://api.groq.com/openai/v1"
        thinking: Any = None

    handler, model = counted(Elsewhere, thinking={"type": "enabled"})
    method = signature(Elsewhere.complete).bind(model, "hello")
    for number in range(50):
        get_dispatcher().span_enter(
            id_=f"Elsewhere.complete-{number}", bound_args=method, instance=model
        )
        assert len(SPANS) <= 10
    model.complete("hello")
    (event,) = handler.llm_token_counts
    assert (event.provider, event.source) == ("groq", "estimated")
    # As the last handler goes, it's all forgotten.

"""Calls that are counted by their spans: everywhere, whatever callback manager a model has."""

import asyncio
import gc
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.llms import MockLLM
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_token_tracker import Budget, TokenCountingHandler
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.llama_index.instrumentation import is_attached
from llama_token_tracker.llama_index.span_tree import SPANS
from tests.llama_index.test_instrumentation import LEAVE, METHODS, RAW, STREAM, streamed
from tests.llama_index.test_unheard import EMBEDS, TEXTS
from tests.scripted import HELLO, Asking, Chatty, Scripted, deaf, figures, reported

MANAGERS: dict[str, Callable[[TokenCountingHandler], CallbackManager]] = {
    "none": lambda handler: deaf(),
    "another's": lambda handler: CallbackManager([TokenCountingHandler()]),
    "its own": lambda handler: CallbackManager([handler]),
    "its own, twice": lambda handler: CallbackManager([handler, handler]),
}


@pytest.fixture
def handler() -> Iterator[TokenCountingHandler]:
    """A handler that counts everywhere."""
    handler = TokenCountingHandler(everywhere=True)
    yield handler
    handler.close()
    if handler.open_calls or len(SPANS):
        gc.collect()
    assert handler.open_calls == 0
    assert len(SPANS) == 0


@pytest.fixture(params=MANAGERS.values(), ids=MANAGERS)
def manager(request: pytest.FixtureRequest, handler: TokenCountingHandler) -> CallbackManager:
    """Whatever a model may have for a manager."""
    return request.param(handler)


def alone(kind: type[Scripted] = Scripted, **fields: Any) -> Any:
    """A model without any handler."""
    return kind(callback_manager=deaf(), **fields)


# --- every call, exactly once ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [Scripted, Chatty])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_call_is_one_event(
    method: Callable[[Scripted], object],
    kind: type[Scripted],
    handler: TokenCountingHandler,
    manager: CallbackManager,
):
    """However methods delegate to each other, and whoever else is told of the call."""
    model = kind(callback_manager=manager, raw=RAW, raws=STREAM)
    for number in (1, 2):
        method(model)
        assert model.calls == len(handler.llm_token_counts) == number
    assert figures(handler) == [(100, 20)] * 2
    assert {event.status for event in handler.llm_token_counts} == {"complete"}
    assert handler.uncounted == {}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_an_event_says_what_callbacks_would(
    method: Callable[[Scripted], object], handler: TokenCountingHandler
):
    """Prompt, answer, model and the label of a call without usage are the same."""
    told = TokenCountingHandler()
    for manager in (deaf(), CallbackManager([told])):
        method(Scripted(callback_manager=manager, raws=[None, None]))
    for name in ("prompt", "completion", "model", "operation", "source", "total_token_count"):
        values = [getattr(event, name) for event in handler.llm_token_counts]
        assert values == [getattr(told.llm_token_counts[0], name)] * 2


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_refused_call_is_one_failure(
    method: Callable[[Scripted], object], handler: TokenCountingHandler, manager: CallbackManager
):
    """A call that fails before anything was billed is one failed call."""
    model = Scripted(callback_manager=manager, fails=ConnectionRefusedError("refused"))
    with pytest.raises(ConnectionError):
        method(model)
    assert handler.llm_token_counts == []
    (event,) = handler.failed_calls
    assert (event.total_token_count, event.status) == (0, "failed")


class Plain(Scripted):
    """Tells callbacks of nothing."""

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Say hi."""
        return CompletionResponse(text="hi", raw=RAW)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Say hi, and no more."""
        return (CompletionResponse(text="hi", delta="hi", raw=raw) for raw in STREAM)


def test_a_method_without_a_callback_is_heard(
    handler: TokenCountingHandler, manager: CallbackManager
):
    """A model's class may tell callbacks of nothing: a span it has all the same."""
    model = Plain(callback_manager=manager)
    model.complete("hello")
    model.chat(HELLO)
    assert figures(handler) == [(100, 20)] * 2
    assert handler.llm_token_counts[0].prompt == "hello"


def test_a_stream_without_a_callback_is_one_event(handler: TokenCountingHandler):
    """What nobody tells of its chunks and its end is estimated."""
    list(alone(Plain).stream_complete("hello"))
    (event,) = handler.llm_token_counts
    assert (event.prompt, event.source) == ("hello", "estimated")


def test_a_model_that_asks_another_is_one_call(
    handler: TokenCountingHandler, manager: CallbackManager
):
    """Also if they have different managers, and in streams that begin late."""
    inner = alone(raw=RAW, raws=STREAM)
    Asking(callback_manager=manager, ask=inner.complete).chat(HELLO)
    list(Asking(callback_manager=manager, ask=inner.stream_complete).stream_chat(HELLO))
    assert figures(handler) == [(100, 20)] * 2
    assert len({event.event_id for event in handler.llm_token_counts}) == 2


@pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)
@pytest.mark.parametrize("method", ["stream_complete", "stream_chat"])
def test_a_stream_that_is_left_costs_what_came(
    leave: Callable[[Any], None],
    method: str,
    handler: TokenCountingHandler,
    manager: CallbackManager,
):
    """A stream that is closed or dropped early is one event."""
    model = Scripted(callback_manager=manager, raws=[None] * 5)
    stream = getattr(model, method)(HELLO if method == "stream_chat" else "hello")
    next(stream), next(stream)
    leave(stream)
    del stream
    gc.collect()
    (event,) = handler.llm_token_counts
    assert event.status == "abandoned"
    assert event.completion.endswith("word word ")


def test_a_stream_that_is_never_read_is_no_call(
    handler: TokenCountingHandler, manager: CallbackManager
):
    """Nothing was asked for."""
    Scripted(callback_manager=manager, raws=STREAM).stream_chat(HELLO)
    gc.collect()
    assert (handler.llm_token_counts, handler.failed_calls) == ([], [])


def test_a_stream_that_is_cut_costs_what_came(
    handler: TokenCountingHandler, manager: CallbackManager
):
    """An error in the middle of a stream is a failed call that was billed."""
    fails = ConnectionError("cut")
    model = Scripted(callback_manager=manager, raws=[reported(100, 0), None], fails=fails)
    with pytest.raises(ConnectionError):
        list(model.stream_chat(HELLO))
    (event,) = handler.llm_token_counts
    assert (event.status, event.prompt_token_count) == ("failed", 100)


@pytest.mark.parametrize("way", ["aclose", "cancel"])
def test_an_asynchronous_stream_that_is_left(
    way: str, handler: TokenCountingHandler, manager: CallbackManager
):
    """Closing one and cancelling who reads it are one event each."""
    model = Scripted(callback_manager=manager, raws=[reported(100, 0), None, None])

    async def read(started: asyncio.Event) -> None:
        stream: AsyncIterator[Any] = await model.astream_chat(HELLO)
        async for _ in stream:
            started.set()
            if way == "cancel":
                await asyncio.sleep(60)
            break
        await stream.aclose()  # type: ignore[attr-defined]

    async def leave() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(read(started))
        await started.wait()
        if way == "cancel":
            task.cancel()
        await asyncio.wait([task])

    asyncio.run(leave())
    (event,) = handler.llm_token_counts
    assert (event.status, event.prompt_token_count) == ("abandoned", 100)


# --- embeddings -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", EMBEDS)
@pytest.mark.parametrize("name", ["none", "another's", "its own"])
def test_embeddings_are_counted_once(name: str, method: str, handler: TokenCountingHandler):
    """As a handler counts them that callbacks tell."""
    told = TokenCountingHandler()
    for manager in (CallbackManager([told]), MANAGERS[name](handler)):
        handler.reset_counts()
        EMBEDS[method](
            MockEmbedding(embed_dim=2, embed_batch_size=2, callback_manager=manager),
        )
        assert [(event.prompt, event.total_token_count) for event in told.embedding_token_counts]
        assert [event.prompt for event in handler.embedding_token_counts] == [
            event.prompt for event in told.embedding_token_counts
        ]
        assert handler.total_embedding_token_count == told.total_embedding_token_count
    assert handler.uncounted == {}


def test_what_a_cache_serves_is_not_counted(handler: TokenCountingHandler):
    """Neither a text, nor a batch of them."""
    model = MockEmbedding(embed_dim=2, embeddings_cache=SimpleKVStore())
    model.get_text_embedding_batch(TEXTS)
    model.get_text_embedding_batch([*TEXTS, "new"])
    asyncio.run(model.aget_text_embedding_batch([*TEXTS, "new"]))
    assert [event.prompt for event in handler.embedding_token_counts] == [*TEXTS, "new"]


class Failing(MockEmbedding):
    """Answers once, and fails then."""

    calls: int = 0

    def _get_text_embedding(self, text: str) -> list[float]:
        self.calls += 1
        if self.calls > 1:
            raise ConnectionRefusedError
        return [0.0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embedding(text)


@pytest.mark.parametrize("method", ["get_text_embedding_batch", "aget_text_embedding_batch"])
def test_embeddings_that_fail_leave_nothing_open(method: str, handler: TokenCountingHandler):
    """What was embedded before is counted, if LlamaIndex tells of it."""
    with pytest.raises(ConnectionError):
        EMBEDS[method](Failing(embed_dim=1, embed_batch_size=1))
    assert len(handler.embedding_token_counts) <= 1
    assert handler.open_calls == 0


# --- scopes, tags, threads, tasks -----------------------------------------------------------


def test_a_call_is_of_the_scope_and_tags_it_starts_in(handler: TokenCountingHandler):
    """Those of LlamaIndex included."""
    with handler.scope("request", user="ada") as request, instrument_tags({"step": "one"}):
        stream = alone(raws=STREAM).stream_chat(HELLO)
        MockEmbedding(embed_dim=2, callback_manager=deaf()).get_text_embedding("one")
    list(stream)
    assert request.total_llm_token_count == 120
    (event,) = handler.llm_token_counts
    assert (event.scope, event.tags) == ("request", {"user": "ada", "step": "one"})
    assert handler.embedding_token_counts[0].scope == "request"


def test_threads_and_tasks_side_by_side(handler: TokenCountingHandler):
    """Calls of different ones are no parts of each other."""
    model = alone(raw=RAW, raws=STREAM)

    async def many() -> None:
        await asyncio.gather(
            *[model.achat(HELLO) for _ in range(5)],
            *[streamed(model.astream_chat, HELLO) for _ in range(5)],
        )

    threads = [threading.Thread(target=asyncio.run, args=(many(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert figures(handler) == [(100, 20)] * 40
    assert len({event.event_id for event in handler.llm_token_counts}) == 40


# --- who hears what -------------------------------------------------------------------------


def test_only_who_asks_for_it_hears_everything(handler: TokenCountingHandler):
    """Another handler in the process counts what it's told of, and misses nothing then."""
    other, second = TokenCountingHandler(), TokenCountingHandler(everywhere=True)
    alone(raw=RAW).chat(HELLO)
    Scripted(callback_manager=CallbackManager([other]), raw=RAW).chat(HELLO)
    assert figures(handler) == figures(second) == [(100, 20)] * 2
    second.close()
    assert figures(other) == [(100, 20)]
    assert other.uncounted == handler.uncounted == {}


def test_closing_it_ends_it(handler: TokenCountingHandler):
    """A stream that was begun is counted at its end; what callbacks tell is counted on."""
    stream = alone(raws=STREAM).stream_chat(HELLO)
    next(stream)
    assert handler.close()
    alone(raw=RAW).chat(HELLO)
    MockEmbedding(embed_dim=2, callback_manager=deaf()).get_text_embedding("one")
    assert handler.uncounted == {
        "Scripted.chat": 1,
        "MockEmbedding.get_text_embedding": 1,
    }
    list(stream)
    assert figures(handler) == [(100, 20)]
    Scripted(callback_manager=CallbackManager([handler]), raw=RAW).chat(HELLO)
    assert figures(handler) == [(100, 20)] * 2


def test_a_handler_that_is_gone_hears_nothing():
    """It needs no closing, and leaves nothing on the dispatcher."""
    gc.collect()
    before, was_attached = [*get_dispatcher().span_handlers], is_attached()
    handler = TokenCountingHandler(everywhere=True)
    alone(raw=RAW).chat(HELLO)
    list(alone(raws=STREAM).stream_chat(HELLO))
    del handler
    assert is_attached() == was_attached
    assert get_dispatcher().span_handlers == before
    alone(raw=RAW).chat(HELLO)


def test_a_copy_hears_only_what_callbacks_tell(handler: TokenCountingHandler):
    """What was counted goes along, and listening stays here."""
    alone(raw=RAW).chat(HELLO)
    copy = pickle.loads(pickle.dumps(handler))
    alone(raw=RAW).chat(HELLO)
    assert (len(copy.llm_token_counts), len(handler.llm_token_counts)) == (1, 2)


def test_it_is_off_by_default():
    """Without it a model that has another manager isn't counted."""
    handler = TokenCountingHandler()
    alone(raw=RAW).chat(HELLO)
    assert handler.llm_token_counts == []
    assert handler.uncounted == {"Scripted.chat": 1}


@pytest.mark.parametrize("ignored", ["event_starts_to_ignore", "event_ends_to_ignore"])
def test_what_callbacks_are_told_to_ignore(ignored: str):
    """Ends that are ignored aren't counted; a start that is, is known by its span's end alone."""
    handler = TokenCountingHandler(
        everywhere=True, **{ignored: [CBEventType.LLM, CBEventType.EMBEDDING]}
    )
    manager = CallbackManager([handler])
    Scripted(callback_manager=manager, raw=RAW).complete("hello")
    MockEmbedding(embed_dim=2, callback_manager=manager).get_text_embedding("one")
    number = int(ignored == "event_starts_to_ignore")
    assert len(handler.llm_token_counts) == len(handler.embedding_token_counts) == number


class Odd(Scripted):
    """Can't say what it is."""

    def to_payload(self) -> Any:
        """Fail, as any code of a user's may."""
        raise RuntimeError

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Say hi."""
        return CompletionResponse(text="hi", raw=RAW)


def test_a_model_that_cannot_say_what_it_is(handler: TokenCountingHandler):
    """Is counted without that."""
    alone(Odd).complete("hello")
    assert figures(handler) == [(100, 20)]


# --- budgets --------------------------------------------------------------------------------


def test_a_call_holds_what_it_may_use():
    """From its start to its end, once for a call within a call."""
    handler = TokenCountingHandler(
        everywhere=True, budget=Budget(tokens=10_000, default_max_tokens=64)
    )
    model = alone(Chatty, raws=[None], raw=RAW)
    stream = model.stream_complete("hello")
    next(stream)
    assert handler.accounts[0].spent().reserved_tokens == 66
    list(stream)
    model.complete("hello")
    assert handler.accounts[0].spent().reserved_tokens == 0
    assert handler.accounts[0].spent().tokens == handler.total_llm_token_count


def test_what_a_budget_cannot_stop_is_said_and_charged(caplog: pytest.LogCaptureFixture):
    """LlamaIndex swallows what is raised in a span's start; only a callback can stop its call."""
    forget_notices()
    handler = TokenCountingHandler(everywhere=True, budget=Budget(tokens=50))
    model = alone(raw=RAW)
    model.complete("hello", max_tokens=100)
    MockEmbedding(embed_dim=2, callback_manager=deaf()).get_text_embedding("hello")
    assert caplog.text.count("a budget could not stop a call: Scripted.complete:") == 1
    assert caplog.text.count("a budget could not stop a call: MockEmbedding.get_text_") == 1
    assert handler.accounts[0].spent().tokens == 120 + handler.total_embedding_token_count
    told = Scripted(callback_manager=CallbackManager([handler]), raw=RAW)
    with pytest.raises(ValueError, match="50"):
        told.complete("hello")
    assert told.calls == 0


def test_a_budget_asks_once_where_a_callback_tells_of_the_call():
    """Its `on_exceed` isn't called again for the span of the same call."""
    asked: list[object] = []
    handler = TokenCountingHandler(
        everywhere=True, budget=Budget(tokens=1, on_exceed=lambda error: asked.append(error))
    )
    MockLLM(max_tokens=3, callback_manager=CallbackManager([handler])).complete("hello")
    assert len(asked) == 1

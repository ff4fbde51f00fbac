"""Together with LlamaIndex's handler a call is counted once, and takes AWS's figures."""

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_token_tracker import TokenCountingHandler, Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import watch
from tests.needs import needs
from tests.wire.bedrock.conftest import CLAUDE, COHERE, MESSAGES, PROMPT, TITAN

TEXTS = ["one", "two words", "three more words", "one", "a last text of several words"]
CHAT = [ChatMessage(PROMPT, role="user")]
CACHED = Usage(
    input_tokens=22_734, output_tokens=56, cache_read_tokens=21_500, cache_write_tokens=200
)


def embedding(
    model: str, provider: LoopbackProvider, manager: CallbackManager, monkeypatch: Any, **more: Any
) -> Any:
    """A real `BedrockEmbedding`, asynchronous client included."""
    from llama_index.embeddings.bedrock import BedrockEmbedding

    for name, value in provider.environment().items():
        monkeypatch.setenv(name, value)
    return BedrockEmbedding(model_name=model, callback_manager=manager, **more)


def converse(
    provider: LoopbackProvider, manager: CallbackManager, monkeypatch: Any, **more: Any
) -> Any:
    """A real `BedrockConverse`, asynchronous client included."""
    from llama_index.llms.bedrock_converse import BedrockConverse

    for name, value in provider.environment().items():
        monkeypatch.setenv(name, value)
    return BedrockConverse(model=CLAUDE, callback_manager=manager, max_tokens=64, **more)


def legacy(provider: LoopbackProvider, manager: CallbackManager, monkeypatch: Any) -> Any:
    """A real `Bedrock`, which asks through InvokeModel."""
    from llama_index.llms.bedrock import Bedrock

    for name, value in provider.environment().items():
        monkeypatch.setenv(name, value)
    return Bedrock(
        model="anthropic.claude-3-sonnet-20240229-v1:0", callback_manager=manager, max_tokens=64
    )


# --- embeddings ----------------------------------------------------------------------------


def batch(model: Any) -> None:
    """A batch of texts."""
    model.get_text_embedding_batch(TEXTS)


def abatch(model: Any) -> None:
    """The same, asynchronously: all requests are under way together."""
    asyncio.run(model.aget_text_embedding_batch(TEXTS))


def one_by_one(model: Any) -> None:
    """Each text for itself."""
    for text in TEXTS:
        model.get_text_embedding(text)


def together(model: Any) -> None:
    """Each text for itself, all at once."""

    async def work() -> None:
        await asyncio.gather(*[model.aget_text_embedding(text) for text in TEXTS])

    asyncio.run(work())


@pytest.mark.parametrize("batch_size", [1, 2, 10])
@pytest.mark.parametrize("way", [batch, abatch, one_by_one, together], ids=lambda w: w.__name__)
@pytest.mark.parametrize("name", [TITAN, COHERE])
def test_embedded_texts_take_the_figures_of_the_headers(
    name: str,
    way: Callable[[Any], None],
    batch_size: int,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    monkeypatch: Any,
):
    """One event a text, reported, and together exactly what AWS has billed."""
    model = embedding(name, provider, manager, monkeypatch, embed_batch_size=batch_size)
    with watch(handler, model):
        way(model)
    events = handler.embedding_token_counts
    assert sorted(event.prompt for event in events) == sorted(TEXTS)
    assert {event.source for event in events} == {"reported"}
    billed = sum(usage.input_tokens or 0 for usage in provider.billed)
    assert sum(event.prompt_token_count for event in events) == billed
    assert handler.total_embedding_token_count == billed
    assert handler.llm_token_counts == []
    if name == TITAN:
        assert len(provider.billed) == len(TEXTS)


def test_a_query_is_counted_too(
    provider: LoopbackProvider, handler: TokenCountingHandler, manager: Any, monkeypatch: Any
):
    """One request, one event."""
    model = embedding(TITAN, provider, manager, monkeypatch)
    with watch(handler, model):
        model.get_query_embedding("what?")
    [event], [billed] = handler.embedding_token_counts, provider.billed
    assert (event.prompt, event.prompt_token_count) == ("what?", billed.input_tokens)


def test_a_text_that_is_sent_shortened_is_the_same_text(
    provider: LoopbackProvider, handler: TokenCountingHandler, manager: Any, monkeypatch: Any
):
    """The integration cuts Cohere's texts at 2048 characters."""
    model = embedding(COHERE, provider, manager, monkeypatch)
    long = ["word " * 1_000, "another " * 1_000]
    with watch(handler, model):
        model.get_text_embedding_batch(long)
    events, [billed] = handler.embedding_token_counts, provider.billed
    assert [event.prompt for event in events] == long
    assert sum(event.prompt_token_count for event in events) == billed.input_tokens


@pytest.mark.parametrize("way", [batch, abatch], ids=lambda w: w.__name__)
def test_texts_of_a_cache_cost_nothing(
    way: Callable[[Any], None],
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: Any,
    monkeypatch: Any,
):
    """The second time nothing is sent, and nothing counted."""
    model = embedding(TITAN, provider, manager, monkeypatch, embeddings_cache=SimpleKVStore())
    with watch(handler, model):
        way(model)
        way(model)
    billed = sum(usage.input_tokens or 0 for usage in provider.billed)
    assert handler.total_embedding_token_count == billed
    assert {event.source for event in handler.embedding_token_counts} == {"reported"}


@pytest.mark.slow
@pytest.mark.parametrize("way", [batch, abatch], ids=lambda w: w.__name__)
def test_what_a_failed_batch_has_cost_is_counted(
    way: Callable[[Any], None],
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: Any,
    monkeypatch: Any,
):
    """LlamaIndex drops the whole batch when one text fails; AWS bills the others."""
    provider.script(Reply(status=400), prompt="last")
    model = embedding(TITAN, provider, manager, monkeypatch)
    with (
        watch(handler, model),
        handler.scope("ingest") as scope,
        pytest.raises(Exception, match="ValidationException"),
    ):
        way(model)
    provider.settle()
    gc.collect()
    events = handler.embedding_token_counts
    answered = [event for event in events if event.status == "complete"]
    billed = {usage.input_tokens for usage in provider.billed}
    assert {event.prompt_token_count for event in answered} <= billed
    assert len(answered) >= 1
    assert scope.total_embedding_token_count == handler.total_embedding_token_count


def test_without_a_watch_texts_are_counted_here(
    provider: LoopbackProvider, handler: TokenCountingHandler, manager: Any, monkeypatch: Any
):
    """The headers are out of LlamaIndex's reach: this is what the watch is for."""
    model = embedding(TITAN, provider, manager, monkeypatch)
    model.get_text_embedding_batch(TEXTS)
    assert {event.source for event in handler.embedding_token_counts} != {"reported"}
    assert len(handler.embedding_token_counts) == len(TEXTS)


# --- language models -----------------------------------------------------------------------


async def _drained(stream: Any) -> None:
    async for _ in await stream:
        pass


LLM_WAYS: dict[str, Callable[[Any], Any]] = {
    "chat": lambda llm: llm.chat(CHAT),
    "complete": lambda llm: llm.complete(PROMPT),
    "stream_chat": lambda llm: list(llm.stream_chat(CHAT)),
    "stream_complete": lambda llm: list(llm.stream_complete(PROMPT)),
    "achat": lambda llm: asyncio.run(llm.achat(CHAT)),
    "acomplete": lambda llm: asyncio.run(llm.acomplete(PROMPT)),
    "astream_chat": lambda llm: asyncio.run(_drained(llm.astream_chat(CHAT))),
    "astream_complete": lambda llm: asyncio.run(_drained(llm.astream_complete(PROMPT))),
}


@pytest.mark.parametrize("usage", [CACHED, "drawn"], ids=["cached", "plain"])
@pytest.mark.parametrize("way", LLM_WAYS)
def test_a_call_of_converse_is_counted_once(
    way: str,
    usage: Any,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    monkeypatch: Any,
):
    """Every method is one request, one event, and exactly what AWS has billed."""
    provider.script(Reply(usage=usage))
    llm = converse(provider, manager, monkeypatch)
    with watch(handler, llm):
        LLM_WAYS[way](llm)
        gc.collect()
    [event], [billed] = handler.llm_token_counts, provider.billed
    assert event.usage.reported() | billed.reported() == event.usage.reported()
    assert (event.source, event.status) == ("reported", "complete")
    assert event.span_id is not None


@needs("llama_index.llms.bedrock")
@pytest.mark.parametrize("way", ["chat", "complete", "stream_chat", "stream_complete"])
def test_a_call_of_invoke_model_is_counted_once(
    way: str,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    monkeypatch: Any,
):
    """The same of the integration that is called just Bedrock."""
    provider.script(Reply(usage=CACHED))
    llm = legacy(provider, manager, monkeypatch)
    with watch(handler, llm):
        LLM_WAYS[way](llm)
    [event] = handler.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (22_734, 56)
    assert event.usage.cache_read_tokens == 21_500
    assert event.source == "reported"


@pytest.mark.parametrize("way", ["stream_chat", "astream_chat"])
def test_a_stream_that_is_left_is_counted_once(
    way: str,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    monkeypatch: Any,
):
    """One event, abandoned."""
    llm = converse(provider, manager, monkeypatch)

    async def left() -> None:
        stream = await llm.astream_chat(CHAT)
        async for _ in stream:
            break
        await stream.aclose()

    with watch(handler, llm):
        if way == "astream_chat":
            asyncio.run(left())
        else:
            stream = llm.stream_chat(CHAT)
            next(stream)
            stream.close()
        gc.collect()
    [event] = handler.llm_token_counts
    assert event.status == "abandoned"
    assert event.prompt_token_count > 0


def test_a_call_that_is_tried_again_is_one_event(
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    monkeypatch: Any,
):
    """The attempts that were refused cost nothing."""
    provider.script(Reply(status=429), Reply(usage=CACHED))
    llm = converse(provider, manager, monkeypatch, max_retries=3)
    with watch(handler, llm):
        llm.chat(CHAT)
    assert len(provider.calls) >= 2
    [event] = handler.llm_token_counts
    assert event.total_token_count == 22_790


def test_plain_calls_beside_those_of_llama_index_are_events_of_their_own(
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    monkeypatch: Any,
):
    """Even in the loop over a stream of LlamaIndex's that the same client sends."""
    llm = converse(provider, manager, monkeypatch)
    client = llm._client
    with watch(handler, llm):
        for number, _ in enumerate(llm.stream_chat(CHAT)):
            if number == 0:
                client.converse(modelId=CLAUDE, messages=MESSAGES)
    assert len(handler.llm_token_counts) == len(provider.billed) == 2
    assert handler.total_llm_token_count == sum(usage.total_tokens for usage in provider.billed)


def test_a_handler_that_hears_nothing_of_a_model_counts_its_requests(
    provider: LoopbackProvider, handler: TokenCountingHandler, monkeypatch: Any
):
    """A model without this handler in its callback manager is a plain program to it."""
    llm = converse(provider, CallbackManager([]), monkeypatch)
    with watch(handler, llm):
        llm.chat(CHAT)
        list(llm.stream_chat(CHAT))
    assert len(handler.llm_token_counts) == 2
    assert handler.total_llm_token_count == sum(usage.total_tokens for usage in provider.billed)


def test_many_asynchronous_calls_at_once_keep_apart(
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    monkeypatch: Any,
):
    """Each event has the figures of one bill, and each bill one event."""
    llm = converse(provider, manager, monkeypatch)

    async def work() -> None:
        await asyncio.gather(
            *[llm.achat(CHAT) for _ in range(6)],
            *[_drained(llm.astream_chat(CHAT)) for _ in range(6)],
        )

    with watch(handler, llm):
        asyncio.run(work())
    counted = sorted(event.total_token_count for event in handler.llm_token_counts)
    assert counted == sorted(usage.total_tokens for usage in provider.billed)
    assert len(counted) == 12

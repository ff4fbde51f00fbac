"""Calls of LlamaIndex that the handler isn't told of are seen by the dispatcher."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.evaluation import FaithfulnessEvaluator
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from pydantic import BaseModel

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker._log_once import forget_notices
from tests.scripted import deaf

TEXTS = ["one", "two words", "three more words"]


def _model(handler: TokenCountingHandler) -> MockLLM:
    return MockLLM(max_tokens=3, callback_manager=CallbackManager([handler]))


def _embedding(*handlers: TokenCountingHandler) -> MockEmbedding:
    manager = CallbackManager([*handlers]) if handlers else deaf()
    return MockEmbedding(embed_dim=8, callback_manager=manager)


def test_a_chat_engine_that_replaces_the_manager_is_seen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each of its calls is uncounted; that is said once, and shown."""
    forget_notices()
    handler = TokenCountingHandler()
    index = VectorStoreIndex.from_documents(
        [Document(text="A tally stick.")], embed_model=MockEmbedding(embed_dim=8)
    )
    engine = CondensePlusContextChatEngine.from_defaults(
        index.as_retriever(), llm=_model(handler), memory=ChatMemoryBuffer.from_defaults()
    )
    engine.chat("Hello")
    for _ in engine.stream_chat("Hello").response_gen:
        pass
    assert handler.total_llm_token_count == 0
    # The second question is condensed first.
    assert handler.uncounted == {
        "MockLLM.complete": 2,
        "MockLLM.stream_complete": 1,
        "MockEmbedding.get_text_embedding_batch": 1,
        "MockEmbedding.get_query_embedding": 2,
    }
    assert "6 calls could not be counted" in handler.summary()
    assert caplog.text.count("calls without this handler: MockLLM.complete:") == 1
    handler.reset_counts()
    assert handler.uncounted == {}


def test_an_evaluator_that_replaces_the_manager_is_seen() -> None:
    """What an evaluator asks without the handler is uncounted, or else counted."""
    handler = TokenCountingHandler()
    evaluator = FaithfulnessEvaluator(llm=_model(handler))
    asyncio.run(evaluator.aevaluate(query="q", response="r", contexts=["c"]))
    counted = len(handler.llm_token_counts)
    assert (counted > 0) != bool(handler.uncounted)


def test_what_the_handler_hears_is_not_uncounted() -> None:
    """Neither a heard call, nor one within it, is uncounted."""
    handler = TokenCountingHandler()
    model = _model(handler)
    model.complete("Hello")
    model.chat([ChatMessage("Hello")])
    asyncio.run(model.achat([ChatMessage("Hello")]))
    assert len(handler.llm_token_counts) == 3
    assert handler.uncounted == {}


class Fact(BaseModel):
    """What is asked for."""

    city: str


@pytest.mark.parametrize("hears", [True, False])
def test_a_model_that_asks_another_is_not_uncounted_itself(hears: bool) -> None:
    """The one that it asks tells, heard or not."""
    handler = TokenCountingHandler()
    model = _model(handler) if hears else MockLLM(max_tokens=3, callback_manager=deaf())
    wrapped = model.as_structured_llm(Fact, callback_manager=deaf())
    with suppress(ValueError):  # a mock's answer is no fact
        wrapped.chat([ChatMessage("Hello")])
    assert len(handler.llm_token_counts) == hears
    assert "StructuredLLM.chat" not in handler.uncounted
    assert bool(handler.uncounted) is not hears


EMBEDS: dict[str, Callable[[MockEmbedding], object]] = {
    "get_text_embedding": lambda model: model.get_text_embedding("one"),
    "get_query_embedding": lambda model: model.get_query_embedding("one"),
    "get_text_embedding_batch": lambda model: model.get_text_embedding_batch(TEXTS),
    "aget_text_embedding": lambda model: asyncio.run(model.aget_text_embedding("one")),
    "aget_query_embedding": lambda model: asyncio.run(model.aget_query_embedding("one")),
    "aget_text_embedding_batch": lambda model: asyncio.run(model.aget_text_embedding_batch(TEXTS)),
}


@pytest.mark.parametrize("method", EMBEDS)
def test_embeddings_that_nobody_hears_are_seen(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is uncounted, which is said once and shown, within an open call of a model, too."""
    forget_notices()
    handler = TokenCountingHandler()
    embedding = _embedding()
    EMBEDS[method](embedding)
    EMBEDS[method](embedding)
    assert handler.uncounted == {f"MockEmbedding.{method}": 2}
    assert "2 calls could not be counted" in handler.summary()
    assert caplog.text.count(f"calls without this handler: MockEmbedding.{method}:") == 1
    for _ in _model(handler).stream_complete("Hello"):
        EMBEDS[method](embedding)
        break
    assert sum(handler.uncounted.values()) == 3


def test_embeddings_that_are_heard_or_none_are_not_uncounted() -> None:
    """Neither those that the handler is told of, nor those of no texts."""
    handler = TokenCountingHandler()
    for ask in EMBEDS.values():
        ask(_embedding(handler))
    _embedding().get_text_embedding_batch([])
    assert handler.total_embedding_token_count > 0
    assert handler.uncounted == {}

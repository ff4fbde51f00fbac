"""Calls of LlamaIndex that the handler isn't told of are seen by the dispatcher."""

import asyncio

import pytest
from llama_index.core import Document, MockEmbedding, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import CondensePlusContextChatEngine
from llama_index.core.evaluation import FaithfulnessEvaluator
from llama_index.core.llms import ChatMessage, MockLLM
from llama_index.core.memory import ChatMemoryBuffer

from llama_token_tracker import TokenCountingHandler


def _model(handler: TokenCountingHandler) -> MockLLM:
    return MockLLM(max_tokens=3, callback_manager=CallbackManager([handler]))


def test_a_chat_engine_that_replaces_the_manager_is_seen(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each of its calls is uncounted; that is said once, and shown."""
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
    assert sum(handler.uncounted.values()) == 3
    assert "3 calls could not be counted" in handler.summary()
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

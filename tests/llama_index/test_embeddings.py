"""Embeddings: what a cache serves costs nothing, and an image is no text."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.storage.kvstore import SimpleKVStore
from llama_index.core.storage.kvstore.types import BaseKVStore

from llama_token_tracker import TokenCountingHandler

TEXTS = ["one", "two words", "three more words"]


class Remote(BaseKVStore):
    """A cache that isn't in this process: it can't be asked without waiting."""

    def __init__(self) -> None:
        self._inner = SimpleKVStore()

    def put(self, key: str, val: dict[str, Any], collection: str = "data") -> None:
        """Put."""
        self._inner.put(key, val, collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = "data") -> None:
        """Put."""
        self._inner.put(key, val, collection)

    def get(self, key: str, collection: str = "data") -> Any:
        """Get."""
        return self._inner.get(key, collection)

    async def aget(self, key: str, collection: str = "data") -> Any:
        """Get."""
        return self._inner.get(key, collection)

    def get_all(self, collection: str = "data") -> Any:
        """Get all."""

    aget_all = get_all  # type: ignore[assignment]

    def delete(self, key: str, collection: str = "data") -> bool:
        """Delete nothing."""
        return False

    adelete = delete  # type: ignore[assignment]


def model(cache: Any, handler: TokenCountingHandler, batch_size: int = 10) -> MockEmbedding:
    """A model with that cache."""
    return MockEmbedding(
        embed_dim=2,
        embeddings_cache=cache,
        embed_batch_size=batch_size,
        callback_manager=CallbackManager([handler]),
    )


@pytest.fixture
def handler() -> TokenCountingHandler:
    """Counts words."""
    return TokenCountingHandler(tokenizer=str.split)


@pytest.mark.parametrize("batch_size", [1, 2, 10])
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("kind", [SimpleKVStore, Remote])
def test_texts_of_a_cache_are_counted_once(
    kind: type[BaseKVStore], way: str, batch_size: int, handler: TokenCountingHandler
):
    """Three texts embedded three times cost what they cost once."""
    embedding = model(kind(), handler, batch_size)
    for _ in range(3):
        if way == "sync":
            embedding.get_text_embedding_batch(TEXTS)
        else:
            asyncio.run(embedding.aget_text_embedding_batch(TEXTS))
    if (kind, way) == (Remote, "async"):
        # Nobody can tell without holding up the loop: all is counted, and marked.
        assert {event.source for event in handler.embedding_token_counts} == {"estimated"}
        return
    assert [event.prompt for event in handler.embedding_token_counts] == TEXTS
    assert handler.total_embedding_token_count == 6
    assert {event.source for event in handler.embedding_token_counts} == {"counted"}


def test_a_batch_later_than_its_text_is_served(handler: TokenCountingHandler):
    """A text that an earlier batch of the same call has embedded is in the cache by then."""
    model(SimpleKVStore(), handler, 1).get_text_embedding_batch(["one", "one", "two"])
    assert [event.prompt for event in handler.embedding_token_counts] == ["one", "two"]


def test_single_texts_and_queries_are_served_too(handler: TokenCountingHandler):
    """Every method that looks into the cache is known."""
    embedding = model(SimpleKVStore(), handler)
    embedding.get_text_embedding("one")
    embedding.get_query_embedding("one")
    asyncio.run(embedding.aget_query_embedding("one"))
    embedding.get_agg_embedding_from_queries(["one", "two"])
    assert [event.prompt for event in handler.embedding_token_counts] == ["one", "two"]


def test_without_a_cache_every_text_is_billed(handler: TokenCountingHandler):
    """The same text twice is two texts."""
    model(None, handler).get_text_embedding_batch(["one", "one"])
    assert len(handler.embedding_token_counts) == 2


def test_an_image_is_marked(handler: TokenCountingHandler, tmp_path: Path):
    """The name of an image's file is no text that was embedded, be there such a file or not."""
    file = tmp_path / "a.png"
    handler.on_event_end(
        CBEventType.EMBEDDING, {EventPayload.CHUNKS: [str(file), file, "png"]}, event_id="a"
    )
    events = handler.embedding_token_counts
    assert [event.prompt_token_count for event in events] == [0, 0, 1]
    assert [event.source for event in events] == ["estimated", "estimated", "counted"]


def test_handlers_that_count_the_same_call_know_the_same_of_its_cache():
    """Each of two in one manager leaves out what the cache serves, batch by batch."""
    handlers = TokenCountingHandler(), TokenCountingHandler()
    embeds = model(SimpleKVStore(), handlers[0], batch_size=2)
    embeds.callback_manager.add_handler(handlers[1])
    embeds.get_text_embedding_batch(TEXTS)
    embeds.get_text_embedding_batch([*TEXTS, "new"])
    for handler in handlers:
        assert [event.prompt for event in handler.embedding_token_counts] == [*TEXTS, "new"]

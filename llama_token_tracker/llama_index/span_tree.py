"""LlamaIndex's open spans: which was entered in which, and what was found out of each."""

import asyncio
from contextvars import Token
from typing import Any, Final

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_token_tracker._log_once import notice
from llama_token_tracker.events.call import MAX_OPEN

CALL_METHODS: Final = BaseLLM.__abstractmethods__ - {"metadata"}
"""The methods of an LLM that call a provider: `chat`, `astream_complete` and so on."""

STRUCTURED: Final = "structured_predict"
"""In the names of methods that ask another for the answer, or the provider, without a callback."""

MAX_SPANS: Final = 4 * MAX_OPEN
MAX_NAMES: Final = 1_000


# `MutableMappingKVStore`; before 0.12.27 there was `BaseInMemoryKVStore`.
_NEAR: Final = SimpleKVStore.__mro__[1]


class Embedding:
    """A method that embeds texts, batch by batch, and the cache that it will look into first.

    The end of a call tells of all texts alike, so the cache is looked into here too, before
    the call does. A cache outside of this process is asked as well, but not from within an
    event loop, which would have to wait for it.
    """

    def __init__(self, cache: Any, texts: list[str], batch_size: int) -> None:
        self._cache = cache
        self._is_near = isinstance(cache, _NEAR)
        self._texts = texts
        self._batch_size = batch_size
        # By whoever counts them, how many texts it was told of.
        self._done: dict[int, int] = {}

    def next_batch(self, counter: object) -> tuple[list[str], frozenset[str] | None]:
        """The texts of the next call, as far as whoever counts it is concerned.

        Returns:
            All of them, and those that the cache holds; `None` if that can't be told.
        """
        done = self._done.get(id(counter), 0)
        self._done[id(counter)] = end = done + self._batch_size
        batch = self._texts[done:end]
        return batch, self._served(batch) if self._cache else frozenset()

    def _served(self, batch: list[str]) -> frozenset[str] | None:
        if not self._is_near and _in_event_loop():
            return None
        try:
            return frozenset(
                text
                for text in batch
                if self._cache.get(key=text, collection="embeddings") is not None
            )
        except Exception as error:  # noqa: BLE001 - a foreign cache may raise anything
            notice("an embeddings_cache could not be read", error, "all texts are counted")
            return None


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class SpanNotes:
    """What was found out of a method as it was entered, for as long as it runs.

    Attributes:
        url: The URL that its model asks, if that tells more than its class.
        settings: What its model is set to that may add to its prompts' tokens.
        embedding: The texts that it embeds, if it does.
        scope: How to undo what made a generator's scope current for as long as it runs.
        is_unheard: Whether it calls a model whose calls no handler is told of.
    """

    url: str | None = None
    settings: dict[str, Any] | None = None
    embedding: Embedding | None = None
    scope: Token[Any] | None = None
    is_unheard: bool = False


class _IsCall(dict[str, bool]):
    """Whether a method, as `Class.method`, calls a model; there are as many as a program has."""

    def __missing__(self, name: str) -> bool:
        method = name.rpartition(".")[2]
        is_call = method in CALL_METHODS or STRUCTURED in method
        if len(self) < MAX_NAMES:
            self[name] = is_call
        return is_call


class _Spans:
    """The open spans of this process.

    Attributes:
        parents: By span, the one that it was entered in.
        notes: By span, what was found out of it: of most there is nothing to know.
    """

    def __init__(self) -> None:
        self.parents: dict[str, str | None] = {}
        self.notes: dict[str, SpanNotes] = {}
        self._is_call = _IsCall()

    def make_room(self) -> None:
        """Forget the oldest: spans that never end must not pile up."""
        oldest = next(iter(self.parents))
        self.parents.pop(oldest, None)
        self.notes.pop(oldest, None)

    def note(self, span_id: str) -> SpanNotes:
        """What is known of an open span, to add to."""
        return self.notes.setdefault(span_id, SpanNotes())

    def clear(self) -> None:
        """Forget all."""
        self.parents.clear()
        self.notes.clear()

    def __len__(self) -> int:
        return len(self.parents.keys() | self.notes.keys())

    def parent(self, span_id: str) -> str | None:
        return self.parents.get(span_id)

    def is_call(self, span_id: str) -> bool:
        # Span ids are `Class.method-uuid`.
        return self._is_call[span_id.partition("-")[0]]


SPANS: Final = _Spans()


def embedding(span_id: str | None) -> Embedding | None:
    """The method with this span, if it embeds texts."""
    notes = SPANS.notes.get(span_id or "")
    return None if notes is None else notes.embedding

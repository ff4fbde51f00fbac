"""Nobody looks into the file system because of what a text, a message or an image says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, DocumentBlock, ImageBlock, TextBlock
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.embeddings import MockEmbedding, mock_embed_model
from llama_index.core.llms import MockLLM

from llama_token_tracker import Budget, TokenCountingHandler, count_messages
from tests.needs import left_out_if

MARK = "f1e-that-nobody-names-otherwise"
NAMES = [
    f"/{MARK}/a.png",
    rf"\\{MARK}\share\a.jpg",
    f"//{MARK}/share/a.webp",
    f"file:///{MARK}.gif",
    f"/dev/fd/../{MARK}.jpeg",
    f"look at {MARK}.png",
]
_seen: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and any(MARK in str(one) for one in arguments):
        _seen.append(event)


sys.addaudithook(_audit)
# `os.stat` raises no event of its own.
_STATS = ("stat", "lstat", "access", "readlink", "scandir", "listdir")


@contextmanager
def nothing_opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold the block to looking at no file of such a name."""
    global _seen
    _seen = seen = []
    with monkeypatch.context() as patch:
        for name in _STATS:
            patch.setattr(os, name, _noting(getattr(os, name), name, seen))
        try:
            yield
        finally:
            _seen = None
    assert seen == []


def _noting(function: Any, name: str, seen: list[str]) -> Any:
    def noting(path: Any = ".", *arguments: Any, **options: Any) -> Any:
        if MARK in str(path):
            seen.append(name)
        return function(path, *arguments, **options)

    return noting


@pytest.mark.parametrize("name", NAMES)
def test_embedding_a_text_that_ends_like_a_picture(name: str, monkeypatch: pytest.MonkeyPatch):
    """It's a text, is counted as one, and nobody asks whether there's such a file."""
    handler = TokenCountingHandler(str.split)
    model = MockEmbedding(embed_dim=2, callback_manager=CallbackManager([handler]))
    with nothing_opened(monkeypatch):
        model.get_text_embedding(name)
        model.get_text_embedding_batch([name, "plain"])
        model.get_query_embedding(name)
        events = handler.embedding_token_counts
    assert [event.prompt for event in events] == [name, name, "plain", name]
    assert all(event.source == "counted" and event.prompt_token_count for event in events)


@left_out_if(
    not hasattr(mock_embed_model, "MockMultiModalEmbedding"),
    "this LlamaIndex mocks no embedding of pictures",
)
def test_embedding_a_picture(monkeypatch: pytest.MonkeyPatch):
    """What a method for pictures has embedded is marked, be it a path or a text that is one."""
    handler = TokenCountingHandler()
    model = mock_embed_model.MockMultiModalEmbedding(
        embed_dim=2, callback_manager=CallbackManager([handler])
    )
    with nothing_opened(monkeypatch):
        model.get_image_embedding(NAMES[0])
        model.get_image_embedding_batch([NAMES[1], Path(NAMES[0])])  # type: ignore[list-item]
        events = handler.embedding_token_counts
    assert [event.prompt_token_count for event in events] == [0, 0, 0]
    assert {event.source for event in events} == {"estimated"}


@pytest.mark.parametrize("name", NAMES)
def test_messages_that_name_files(name: str, monkeypatch: pytest.MonkeyPatch):
    """Images and documents by path or URL are left to whoever sends them; their size is unknown."""
    handler = TokenCountingHandler(budget=Budget(tokens=10**6))
    image = ImageBlock.model_construct(path=Path(name), url=name, image=None, detail=None)
    document = DocumentBlock.model_construct(path=Path(name), url=name, data=None, title="t")
    message = ChatMessage(role="user", blocks=[TextBlock(text=name)])
    message.blocks += [image, document]
    with nothing_opened(monkeypatch):
        handler.on_event_start(CBEventType.LLM, {EventPayload.MESSAGES: [message]}, "1")
        answer = {EventPayload.RESPONSE: MockLLM().complete(name)}
        handler.on_event_end(CBEventType.LLM, answer, "1")
        [event] = handler.llm_token_counts
        counted = count_messages([message], model="gpt-4o")
    assert event.prompt_source == counted.source == "estimated"

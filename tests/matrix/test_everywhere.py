"""Every call of LlamaIndex, whatever callback manager its model has, from the dispatcher alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.testing import Reply

from .cells import CELL, STYLES, cells, exercise, expect, replies_for, visible
from .clients import EMBEDDINGS, LLMS, Integration, each
from .styles import MESSAGES, Run, Style

if TYPE_CHECKING:
    from llama_token_tracker.testing import LoopbackProvider

pytestmark = pytest.mark.matrix


@pytest.fixture
def nobody() -> Iterator[CallbackManager]:
    """A callback manager without a handler, in Settings too."""
    manager = Settings.callback_manager = CallbackManager([])
    yield manager
    Settings.callback_manager = CallbackManager([])


@pytest.fixture
def handler() -> Iterator[TokenCountingHandler]:
    """A handler that counts everywhere, and is in no manager yet."""
    handler = TokenCountingHandler(everywhere=True)
    yield handler
    handler.close()
    assert handler.open_calls == 0


@pytest.mark.parametrize(CELL, cells(STYLES))
def test_a_call_is_one_event_with_its_bill(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    nobody: CallbackManager,
    run: Run,
) -> None:
    """Without a handler in any manager."""
    llm = integration.llm(provider, nobody)
    provider.script(*replies_for(integration, style))
    exercise(integration, style, llm, provider, run)
    gc.collect(1)
    expect(handler, provider, reported=visible(integration, style))

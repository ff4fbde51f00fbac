"""One line for the whole process: each request is one event with its bill, whoever sends it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import Tracker, watch
from llama_token_tracker.testing import Reply

from .cells import CELL, STYLES, cells, exercise, expect, matches, replies_for
from .clients import EMBEDDINGS, LLMS, Integration, each
from .styles import MESSAGES, Run, Style

if TYPE_CHECKING:
    from llama_token_tracker import TokenCountingHandler
    from llama_token_tracker.testing import LoopbackProvider

pytestmark = pytest.mark.matrix

TEXTS = ["one", "two words", "three\nmore\nwords", "one", "a last text\nof several words"]


@pytest.fixture
def nobody() -> CallbackManager:
    """A callback manager without a handler."""
    return CallbackManager([])


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    """A tracker that hears the whole process."""
    tracker = Tracker()
    with watch(tracker):
        yield tracker


@pytest.fixture
def listening(handler: TokenCountingHandler) -> Iterator[TokenCountingHandler]:
    """A handler that hears the whole process beside LlamaIndex's callbacks."""
    with watch(handler):
        yield handler


def is_told(integration: Integration, style: Style) -> bool:
    """Whether the provider's figure was on the wire at all."""
    return integration.name != "openai-default" or not style.streamed


@pytest.mark.parametrize(CELL, cells(STYLES))
def test_a_call_is_one_event_with_its_bill(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    tracker: Tracker,
    nobody: CallbackManager,
    run: Run,
) -> None:
    """Without any handler of LlamaIndex's."""
    Settings.callback_manager = nobody
    llm = integration.llm(provider, nobody)
    provider.script(*replies_for(integration, style))
    exercise(integration, style, llm, provider, run)
    gc.collect()
    expect(tracker, provider, reported=is_told(integration, style))


@pytest.mark.parametrize(CELL, cells(STYLES))
def test_a_call_that_callbacks_tell_of_as_well_is_one_event(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    listening: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """Its figures are the wire's, whatever LlamaIndex has left of them."""
    llm = integration.llm(provider, manager)
    provider.script(*replies_for(integration, style))
    exercise(integration, style, llm, provider, run)
    gc.collect()
    expect(listening, provider, reported=is_told(integration, style))


@each(EMBEDDINGS)
@pytest.mark.parametrize("is_heard_twice", [False, True], ids=["alone", "with callbacks"])
def test_embeddings_are_reported(
    integration: Integration,
    provider: LoopbackProvider,
    is_heard_twice: bool,
    handler: TokenCountingHandler,
) -> None:
    """LlamaIndex drops what providers say of them; the wire doesn't."""
    counter = handler if is_heard_twice else Tracker()
    manager = CallbackManager([handler] if is_heard_twice else [])
    with watch(counter):
        model = integration.build(provider, manager, {})
        model.get_text_embedding_batch(TEXTS)
        model.get_query_embedding("a query")
    events, bills = counter.embedding_token_counts, provider.billed
    assert bills
    assert {event.source for event in events} == {"reported"}
    assert counter.total_embedding_token_count == sum(bill.input_tokens for bill in bills)


@each(LLMS)
def test_a_stream_that_is_left_is_one_event(
    integration: Integration, provider: LoopbackProvider, listening: TokenCountingHandler
) -> None:
    """With what had come by then."""
    provider.script(Reply("Canberra is the capital of Australia.", chunks=8, pause_s=0.02))
    llm = integration.llm(provider, CallbackManager([listening]))
    stream = llm.stream_chat(MESSAGES)
    next(stream)
    stream.close()
    del stream
    gc.collect()
    [event] = listening.llm_token_counts
    assert event.status == "abandoned"
    assert event.prompt_token_count


@each(LLMS)
def test_what_is_made_before_and_after_is_heard(
    integration: Integration, provider: LoopbackProvider, nobody: CallbackManager
) -> None:
    """And nothing once the watch has stopped."""
    tracker = Tracker()
    before = integration.llm(provider, nobody)
    before.chat(MESSAGES)
    with watch(tracker):
        after = integration.llm(provider, nobody)
        before.chat(MESSAGES)
        after.chat(MESSAGES)
    after.chat(MESSAGES)
    assert len(provider.billed) == 4
    assert len(tracker.llm_token_counts) == 2
    for event, bill in zip(tracker.llm_token_counts, provider.billed[1:], strict=False):
        matches(event, bill)

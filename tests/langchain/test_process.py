"""LangChain's matrix with a watch over the process: alone, and beside the handler."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from llama_token_tracker import Tracker, watch
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.testing import LoopbackProvider
from tests.langchain.integrations import LEAVING, STYLES, Integration
from tests.langchain.test_matrix import (
    CELLS,
    CONDITIONS,
    config_of,
    every_integration,
    matches,
    model_of,
)

TOLD_FIRST = frozenset({"ChatBedrock", "ChatAnthropic"})
"""Claude's messages tell the input at a stream's start."""


@pytest.fixture(params=["watch", "watch and handler"])
def heard_by(request: pytest.FixtureRequest) -> tuple[Any, dict[str, Any]]:
    """Who counts, and what a user passes along."""
    if request.param == "watch":
        return Tracker(), {}
    token_counter = TokenCountingCallbackHandler()
    return token_counter, config_of(token_counter)


@pytest.mark.parametrize(("integration", "style", "condition"), CELLS)
def test_each_call_is_one_event_with_its_bill(
    integration: Integration,
    style: str,
    condition: str,
    heard_by: tuple[Any, dict[str, Any]],
    provider: LoopbackProvider,
    runner: asyncio.Runner,
) -> None:
    """Once, and exact, whether callbacks tell of it, too, or not."""
    counter, config = heard_by
    provider.script(CONDITIONS[condition])
    with watch(counter):
        STYLES[style](model_of(integration, provider, style, condition), config, runner.run)
    [call] = provider.settle()
    [event] = counter.llm_token_counts
    assert counter.failed_calls == []
    assert (event.model, event.provider) == (call.model, integration.provider_here)
    if condition == "silent":
        assert event.source in {"counted", "estimated"}
        assert 1 < event.prompt_token_count < 60
    else:
        assert call.billed is not None
        matches(event, call.billed)


@every_integration
@pytest.mark.parametrize("style", LEAVING)
def test_a_stream_that_is_left_is_one_event(
    integration: Integration,
    style: str,
    heard_by: tuple[Any, dict[str, Any]],
    provider: LoopbackProvider,
    runner: asyncio.Runner,
) -> None:
    """With the input as billed, where that was on the wire by then."""
    counter, config = heard_by
    with watch(counter):
        LEAVING[style](integration.model(provider, style), config, runner.run)
        # A stream in a ring is left when the garbage collector finds it, which is off in tests.
        gc.collect()
        # An asynchronous one is closed by its loop then.
        runner.run(asyncio.sleep(0.01))
        [call], [event] = provider.settle(), counter.llm_token_counts
    assert event.status == "abandoned"
    assert call.billed is not None
    if integration.name in TOLD_FIRST:
        assert event.prompt_source == "reported"
        assert event.prompt_token_count == call.billed.input_tokens

"""Bedrock's InvokeModel over httpx, as Anthropic's own client for it sends it."""

import asyncio
from typing import Any

import anthropic
import pytest

from llama_token_tracker import Budget, BudgetExceededError, Tracker, Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport

MODEL = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
ASKED: dict[str, Any] = {
    "model": MODEL,
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hello"}],
}


def _options(provider: LoopbackProvider) -> dict[str, Any]:
    return {
        "base_url": provider.url("bedrock"),
        "aws_region": "us-east-1",
        "aws_access_key": "none",
        "aws_secret_key": "none",
        "max_retries": 0,
    }


def _client(provider: LoopbackProvider, tracker: Tracker) -> anthropic.AnthropicBedrock:
    client = anthropic.DefaultHttpxClient(transport=WatchingTransport(tracker))
    return anthropic.AnthropicBedrock(http_client=client, **_options(provider))


def _is_exact(tracker: Tracker, provider: LoopbackProvider) -> bool:
    (event,) = tracker.llm_token_counts
    assert (event.provider, event.model, event.source) == ("aws.bedrock", MODEL, "reported")
    assert event.status == "complete"
    assert event.completion.endswith("Hi there.")
    return (event.usage.input_tokens, event.usage.output_tokens) == (2_234, 56)


REPLY = Reply(
    "Hi there.", usage=Usage(input_tokens=2_234, output_tokens=56, cache_read_tokens=1_000)
)


def test_a_call_is_counted_exactly(tracker: Tracker) -> None:
    """What AnthropicBedrock posts to InvokeModel is one event, with Bedrock's figures."""
    with LoopbackProvider(REPLY) as provider:
        _client(provider, tracker).messages.create(**ASKED)
        assert _is_exact(tracker, provider)


def test_a_stream_is_counted_exactly(tracker: Tracker) -> None:
    """A stream in AWS's binary framing is decoded as the SDK reads it."""
    with LoopbackProvider(REPLY) as provider:
        for _ in _client(provider, tracker).messages.create(stream=True, **ASKED):
            pass
        assert _is_exact(tracker, provider)


@pytest.mark.parametrize("streams", [False, True])
def test_the_asynchronous_client_is_counted_exactly(tracker: Tracker, *, streams: bool) -> None:
    """AsyncAnthropicBedrock is counted as the synchronous client is."""

    async def ask(provider: LoopbackProvider) -> None:
        http = anthropic.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(tracker))
        client = anthropic.AsyncAnthropicBedrock(http_client=http, **_options(provider))
        async with client:
            answer = await client.messages.create(stream=streams, **ASKED)
            if streams:
                async for _ in answer:
                    pass

    with LoopbackProvider(REPLY) as provider:
        asyncio.run(ask(provider))
        assert _is_exact(tracker, provider)


def test_a_stream_left_early_is_marked() -> None:
    """Whoever leaves such a stream leaves an abandoned call with its prompt."""
    tracker = Tracker()
    with LoopbackProvider(REPLY) as provider:
        with _client(provider, tracker).messages.create(stream=True, **ASKED) as stream:
            next(iter(stream))
        (event,) = tracker.llm_token_counts
        assert event.status == "abandoned"
        assert event.prompt_token_count > 0


def test_a_budget_sees_such_calls() -> None:
    """A budget that such a call has used up stops the next one before it's sent."""
    tracker = Tracker(budget=Budget(tokens=1_000))
    with LoopbackProvider(REPLY) as provider:
        client = _client(provider, tracker)
        client.messages.create(**ASKED)
        with pytest.raises((anthropic.APIConnectionError, BudgetExceededError)) as refused:
            client.messages.create(**ASKED)
        error = refused.value
        # Releases before 0.100 wrap it.
        assert BudgetExceededError in (type(error.__cause__), *type(error).__mro__)
        assert len(provider.calls) == 1

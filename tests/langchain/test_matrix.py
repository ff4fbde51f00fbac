"""Five integrations in every style: what the provider billed is what is counted, once a call."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import Any

import pytest

from llama_token_tracker import TokenCountingEvent, Usage
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.testing import LoopbackProvider, Reply, ToolCall
from tests.langchain.integrations import (
    INTEGRATIONS,
    LEAVING,
    STYLES,
    TITAN,
    Integration,
    bedrock_llm,
    chat_openai,
    each,
)
from tests.needs import needs

BILL = Usage(
    input_tokens=22_734, output_tokens=56, cache_read_tokens=20_000, cache_write_tokens=1_500
)
ADDS = Reply(text="", tool_calls=(ToolCall("add", {"a": 20, "b": 22}),))
CONDITIONS = {
    "plain": Reply(),
    "cache": Reply(usage=BILL),
    "tools": ADDS,
    "silent": Reply(usage=None),
}

UNSEEN: dict[str, str] = {
    "BedrockLLM": "Claude's prompts are told at the end of a stream",
    "ChatBedrock": "langchain-aws leaves message_start's figures out",
    "ChatAnthropic": "langchain-anthropic keeps message_start's figures back",
    "ChatBedrockConverse": "Converse tells at the end of a stream",
    "ChatOpenAI": "OpenAI tells at the end of a stream",
}
"""Why no callback can see the input of a stream that is left; there it's counted."""

RAISES: dict[tuple[str, str], str] = {
    ("ChatBedrockConverse", "silent"): "langchain-aws raises KeyError: 'usage'",
}
"""Where an integration breaks on its provider's answer: a failed call, though it's billed."""

every_integration = each(INTEGRATIONS)


def can_answer(integration: Integration, condition: str) -> bool:
    """Whether an integration makes something of its provider's answer in a condition."""
    if condition == "tools" and not integration.tools:
        return False
    return (integration.name, condition) not in RAISES


CELLS = [
    pytest.param(
        integration,
        style,
        condition,
        id=f"{condition}-{style}-{integration}",
        marks=needs(integration.module),
    )
    for integration, style, condition in product(INTEGRATIONS, STYLES, CONDITIONS)
    if can_answer(integration, condition)
]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def model_of(
    integration: Integration, provider: LoopbackProvider, style: str, condition: str
) -> Any:
    """The integration's model, which knows of a tool where the condition needs one."""
    model = integration.model(provider, style)
    return model.bind_tools([add]) if condition == "tools" else model


def config_of(token_counter: TokenCountingCallbackHandler) -> dict[str, Any]:
    """What a user passes along."""
    return {"callbacks": [token_counter]}


def matches(event: TokenCountingEvent, bill: Usage) -> None:
    """Hold one event to one bill, bucket by bucket."""
    usage = event.usage
    assert (event.source, event.status) == ("reported", "complete"), event
    assert (usage.input_tokens, usage.output_tokens) == (bill.input_tokens, bill.output_tokens)
    assert event.total_token_count == bill.total_tokens
    assert (usage.cache_read_tokens or 0) == (bill.cache_read_tokens or 0)
    assert (usage.cache_write_tokens or 0) == (bill.cache_write_tokens or 0)


@pytest.mark.parametrize(("integration", "style", "condition"), CELLS)
def test_each_call_is_one_event_with_its_bill(
    integration: Integration,
    style: str,
    condition: str,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """One event a call, equal to the bill; where nothing is said, what is said is counted."""
    model = model_of(integration, provider, style, condition)
    provider.script(CONDITIONS[condition])
    STYLES[style](model, config_of(token_counter), runner.run)
    [call] = provider.settle()
    [event] = token_counter.llm_token_counts
    assert token_counter.failed_calls == []
    assert event.model == call.model
    assert event.provider == integration.provider_here
    if condition == "silent":
        assert event.source in {"counted", "estimated"}
        assert 1 < event.prompt_token_count < 60
        assert 3 < event.completion_token_count < 12
    else:
        assert call.billed is not None
        matches(event, call.billed)
        assert token_counter.input_tokens == call.billed.input_tokens
        assert token_counter.output_tokens == call.billed.output_tokens
    assert "capital of Australia" in event.prompt
    assert event.completion == CONDITIONS[condition].text


@every_integration
@pytest.mark.parametrize("style", STYLES)
def test_a_refused_call_is_a_failed_one_of_zero_tokens(
    integration: Integration,
    style: str,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """It's in `failed_calls`, once, and nowhere else."""
    model = model_of(integration, provider, style, "error")
    provider.script(Reply(status=400))
    with pytest.raises(Exception, match="400"):
        STYLES[style](model, config_of(token_counter), runner.run)
    assert len(provider.settle()) == 1
    assert token_counter.llm_token_counts == []
    [event] = token_counter.failed_calls
    assert (event.status, event.total_token_count) == ("failed", 0)
    assert event.provider == integration.provider_here


@every_integration
@pytest.mark.parametrize("style", LEAVING)
def test_an_abandoned_stream_is_one_event(
    integration: Integration,
    style: str,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """What was read of the answer is counted, and of the input what was seen."""
    model = model_of(integration, provider, style, "abandoned")
    provider.script(Reply(text="Canberra is the capital, and has been since 1913."))
    LEAVING[style](model, config_of(token_counter), runner.run)
    [call] = provider.settle()
    [event] = token_counter.llm_token_counts
    assert event.status == "abandoned"
    assert event.completion_source != "reported"
    assert event.completion
    assert call.billed is not None
    assert 0 < event.completion_token_count < (call.billed.output_tokens or 0)
    assert event.prompt_source != "reported", UNSEEN[integration.name]
    assert event.prompt_token_count > 0


@needs("langchain_aws")
@pytest.mark.parametrize("style", LEAVING)
def test_what_the_first_chunk_tells_is_kept(
    style: str,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """Titan tells the input there, so it's known though the stream is left."""
    model = bedrock_llm(provider.url(), TITAN, streaming=True)
    LEAVING[style](model, config_of(token_counter), runner.run)
    [call], [event] = provider.settle(), token_counter.llm_token_counts
    assert call.billed is not None
    assert (event.status, event.prompt_source) == ("abandoned", "reported")
    assert event.prompt_token_count == call.billed.input_tokens


@every_integration
@pytest.mark.parametrize("style", ["stream", "astream"])
def test_a_cut_stream_is_one_failed_event_with_what_came(
    integration: Integration,
    style: str,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """What was billed before the connection broke is counted among the calls."""
    model = model_of(integration, provider, style, "cut")
    provider.script(Reply(cut_after=2))
    with pytest.raises(Exception, match=r"(?i)response|connection|peer"):
        STYLES[style](model, config_of(token_counter), runner.run)
    [event] = token_counter.llm_token_counts
    assert event.status == "failed"
    assert event.completion
    assert event.prompt_token_count > 0


@needs("langchain_openai")
def test_openai_tells_a_stream_nothing_unless_asked(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """By default a stream from another base URL is counted, not reported."""
    model = chat_openai(provider.url(), stream_usage=None)
    list(model.stream("hello world", config_of(token_counter)))
    [event] = token_counter.llm_token_counts
    assert event.source == "counted"
    assert (event.prompt_token_count, event.completion_token_count) == (9, 6)


@needs("langchain_aws")
@pytest.mark.parametrize("place", RAISES)
def test_an_answer_that_breaks_its_integration_may_have_been_billed(
    place: tuple[str, str],
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
) -> None:
    """What the integration raises hides the answer: the prompt counts, and is marked."""
    integration = next(one for one in INTEGRATIONS if one.name == place[0])
    provider.script(CONDITIONS[place[1]])
    with pytest.raises(KeyError):
        integration.model(provider, "invoke").invoke("hi", config_of(token_counter))
    [event] = token_counter.llm_token_counts
    assert (event.status, event.completion_token_count) == ("unanswered", 0)
    assert event.prompt_token_count > 0
    assert event.prompt_source != "reported"
    assert token_counter.failed_calls == []

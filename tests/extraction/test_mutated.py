"""Usages that were tampered with never pass for the bill, unless they still say what it is."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.callbacks import CBEventType, EventPayload

from llama_token_tracker import TokenCountingHandler, Usage

Body: TypeAlias = dict[str, Any]
Mutate: TypeAlias = Callable[[Body, Any], None]

GPT, CLAUDE, ON_AWS = "gpt-4o", "claude-3-5-sonnet-20241022", "amazon.nova-pro-v1:0"
COUNTS = st.integers(1, 100_000)


@st.composite
def bills(draw: Any) -> Usage:
    """What was billed: some of the input from the cache, some of the output thought."""
    fresh, read, said, thought = (draw(COUNTS) for _ in range(4))
    return Usage(
        input_tokens=fresh + read,
        cache_read_tokens=read,
        output_tokens=said + thought,
        reasoning_tokens=thought,
    )


def _chat(bill: Usage) -> Body:
    return {
        "prompt_tokens": bill.input_tokens,
        "completion_tokens": bill.output_tokens,
        "total_tokens": bill.total_tokens,
        "prompt_tokens_details": {"cached_tokens": bill.cache_read_tokens},
        "completion_tokens_details": {"reasoning_tokens": bill.reasoning_tokens},
    }


def _responses(bill: Usage) -> Body:
    return {
        "input_tokens": bill.input_tokens,
        "output_tokens": bill.output_tokens,
        "total_tokens": bill.total_tokens,
        "input_tokens_details": {"cached_tokens": bill.cache_read_tokens},
        "output_tokens_details": {"reasoning_tokens": bill.reasoning_tokens},
    }


def _messages(bill: Usage) -> Body:
    return {
        "input_tokens": bill.uncached_input_tokens,
        "cache_read_input_tokens": bill.cache_read_tokens,
        "output_tokens": bill.output_tokens,
    }


def _converse(bill: Usage) -> Body:
    return {
        "inputTokens": bill.uncached_input_tokens,
        "cacheReadInputTokens": bill.cache_read_tokens,
        "outputTokens": bill.output_tokens,
        "totalTokens": bill.total_tokens,
    }


WAYS = {
    "chat": (_chat, GPT, "openai_llm"),
    "responses": (_responses, GPT, "openai_llm"),
    "messages": (_messages, CLAUDE, "Anthropic_LLM"),
    "converse": (_converse, ON_AWS, "Bedrock_Converse_LLM"),
}


# --- what may happen to a usage ------------------------------------------------------------


def _leaves(body: Body) -> list[tuple[Body, str]]:
    found: list[tuple[Body, str]] = []
    for key, value in body.items():
        found += _leaves(value) if isinstance(value, dict) else [(body, key)]
    return found


def add_unknown(body: Body, data: Any) -> None:
    """Bill something under a key that nobody knows."""
    inner = [body, *(value for value in body.values() if isinstance(value, dict))]
    name = data.draw(st.sampled_from(["tool_tokens", "memoryTokens", "agent_token_count"]))
    data.draw(st.sampled_from(inner))[name] = data.draw(COUNTS)


def add_step(body: Body, data: Any) -> None:
    """Bill a step apart from the sums."""
    step = {"type": data.draw(st.sampled_from(["advisor", "tool"])), "input_tokens": 5}
    body["steps"] = [step]


def zero(body: Body, data: Any) -> None:
    """Say nothing, by zeros."""
    for holder, key in _leaves(body):
        holder[key] = 0


def contradict(body: Body, data: Any) -> None:
    """Let a part exceed its whole, with or without a total."""
    details = [value for value in body.values() if isinstance(value, dict)]
    for holder, key in [leaf for inner in details for leaf in _leaves(inner)]:
        holder[key] += sum(value for value in body.values() if isinstance(value, int))


def lie(body: Body, data: Any) -> None:
    """State another total, where there is one."""
    amount = data.draw(COUNTS)
    # That would be another dialect, which leaves this part out of its sums.
    assume(all(holder[key] != amount for holder, key in _leaves(body)))
    for key in body.keys() & {"total_tokens", "totalTokens"}:
        body[key] += amount


def leave_out(body: Body, data: Any) -> None:
    """Leave out a side."""
    sides = [key for key, value in body.items() if isinstance(value, int) and "otal" not in key]
    del body[data.draw(st.sampled_from([key for key in sides if "ache" not in key]))]


MUTATIONS: list[Mutate] = [add_unknown, add_step, zero, contradict, lie, leave_out]


def _event(usage: Body, model: str, kind: str) -> Any:
    handler = TokenCountingHandler()
    message = ChatMessage(role="assistant", content="some answer")
    about = {"class_name": kind, "model": model}
    asked = [ChatMessage(role="user", content="some question")]
    start = {EventPayload.MESSAGES: asked, EventPayload.SERIALIZED: about}
    handler.on_event_start(CBEventType.LLM, start, "1")
    told = {EventPayload.RESPONSE: ChatResponse(message=message, raw={"usage": usage})}
    handler.on_event_end(CBEventType.LLM, told, "1")
    [event] = handler.llm_token_counts
    return event


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None)
@given(bill=bills(), data=st.data())
def test_what_was_tampered_with_never_passes_for_the_bill(way: str, bill: Usage, data: Any):
    """`reported` and whole is only what equals the bill."""
    made, model, kind = WAYS[way]
    body = made(bill)
    untouched = _event(made(bill), model, kind)
    assert untouched.source == "reported"
    assert untouched.cost is not None
    assert untouched.cost.is_whole
    mutate = data.draw(st.sampled_from(MUTATIONS))
    mutate(body, data)
    event = _event(body, model, kind)
    if event.source == "reported" and event.cost is not None and event.cost.is_whole:
        # What was taken away may still follow from the rest; what was added may not.
        assert mutate in (lie, contradict, leave_out, zero) or body == made(bill)
        counts = (event.prompt_token_count, event.completion_token_count)
        assert counts == (bill.input_tokens, bill.output_tokens)

"""Usages that were tampered with never pass for the bill, unless they still say what it is."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.callbacks import CBEventType, EventPayload

from llama_token_tracker import TokenCountingHandler, Usage
from llama_token_tracker.extraction import extract_reported

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


def _event(usage: Body, model: str, kind: str, served: str | None = None) -> Any:
    handler = TokenCountingHandler()
    message = ChatMessage(role="assistant", content="some answer")
    about = {"class_name": kind, "model": model}
    asked = [ChatMessage(role="user", content="some question")]
    start = {EventPayload.MESSAGES: asked, EventPayload.SERIALIZED: about}
    handler.on_event_start(CBEventType.LLM, start, "1")
    raw = {"usage": usage} | ({} if served is None else {"model": served})
    told = {EventPayload.RESPONSE: ChatResponse(message=message, raw=raw)}
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


SERVED = ("gpt-4o-mini-2024-07-18", "gpt-4.1", "o3", "claude-3-haiku-20240307", "acme-tuned-7b")


@pytest.mark.parametrize("way", ["chat", "responses", "messages"])
@settings(deadline=None)
@given(bill=bills(), served=st.sampled_from(SERVED))
def test_another_model_in_the_answer_is_priced_or_takes_wholeness_away(
    way: str, bill: Usage, served: str
):
    """What it would have cost if that one had been asked for is the bill."""
    made, model, kind = WAYS[way]
    event = _event(made(bill), model, kind, served)
    if event.cost is not None and event.cost.is_whole:
        asked_for = _event(made(bill), served, kind)
        assert asked_for.cost.is_whole
        assert event.cost_usd == asked_for.cost_usd
    else:
        assert served in ("acme-tuned-7b", "claude-3-haiku-20240307") or way == "messages"


@pytest.mark.parametrize("way", WAYS)
@settings(deadline=None)
@given(bill=bills(), shares=st.lists(st.integers(0, 100), min_size=1, max_size=6), data=st.data())
def test_a_stream_says_the_bill_if_its_figures_only_grow(
    way: str, bill: Usage, shares: list[int], data: Any
):
    """In any other order what its last chunk says is marked, unless that is the bill."""
    made = WAYS[way][0]
    grown = [_so_far(bill, share) for share in sorted(shares)]
    bodies = [{"usage": made(usage)} for usage in (*grown, bill)]
    sure = extract_reported(bodies)
    assert _sums(sure.usage) == _sums(bill)
    assert (sure.input_source, sure.output_source) == ("reported", "reported")
    shuffled = extract_reported(data.draw(st.permutations(bodies)))
    if "estimated" not in (shuffled.input_source, shuffled.output_source):
        assert _sums(shuffled.usage) == _sums(bill)


def _sums(usage: Usage | None) -> tuple[int | None, ...]:
    assert usage is not None
    return usage.input_tokens, usage.cache_read_tokens, usage.output_tokens


def _so_far(bill: Usage, percent: int) -> Usage:
    """What a stream has used after such a part of its output."""
    said = max((bill.output_tokens or 0) * percent // 100, 1)
    thought = min(bill.reasoning_tokens or 0, said)
    return Usage.of({**bill.reported(), "output_tokens": said, "reasoning_tokens": thought})

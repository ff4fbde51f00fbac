"""What a cell of the matrix is held to, and which cells can't be held to it, with the reason.

A cell is an integration, a style and a condition. Everywhere else the event must carry exactly
what the provider billed.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import pytest

from llama_token_tracker import Usage
from llama_token_tracker.testing import LoopbackProvider, Reply

from .clients import Integration, release
from .styles import ENGINES, PLAIN, STRUCTURED, TOOLS, Run, Style

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

    from llama_token_tracker import TokenCountingEvent, TokenCountingHandler

__all__ = [
    "INVISIBLE",
    "UNHEARD",
    "check_totals",
    "exercise",
    "expect",
    "matches",
    "replies_for",
    "skip_if_impossible",
    "visible",
]

CONDITIONS = ("normal", "cache", "reasoning", "empty", "special", "abandoned")
STYLES = [*PLAIN, *TOOLS, *STRUCTURED, *ENGINES]
_STREAMED = [style.name for style in STYLES if style.streamed]

Cell = tuple[str, str, str]

INVISIBLE: dict[Cell, str] = {}
"""Cells whose figures no observer inside LlamaIndex can see; there an event is an estimate."""

INVISIBLE |= dict.fromkeys(
    product(["openai-default"], _STREAMED, CONDITIONS),
    "OpenAI puts no usage on the wire unless a stream is asked for it",
)
if release("llama-index-llms-anthropic") < (0, 9):
    INVISIBLE |= dict.fromkeys(
        product(["anthropic"], _STREAMED, CONDITIONS),
        "llms-anthropic before 0.9 drops the stream's message_start and message_delta",
    )
INVISIBLE |= dict.fromkeys(
    product(["gemini"], _STREAMED, ["empty"]),
    "llms-google-genai drops chunks without parts, and with them the only usage",
)
_ANNOUNCED_ABOVE = "the integration calls its SDK directly; only the call above it is announced"
INVISIBLE |= dict.fromkeys(
    product(
        ["gemini", "openai-responses"],
        [
            "structured_predict",
            "astructured_predict",
            "structured.complete",
            "structured.chat",
            "structured.achat",
        ],
        CONDITIONS,
    ),
    _ANNOUNCED_ABOVE,
)
INVISIBLE |= dict.fromkeys(
    product(["gemini"], ["structured.stream_chat"], CONDITIONS), _ANNOUNCED_ABOVE
)

UNHEARD: dict[tuple[str, str], str] = {
    ("gemini", "stream_structured_predict"): (
        "llms-google-genai opens a stream of its SDK's own, and nobody hears when it's read"
    ),
}
"""Styles in which an integration calls its provider without telling anybody."""


def visible(integration: Integration, style: Style, condition: str = "normal") -> bool:
    """Whether an observer inside LlamaIndex can see this cell's figures."""
    return (integration.name, style.name, condition) not in INVISIBLE


def skip_if_impossible(integration: Integration, style: Style) -> None:
    """Skip a style that the integration itself can't do; other tests see to how it fails."""
    integration.require()
    for name in (style.rests_on, style.name):
        if name in integration.broken:
            pytest.skip(integration.broken[name])
    if not integration.tools and style in TOOLS:
        pytest.skip(f"{integration.name} calls no functions")


def replies_for(integration: Integration, style: Style) -> tuple[Reply, ...]:
    """Give the replies that bring a style to its end with this integration."""
    without = style.replies_without_tools
    return without if without and not integration.tools else style.replies


def exercise(
    integration: Integration, style: Style, llm: LLM, provider: LoopbackProvider, run: Run
) -> object:
    """Run a style and make sure that it really called the provider, as often as it should."""
    result = style.run(llm, run)
    calls = provider.settle()
    assert len(calls) == len(replies_for(integration, style)), calls
    assert len(provider.billed) == len(calls)
    return result


def expect(
    handler: TokenCountingHandler, provider: LoopbackProvider, *, reported: bool
) -> list[TokenCountingEvent]:
    """Hold the events to the calls: one for each, with its figures where they're visible."""
    events, bills = handler.llm_token_counts, provider.billed
    assert len(events) == len(bills), f"{len(events)} events for {len(bills)} calls: {events}"
    assert bills, "the provider wasn't called"
    for event, bill in zip(events, bills, strict=True):
        if reported:
            matches(event, bill)
        else:
            assert event.source in {"counted", "estimated"}, event
            assert event.prompt_token_count > 0, event
    assert handler.failed_calls == []
    check_totals(handler)
    return events


def matches(event: TokenCountingEvent, bill: Usage, status: str = "complete") -> None:
    """Hold one event to one bill, bucket by bucket."""
    usage = event.usage
    assert event.source == "reported", event
    assert event.status == status, event
    assert event.prompt_token_count == bill.input_tokens
    assert event.completion_token_count == bill.output_tokens
    assert event.total_token_count == bill.total_tokens
    assert (usage.input_tokens, usage.output_tokens) == (bill.input_tokens, bill.output_tokens)
    for seen, billed in (
        (usage.cache_read_tokens, bill.cache_read_tokens),
        (usage.cache_write_tokens, bill.cache_write_tokens),
        (usage.reasoning_tokens, bill.reasoning_tokens),
    ):
        # Some providers write a zero where others write nothing.
        assert seen == billed or (billed is None and seen == 0), (usage, bill)


def check_totals(handler: TokenCountingHandler) -> None:
    """Hold the running totals to the events."""
    events = handler.llm_token_counts
    assert handler.prompt_llm_token_count == sum(e.prompt_token_count for e in events)
    assert handler.completion_llm_token_count == sum(e.completion_token_count for e in events)
    assert handler.total_llm_token_count == sum(e.total_token_count for e in events)

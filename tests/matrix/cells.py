"""Which cells the matrix has, and what each is held to.

A cell is an integration, a style and a condition. Tables tell, with the reason, which cells there
can't be, which ones aren't in this environment, and of which ones nobody can see the figures. In
all others the event must carry exactly what the provider billed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING

import pytest

from llama_token_tracker import Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.needs import left_out_if, needs, release

from .clients import LLMS, Integration
from .styles import ENGINES, PLAIN, STRUCTURED, TOOLS, Run, Style

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet
    from llama_index.core.llms.llm import LLM

    from llama_token_tracker import TokenCountingEvent, TokenCountingHandler

__all__ = [
    "CELL",
    "IMPOSSIBLE",
    "INVISIBLE",
    "OUTDATED",
    "broken_cells",
    "cells",
    "check_totals",
    "exercise",
    "expect",
    "matches",
    "replies_for",
    "visible",
]

CONDITIONS = (
    "normal",
    "cache",
    "reasoning",
    "silent",
    "empty",
    "special",
    "unreachable",
    "abandoned",
)
STYLES = [*PLAIN, *TOOLS, *STRUCTURED, *ENGINES]
_STREAMED = [style.name for style in STYLES if style.streamed]
_WHOLE = [style.name for style in STYLES if not style.streamed]

Cell = tuple[str, str, str]

IMPOSSIBLE: dict[Cell, str] = {}
"""Cells that no environment has, beside the styles that an integration can't do at all."""

IMPOSSIBLE |= dict.fromkeys(
    product(["openai-responses"], _WHOLE, ["silent"]),
    "llms-openai reads usage.output_tokens_details of every whole Response",
)
IMPOSSIBLE |= dict.fromkeys(
    product(["gemini"], ["stream_complete", "astream_complete"], ["empty"]),
    "no chunk comes through, and LlamaIndex itself raises at such a stream's end",
)
IMPOSSIBLE |= dict.fromkeys(
    product(["gemini"], [style.name for style in PLAIN if style.is_async], ["unreachable"]),
    "google-genai's asynchronous client waits for seconds before it gives up",
)

OUTDATED: dict[Cell, str] = {}
"""Cells that the other environment has, whose integration is newer."""

if release("llama-index-llms-anthropic") < (0, 9):
    OUTDATED |= dict.fromkeys(
        product(["anthropic"], [s.name for s in PLAIN if s.name.endswith("complete")], ["empty"]),
        "llms-anthropic before 0.9 turns an empty answer into a ValidationError",
    )

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
    product(
        ["gemini"],
        ["structured.stream_chat", "stream_structured_predict", "astream_structured_predict"],
        CONDITIONS,
    ),
    _ANNOUNCED_ABOVE,
)


def visible(integration: Integration, style: Style, condition: str = "normal") -> bool:
    """Whether an observer inside LlamaIndex can see this cell's figures."""
    return (integration.name, style.name, condition) not in INVISIBLE


CELL = ("integration", "style")


def cells(
    *groups: Iterable[Style],
    condition: str = "normal",
    among: Sequence[Integration] = LLMS,
    more: Sequence[tuple[str, object]] = (),
) -> list[ParameterSet]:
    """The parameters of a test that is run in each cell of a condition.

    Args:
        groups: The styles.
        condition: What the provider does.
        among: The integrations.
        more: Parameters beside integration and style, each with what it's called in a test's id.
    """
    return [
        _cell(integration, style, condition, more)
        for integration, style in product(among, [style for group in groups for style in group])
        if _is_possible(integration, style, condition)
    ]


def broken_cells(*groups: Iterable[Style]) -> list[ParameterSet]:
    """The parameters of a test of the styles that fail inside an integration itself."""
    return [
        _cell(integration, style, "normal", ())
        for integration, style in product(LLMS, [style for group in groups for style in group])
        if style.name in integration.broken
    ]


def _cell(
    integration: Integration, style: Style, condition: str, more: Sequence[tuple[str, object]]
) -> ParameterSet:
    reason = OUTDATED.get((integration.name, style.name, condition))
    return pytest.param(
        integration,
        style,
        *(value for _, value in more),
        id="-".join([*(name for name, _ in more), style.name, integration.name]),
        marks=[needs(integration.module), left_out_if(reason is not None, reason or "")],
    )


def _is_possible(integration: Integration, style: Style, condition: str) -> bool:
    if {style.name, style.rests_on} & integration.broken.keys():
        return False
    if not integration.tools and style in TOOLS:
        return False
    if not {"cache": integration.cache, "reasoning": integration.reasoning}.get(condition, True):
        return False
    return (integration.name, style.name, condition) not in IMPOSSIBLE


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

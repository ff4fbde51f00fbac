"""Agents in agents: what a tool asks counts in the scope that the outermost agent was run in."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from llama_index.core import Document, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.callbacks import CallbackManager
from llama_index.core.tools import FunctionTool, QueryEngineTool

from llama_token_tracker.testing import LoopbackProvider, Reply, ToolCall

from .clients import LLMS
from .styles import Run

if TYPE_CHECKING:
    from llama_token_tracker import TokenCountingHandler

OPENAI = next(integration for integration in LLMS if integration.name == "openai")


def calls(tool: str, **arguments: Any) -> Reply:
    """An answer that asks for a tool."""
    return Reply(text="", tool_calls=(ToolCall(tool, arguments),))


def nested(llm: Any) -> FunctionAgent:
    """An agent that asks another, which asks a query engine."""
    engine = SummaryIndex.from_documents([Document(text="A tally is a record.")]).as_query_engine(
        llm=llm
    )
    looks_up = QueryEngineTool.from_defaults(engine, name="look_up", description="Looks it up.")
    inner = FunctionAgent(tools=[looks_up], llm=llm, timeout=30)

    async def ask_other(question: str) -> str:
        """Ask another agent."""
        return str(await inner.run(question))

    return FunctionAgent(tools=[FunctionTool.from_defaults(ask_other)], llm=llm, timeout=30)


def test_nested_agents_count_in_one_scope(
    provider: LoopbackProvider, handler: TokenCountingHandler, manager: CallbackManager, run: Run
):
    """Two agents and an engine are five calls, each with its bill, in the scope of each run."""
    llm = OPENAI.llm(provider, manager)
    provider.script(
        calls("ask_other", question="what is a tally?"), calls("look_up", input="tally"), Reply()
    )

    async def one() -> Any:
        with handler.scope("request") as request:
            await nested(llm).run("What is a tally?")
        return request

    request = run(one())
    billed = provider.billed
    assert len(billed) == 5
    found = [(e.prompt_token_count, e.completion_token_count) for e in request.llm_token_counts]
    assert sorted(found) == sorted((bill.input_tokens, bill.output_tokens) for bill in billed)
    assert {event.scope for event in handler.llm_token_counts} == {"request"}


def test_agents_that_run_at_once_do_not_mix(
    provider: LoopbackProvider, handler: TokenCountingHandler, manager: CallbackManager, run: Run
):
    """Each run of an agent has the bills of its own questions."""
    llm = OPENAI.llm(provider, manager)

    async def one(number: int) -> Any:
        with handler.scope("request", number=number) as request:
            await FunctionAgent(tools=[], llm=llm, timeout=30).run(f"This is request {number},")
        return request

    async def main() -> list[Any]:
        return await asyncio.gather(*map(one, range(8)))

    for number, request in enumerate(run(main())):
        [bill] = [c.billed for c in provider.settle() if f"request {number}," in str(c.body)]
        assert bill is not None
        assert request.total_llm_token_count == bill.total_tokens

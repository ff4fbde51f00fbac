"""However LangChain wraps, repeats and bundles calls: one event for each HTTP call."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate
from langchain_core.runnables import RunnableParallel

from llama_token_tracker import Usage
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.testing import LoopbackProvider, Reply, ToolCall
from tests.langchain.integrations import (
    CLAUDE_INSTANT,
    TITAN,
    bedrock_llm,
    chat_anthropic,
    chat_openai,
    converse,
    gathered,
)
from tests.needs import needs

pytestmark = needs("langchain_anthropic", "langchain_aws", "langchain_openai", "langgraph")

PROMPTS = ["one", "two", "three", "four"]


def figures(token_counter: TokenCountingCallbackHandler) -> list[tuple[int, int]]:
    """What was counted, call by call."""
    return [
        (e.prompt_token_count, e.completion_token_count) for e in token_counter.llm_token_counts
    ]


def bills(provider: LoopbackProvider) -> list[tuple[int, int]]:
    """What was billed, call by call."""
    provider.settle()
    return [(bill.input_tokens or 0, bill.output_tokens or 0) for bill in provider.billed]


def config_of(token_counter: TokenCountingCallbackHandler) -> dict[str, Any]:
    """What a user passes along."""
    return {"callbacks": [token_counter]}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_batch_of_completions_keeps_prompts_and_bills_together(
    streaming: bool, provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """BedrockLLM tells all answers under the first id, and then all of them again."""
    model = bedrock_llm(provider.url(), TITAN, streaming=streaming)
    model.batch(PROMPTS, config_of(token_counter))
    assert figures(token_counter) == bills(provider)
    assert [event.prompt for event in token_counter.llm_token_counts] == PROMPTS
    assert len({event.event_id for event in token_counter.llm_token_counts}) == 4


def test_a_batch_in_an_event_loop(
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """`abatch` is told of in the same way."""
    model = bedrock_llm(provider.url(), TITAN, streaming=True)
    runner.run(model.abatch(PROMPTS, config_of(token_counter)))
    assert figures(token_counter) == bills(provider)
    assert [event.prompt for event in token_counter.llm_token_counts] == PROMPTS


def test_a_batch_that_fails_half_way(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """What came before counts, what was refused failed, what wasn't sent is no call."""
    provider.script(Reply(), Reply(), Reply(status=400))
    with pytest.raises(Exception, match="400"):
        bedrock_llm(provider.url()).batch(PROMPTS, config_of(token_counter))
    assert len(provider.calls) == 3
    assert figures(token_counter) == bills(provider)
    [failed] = token_counter.failed_calls
    assert failed.prompt == "three"


@pytest.mark.parametrize("build", [chat_anthropic, converse, chat_openai])
def test_batches_of_chats(
    build: Any,
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """`batch` uses threads and `abatch` tasks; every call has its bill."""
    model, config = build(provider.url()), config_of(token_counter)
    model.batch(PROMPTS, config)
    runner.run(model.abatch(PROMPTS, config))
    assert sorted(figures(token_counter)) == sorted(bills(provider))
    assert len(provider.calls) == 8


def test_a_retry_is_a_call_of_its_own(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """The refused attempts failed, and the last one counts."""
    provider.script(Reply(status=500), Reply(status=500), Reply())
    model = bedrock_llm(provider.url()).with_retry(
        stop_after_attempt=3, wait_exponential_jitter=False
    )
    model.invoke("hi", config_of(token_counter))
    assert figures(token_counter) == bills(provider)
    assert len(token_counter.failed_calls) == 2


def test_a_fallback_is_a_call_of_its_own(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """Each is counted with its own model."""
    provider.script(Reply(status=400), Reply())
    model = chat_openai(provider.url()).with_fallbacks([chat_anthropic(provider.url())])
    model.invoke("hi", config_of(token_counter))
    assert figures(token_counter) == bills(provider)
    assert [event.model for event in token_counter.llm_token_counts] == ["claude-3-haiku-20240307"]
    assert [event.model for event in token_counter.failed_calls] == ["gpt-4o-mini"]


def test_parallel_and_nested_chains(
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """A chain within a chain within two branches: three calls each time."""
    template = ChatPromptTemplate.from_template("tell me about {subject}")
    short = template | converse(provider.url())
    chain = RunnableParallel(
        a=short,
        b=template | chat_anthropic(provider.url()) | (lambda m: {"subject": m.content}) | short,
    )
    chain.invoke({"subject": "ai"}, config_of(token_counter))
    runner.run(chain.ainvoke({"subject": "ai"}, config_of(token_counter)))
    assert len(provider.calls) == 6
    assert sorted(figures(token_counter)) == sorted(bills(provider))


def test_a_chain_that_streams(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """A chain passes on the model's chunks."""
    chain = PromptTemplate.from_template("about {subject}") | chat_anthropic(provider.url())
    assert len(list(chain.stream({"subject": "ai"}, config_of(token_counter)))) > 2
    assert figures(token_counter) == bills(provider)


def test_a_graph(
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """LangGraph's agent calls the model, the tool and the model; its nodes become a tag."""
    from langgraph import graph as graphs
    from langgraph import prebuilt

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    model = chat_anthropic(provider.url()).bind_tools([add])
    graph = graphs.StateGraph(graphs.MessagesState)
    graph.add_node("think", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", prebuilt.ToolNode([add]))
    graph.add_edge(graphs.START, "think")
    graph.add_conditional_edges("think", prebuilt.tools_condition)
    graph.add_edge("tools", "think")
    agent = graph.compile()
    question = {"messages": [("user", "20 + 22?")]}
    script = (Reply(text="", tool_calls=(ToolCall("add", {"a": 20, "b": 22}),)), Reply())
    config = config_of(token_counter) | {"metadata": {"user": "ada"}}
    provider.script(*script)
    agent.invoke(question, config)
    provider.script(*script)
    list(agent.stream(question, config, stream_mode="messages"))
    provider.script(*script)
    runner.run(agent.ainvoke(question, config))
    assert len(provider.calls) == 6
    assert figures(token_counter) == bills(provider)
    assert [*token_counter.by("langgraph_node")] == ["think"]
    assert token_counter.by("user")["ada"].calls == 6
    assert set(token_counter.llm_token_counts[0].tags) == {"langgraph_node", "user"}


def test_a_stream_that_is_dropped(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """Nobody closes it, so the garbage collector does; one that nobody reads is no call."""
    model, config = converse(provider.url()), config_of(token_counter)
    stream = model.stream("hi", config)
    next(stream)
    del stream
    model.stream("never read", config)
    gc.collect()
    assert len(provider.calls) == 1
    assert [event.status for event in token_counter.llm_token_counts] == ["abandoned"]


def test_a_cancelled_task(
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """Who waits no longer abandons the call: its prompt was sent, and costs."""
    provider.script(Reply(delay_s=5))

    async def give_up() -> None:
        call = chat_anthropic(provider.url()).ainvoke("hello world", config_of(token_counter))
        with suppress(TimeoutError):
            await asyncio.wait_for(call, 0.2)
        # LangChain tells nothing of it, and its pieces are dropped one by one.
        await asyncio.sleep(0.1)
        gc.collect()

    runner.run(give_up())
    [event] = token_counter.llm_token_counts
    assert (event.status, event.completion_token_count) == ("abandoned", 0)
    assert event.prompt_token_count > 1


def test_the_constructor_the_call_and_with_at_once(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """A handler that is given in three places counts a call once."""
    model = bedrock_llm(provider.url(), CLAUDE_INSTANT).model_copy(
        update={"callbacks": [token_counter]}
    )
    with token_counter:
        model.invoke("hi", {"callbacks": [token_counter, token_counter]})
        model.batch(PROMPTS, {"callbacks": [token_counter, token_counter]})
    assert figures(token_counter) == bills(provider)
    assert len(provider.calls) == 5


def test_many_calls_at_once_in_scopes(
    provider: LoopbackProvider,
    token_counter: TokenCountingCallbackHandler,
    runner: asyncio.Runner,
) -> None:
    """Each of twenty tasks sees its own call, and they add up."""
    model = chat_anthropic(provider.url())

    async def ask(name: str) -> int:
        with token_counter.scope(name) as scope:
            await model.ainvoke(name, config_of(token_counter))
        return scope.total_llm_token_count

    totals = runner.run(gathered(*[ask(f"task {number}") for number in range(20)]))
    assert sorted(totals) == sorted(bill.total_tokens for bill in provider.billed)
    assert token_counter.total_tokens == sum(totals)


def test_a_stream_belongs_to_the_scope_it_starts_in(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """Though it's drained outside, in a tool's thread or later."""
    provider.script(Reply(usage=Usage(input_tokens=100, output_tokens=20)))
    with token_counter.scope("request", user="ada") as request:
        stream = chat_anthropic(provider.url()).stream("hi", config_of(token_counter))
        next(stream)
    list(stream)
    assert request.total_llm_token_count == 120
    assert token_counter.llm_token_counts[0].tags == {"user": "ada"}


def test_a_guardrail_is_told_as_an_error_of_a_call_that_goes_on(
    provider: LoopbackProvider, token_counter: TokenCountingCallbackHandler
) -> None:
    """Within the call langchain-aws tells of it as an error; the bill comes after that."""
    provider.script(Reply("I can't say.", guardrail=True))
    said = bedrock_llm(provider.url(), guarded=True).invoke("hi", config_of(token_counter))
    assert said == "I can't say."
    assert figures(token_counter) == bills(provider)
    assert token_counter.failed_calls == []

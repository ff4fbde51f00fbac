"""The ways in which LlamaIndex calls a model, from `complete()` to an agent.

A style says what to run, what the provider has to answer for it to come to an end, and on which
of the eight plain methods it rests, since an integration that can't do one can't do the other.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from llama_index.core import Document, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llama_token_tracker.testing import Reply, ToolCall

__all__ = ["ENGINES", "MESSAGES", "PLAIN", "PROMPT", "STREAMS", "STRUCTURED", "TOOLS", "Style"]

PROMPT = "What is the capital of Australia?"
MESSAGES = [ChatMessage(role="user", content=PROMPT)]

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end in the tests' one event loop."""


class Fact(BaseModel):
    """A fact about a country."""

    country: str
    capital: str


FACT = {"country": "Australia", "capital": "Canberra"}
SAID = Reply()
ADDS = Reply(text="", tool_calls=(ToolCall("add", {"a": 20, "b": 22}),))
# Some integrations ask for JSON text and some for a tool call: this answers both.
STATES = Reply(text=json.dumps(FACT), tool_calls=(ToolCall("Fact", FACT),))
STATES_IN_TEXT = Reply(text=json.dumps(FACT))


@dataclass(frozen=True, slots=True)
class Style:
    """One way of calling a model.

    Attributes:
        name: What a test is called by.
        rests_on: The plain method that does the work.
        run: Runs it to its end.
        replies: What the provider has to answer, one reply a call.
        replies_without_tools: The same for a model that calls no functions.
    """

    name: str
    rests_on: str
    run: Callable[[LLM, Run], object]
    replies: tuple[Reply, ...] = (SAID,)
    replies_without_tools: tuple[Reply, ...] = ()

    @property
    def streamed(self) -> bool:
        """Whether the provider is asked for a stream."""
        return "stream" in self.rests_on

    @property
    def is_async(self) -> bool:
        """Whether the plain method that does the work is a coroutine."""
        return self.rests_on.startswith("a")

    def __str__(self) -> str:
        """Name the style in a test's id."""
        return self.name


async def drain(stream: AsyncIterator[Any] | Awaitable[AsyncIterator[Any]]) -> list[Any]:
    """Read an asynchronous stream to its end."""
    chunks = await stream if isinstance(stream, Awaitable) else stream
    return [chunk async for chunk in chunks]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def _tool() -> FunctionTool:
    return FunctionTool.from_defaults(add)


def template() -> PromptTemplate:
    return PromptTemplate("State a fact about {country}.")


def _agent(llm: LLM, run: Run) -> object:
    async def ask() -> object:
        agent = FunctionAgent(tools=[_tool()], llm=llm, system_prompt="Add with the tool.")
        return await agent.run("What is 20 + 22?")

    return run(ask())


def _query(llm: LLM, run: Run, *, streaming: bool) -> object:
    del run
    index = SummaryIndex.from_documents([Document(text="Canberra is the capital.")])
    response: Any = index.as_query_engine(llm=llm, streaming=streaming).query(PROMPT)
    return "".join(response.response_gen) if streaming else response


def _talk(llm: LLM, run: Run) -> object:
    del run
    return SimpleChatEngine.from_defaults(llm=llm).chat(PROMPT)


def _talk_streaming(llm: LLM, run: Run) -> object:
    del run
    # A thread of the engine's own reads the stream; this side reads what it passes on.
    return "".join(SimpleChatEngine.from_defaults(llm=llm).stream_chat(PROMPT).response_gen)


def _talk_streaming_async(llm: LLM, run: Run) -> object:
    async def ask() -> list[str]:
        response = await SimpleChatEngine.from_defaults(llm=llm).astream_chat(PROMPT)
        return [token async for token in response.async_response_gen()]

    return run(ask())


PLAIN = [
    Style("complete", "complete", lambda llm, _: llm.complete(PROMPT)),
    Style("chat", "chat", lambda llm, _: llm.chat(MESSAGES)),
    Style("acomplete", "acomplete", lambda llm, run: run(llm.acomplete(PROMPT))),
    Style("achat", "achat", lambda llm, run: run(llm.achat(MESSAGES))),
    Style("stream_complete", "stream_complete", lambda llm, _: list(llm.stream_complete(PROMPT))),
    Style("stream_chat", "stream_chat", lambda llm, _: list(llm.stream_chat(MESSAGES))),
    Style(
        "astream_complete",
        "astream_complete",
        lambda llm, run: run(drain(llm.astream_complete(PROMPT))),
    ),
    Style("astream_chat", "astream_chat", lambda llm, run: run(drain(llm.astream_chat(MESSAGES)))),
]

STREAMS = [style for style in PLAIN if style.streamed]


def _with_tools(llm: Any) -> dict[str, Any]:
    del llm
    return {"tools": [_tool()], "user_msg": PROMPT}


TOOLS = [
    Style(
        "chat_with_tools",
        "chat",
        lambda llm, _: llm.chat_with_tools(**_with_tools(llm)),  # type: ignore[attr-defined]
        (ADDS,),
    ),
    Style(
        "achat_with_tools",
        "achat",
        lambda llm, run: run(llm.achat_with_tools(**_with_tools(llm))),  # type: ignore[attr-defined]
        (ADDS,),
    ),
    Style(
        "stream_chat_with_tools",
        "stream_chat",
        lambda llm, _: list(llm.stream_chat_with_tools(**_with_tools(llm))),  # type: ignore[attr-defined]
        (ADDS,),
    ),
    Style(
        "astream_chat_with_tools",
        "astream_chat",
        lambda llm, run: run(drain(llm.astream_chat_with_tools(**_with_tools(llm)))),  # type: ignore[attr-defined]
        (ADDS,),
    ),
    Style(
        "predict_and_call",
        "chat",
        lambda llm, _: llm.predict_and_call([_tool()], PROMPT),
        (ADDS,),
    ),
    Style("agent", "astream_chat", _agent, (ADDS, SAID)),
]

STRUCTURED = [
    Style(
        "structured_predict",
        "chat",
        lambda llm, _: llm.structured_predict(Fact, template(), country="Australia"),
        (STATES,),
        (STATES_IN_TEXT,),
    ),
    Style(
        "astructured_predict",
        "achat",
        lambda llm, run: run(llm.astructured_predict(Fact, template(), country="Australia")),
        (STATES,),
        (STATES_IN_TEXT,),
    ),
    Style(
        "stream_structured_predict",
        "stream_chat",
        lambda llm, _: list(llm.stream_structured_predict(Fact, template(), country="Australia")),
        (STATES,),
        (STATES_IN_TEXT,),
    ),
    Style(
        "astream_structured_predict",
        "astream_chat",
        lambda llm, run: run(
            drain(llm.astream_structured_predict(Fact, template(), country="Australia"))
        ),
        (STATES,),
        (STATES_IN_TEXT,),
    ),
    Style(
        "structured.complete",
        "chat",
        lambda llm, _: llm.as_structured_llm(Fact).complete(PROMPT),
        (STATES,),
        (STATES_IN_TEXT,),
    ),
    Style(
        "structured.chat",
        "chat",
        lambda llm, _: llm.as_structured_llm(Fact).chat(MESSAGES),
        (STATES,),
        (STATES_IN_TEXT,),
    ),
    Style(
        "structured.achat",
        "achat",
        lambda llm, run: run(llm.as_structured_llm(Fact).achat(MESSAGES)),
        (STATES,),
        (STATES_IN_TEXT,),
    ),
    Style(
        "structured.stream_chat",
        "stream_chat",
        lambda llm, _: list(llm.as_structured_llm(Fact).stream_chat(MESSAGES)),
        (STATES,),
        (STATES_IN_TEXT,),
    ),
]

ENGINES = [
    Style("predict", "chat", lambda llm, _: llm.predict(template(), country="Australia")),
    Style(
        "apredict",
        "achat",
        lambda llm, run: run(llm.apredict(template(), country="Australia")),
    ),
    Style(
        "stream",
        "stream_chat",
        lambda llm, _: list(llm.stream(template(), country="Australia")),
    ),
    Style("query", "chat", lambda llm, run: _query(llm, run, streaming=False)),
    Style("query_stream", "stream_chat", lambda llm, run: _query(llm, run, streaming=True)),
    Style("chat_engine", "chat", _talk),
    Style("chat_engine_stream", "stream_chat", _talk_streaming),
    Style("chat_engine_astream", "astream_chat", _talk_streaming_async),
]

"""Very many calls that are open at once, through gather, abatch and as streams.

    python -m tests.bench.open_calls [calls]

Prints, for each way, how many were open, whether tokens, scopes, users and models are exact, how
long it took, and how many bytes an open call takes. Asserts nothing; tests do, with fewer calls.
"""

import asyncio
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from tests.scripted import HELLO, Scripted, answer, reported

USERS = 10
TOKENS = 15


class Gate:
    """Holds calls back until all of them are open."""

    def __init__(self, handler: Any, calls: int) -> None:
        self._handler = handler
        self._left = calls
        self._opened = asyncio.Event()
        self.open = 0
        self.bytes = 0

    async def wait(self) -> None:
        """Wait until the last call is there."""
        self._left -= 1
        if not self._left:
            self.open = self._handler.open_calls
            if tracemalloc.is_tracing():
                package = tracemalloc.Filter(
                    inclusive=True, filename_pattern="*/llama_token_tracker/*"
                )
                traces = tracemalloc.take_snapshot().filter_traces([package]).statistics("filename")
                self.bytes = sum(trace.size for trace in traces) // self.open
            self._opened.set()
        await self._opened.wait()


class Waiting(Scripted):
    """Answers when all calls are open; completions ask chats."""

    gate: Any = None

    @llm_chat_callback()
    async def achat(self, messages: Any, **kwargs: Any) -> ChatResponse:
        """Wait, and say hi."""
        await self.gate.wait()
        return answer(raw=reported(10, 5))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        """Ask the chat."""
        response = await self.achat([ChatMessage(role="user", content=prompt)])
        return CompletionResponse(text="hi", raw=response.raw)

    @llm_chat_callback()
    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        """Wait after the first chunk."""

        async def chunks() -> AsyncIterator[ChatResponse]:
            yield answer("h", raw=reported(10, 0))
            await self.gate.wait()
            yield answer("hi", raw=reported(10, 5))

        return chunks()


class WaitingRun(BaseChatModel):
    """LangChain's model that answers when all calls are open."""

    gate: Any = None

    @property
    def _llm_type(self) -> str:
        return "waiting"

    def _get_ls_params(self, *args: Any, **kwargs: Any) -> Any:
        return {"ls_model_name": "scripted-1", "ls_provider": "openai"}

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        await self.gate.wait()
        usage: Any = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        message = AIMessage(content="hi", usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


async def gather(calls: int) -> tuple[TokenCountingHandler, Gate]:
    """Half chats, half completions that ask chats, each in a scope."""
    handler = TokenCountingHandler()
    gate = Gate(handler, calls)
    model = Waiting(callback_manager=CallbackManager([handler]), gate=gate)

    async def one(number: int) -> None:
        with handler.scope("request", user=str(number % USERS)):
            await (model.achat(HELLO) if number % 2 else model.acomplete("hello"))

    await asyncio.gather(*map(one, range(calls)))
    return handler, gate


async def streams(calls: int) -> tuple[TokenCountingHandler, Gate]:
    """Chats that are streamed, each in a scope."""
    handler = TokenCountingHandler()
    gate = Gate(handler, calls)
    model = Waiting(callback_manager=CallbackManager([handler]), gate=gate)

    async def one(number: int) -> None:
        with handler.scope("request", user=str(number % USERS)):
            async for _ in await model.astream_chat(HELLO):
                pass

    await asyncio.gather(*map(one, range(calls)))
    return handler, gate


async def abatch(calls: int) -> tuple[TokenCountingCallbackHandler, Gate]:
    """LangChain's own batch of chats, in one scope; users come as metadata."""
    handler = TokenCountingCallbackHandler()
    gate = Gate(handler, calls)
    model = WaitingRun(gate=gate)
    configs: Any = [
        {"callbacks": [handler], "metadata": {"user": str(number % USERS)}}
        for number in range(calls)
    ]
    with handler.scope("request"):
        await model.abatch(["hello"] * calls, configs)
    return handler, gate


WAYS: tuple[Callable[[int], Awaitable[tuple[Any, Gate]]], ...] = (gather, streams, abatch)


def is_exact(handler: Any, calls: int) -> bool:
    """Whether every call is counted once, with its scope, user and model."""
    by = {name: handler.by(name) for name in ("scope", "user", "model")}
    return (
        handler.total_llm_token_count == TOKENS * calls
        and len(handler.llm_token_counts) == calls
        and handler.open_calls == 0
        and {name: [*rows] for name, rows in by.items() if name != "user"}
        == {"scope": ["request"], "model": ["scripted-1"]}
        and {user: row.calls for user, row in by["user"].items()}
        == {str(user): len(range(user, calls, USERS)) for user in range(USERS)}
    )


def main(calls: int) -> None:
    """Print the table."""
    for way in WAYS:
        began = time.perf_counter()
        handler, gate = asyncio.run(way(calls))  # type: ignore[arg-type]
        exact = "exact" if is_exact(handler, calls) else "NOT exact"
        took = time.perf_counter() - began
        tracemalloc.start()
        _, traced = asyncio.run(way(2_000))  # type: ignore[arg-type]
        tracemalloc.stop()
        print(
            f"{way.__name__:8} {gate.open:7} open: {exact}, {took:5.1f} s;"
            f" {traced.bytes} bytes an open call"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)

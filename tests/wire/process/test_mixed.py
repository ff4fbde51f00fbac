"""Two thousand calls of everybody, in threads and tasks, with one watch: the total is the bill."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any, Final

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingHandler, watch
from llama_token_tracker.testing import LoopbackProvider
from tests.matrix.clients import LLMS
from tests.needs import needs
from tests.wire.process.calls import CLAUDE, MESSAGES, ON_BEDROCK, PROMPT

THREADS: Final = 6
TASKS: Final = 6
ROUNDS: Final = 16
OF_LLAMA_INDEX: Final = ("openai", "anthropic", "bedrock-converse", "gemini")
CHAT: Final = [ChatMessage(role="user", content=PROMPT)]


def _models(provider: LoopbackProvider, manager: CallbackManager) -> list[Any]:
    return [one.llm(provider, manager) for one in LLMS if one.name in OF_LLAMA_INDEX]


def _of_langchain(provider: LoopbackProvider, callback: Any) -> list[Any]:
    models = import_module("tests.langchain.integrations")
    made = models.chat_openai(provider.url()), models.chat_anthropic(provider.url())
    return [model.with_config(callbacks=[callback]) for model in made]


def ways(
    provider: LoopbackProvider, models: list[Any], chains: list[Any]
) -> list[Callable[[], object]]:
    """Calls of one request each, of clients that all threads share."""
    openai: Any = import_module("openai").OpenAI(**provider.arguments("openai"))
    anthropic: Any = import_module("anthropic").Anthropic(**provider.arguments("anthropic"))
    bedrock: Any = import_module("boto3").client("bedrock-runtime", **provider.arguments("bedrock"))
    chat: Any = {"model": "gpt-4o", "messages": MESSAGES}
    usage: Any = {"stream": True, "stream_options": {"include_usage": True}}
    asked: Any = {"model": CLAUDE, "max_tokens": 9, "messages": MESSAGES}
    conversation: Any = {
        "modelId": ON_BEDROCK,
        "messages": [{"role": "user", "content": [{"text": PROMPT}]}],
    }
    return [
        lambda: openai.chat.completions.create(**chat),
        lambda: list(openai.chat.completions.create(**chat, **usage)),
        lambda: openai.responses.create(model="gpt-4o", input=PROMPT),
        lambda: anthropic.messages.create(**asked),
        lambda: list(anthropic.messages.create(**asked, stream=True)),
        lambda: bedrock.converse(**conversation),
        lambda: list(bedrock.converse_stream(**conversation)["stream"]),
        *[lambda model=model: model.chat(CHAT) for model in models],
        *[lambda model=model: list(model.stream_chat(CHAT)) for model in models],
        *[lambda chain=chain: chain.invoke(PROMPT) for chain in chains],
        *[lambda chain=chain: list(chain.stream(PROMPT)) for chain in chains],
    ]


def tasks(
    provider: LoopbackProvider, models: list[Any], chains: list[Any]
) -> list[Callable[[], Awaitable[object]]]:
    """The same, to be awaited."""
    openai: Any = import_module("openai").AsyncOpenAI(**provider.arguments("openai"))
    anthropic: Any = import_module("anthropic").AsyncAnthropic(**provider.arguments("anthropic"))

    async def streamed(answer: Awaitable[Any]) -> None:
        async for _ in await answer:
            pass

    async def chained(chain: Any) -> None:
        async for _ in chain.astream(PROMPT):
            pass

    asked: Any = {"model": CLAUDE, "max_tokens": 9, "messages": MESSAGES}
    return [
        lambda: openai.chat.completions.create(model="gpt-4o", messages=MESSAGES),
        lambda: anthropic.messages.create(**asked),
        lambda: streamed(anthropic.messages.create(**asked, stream=True)),
        *[lambda model=model: model.achat(CHAT) for model in models],
        *[lambda model=model: streamed(model.astream_chat(CHAT)) for model in models],
        *[lambda chain=chain: chain.ainvoke(PROMPT) for chain in chains],
        *[lambda chain=chain: chained(chain) for chain in chains],
    ]


@needs("langchain_openai")
@needs("langchain_anthropic")
@needs("llama_index.llms.bedrock_converse")
@pytest.mark.slow
def test_two_thousand_calls_of_everybody_add_up(provider: LoopbackProvider) -> None:
    """Frameworks, SDKs, threads and tasks share one counter, and each call is in it once."""
    langchain = import_module("llama_token_tracker.langchain")
    handler = TokenCountingHandler()
    callback = langchain.TokenCountingCallbackHandler(tracker=handler.tracker)
    models = _models(provider, CallbackManager([handler]))
    chains = _of_langchain(provider, callback)
    calls = ways(provider, models, chains)

    def work(number: int) -> None:
        for turn in range(ROUNDS):
            for place in range(len(calls)):
                calls[(place + number + turn) % len(calls)]()

    async def go() -> None:
        own = tasks(provider, _models(provider, CallbackManager([handler])), chains)

        async def one(number: int) -> None:
            for turn in range(ROUNDS // 4):
                for place in range(len(own)):
                    await own[(place + number + turn) % len(own)]()

        await asyncio.gather(*map(one, range(TASKS)))

    with watch(handler), ThreadPoolExecutor(THREADS + 1) as pool:
        begun = [pool.submit(work, number) for number in range(THREADS)]
        pool.submit(asyncio.run, go()).result()
        for one in begun:
            one.result()
    billed = [call.billed for call in provider.settle() if call.billed is not None]
    assert len(billed) >= 2_000
    events = handler.llm_token_counts
    assert Counter(event.total_token_count for event in events) == Counter(
        bill.total_tokens for bill in billed
    )
    assert handler.total_llm_token_count == sum(bill.total_tokens for bill in billed)
    assert {event.source for event in events} == {"reported"}
    assert handler.uncounted == {}

"""The five integrations, pointed at the loopback, and the ways in which LangChain calls a model.

Nothing is patched. Retries are off, so that one call is one request. The tests of an integration
that isn't installed are left out, and the summary names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest

from llama_token_tracker.testing import LoopbackProvider
from tests.canned import bedrock
from tests.needs import needs

PROMPT = "What is the capital of Australia?"
CLAUDE_INSTANT = "anthropic.claude-instant-v1"
CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
TITAN = "amazon.titan-text-express-v1"

Config = dict[str, Any]


bedrock_client = lru_cache(bedrock)
"""Gives a real boto3 client for the loopback; they're slow to make and safe to share."""


def _aws(name: str, url: str, model: str, **kwargs: Any) -> Any:
    import langchain_aws

    client = bedrock_client(url)
    return getattr(langchain_aws, name)(
        model=model, client=client, region_name="us-east-1", **kwargs
    )


@lru_cache
def bedrock_llm(
    url: str, model: str = CLAUDE_INSTANT, *, streaming: bool = False, guarded: bool = False
) -> Any:
    """BedrockLLM, which completes texts."""
    guardrails = {"guardrailIdentifier": "g", "guardrailVersion": "1", "trace": True}
    more = {"guardrails": guardrails} if guarded else {}
    return _aws("BedrockLLM", url + "/bedrock", model, streaming=streaming, **more)


@lru_cache
def chat_bedrock(url: str) -> Any:
    """ChatBedrock, which sends messages to InvokeModel."""
    return _aws("ChatBedrock", url + "/bedrock", CLAUDE)


@lru_cache
def converse(url: str) -> Any:
    """ChatBedrockConverse."""
    return _aws("ChatBedrockConverse", url + "/bedrock", CLAUDE)


@lru_cache
def chat_anthropic(url: str) -> Any:
    """ChatAnthropic."""
    from langchain_anthropic import ChatAnthropic

    return ChatAnthropic(
        model="claude-3-haiku-20240307",
        api_key="none",
        base_url=url + "/anthropic",
        max_retries=0,
    )


@lru_cache
def chat_openai(url: str, *, stream_usage: bool | None = True) -> Any:
    """ChatOpenAI; with a base URL of its own it asks a stream for usage only when told to."""
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model="gpt-4o-mini",
        api_key="none",
        base_url=url + "/openai/v1",
        max_retries=0,
        stream_usage=stream_usage,
    )


def forget_models() -> None:
    """Let go of all clients."""
    for built in (bedrock_client, bedrock_llm, chat_bedrock, converse, chat_anthropic, chat_openai):
        built.cache_clear()


@dataclass(frozen=True, slots=True)
class Integration:
    """One integration.

    Attributes:
        name: What a test is called by.
        module: What has to be importable.
        build: Gives the model, by the provider's URL and the style's name.
        provider: The provider's name on events.
        tools: Whether it calls functions.
    """

    name: str
    module: str
    build: Callable[[str, str], Any]
    provider: str
    tools: bool = True

    def model(self, provider: LoopbackProvider, style: str) -> Any:
        """Build the model."""
        return self.build(provider.url(), style)

    def __str__(self) -> str:
        """Name the integration in a test's id."""
        return self.name

    @property
    def provider_here(self) -> str | None:
        """Whose it is on this machine, where anybody may speak as OpenAI and Anthropic do."""
        return None if self.provider in ("openai", "anthropic") else self.provider


def _completing(url: str, style: str) -> Any:
    # `ainvoke` refuses to do without a stream.
    return bedrock_llm(url, streaming=style != "invoke")


INTEGRATIONS = [
    Integration("BedrockLLM", "langchain_aws", _completing, "aws.bedrock", tools=False),
    Integration("ChatBedrock", "langchain_aws", lambda url, _: chat_bedrock(url), "aws.bedrock"),
    Integration(
        "ChatBedrockConverse", "langchain_aws", lambda url, _: converse(url), "aws.bedrock"
    ),
    Integration(
        "ChatAnthropic", "langchain_anthropic", lambda url, _: chat_anthropic(url), "anthropic"
    ),
    Integration("ChatOpenAI", "langchain_openai", lambda url, _: chat_openai(url), "openai"),
]


def each(integrations: Iterable[Integration]) -> pytest.MarkDecorator:
    """Run a test once for each of these integrations that is installed."""
    return pytest.mark.parametrize(
        "integration",
        [pytest.param(one, id=one.name, marks=needs(one.module)) for one in integrations],
    )


# --- styles --------------------------------------------------------------------------------


async def _drain(model: Any, config: Config) -> list[Any]:
    return [chunk async for chunk in model.astream(PROMPT, config)]


async def _leave(model: Any, config: Config) -> None:
    stream = model.astream(PROMPT, config)
    await anext(stream)
    await anext(stream)
    await stream.aclose()


def _leave_at_once(model: Any, config: Config) -> None:
    stream = model.stream(PROMPT, config)
    next(stream)
    next(stream)
    stream.close()


Run = Callable[[Coroutine[Any, Any, Any]], Any]
STYLES: dict[str, Callable[[Any, Config, Run], Any]] = {
    "invoke": lambda model, config, _: model.invoke(PROMPT, config),
    "ainvoke": lambda model, config, run: run(model.ainvoke(PROMPT, config)),
    "stream": lambda model, config, _: list(model.stream(PROMPT, config)),
    "astream": lambda model, config, run: run(_drain(model, config)),
}
LEAVING: dict[str, Callable[[Any, Config, Run], Any]] = {
    "stream": lambda model, config, _: _leave_at_once(model, config),
    "astream": lambda model, config, run: run(_leave(model, config)),
}


def gathered(*coroutines: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
    """Run them at once."""

    async def all_of_them() -> list[Any]:
        return list(await asyncio.gather(*coroutines))

    return all_of_them()

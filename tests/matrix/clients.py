"""One builder per integration: the real SDK and the real integration, pointed at the loopback.

Nothing is patched. Retries are off wherever a client has any, so that one call is one request. The
tests of an integration that isn't installed are left out, and the summary names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

import pytest
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms.llm import LLM

from llama_token_tracker.testing.clients import Provider, arguments, base_url
from tests.canned import bedrock
from tests.needs import needs

__all__ = [
    "ALL",
    "EMBEDDINGS",
    "LLMS",
    "Endpoint",
    "Integration",
    "Nobody",
    "bedrock_client",
    "each",
]

_KEY = "none"
_NOBODY = "http://127.0.0.1:9"
_AWS = {
    name: value for name, value in arguments(_NOBODY, "bedrock").items() if name != "endpoint_url"
}
_MAX_TOKENS = 64


class Endpoint(Protocol):
    """Whatever knows the base URL of a provider."""

    def url(self, provider: Provider) -> str:
        """Give the base URL that a provider's client is to be pointed at."""


class Nobody:
    """An endpoint at which nobody listens: port 9 of the loopback, the discard service."""

    def url(self, provider: Provider) -> str:
        """Give a URL that refuses every connection."""
        return base_url(_NOBODY, provider)


@dataclass(frozen=True, slots=True)
class Integration:
    """How to build one integration's model, and what it can't do.

    Attributes:
        name: What a test is called by.
        module: What has to be importable.
        model: The model asked for.
        build: Makes the model.
        broken: Styles that fail inside the integration itself, with the reason.
        tools: Whether it calls functions.
        cache: Whether its provider reports cached tokens anywhere on the wire.
        cache_write: Whether its provider reports tokens written to a cache.
        reasoning: Whether its provider reports reasoning tokens.
        early: What a stream's first piece of text says of the input: the whole figure
            (`reported`), one that a cache might add to (`unsure`), or nothing.
        operation: What a chat comes down to in the call that speaks to the provider.
    """

    name: str
    module: str
    model: str
    build: Callable[[Endpoint, CallbackManager, Mapping[str, Any]], Any]
    broken: Mapping[str, str] = field(default_factory=dict)
    tools: bool = True
    cache: bool = True
    cache_write: bool = False
    reasoning: bool = False
    early: Literal["reported", "unsure", ""] = ""
    operation: str = "chat"

    def llm(self, provider: Endpoint, manager: CallbackManager, **kwargs: Any) -> LLM:
        """Build the model."""
        built = self.build(provider, manager, kwargs)
        assert isinstance(built, LLM)
        return built

    def embedding(
        self, provider: Endpoint, manager: CallbackManager, **kwargs: Any
    ) -> BaseEmbedding:
        """Build the embedding model."""
        built = self.build(provider, manager, kwargs)
        assert isinstance(built, BaseEmbedding)
        return built

    def __str__(self) -> str:
        """Name the integration in a test's id."""
        return self.name


bedrock_client = lru_cache(maxsize=8)(bedrock)
"""Gives a real boto3 client for the loopback; they're slow to make and safe to share."""


def _bedrock(model: str) -> Callable[..., Any]:
    def build(provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]) -> Any:
        from llama_index.llms.bedrock import Bedrock

        return Bedrock(
            model=model,
            client=bedrock_client(provider.url("bedrock")),
            max_retries=1,
            max_tokens=_MAX_TOKENS,
            callback_manager=manager,
            **_AWS,
            **kwargs,
        )

    return build


def _converse(provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]) -> Any:
    from botocore.config import Config
    from llama_index.llms.bedrock_converse import BedrockConverse

    url = provider.url("bedrock")
    return BedrockConverse(
        model="anthropic.claude-3-7-sonnet-20250219-v1:0",
        client=bedrock_client(url),
        # The asynchronous side makes clients of its own from these two.
        endpoint_url=url,
        botocore_config=Config(retries={"total_max_attempts": 1}),
        max_retries=1,
        callback_manager=manager,
        **_AWS,
        **kwargs,
    )


def _anthropic(provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]) -> Any:
    from llama_index.llms.anthropic import Anthropic

    given: dict[str, Any] = {
        "model": "claude-3-haiku-20240307",
        "api_key": _KEY,
        "base_url": provider.url("anthropic"),
        "max_retries": 0,
        "max_tokens": _MAX_TOKENS,
        "callback_manager": manager,
    }
    return Anthropic(**given | dict(kwargs))


def _openai(model: str, *, include_usage: bool) -> Callable[..., Any]:
    extra = {"stream_options": {"include_usage": True}} if include_usage else {}

    def build(provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]) -> Any:
        from llama_index.llms.openai import OpenAI

        return OpenAI(
            model=model,
            api_key=_KEY,
            api_base=provider.url("openai"),
            max_retries=0,
            max_tokens=_MAX_TOKENS,
            # The integration drops the option from calls that don't stream.
            additional_kwargs=extra,
            callback_manager=manager,
            **kwargs,
        )

    return build


def _openai_responses(
    provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]
) -> Any:
    from llama_index.llms.openai import OpenAIResponses

    return OpenAIResponses(
        model="gpt-4o-mini",
        api_key=_KEY,
        api_base=provider.url("openai"),
        max_retries=0,
        callback_manager=manager,
        **kwargs,
    )


def _gemini(provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]) -> Any:
    from google.genai import types
    from llama_index.llms.google_genai import GoogleGenAI

    return GoogleGenAI(
        model="gemini-2.5-flash",
        api_key=_KEY,
        http_options=types.HttpOptions(base_url=provider.url("gemini")),
        # With both limits given the integration doesn't ask the server about the model.
        max_tokens=_MAX_TOKENS,
        context_window=100_000,
        max_retries=0,
        callback_manager=manager,
        **kwargs,
    )


def _ollama(provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]) -> Any:
    from llama_index.llms.ollama import Ollama

    return Ollama(
        model="llama3.2",
        base_url=provider.url("ollama"),
        context_window=8192,
        callback_manager=manager,
        **kwargs,
    )


def _mistral(provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]) -> Any:
    from llama_index.llms.mistralai import MistralAI

    return MistralAI(
        model="mistral-small-latest",
        api_key=_KEY,
        endpoint=provider.url("mistral"),
        max_retries=0,
        callback_manager=manager,
        **kwargs,
    )


def _cohere(provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]) -> Any:
    from llama_index.llms.cohere import Cohere

    return Cohere(
        model="command-r",
        api_key=_KEY,
        base_url=provider.url("cohere"),
        max_retries=1,
        # The SDK repeats a refused call by itself unless each call says otherwise.
        additional_kwargs={"request_options": {"max_retries": 0}},
        callback_manager=manager,
        **kwargs,
    )


def _bedrock_embedding(model: str) -> Callable[..., Any]:
    def build(provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]) -> Any:
        from llama_index.embeddings.bedrock import BedrockEmbedding

        return BedrockEmbedding(
            model_name=model,
            client=bedrock_client(provider.url("bedrock")),
            max_retries=1,
            callback_manager=manager,
            **_AWS,
            **kwargs,
        )

    return build


def _openai_embedding(
    provider: Endpoint, manager: CallbackManager, kwargs: Mapping[str, Any]
) -> Any:
    from llama_index.embeddings.openai import OpenAIEmbedding

    return OpenAIEmbedding(
        api_key=_KEY,
        api_base=provider.url("openai"),
        max_retries=0,
        callback_manager=manager,
        **kwargs,
    )


_NOT_IN_BEDROCK = "llms-bedrock raises NotImplementedError for asynchronous completions and streams"
_BEDROCK_BROKEN = dict.fromkeys(("acomplete", "astream_complete", "astream_chat"), _NOT_IN_BEDROCK)
_COHERE_BROKEN = {
    "stream_complete": "llms-cohere asks each chunk for _asdict(), which the SDK's chunks lack",
    "astream_complete": "llms-cohere has no astream_complete",
    "astream_chat": "llms-cohere walks the synchronous client's generator with `async for`",
}


_STRUCTURED_BROKEN = dict.fromkeys(
    (
        "structured_predict",
        "astructured_predict",
        "stream_structured_predict",
        "astream_structured_predict",
        "structured.complete",
        "structured.chat",
        "structured.achat",
        "structured.stream_chat",
    ),
    "llms-openai passes tool_choice to the completions endpoint, which knows of none",
)


# Titan isn't a chat model, so these come down to its acomplete().
_TITAN_BROKEN = ("apredict", "astructured_predict", "structured.achat")


def _legacy(
    name: str, model: str, *, also_broken: tuple[str, ...] = (), **traits: Any
) -> Integration:
    return Integration(
        name,
        "llama_index.llms.bedrock",
        model,
        _bedrock(model),
        broken=_BEDROCK_BROKEN | dict.fromkeys(also_broken, _NOT_IN_BEDROCK),
        tools=False,
        operation="completion",
        **traits,
    )


LLMS: list[Integration] = [
    _legacy(
        "bedrock-claude",
        "anthropic.claude-3-haiku-20240307-v1:0",
        cache_write=True,
        early="reported",
    ),
    _legacy(
        "bedrock-titan",
        "amazon.titan-text-express-v1",
        also_broken=_TITAN_BROKEN,
        cache=False,
        early="reported",
    ),
    _legacy("bedrock-llama", "meta.llama2-13b-chat-v1", cache=False, early="reported"),
    _legacy("bedrock-mistral", "mistral.mistral-7b-instruct-v0:2", cache=False),
    Integration(
        "bedrock-converse",
        "llama_index.llms.bedrock_converse",
        "anthropic.claude-3-7-sonnet-20250219-v1:0",
        _converse,
        cache_write=True,
    ),
    Integration(
        "anthropic",
        "llama_index.llms.anthropic",
        "claude-3-haiku-20240307",
        _anthropic,
        cache_write=True,
        reasoning=True,
        early="unsure",
    ),
    Integration(
        "openai",
        "llama_index.llms.openai",
        "gpt-4o-mini",
        _openai("gpt-4o-mini", include_usage=True),
        cache_write=True,
        reasoning=True,
    ),
    Integration(
        "openai-default",
        "llama_index.llms.openai",
        "gpt-4o-mini",
        _openai("gpt-4o-mini", include_usage=False),
        cache_write=True,
        reasoning=True,
    ),
    Integration(
        "openai-completions",
        "llama_index.llms.openai",
        "gpt-3.5-turbo-instruct",
        _openai("gpt-3.5-turbo-instruct", include_usage=True),
        broken=_STRUCTURED_BROKEN,
        tools=False,
    ),
    Integration(
        "openai-responses",
        "llama_index.llms.openai",
        "gpt-4o-mini",
        _openai_responses,
        cache_write=True,
        reasoning=True,
    ),
    Integration(
        "gemini",
        "llama_index.llms.google_genai",
        "gemini-2.5-flash",
        _gemini,
        reasoning=True,
        early="reported",
    ),
    Integration("ollama", "llama_index.llms.ollama", "llama3.2", _ollama, cache=False),
    Integration("mistral", "llama_index.llms.mistralai", "mistral-small-latest", _mistral),
    Integration(
        "cohere",
        "llama_index.llms.cohere",
        "command-r",
        _cohere,
        broken=_COHERE_BROKEN,
    ),
]

EMBEDDINGS: list[Integration] = [
    Integration(
        "bedrock-titan-embedding",
        "llama_index.embeddings.bedrock",
        "amazon.titan-embed-text-v1",
        _bedrock_embedding("amazon.titan-embed-text-v1"),
    ),
    Integration(
        "bedrock-cohere-embedding",
        "llama_index.embeddings.bedrock",
        "cohere.embed-english-v3",
        _bedrock_embedding("cohere.embed-english-v3"),
    ),
    Integration(
        "openai-embedding",
        "llama_index.embeddings.openai",
        "text-embedding-ada-002",
        _openai_embedding,
    ),
]

ALL: list[Integration] = [*LLMS, *EMBEDDINGS]


def each(integrations: Iterable[Integration]) -> pytest.MarkDecorator:
    """Run a test once for each of these integrations that is installed."""
    return pytest.mark.parametrize(
        "integration",
        [pytest.param(one, id=one.name, marks=needs(one.module)) for one in integrations],
    )

"""Calls of plain SDKs: each is one request, in every way that the SDK offers."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from importlib import import_module
from typing import Any, Final, NamedTuple

import pytest

from tests.needs import needs

PROMPT = "What is the capital of Australia?"
MESSAGES: Any = [{"role": "user", "content": PROMPT}]
CLAUDE = "claude-3-5-haiku-20241022"
ON_BEDROCK = "anthropic.claude-3-5-sonnet-20241022-v2:0"
TEXTS = ["one", "one two three four", "one two"]
_BEDROCK: Any = [{"role": "user", "content": [{"text": PROMPT}]}]
_BODY = json.dumps(
    {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": MESSAGES}
)
_CHAT: Any = {"model": "gpt-4o", "messages": MESSAGES}
_STREAM: Any = {"stream": True, "stream_options": {"include_usage": True}}
_CLAUDE: Any = {"model": CLAUDE, "max_tokens": 9, "messages": MESSAGES}
_EMBED: Any = {"model": "text-embedding-3-small", "input": TEXTS}

Make = Callable[[Any], Any]


class SdkCall(NamedTuple):
    """A call of an SDK's.

    Attributes:
        module: What must be importable.
        make: Makes the client, of a provider's arguments.
        run: Makes the call and reads its answer.
    """

    module: str
    make: Make
    run: Callable[[Any], object]


def _client(module: str, name: str, provider: str) -> Make:
    def make(place: Any) -> Any:
        return getattr(import_module(module), name)(**place.arguments(provider))

    return make


def _drain(stream: Any) -> None:
    for _ in stream:
        pass


def _within(manager: Any) -> None:
    with manager as stream:
        _drain(stream)


async def _drain_async(stream: Any) -> None:
    async for _ in stream:
        pass


async def _within_async(manager: AbstractAsyncContextManager[Any]) -> None:
    async with manager as stream:
        await _drain_async(stream)


def _run(call: Callable[[Any], Awaitable[object]]) -> Callable[[Any], object]:
    async def go(client: Any) -> None:
        await call(client)
        close = getattr(client, "close", None) or getattr(client, "aclose", None)
        if close is not None:
            await close()

    return lambda client: asyncio.run(go(client))


async def _streamed(answer: Awaitable[Any]) -> None:
    await _drain_async(await answer)


@contextmanager
def _raw(response: Any) -> Iterator[Any]:
    with response as held:
        yield held


def _read_streaming(manager: Any) -> None:
    with _raw(manager) as response:
        response.read()


_OPENAI = _client("openai", "OpenAI", "openai")
_ASYNC_OPENAI = _client("openai", "AsyncOpenAI", "openai")
_ANTHROPIC = _client("anthropic", "Anthropic", "anthropic")
_ASYNC_ANTHROPIC = _client("anthropic", "AsyncAnthropic", "anthropic")
_ON_BEDROCK: Any = _CLAUDE | {"model": ON_BEDROCK}


def _anthropic_on_bedrock(name: str) -> Make:
    def make(place: Any) -> Any:
        keys = {"aws_access_key": "a", "aws_secret_key": "b", "aws_region": "us-east-1"}
        made = getattr(import_module("anthropic"), name)
        return made(base_url=place.url("bedrock"), max_retries=0, **keys)

    return make


def _anthropic_at(name: str, path: str, **keys: Any) -> Make:
    """Claude at Google's or Microsoft's, who answer as Anthropic does."""

    def make(place: Any) -> Any:
        made = getattr(import_module("anthropic"), name)
        return made(base_url=place.url("anthropic") + path, max_retries=0, **keys)

    return make


_VERTEX: Any = {"region": "us-east5", "project_id": "acme", "access_token": "none"}
_GEMINI = _client("google.genai", "Client", "gemini")
_COHERE = _client("cohere", "Client", "cohere")
_OLLAMA = _client("ollama", "Client", "ollama")
_ASYNC_OLLAMA = _client("ollama", "AsyncClient", "ollama")
_MISTRAL = _client("mistralai.client", "Mistral", "mistral")


def _boto3(place: Any) -> Any:
    return import_module("boto3").client("bedrock-runtime", **place.arguments("bedrock"))


def _plain(module: str) -> Make:
    def make(place: Any) -> Any:
        return import_module(module), place.url("openai")

    return make


async def _aiohttp(made: Any, *, way: str) -> None:
    library, url = made
    options = _CHAT | (_STREAM if way != "json" else {})
    async with library.ClientSession() as session:
        send = {"data": json.dumps(options)} if way == "lines" else {"json": options}
        async with session.post(f"{url}/chat/completions", **send) as response:
            if way == "json":
                await response.json()
            elif way == "lines":
                await _drain_async(response.content)
            else:
                await _drain_async(response.content.iter_any())


def _requests(made: Any, *, is_streamed: bool) -> None:
    library, url = made
    options = _CHAT | (_STREAM if is_streamed else {})
    with library.Session() as session:
        response = session.post(f"{url}/chat/completions", json=options, stream=is_streamed)
        _drain(response.iter_lines()) if is_streamed else response.json()


def _httpx(made: Any, *, is_streamed: bool) -> None:
    library, url = made
    url = f"{url}/chat/completions"
    if is_streamed:
        with library.stream("POST", url, json=_CHAT | _STREAM) as response:
            _drain(response.iter_lines())
    else:
        library.post(url, json=_CHAT).json()


CALLS: Final = {
    "openai chat": SdkCall(
        "openai", _OPENAI, lambda client: client.chat.completions.create(**_CHAT)
    ),
    "openai chat stream": SdkCall(
        "openai", _OPENAI, lambda client: _drain(client.chat.completions.create(**_CHAT | _STREAM))
    ),
    "openai chat raw": SdkCall(
        "openai",
        _OPENAI,
        lambda client: client.chat.completions.with_raw_response.create(**_CHAT).parse(),
    ),
    "openai chat streaming response": SdkCall(
        "openai",
        _OPENAI,
        lambda client: _read_streaming(
            client.chat.completions.with_streaming_response.create(**_CHAT)
        ),
    ),
    "openai chat helper": SdkCall(
        "openai",
        _OPENAI,
        lambda client: _within(
            client.chat.completions.stream(**_CHAT, stream_options=_STREAM["stream_options"])
        ),
    ),
    "openai chat parse": SdkCall(
        "openai", _OPENAI, lambda client: client.chat.completions.parse(**_CHAT)
    ),
    "openai chat async": SdkCall(
        "openai", _ASYNC_OPENAI, _run(lambda client: client.chat.completions.create(**_CHAT))
    ),
    "openai chat stream async": SdkCall(
        "openai",
        _ASYNC_OPENAI,
        _run(lambda client: _streamed(client.chat.completions.create(**_CHAT | _STREAM))),
    ),
    "openai responses": SdkCall(
        "openai", _OPENAI, lambda client: client.responses.create(model="gpt-4o", input=PROMPT)
    ),
    "openai responses stream": SdkCall(
        "openai",
        _OPENAI,
        lambda client: _drain(client.responses.create(model="gpt-4o", input=PROMPT, stream=True)),
    ),
    "openai responses helper": SdkCall(
        "openai",
        _OPENAI,
        lambda client: _within(client.responses.stream(model="gpt-4o", input=PROMPT)),
    ),
    "openai responses async": SdkCall(
        "openai",
        _ASYNC_OPENAI,
        _run(lambda client: client.responses.create(model="gpt-4o", input=PROMPT)),
    ),
    "openai embeddings": SdkCall(
        "openai", _OPENAI, lambda client: client.embeddings.create(**_EMBED)
    ),
    "openai embeddings async": SdkCall(
        "openai", _ASYNC_OPENAI, _run(lambda client: client.embeddings.create(**_EMBED))
    ),
    "anthropic messages": SdkCall(
        "anthropic", _ANTHROPIC, lambda client: client.messages.create(**_CLAUDE)
    ),
    "anthropic messages stream": SdkCall(
        "anthropic",
        _ANTHROPIC,
        lambda client: _drain(client.messages.create(**_CLAUDE, stream=True)),
    ),
    "anthropic messages helper": SdkCall(
        "anthropic", _ANTHROPIC, lambda client: _within(client.messages.stream(**_CLAUDE))
    ),
    "anthropic messages raw": SdkCall(
        "anthropic",
        _ANTHROPIC,
        lambda client: client.messages.with_raw_response.create(**_CLAUDE).parse(),
    ),
    "anthropic messages async": SdkCall(
        "anthropic", _ASYNC_ANTHROPIC, _run(lambda client: client.messages.create(**_CLAUDE))
    ),
    "anthropic messages helper async": SdkCall(
        "anthropic",
        _ASYNC_ANTHROPIC,
        _run(lambda client: _within_async(client.messages.stream(**_CLAUDE))),
    ),
    "anthropic on bedrock": SdkCall(
        "anthropic",
        _anthropic_on_bedrock("AnthropicBedrock"),
        lambda client: client.messages.create(**_ON_BEDROCK),
    ),
    "anthropic on bedrock stream": SdkCall(
        "anthropic",
        _anthropic_on_bedrock("AnthropicBedrock"),
        lambda client: _drain(client.messages.create(**_ON_BEDROCK, stream=True)),
    ),
    "anthropic on bedrock helper async": SdkCall(
        "anthropic",
        _anthropic_on_bedrock("AsyncAnthropicBedrock"),
        _run(lambda client: _within_async(client.messages.stream(**_ON_BEDROCK))),
    ),
    "anthropic on vertex": SdkCall(
        "anthropic",
        _anthropic_at("AnthropicVertex", "/v1", **_VERTEX),
        lambda client: client.messages.create(**_CLAUDE),
    ),
    "anthropic on vertex stream": SdkCall(
        "anthropic",
        _anthropic_at("AnthropicVertex", "/v1", **_VERTEX),
        lambda client: _drain(client.messages.create(**_CLAUDE, stream=True)),
    ),
    "anthropic on vertex helper async": SdkCall(
        "anthropic",
        _anthropic_at("AsyncAnthropicVertex", "/v1", **_VERTEX),
        _run(lambda client: _within_async(client.messages.stream(**_CLAUDE))),
    ),
    "anthropic on foundry": SdkCall(
        "anthropic",
        _anthropic_at("AnthropicFoundry", "", api_key="none"),
        lambda client: client.messages.create(**_CLAUDE),
    ),
    "anthropic on foundry stream async": SdkCall(
        "anthropic",
        _anthropic_at("AsyncAnthropicFoundry", "", api_key="none"),
        _run(lambda client: _streamed(client.messages.create(**_CLAUDE, stream=True))),
    ),
    "gemini": SdkCall(
        "google.genai",
        _GEMINI,
        lambda client: client.models.generate_content(model="gemini-2.5-flash", contents=PROMPT),
    ),
    "gemini stream": SdkCall(
        "google.genai",
        _GEMINI,
        lambda client: _drain(
            client.models.generate_content_stream(model="gemini-2.5-flash", contents=PROMPT)
        ),
    ),
    "gemini async": SdkCall(
        "google.genai",
        _GEMINI,
        lambda client: asyncio.run(
            client.aio.models.generate_content(model="gemini-2.5-flash", contents=PROMPT)
        ),
    ),
    "gemini stream async": SdkCall(
        "google.genai",
        _GEMINI,
        lambda client: asyncio.run(
            _streamed(
                client.aio.models.generate_content_stream(model="gemini-2.5-flash", contents=PROMPT)
            )
        ),
    ),
    "cohere chat": SdkCall(
        "cohere", _COHERE, lambda client: client.chat(model="command-r-08-2024", message=PROMPT)
    ),
    "cohere chat stream": SdkCall(
        "cohere",
        _COHERE,
        lambda client: _drain(client.chat_stream(model="command-r-08-2024", message=PROMPT)),
    ),
    "mistral chat": SdkCall(
        "mistralai",
        _MISTRAL,
        lambda client: client.chat.complete(model="mistral-small-latest", messages=MESSAGES),
    ),
    "mistral chat stream": SdkCall(
        "mistralai",
        _MISTRAL,
        lambda client: _within(client.chat.stream(model="mistral-small-latest", messages=MESSAGES)),
    ),
    "mistral chat async": SdkCall(
        "mistralai",
        _MISTRAL,
        lambda client: asyncio.run(
            client.chat.complete_async(model="mistral-small-latest", messages=MESSAGES)
        ),
    ),
    "ollama chat": SdkCall(
        "ollama", _OLLAMA, lambda client: client.chat(model="llama3.2", messages=MESSAGES)
    ),
    "ollama chat stream": SdkCall(
        "ollama",
        _OLLAMA,
        lambda client: _drain(client.chat(model="llama3.2", messages=MESSAGES, stream=True)),
    ),
    "ollama chat async": SdkCall(
        "ollama",
        _ASYNC_OLLAMA,
        lambda client: asyncio.run(client.chat(model="llama3.2", messages=MESSAGES)),
    ),
    "boto3 converse": SdkCall(
        "boto3", _boto3, lambda client: client.converse(modelId=ON_BEDROCK, messages=_BEDROCK)
    ),
    "boto3 converse stream": SdkCall(
        "boto3",
        _boto3,
        lambda client: _drain(
            client.converse_stream(modelId=ON_BEDROCK, messages=_BEDROCK)["stream"]
        ),
    ),
    "boto3 invoke": SdkCall(
        "boto3",
        _boto3,
        lambda client: client.invoke_model(modelId=ON_BEDROCK, body=_BODY)["body"].read(),
    ),
    "boto3 invoke stream": SdkCall(
        "boto3",
        _boto3,
        lambda client: _drain(
            client.invoke_model_with_response_stream(modelId=ON_BEDROCK, body=_BODY)["body"]
        ),
    ),
    "aiohttp": SdkCall(
        "aiohttp", _plain("aiohttp"), lambda made: asyncio.run(_aiohttp(made, way="json"))
    ),
    "aiohttp lines": SdkCall(
        "aiohttp", _plain("aiohttp"), lambda made: asyncio.run(_aiohttp(made, way="lines"))
    ),
    "aiohttp pieces": SdkCall(
        "aiohttp", _plain("aiohttp"), lambda made: asyncio.run(_aiohttp(made, way="pieces"))
    ),
    "requests": SdkCall(
        "requests", _plain("requests"), lambda made: _requests(made, is_streamed=False)
    ),
    "requests stream": SdkCall(
        "requests", _plain("requests"), lambda made: _requests(made, is_streamed=True)
    ),
    "httpx": SdkCall("httpx", _plain("httpx"), lambda made: _httpx(made, is_streamed=False)),
    "httpx stream": SdkCall("httpx", _plain("httpx"), lambda made: _httpx(made, is_streamed=True)),
    "httpx2": SdkCall("httpx2", _plain("httpx2"), lambda made: _httpx(made, is_streamed=False)),
    "httpx2 stream": SdkCall(
        "httpx2", _plain("httpx2"), lambda made: _httpx(made, is_streamed=True)
    ),
}
"""By what a test is called."""

every_call = pytest.mark.parametrize(
    "call",
    [pytest.param(call, id=name, marks=needs(call.module)) for name, call in CALLS.items()],
)

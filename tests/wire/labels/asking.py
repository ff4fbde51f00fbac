"""Ways to ask for an answer: real SDKs and integrations, at a server that says what it's told."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from importlib import import_module
from typing import Any, TypeAlias

import anthropic
import httpx
import openai
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage

from llama_token_tracker import TokenCountingEvent, TokenCountingHandler, Tracker
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.canned import Canned, bedrock, canned
from tests.needs import left_out_if, needs, release

PROMPT = "What is the capital of Australia?"
MESSAGES: Any = [{"role": "user", "content": PROMPT}]
CLAUDE, GPT = "claude-opus-4-6", "gpt-4o"
ON_AWS, GPT_ON_AWS = "anthropic.claude-opus-4-6-v1", "openai.gpt-5.6-v1:0"
USAGE = {"include_usage": True}

Ask: TypeAlias = Callable[[str, str, Any], None]
"""Asks at a URL for a model's answer, and has it counted."""


def _sync(counter: Any, sdk: Any) -> Any:
    return sdk.DefaultHttpxClient(transport=WatchingTransport(counter))


def _key(url: str) -> dict[str, Any]:
    return {"base_url": url, "api_key": "none", "max_retries": 0}


def chat(url: str, model: str, counter: Any) -> None:
    """OpenAI's SDK."""
    client = openai.OpenAI(**_key(url + "/v1"), http_client=_sync(counter, openai))
    client.chat.completions.create(model=model, messages=MESSAGES)


def async_chat(url: str, model: str, counter: Any) -> None:
    """The same, asynchronous."""

    async def ask() -> None:
        sender = openai.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(counter))
        async with openai.AsyncOpenAI(**_key(url + "/v1"), http_client=sender) as client:
            await client.chat.completions.create(model=model, messages=MESSAGES)

    asyncio.run(ask())


def chat_stream(url: str, model: str, counter: Any) -> None:
    """A stream of OpenAI's SDK."""
    client = openai.OpenAI(**_key(url + "/v1"), http_client=_sync(counter, openai))
    for _ in client.chat.completions.create(
        model=model, messages=MESSAGES, stream=True, stream_options=USAGE
    ):
        pass


def async_chat_stream(url: str, model: str, counter: Any) -> None:
    """The same, asynchronous."""

    async def ask() -> None:
        sender = openai.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(counter))
        async with openai.AsyncOpenAI(**_key(url + "/v1"), http_client=sender) as client:
            async for _ in await client.chat.completions.create(
                model=model, messages=MESSAGES, stream=True
            ):
                pass

    asyncio.run(ask())


def responses(url: str, model: str, counter: Any) -> None:
    """The Responses API."""
    client = openai.OpenAI(**_key(url + "/v1"), http_client=_sync(counter, openai))
    client.responses.create(model=model, input=PROMPT)


def embed(url: str, model: str, counter: Any) -> None:
    """OpenAI's embeddings."""
    client = openai.OpenAI(**_key(url + "/v1"), http_client=_sync(counter, openai))
    client.embeddings.create(model=model, input=[PROMPT], encoding_format="float")


def messages(url: str, model: str, counter: Any) -> None:
    """Anthropic's SDK."""
    client = anthropic.Anthropic(**_key(url), http_client=_sync(counter, anthropic))
    client.messages.create(model=model, messages=MESSAGES, max_tokens=64)


def messages_stream(url: str, model: str, counter: Any) -> None:
    """A stream of Anthropic's SDK, however it ends."""
    client = anthropic.Anthropic(**_key(url), http_client=_sync(counter, anthropic))
    try:
        for _ in client.messages.create(model=model, messages=MESSAGES, max_tokens=64, stream=True):
            pass
    except anthropic.APIError:
        pass


def post(path: str, **body: Any) -> Ask:
    """A request without an SDK."""

    def ask(url: str, model: str, counter: Any) -> None:
        httpx.Client(transport=WatchingTransport(counter)).post(
            url + path, json={"model": model, **body}
        )

    return ask


def _bedrock(url: str, counter: Any) -> Any:
    client = bedrock(url)
    watch(counter, client)
    return client


_CONVERSATION = [{"role": "user", "content": [{"text": PROMPT}]}]


def converse(url: str, model: str, counter: Any) -> None:
    """Bedrock's Converse."""
    _bedrock(url, counter).converse(modelId=model, messages=_CONVERSATION)


def converse_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    answer = _bedrock(url, counter).converse_stream(modelId=model, messages=_CONVERSATION)
    for _ in answer["stream"]:
        pass


_BODY = json.dumps({"messages": MESSAGES, "max_tokens": 64})


def invoke(url: str, model: str, counter: Any) -> None:
    """Bedrock's InvokeModel."""
    _bedrock(url, counter).invoke_model(modelId=model, body=_BODY)["body"].read()


def invoke_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    answer = _bedrock(url, counter).invoke_model_with_response_stream(modelId=model, body=_BODY)
    for _ in answer["body"]:
        pass


WITH_AIOBOTO3 = needs("aioboto3")


def async_converse(url: str, model: str, counter: Any) -> None:
    """Bedrock's Converse by an asynchronous client."""

    async def ask() -> None:
        session = import_module("aioboto3").Session()
        async with session.client("bedrock-runtime", endpoint_url=url, **_KEYS) as client:
            watch(counter, client)
            await client.converse(modelId=model, messages=_CONVERSATION)

    asyncio.run(ask())


def async_converse_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""

    async def ask() -> None:
        session = import_module("aioboto3").Session()
        async with session.client("bedrock-runtime", endpoint_url=url, **_KEYS) as client:
            watch(counter, client)
            answer = await client.converse_stream(modelId=model, messages=_CONVERSATION)
            async for _ in answer["stream"]:
                pass

    asyncio.run(ask())


WITH_OPENAI = needs("llama_index.llms.openai")
WITH_CLAUDE = needs("llama_index.llms.anthropic")
WITH_CLAUDES_USAGE = left_out_if(
    release("llama-index-llms-anthropic") < (0, 9), "llms-anthropic drops a stream's end"
)


def llama_openai(url: str, model: str, counter: Any) -> None:
    """LlamaIndex's OpenAI, with the handler alone."""
    kind = import_module("llama_index.llms.openai").OpenAI
    made = kind(model=GPT, api_base=url + "/v1", api_key="none", max_retries=0)
    made.callback_manager = CallbackManager([counter])
    made.complete(PROMPT)


def llama_openai_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    kind = import_module("llama_index.llms.openai").OpenAI
    made = kind(model=GPT, api_base=url + "/v1", api_key="none", max_retries=0)
    made.callback_manager = CallbackManager([counter])
    for _ in made.stream_complete(PROMPT):
        pass


def llama_responses(url: str, model: str, counter: Any) -> None:
    """LlamaIndex's Responses, with the handler alone."""
    kind = import_module("llama_index.llms.openai").OpenAIResponses
    made = kind(model=GPT, api_base=url + "/v1", api_key="none", max_retries=0)
    made.callback_manager = CallbackManager([counter])
    made.complete(PROMPT)


def _llama_claude(url: str, counter: Any) -> Any:
    kind = import_module("llama_index.llms.anthropic").Anthropic
    made = kind(model="claude-3-haiku-20240307", base_url=url, api_key="none", max_retries=0)
    made.callback_manager = CallbackManager([counter])
    return made


def llama_claude(url: str, model: str, counter: Any) -> None:
    """LlamaIndex's Anthropic, with the handler alone."""
    _llama_claude(url, counter).complete(PROMPT)


def llama_claude_stream(url: str, model: str, counter: Any) -> None:
    """Its stream, however it ends."""
    with suppress(anthropic.APIError):
        for _ in _llama_claude(url, counter).stream_complete(PROMPT):
            pass


def llama_claude_watched_stream(url: str, model: str, counter: Any) -> None:
    """The same with a watch."""
    with watch(counter):
        llama_claude_stream(url, model, counter)


def llama_claude_astream(url: str, model: str, counter: Any) -> None:
    """The same, asynchronous."""

    async def ask() -> None:
        async for _ in await _llama_claude(url, counter).astream_chat([ChatMessage(PROMPT)]):
            pass

    with suppress(anthropic.APIError):
        asyncio.run(ask())


WITH_BEDROCK = needs("llama_index.llms.bedrock_converse")
_KEYS = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}


def _llama_converse(url: str, model: str, counter: Any) -> Any:
    kind = import_module("llama_index.llms.bedrock_converse").BedrockConverse
    client = bedrock(url)
    made = kind(model=model, client=client, max_tokens=64, **_KEYS)
    made.callback_manager = CallbackManager([counter])
    return made


def llama_converse(url: str, model: str, counter: Any) -> None:
    """LlamaIndex's Converse, with the handler alone."""
    _llama_converse(url, model, counter).complete(PROMPT)


def llama_converse_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    for _ in _llama_converse(url, model, counter).stream_complete(PROMPT):
        pass


WITH_LANGCHAIN = needs("langchain_openai")
WITH_LANGCHAIN_CLAUDE = needs("langchain_anthropic")
WITH_LANGCHAIN_AWS = needs("langchain_aws")


def _langchain_openai(url: str, **more: Any) -> Any:
    kind = import_module("langchain_openai").ChatOpenAI
    base = {"model": GPT, "base_url": url + "/v1", "api_key": "none", "max_retries": 0}
    return kind(**base, stream_usage=True, **more)


def langchain_openai(url: str, model: str, counter: Any) -> None:
    """LangChain's OpenAI, with the handler alone."""
    _langchain_openai(url).invoke(PROMPT, config={"callbacks": [counter]})


def langchain_openai_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    for _ in _langchain_openai(url).stream(PROMPT, config={"callbacks": [counter]}):
        pass


def langchain_responses(url: str, model: str, counter: Any) -> None:
    """LangChain's Responses, with the handler alone."""
    _langchain_openai(url, use_responses_api=True).invoke(PROMPT, config={"callbacks": [counter]})


def _langchain_claude(url: str) -> Any:
    kind = import_module("langchain_anthropic").ChatAnthropic
    # Of content that is more than a text it keeps all kinds of blocks.
    asked = {
        "context_management": {"edits": [{"type": "compact_20260112"}]},
        "betas": ["compact-2026-01-12"],
    }
    return kind(model=CLAUDE, base_url=url, api_key="none", max_retries=0, **asked)


def langchain_claude(url: str, model: str, counter: Any) -> None:
    """LangChain's Anthropic, with the handler alone."""
    _langchain_claude(url).invoke(PROMPT, config={"callbacks": [counter]})


def langchain_claude_stream(url: str, model: str, counter: Any) -> None:
    """Its stream, however it ends."""
    with suppress(anthropic.APIError):
        for _ in _langchain_claude(url).stream(PROMPT, config={"callbacks": [counter]}):
            pass


def watched_langchain_claude_stream(url: str, model: str, counter: Any) -> None:
    """The same with the handler and a watch."""
    with watch(counter):
        langchain_claude_stream(url, model, counter)


def watched_langchain_stream(url: str, model: str, counter: Any) -> None:
    """The same stream, watched: LangChain drops what stands in a choice."""
    with watch(counter):
        for _ in _langchain_openai(url).stream(PROMPT):
            pass


def _langchain_converse(url: str, model: str) -> Any:
    kind = import_module("langchain_aws").ChatBedrockConverse
    client = bedrock(url)
    return kind(model=model, client=client, disable_streaming=False)


def langchain_converse(url: str, model: str, counter: Any) -> None:
    """LangChain's Converse, with the handler alone."""
    _langchain_converse(url, model).invoke(PROMPT, config={"callbacks": [counter]})


def langchain_converse_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    for _ in _langchain_converse(url, model).stream(PROMPT, config={"callbacks": [counter]}):
        pass


# --- and what of it is counted ---------------------------------------------------------------


def _counter(ask: Ask) -> Any:
    if ask.__name__.startswith("llama"):
        return TokenCountingHandler()
    if "langchain" in ask.__name__:
        return import_module("llama_token_tracker.langchain").TokenCountingCallbackHandler()
    return Tracker()


def asked(
    ask: Ask, answer: Canned, model: str, within: AbstractContextManager[object] | None = None
) -> TokenCountingEvent:
    """Ask, and give the one event of it.

    Args:
        ask: How it's asked.
        answer: What is answered.
        model: Which model is asked.
        within: What expects, or suppresses, an error that comes of it.
    """
    counter = _counter(ask)
    with canned(answer) as url, within or nullcontext():
        ask(url, model, counter)
    events = counter.llm_token_counts or counter.embedding_token_counts
    [event] = events
    return event


def is_exact(event: TokenCountingEvent) -> bool:
    """Whether it claims to be the bill."""
    return event.source == "reported" and bool(event.cost and event.cost.is_whole)

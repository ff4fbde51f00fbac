"""A stream is read as the SDKs read it, whatever its media type says."""

import asyncio
from typing import Any

import anthropic
import httpx
import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingHandler, Tracker
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.canned import bedrock, canned
from tests.needs import needs
from tests.wire.counted.test_counted import CLAUDE, GPT, PROMPT, STREAM, llm

KINDS = ["application/json", "text/plain", "application/octet-stream"]
USAGE = {"prompt_tokens": 22_013, "completion_tokens": 511, "total_tokens": 22_524}
CHUNKS: Any = [*STREAM, {**STREAM[0], "choices": [], "usage": USAGE}]
ASKED: Any = {
    "model": GPT,
    "messages": [{"role": "user", "content": PROMPT}],
    "stream": True,
    "stream_options": {"include_usage": True},
}
BY_CLAUDE: Any = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": CLAUDE,
            "content": [],
            "stop_reason": None,
            "usage": {
                "input_tokens": 22_013,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 1,
            },
        },
    },
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": "Canberra"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 511},
    },
    {"type": "message_stop"},
]
BY_BEDROCK: Any = [
    ("messageStart", {"role": "assistant"}),
    ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "Canberra"}}),
    ("messageStop", {"stopReason": "end_turn"}),
    (
        "metadata",
        {
            "usage": {"inputTokens": 22_013, "outputTokens": 511, "totalTokens": 22_524},
            "metrics": {"latencyMs": 1},
        },
    ),
]


def _check(counter: Any) -> None:
    [event] = counter.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (22_013, 511)
    assert (event.source, event.status) == ("reported", "complete")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("watched", [False, True])
def test_llama_index(watched: bool, kind: str):
    """With a watch on the client, and by its callbacks alone."""
    handler = TokenCountingHandler()
    more = {"additional_kwargs": {"stream_options": {"include_usage": True}}}
    with canned(CHUNKS, kind) as url:
        list(llm(url, handler, watched=watched, **more).stream_chat([ChatMessage(PROMPT)]))
    _check(handler)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("watched", [False, True])
@needs("langchain_openai")
def test_langchain(watched: bool, kind: str):
    """The same."""
    from langchain_openai import ChatOpenAI

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    handler = TokenCountingCallbackHandler()
    client: Any = {}
    if watched:
        client["http_client"] = httpx.Client(transport=WatchingTransport(handler))
    with canned(CHUNKS, kind) as url:
        model = ChatOpenAI(
            model=GPT, base_url=url + "/v1", api_key="none", stream_usage=True, **client
        )
        for _ in model.stream(PROMPT, {"callbacks": [handler]}):
            pass
    _check(handler)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_async", [False, True])
def test_openais_sdk(is_async: bool, kind: str):
    """And asynchronous."""
    tracker = Tracker()
    with canned(CHUNKS, kind) as url:
        given: Any = {"base_url": url + "/v1", "api_key": "none", "max_retries": 0}

        async def ask() -> None:
            sender = openai.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(tracker))
            async with openai.AsyncOpenAI(**given, http_client=sender) as client:
                async for _ in await client.chat.completions.create(**ASKED):
                    pass

        if is_async:
            asyncio.run(ask())
        else:
            sender = openai.DefaultHttpxClient(transport=WatchingTransport(tracker))
            for _ in openai.OpenAI(**given, http_client=sender).chat.completions.create(**ASKED):
                pass
    _check(tracker)


@pytest.mark.parametrize("kind", KINDS)
def test_anthropics_sdk(kind: str):
    """Its events have names."""
    tracker = Tracker()
    with canned(BY_CLAUDE, kind) as url:
        sender = anthropic.DefaultHttpxClient(transport=WatchingTransport(tracker))
        client = anthropic.Anthropic(
            base_url=url, api_key="none", max_retries=0, http_client=sender
        )
        for _ in client.messages.create(
            model=CLAUDE,
            max_tokens=600,
            messages=[{"role": "user", "content": PROMPT}],
            stream=True,
        ):
            pass
    _check(tracker)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("framework", ["boto3", "llama_index"])
def test_bedrock(framework: str, kind: str):
    """Botocore reads an event stream whatever it's called, and so does the watch."""
    handler = TokenCountingHandler()
    with canned(BY_BEDROCK, kind) as url:
        client = bedrock(url)
        watch(handler, client)
        model_id = f"anthropic.{CLAUDE}-v1:0"
        if framework == "boto3":
            message: Any = {"role": "user", "content": [{"text": PROMPT}]}
            list(client.converse_stream(modelId=model_id, messages=[message])["stream"])
        else:
            from llama_index.llms.bedrock_converse import BedrockConverse

            model = BedrockConverse(
                model=model_id, client=client, callback_manager=CallbackManager([handler])
            )
            list(model.stream_chat([ChatMessage(PROMPT)]))
    _check(handler)

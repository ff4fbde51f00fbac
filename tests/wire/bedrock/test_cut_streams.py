"""A stream of Bedrock's that ends cleanly before its last event is no completed answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import EventStreamError
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from urllib3.response import HTTPResponse

from llama_token_tracker import TokenCountingHandler, Tracker
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.testing.formats.bedrock import eventstream
from llama_token_tracker.wire import watch
from tests.needs import needs
from tests.wire.bedrock.conftest import BODY, CLAUDE, MESSAGES
from tests.wire.bedrock.test_llama_index import converse
from tests.wire.recorded import Recorded, record

PROMPT = {"prompt": "\n\nHuman: hello\n\nAssistant:"}
FAMILIES: dict[str, dict[str, Any]] = {
    CLAUDE: json.loads(BODY),
    "anthropic.claude-v2": PROMPT | {"max_tokens_to_sample": 9},
    "amazon.titan-text-express-v1": {"inputText": "hello"},
    "amazon.nova-lite-v1:0": {"messages": MESSAGES},
    "meta.llama3-8b-instruct-v1:0": PROMPT,
    "mistral.mistral-7b-instruct-v0:2": PROMPT,
    "cohere.command-text-v14": PROMPT,
}


@contextmanager
def answering(client: Any, content: bytes) -> Iterator[None]:
    """Have a client answered as by a server that sends these bytes, and ends well."""

    def answer(request: Any, **_: Any) -> AWSResponse:
        raw = HTTPResponse(BytesIO(content), preload_content=False)
        return AWSResponse(request.url, 200, {}, raw)

    client.meta.events.register("before-send.bedrock-runtime", answer)
    try:
        yield
    finally:
        client.meta.events.unregister("before-send.bedrock-runtime", answer)


def answered(client: Any, content: bytes, **asked: Any) -> Any:
    """The stream that a client gets when it's answered like this."""
    ask = client.invoke_model_with_response_stream if "body" in asked else client.converse_stream
    with answering(client, content):
        response = ask(**asked)
    return response.get("stream") or response["body"]


def without_last(content: bytes) -> bytes:
    """A stream without its last message, each of which begins with its length."""
    starts = [0]
    while starts[-1] < len(content):
        starts.append(starts[-1] + int.from_bytes(content[starts[-1] :][:4]))
    return content[: starts[-2]]


def check_cut(
    client: Any, tracker: Tracker, recorded: Recorded, asked: dict[str, Any], places: Any
) -> None:
    """Cut a stream at these places, and look at what is counted."""
    watch(tracker, client)
    for place in places:
        for _ in answered(client, recorded.content[:place], **asked):
            pass
        [event] = tracker.llm_token_counts
        tracker.reset()
        assert event.status == ("complete" if place >= recorded.over else "abandoned"), place
        assert event.prompt_token_count > 0
        if event.status == "complete":
            assert (event.completion_token_count, event.source) == (56, "reported")


def path(model: str, operation: str) -> str:
    """Where a model is asked."""
    return f"/bedrock/model/{model}/{operation}"


@pytest.mark.slow
@pytest.mark.parametrize("model", FAMILIES)
def test_a_stream_of_any_model_is_cut(
    model: str, client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Its end says so, Claude's anywhere: only the chunk with the metrics ends it."""
    body = FAMILIES[model]
    recorded = record(provider, path(model, "invoke-with-response-stream"), body)
    length = len(recorded.content)
    places = range(0, length + 1, 1 if model == CLAUDE else 97)
    asked = {"modelId": model, "body": json.dumps(body)}
    check_cut(client, tracker, recorded, asked, {*places, length - 1, length})


@pytest.mark.slow
def test_a_converse_stream_is_cut_anywhere(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Only `metadata` ends it."""
    recorded = record(provider, path(CLAUDE, "converse-stream"), {"messages": MESSAGES})
    asked = {"modelId": CLAUDE, "messages": MESSAGES}
    check_cut(client, tracker, recorded, asked, range(len(recorded.content) + 1))


def test_an_event_that_nobody_knows_may_follow_the_last(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Botocore drops it; what came before it has ended the stream."""
    recorded = record(provider, path(CLAUDE, "converse-stream"), {"messages": MESSAGES})
    watch(tracker, client)
    content = recorded.content + eventstream.event("farewell", {"text": "bye"})
    list(answered(client, content, modelId=CLAUDE, messages=MESSAGES))
    [event] = tracker.llm_token_counts
    assert (event.status, event.source) == ("complete", "reported")
    assert event.completion_token_count == 56


@pytest.mark.parametrize(
    "asked", [{"messages": MESSAGES}, {"body": BODY}], ids=["converse", "invoke"]
)
def test_a_stream_that_begins_with_an_exception_has_no_answer(
    asked: dict[str, Any], client: Any, tracker: Tracker
):
    """It may have been billed; what the exception says is no part of an answer."""
    content = eventstream.exception("throttlingException", {"message": "Too many tokens"})
    watch(tracker, client)
    with pytest.raises(EventStreamError, match="Too many"):
        list(answered(client, content, modelId=CLAUDE, **asked))
    [event] = tracker.llm_token_counts
    assert (event.status, event.completion, event.completion_token_count) == ("unanswered", "", 0)
    assert event.prompt_token_count > 0


@pytest.mark.parametrize("model", FAMILIES)
def test_a_stream_without_figures_comes_to_its_end_all_the_same(
    model: str, client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Each vendor's own words say so, too."""
    provider.script(Reply(usage=None))
    watch(tracker, client)
    asked = {"modelId": model, "body": json.dumps(FAMILIES[model])}
    list(client.invoke_model_with_response_stream(**asked)["body"])
    [event] = tracker.llm_token_counts
    assert event.status == "complete"


@needs("aioboto3")
@pytest.mark.parametrize("is_whole", [True, False])
def test_an_asynchronous_stream_that_is_cut_is_known(
    is_whole: bool, provider: LoopbackProvider, tracker: Tracker
):
    """By the same rule."""
    import aioboto3

    async def work() -> None:
        session = aioboto3.Session()
        async with session.client("bedrock-runtime", **provider.arguments("bedrock")) as client:
            watch(tracker, client)
            stream = (await client.converse_stream(modelId=CLAUDE, messages=MESSAGES))["stream"]
            # What a server sends that leaves the last event out.
            messages = stream._event_generator
            stream._event_generator = _some(messages, 99 if is_whole else 3)
            async for _ in stream:
                pass

    asyncio.run(work())
    [event] = tracker.llm_token_counts
    assert event.status == ("complete" if is_whole else "abandoned")


async def _some(messages: AsyncIterator[Any], number: int) -> AsyncIterator[Any]:
    async for message in messages:
        number -= 1
        yield message
        if not number:
            return


@needs("llama_index.llms.bedrock_converse")
@pytest.mark.parametrize("is_whole", [True, False])
def test_llama_indexs_event_takes_the_streams_end(
    is_whole: bool, provider: LoopbackProvider, handler: TokenCountingHandler, monkeypatch: Any
):
    """LlamaIndex sees a stream that ended well in both."""
    recorded = record(provider, path(CLAUDE, "converse-stream"), {"messages": MESSAGES})
    content = recorded.content if is_whole else without_last(recorded.content)
    llm = converse(provider, CallbackManager([handler]), monkeypatch)
    watch(handler, llm)
    with answering(llm._client, content):
        list(llm.stream_chat([ChatMessage("hello", role="user")]))
    [event] = handler.llm_token_counts
    assert event.status == ("complete" if is_whole else "abandoned")
    assert event.prompt_token_count > 0


@needs("langchain_aws")
@pytest.mark.parametrize("is_whole", [True, False])
def test_langchains_event_takes_the_streams_end(is_whole: bool, provider: LoopbackProvider):
    """The same of a run."""
    from langchain_aws import ChatBedrockConverse

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    counter = TokenCountingCallbackHandler()
    recorded = record(provider, path(CLAUDE, "converse-stream"), {"messages": MESSAGES})
    content = recorded.content if is_whole else without_last(recorded.content)
    client = boto3.client("bedrock-runtime", **provider.arguments("bedrock"))
    llm = ChatBedrockConverse(model=CLAUDE, client=client, callbacks=[counter])
    watch(counter, client)
    with answering(client, content):
        list(llm.stream("hello"))
    [event] = counter.llm_token_counts
    assert event.status == ("complete" if is_whole else "abandoned")
    assert event.prompt_token_count > 0

"""A program without any framework: every operation of a plain boto3 client."""

import gc
import json
import threading
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, EventStreamError
from urllib3.exceptions import ProtocolError

from llama_token_tracker import TokenCountingHandler, Tracker, Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import watch
from tests.wire.bedrock.conftest import BODY, CLAUDE, COHERE, MESSAGES, PROMPT, TITAN

SAID = "Canberra is the capital."
CACHED = Usage(
    input_tokens=22_734, output_tokens=56, cache_read_tokens=21_500, cache_write_tokens=200
)


def converse(client: Any) -> None:
    """Converse."""
    client.converse(modelId=CLAUDE, messages=MESSAGES)


def converse_stream(client: Any) -> None:
    """ConverseStream, read to its end."""
    for _ in client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"]:
        pass


def invoke(client: Any) -> None:
    """InvokeModel."""
    client.invoke_model(modelId=CLAUDE, body=BODY)["body"].read()


def invoke_stream(client: Any) -> None:
    """InvokeModelWithResponseStream, read to its end."""
    for _ in client.invoke_model_with_response_stream(modelId=CLAUDE, body=BODY)["body"]:
        pass


WAYS = [converse, converse_stream, invoke, invoke_stream]
Way = Callable[[Any], None]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_call_is_one_event_with_what_aws_billed(
    way: Way, client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Cache reads and writes are part of the input, texts and the request's id are there."""
    provider.script(Reply(SAID, CACHED))
    watch(tracker, client)
    way(client)
    [event] = tracker.llm_token_counts
    assert event.usage.input_tokens == event.prompt_token_count == 22_734
    assert event.usage.output_tokens == event.completion_token_count == 56
    assert event.usage.cache_read_tokens == 21_500
    assert event.usage.cache_write_tokens == 200
    assert (event.source, event.status, event.operation) == ("reported", "complete", "chat")
    assert (event.provider, event.model) == ("aws.bedrock", CLAUDE)
    assert (event.prompt, event.completion) == (f"user: {PROMPT}", f"assistant: {SAID}")
    assert event.event_id.startswith("loopback")
    assert event.duration_s > 0
    assert event.cost_usd is not None


def test_figures_are_there_before_the_body_is_read(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """The headers suffice; the text follows when the program reads it."""
    watch(tracker, client)
    response = client.invoke_model(modelId=CLAUDE, body=BODY)
    [event] = tracker.llm_token_counts
    [billed] = provider.billed
    assert event.total_token_count == billed.total_tokens
    assert event.completion == ""
    assert json.loads(response["body"].read())["content"][0]["text"] == SAID
    assert event.completion == f"assistant: {SAID}"


@pytest.mark.parametrize("model", ["amazon.titan-text-express-v1", "meta.llama3-8b-instruct-v1:0"])
def test_without_headers_the_body_tells(
    model: str, provider: LoopbackProvider, tracker: Tracker, client: Any
):
    """A body that is read in pieces is the same body, and its figures count."""
    key = "inputText" if "titan" in model else "prompt"
    client.meta.events.register("before-parse.bedrock-runtime.InvokeModel", _without_headers)
    try:
        watch(tracker, client)
        body = client.invoke_model(modelId=model, body=json.dumps({key: PROMPT}))["body"]
        assert tracker.total_llm_token_count == 0
        read = b"".join(body.iter_chunks(7))
    finally:
        client.meta.events.unregister("before-parse.bedrock-runtime.InvokeModel", _without_headers)
    assert SAID in read.decode()
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert (event.prompt_token_count, event.completion_token_count) == (
        billed.input_tokens,
        billed.output_tokens,
    )
    assert (event.source, event.operation) == ("reported", "completion")
    assert (event.prompt, event.completion) == (PROMPT, SAID)


def _without_headers(response_dict: Any, **_: Any) -> None:
    for name in list(response_dict["headers"]):
        if "token-count" in name:
            del response_dict["headers"][name]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_aws_leaves_out_is_counted_here(
    way: Way, client: Any, provider: LoopbackProvider, handler: TokenCountingHandler
):
    """Prompt and answer are counted with the handler's tokenizer, and marked."""
    handler.tokenizer = str.split
    provider.script(Reply(SAID, None))
    watch(handler, client)
    way(client)
    [event] = handler.llm_token_counts
    assert event.source in ("counted", "estimated")
    assert event.prompt_token_count >= len(PROMPT.split())
    assert event.completion_token_count == len(SAID.split())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_an_error_costs_nothing(
    way: Way, client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """It reaches the program as it is, and is listed among the failed."""
    provider.script(Reply(status=429))
    watch(tracker, client)
    with pytest.raises(ClientError, match="ThrottlingException"):
        way(client)
    [event] = tracker.failed_calls
    assert (event.status, event.total_token_count) == ("failed", 0)
    assert tracker.llm_token_counts == []


def test_nobody_listening_is_a_failed_call(tracker: Tracker, provider: LoopbackProvider):
    """Without any answer nothing was billed."""
    arguments = {**provider.arguments("bedrock"), "endpoint_url": "http://127.0.0.1:9"}
    # Tried once again; by default it would be four times, with waits that grow.
    config = Config(retries={"total_max_attempts": 2})
    client = boto3.client("bedrock-runtime", config=config, **arguments)
    watch(tracker, client)
    with pytest.raises(EndpointConnectionError):
        converse(client)
    assert len(tracker.failed_calls) == 1


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_guardrail_is_counted_as_reported(
    way: Way, client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """What a guardrail says instead of the model is one call, at AWS's figures."""
    provider.script(Reply("Blocked.", guardrail=True))
    watch(tracker, client)
    way(client)
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert event.total_token_count == billed.total_tokens
    assert event.source == "reported"


def test_counting_tokens_is_no_call_to_a_model(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """CountTokens is free."""
    watch(tracker, client)
    client.count_tokens(modelId=CLAUDE, input={"converse": {"messages": MESSAGES}})
    assert len(provider.calls) == 1
    assert tracker.totals() == {}


# --- embeddings ----------------------------------------------------------------------------


def test_a_text_of_titan_is_one_event(client: Any, provider: LoopbackProvider, tracker: Tracker):
    """Its tokens are those of the header."""
    watch(tracker, client)
    client.invoke_model(modelId=TITAN, body=json.dumps({"inputText": "one two"}))["body"].read()
    [event], [billed] = tracker.embedding_token_counts, provider.billed
    assert (event.prompt, event.prompt_token_count) == ("one two", billed.input_tokens)
    assert (event.source, event.operation, event.model) == ("reported", "embedding", TITAN)


def test_texts_of_cohere_share_the_header_exactly(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """One event a text; the longer text has the larger share, and the sum is AWS's."""
    texts = ["one", "one two three four", "one two"]
    watch(tracker, client)
    body = json.dumps({"texts": texts, "input_type": "search_document"})
    client.invoke_model(modelId=COHERE, body=body)["body"].read()
    events, [billed] = tracker.embedding_token_counts, provider.billed
    assert [event.prompt for event in events] == texts
    assert sum(event.prompt_token_count for event in events) == billed.input_tokens
    assert tracker.total_embedding_token_count == billed.input_tokens
    shares = [event.prompt_token_count for event in events]
    assert shares[0] < shares[2] < shares[1]
    assert {event.source for event in events} == {"reported"}


@pytest.mark.parametrize("said", [{"texts": ["one"]}, {"inputText": "one"}])
def test_behind_an_opaque_name_an_embedding_is_told_by_its_request(
    said: dict[str, Any], client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """The ARN of an application inference profile names no model."""
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/embed7x"
    assert "embed" in arn.rpartition("/")[2]  # this provider needs it to tell; the watch doesn't
    watch(tracker, client)
    client.invoke_model(modelId=arn, body=json.dumps(said))
    [event], [billed] = tracker.embedding_token_counts, provider.billed
    assert (event.prompt, event.prompt_token_count) == ("one", billed.input_tokens)
    assert event.model == arn


# --- streams -------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["converse_stream", "invoke_model_with_response_stream"])
@pytest.mark.parametrize("leaving", ["close", "drop"])
def test_a_stream_that_is_left_counts_what_came(
    way: str, leaving: str, client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """It's abandoned; where AWS would have told at the end, the figures are marked."""
    provider.script(Reply(SAID, CACHED, stall_after=2))
    watch(tracker, client)
    stream = _stream(client, way)
    events = iter(stream)
    said = ""
    while SAID[: len(SAID) // 3] not in said:
        said += _text(next(events))
    if leaving == "close":
        stream.close()
    del events, stream
    gc.collect()
    [event] = tracker.llm_token_counts
    assert event.status == "abandoned"
    assert event.completion.startswith(f"assistant: {SAID[:6]}")
    assert event.completion_source in ("counted", "estimated")
    assert event.completion_token_count > 0
    if way == "converse_stream":
        assert event.prompt_source in ("counted", "estimated")
    else:
        # Claude says at once how much it has read.
        assert (event.prompt_source, event.prompt_token_count) == ("reported", 22_734)


def _text(event: Any) -> str:
    if "chunk" in event:
        text: str = json.loads(event["chunk"]["bytes"]).get("delta", {}).get("text", "")
        return text
    return event.get("contentBlockDelta", {}).get("delta", {}).get("text", "")


def _stream(client: Any, way: str) -> Any:
    if way == "converse_stream":
        return client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"]
    return client.invoke_model_with_response_stream(modelId=CLAUDE, body=BODY)["body"]


@pytest.mark.parametrize("way", ["converse_stream", "invoke_model_with_response_stream"])
def test_a_stream_that_is_cut_has_failed(
    way: str, client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """The program gets the error, and what came is counted."""
    provider.script(Reply(SAID, CACHED, cut_after=2))
    watch(tracker, client)
    with pytest.raises((ProtocolError, EventStreamError, OSError)):
        list(_stream(client, way))
    [event] = tracker.llm_token_counts
    assert event.status == "failed"
    assert event.completion_token_count > 0
    assert event.prompt_token_count > 0


def test_a_stream_may_be_read_in_two_goes(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Whoever looks at the first event and then goes on has read it all."""
    watch(tracker, client)
    stream = _stream(client, "converse_stream")
    for _ in stream:
        break
    assert tracker.llm_token_counts == []
    list(stream)
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert event.total_token_count == billed.total_tokens
    assert event.status == "complete"


def test_events_reach_the_program_as_they_come(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """A stream that halts has given everything before: nothing is held back or read ahead."""
    provider.script(Reply(SAID, stall_after=1))
    watch(tracker, client)
    stream = _stream(client, "converse_stream")
    first = next(iter(stream))
    assert "messageStart" in first
    [call] = provider.calls
    assert call.ended == "open"
    stream.close()


def test_a_stream_that_is_never_read_is_counted(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """AWS has got the prompt all the same."""
    watch(tracker, client)
    _stream(client, "converse_stream").close()
    [event] = tracker.llm_token_counts
    assert (event.status, event.completion_token_count) == ("abandoned", 0)
    assert event.prompt_token_count > 0


# --- scopes, threads ---------------------------------------------------------------------


def test_a_call_belongs_to_its_scope(client: Any, provider: LoopbackProvider, tracker: Tracker):
    """Also a stream that is drained after the scope's end."""
    watch(tracker, client)
    with tracker.scope("request", user="ada") as request:
        converse(client)
        stream = _stream(client, "converse_stream")
    converse(client)
    list(stream)
    billed = provider.billed
    assert request.total_llm_token_count == sum(usage.total_tokens for usage in billed[:2])
    assert tracker.total_llm_token_count == sum(usage.total_tokens for usage in billed)
    assert tracker.by("user")["ada"].calls == 2


def test_threads_are_counted_once_each(client: Any, provider: LoopbackProvider, tracker: Tracker):
    """Eight threads with a mix of operations add up to what the provider billed."""
    watch(tracker, client)

    def work() -> None:
        for way in WAYS:
            way(client)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tracker.llm_token_counts) == 32
    assert tracker.total_llm_token_count == sum(usage.total_tokens for usage in provider.billed)


def test_text_may_be_left_out(client: Any, provider: LoopbackProvider):
    """A handler without texts keeps none of a plain client's either."""
    handler = TokenCountingHandler(keep_text=False)
    watch(handler, client)
    for way in WAYS:
        way(client)
    assert {(event.prompt, event.completion) for event in handler.llm_token_counts} == {("", "")}
    assert handler.total_llm_token_count == sum(usage.total_tokens for usage in provider.billed)

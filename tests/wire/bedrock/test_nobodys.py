"""Requests that are nobody's, of which no more is kept than they left with until somebody asks."""

import gc
import json
import time
import tracemalloc
from io import BytesIO
from itertools import islice
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.response import StreamingBody

from llama_token_tracker._background import WORKER
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.usage import Usage
from llama_token_tracker.wire import watch
from tests.wire.bedrock.conftest import BODY, CLAUDE, MESSAGES
from tests.wire.interrupted import assert_counted_once

CACHED = Usage(input_tokens=907, output_tokens=13, cache_read_tokens=502, cache_write_tokens=311)
CALLS: dict[str, Any] = {
    "Converse": lambda client: client.converse(modelId=CLAUDE, messages=MESSAGES),
    "InvokeModel": lambda client: client.invoke_model(modelId=CLAUDE, body=BODY)["body"].read(),
    "an embedding": lambda client: client.invoke_model(
        modelId="amazon.titan-embed-text-v2:0", body=json.dumps({"inputText": "of otters"})
    )["body"].read(),
    "ConverseStream": lambda client: list(
        client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"]
    ),
    "InvokeModelWithResponseStream": lambda client: list(
        client.invoke_model_with_response_stream(modelId=CLAUDE, body=BODY)["body"]
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_it_is_counted_once_wherever_it_is_interrupted(call: str):
    """Whatever interrupts the caller, what was billed is an event, and no other call is."""
    with LoopbackProvider(Reply("yes", CACHED)) as provider:
        client = boto3.client("bedrock-runtime", **provider.arguments("bedrock"))

        assert_counted_once(lambda: CALLS[call](client), provider, client)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "an embedding"])
def test_one_that_is_never_answered_is_counted_as_left(
    client: Any, tracker: Tracker, call: str
) -> None:
    """Nobody tells of what Ctrl-C ends while it's sent."""

    def leave(**_: Any) -> None:
        raise KeyboardInterrupt

    client.meta.events.register("before-send.bedrock-runtime", leave)
    watch(tracker, client)
    with pytest.raises(KeyboardInterrupt):
        CALLS[call](client)
    gc.collect()
    [event] = tracker.llm_token_counts
    assert (event.status, event.source, event.model) == ("abandoned", "estimated", CLAUDE)


def test_one_whose_figures_are_still_to_be_read_is_open_until_then(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Somebody who stands before AWS has taken the headers with the figures away."""

    def take(response_dict: Any, **_: Any) -> None:
        for name in [name for name in response_dict["headers"] if "token-count" in name.lower()]:
            del response_dict["headers"][name]

    client.meta.events.register("before-parse.bedrock-runtime", take)
    provider.script(Reply("yes", CACHED))
    watch(tracker, client)
    body = client.invoke_model(modelId=CLAUDE, body=BODY)["body"]
    assert len(tracker.llm_token_counts) == 0
    body.read()
    [event] = tracker.llm_token_counts
    assert (event.status, event.source) == ("complete", "reported")
    assert event.usage.input_tokens == CACHED.input_tokens


@pytest.mark.parametrize("call", ["Converse", "InvokeModel"])
def test_an_answer_of_somebody_who_says_nothing_about_it_is_read(
    client: Any, tracker: Tracker, caplog: pytest.LogCaptureFixture, call: str
):
    """Whoever answers before a request leaves needn't make up headers and a request's id."""
    figures = {"inputTokens": 907, "outputTokens": 13, "totalTokens": 920}
    message = {"role": "assistant", "content": [{"text": "yes"}]}
    converse = {"output": {"message": message}, "stopReason": "end_turn", "usage": figures}
    invoke = {
        "type": "message",
        "content": [{"type": "text", "text": "yes"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 907, "output_tokens": 13},
    }

    def answer(**_: Any) -> Any:
        whole = json.dumps(converse if call == "Converse" else invoke).encode()
        http = SimpleNamespace(status_code=200, _content=whole, url="https://aws.example/")
        body = StreamingBody(BytesIO(whole), len(whole))
        return http, {**converse} if call == "Converse" else {"body": body}

    watch(tracker, client)
    client.meta.events.register_last("before-call.bedrock-runtime", answer)
    CALLS[call](client)
    [event] = tracker.llm_token_counts
    assert event.status == "complete"
    assert (event.usage.input_tokens, event.usage.output_tokens) == (907, 13)
    assert "could not be read" not in caplog.text


def test_it_tells_when_and_where_it_was_made(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Not when somebody asks, nor in which scope that is."""
    provider.script(Reply("yes", CACHED, delay_s=0.05))
    watch(tracker, client)
    before = time.time()
    CALLS["Converse"](client)
    after = time.time()
    time.sleep(0.1)
    with tracker.scope("asking"):
        [event] = tracker.llm_token_counts
    assert before <= event.started_at.timestamp() <= after
    assert 0.05 <= event.duration_s <= after - before
    assert event.scope is None


def test_a_long_one_is_read_at_once(client: Any, provider: LoopbackProvider, tracker: Tracker):
    """Pictures stand in a request as text; none of that is kept until somebody asks."""
    provider.script(*[Reply("yes", CACHED)] * 2)
    watch(tracker, client)
    picture = {"type": "base64", "media_type": "image/png", "data": "iVBO" * 100_000}
    content = [{"type": "text", "text": "whose is it?"}, {"type": "image", "source": picture}]
    asked = json.loads(BODY) | {"messages": [{"role": "user", "content": content}]}
    long, short = json.dumps(asked).encode(), BODY.encode()
    for body in (long, short):
        client.invoke_model(modelId=CLAUDE, body=body)["body"].read()
    assert _held_by_us(short)
    assert not _held_by_us(long)
    events = tracker.llm_token_counts
    assert [event.usage.input_tokens for event in events] == [CACHED.input_tokens] * 2
    assert [event.source for event in events] == ["reported"] * 2
    assert "whose is it?" in events[0].prompt


def test_bodies_that_are_read_after_their_call_count_as_waiting(
    client: Any, provider: LoopbackProvider, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    """Else it would be looked at how much waits after hundreds of calls alone."""
    monkeypatch.setattr("llama_token_tracker.tracking.pending.MAX_HELD_BYTES", 1_000_000)
    asked: list[object] = []
    monkeypatch.setattr(WORKER, "ask", asked.append)
    provider.script(*[Reply("long " * 80_000, CACHED)] * 4)
    watch(tracker, client)
    for _ in range(4):
        body = client.invoke_model(modelId=CLAUDE, body=BODY)["body"]
        while body.read(3_000):
            pass
    assert asked == [tracker.catch_up]


def test_streams_that_are_kept_count_as_waiting(
    client: Any, provider: LoopbackProvider, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    """By what any piece of theirs takes."""
    monkeypatch.setattr("llama_token_tracker.tracking.pending.MAX_HELD_BYTES", 180_000)
    asked: list[object] = []
    monkeypatch.setattr(WORKER, "ask", asked.append)
    provider.script(*[Reply("word " * 100, CACHED, chunks=100)] * 4)
    watch(tracker, client)
    for _ in range(4):
        assert not asked
        CALLS["ConverseStream"](client)
    assert asked == [tracker.catch_up]


def test_a_request_that_a_long_stream_answers_is_not_read_at_once(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """As the stream is long, and not the request."""
    provider.script(Reply("word " * 600, CACHED, chunks=600))
    watch(tracker, client)
    body = BODY.encode()
    list(client.invoke_model_with_response_stream(modelId=CLAUDE, body=body)["body"])
    assert _held_by_us(body)
    assert len(tracker.llm_token_counts) == 1
    assert not _held_by_us(body)


def test_a_long_stream_takes_little_while_it_is_read(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """What is kept of it is packed."""
    chunks = 3_000

    def held() -> int:
        provider.script(Reply("word " * chunks, CACHED, chunks=chunks))
        gc.collect()
        tracemalloc.start()
        try:
            events = iter(client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"])
            assert sum(1 for _ in islice(events, chunks)) == chunks
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
            assert next(events)

    def least() -> int:
        # Of several, for the provider, in this process too, may be ahead or not.
        return min(held() for _ in range(3))

    held()
    plain = least()
    watch(tracker, client)
    # Of the last 256 events it's the bytes.
    assert least() - plain < 100_000


def _held_by_us(thing: object) -> bool:
    kinds = [type(holder).__module__ for holder in gc.get_referrers(thing)]
    return any(kind.startswith("llama_token_tracker.wire") for kind in kinds)

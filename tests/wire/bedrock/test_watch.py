"""Who can be watched, by whom, and for how long."""

import asyncio
import gc
import json
import weakref
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import LlamaTokenTrackerError, TokenCountingHandler, Tracker
from llama_token_tracker.events.settle import shares
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import watch
from tests.needs import needs
from tests.wire.bedrock.conftest import BODY, CLAUDE, MESSAGES, TITAN


def ask(client: Any) -> None:
    """Make one call."""
    client.converse(modelId=CLAUDE, messages=MESSAGES)


def test_watching_twice_is_watching_once(client: Any, provider: LoopbackProvider, tracker: Tracker):
    """Until both are stopped, in whichever order."""
    first, second = watch(tracker, client), watch(tracker, client)
    ask(client)
    assert len(tracker.llm_token_counts) == len(provider.billed) == 1
    first.stop()
    ask(client)
    assert len(tracker.llm_token_counts) == 2
    second.stop()
    ask(client)
    assert len(tracker.llm_token_counts) == 2


def test_two_trackers_hear_the_same_client(client: Any, provider: LoopbackProvider):
    """Each counts each call once."""
    first, second = Tracker(), Tracker()
    watch(first, client)
    watch(second, client)
    ask(client)
    [billed] = provider.billed
    assert first.total_llm_token_count == second.total_llm_token_count == billed.total_tokens


def test_nobody_listens_after_a_stop(client: Any, provider: LoopbackProvider, tracker: Tracker):
    """To stop again is nothing."""
    watching = watch(tracker, client)
    watching.stop()
    watching.stop()
    ask(client)
    assert len(provider.billed) == 1
    assert tracker.totals() == {}


def test_a_watch_ends_with_its_block(client: Any, provider: LoopbackProvider, tracker: Tracker):
    """A stream that has begun is heard to its end."""
    with watch(tracker, client):
        stream = client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"]
    ask(client)
    list(stream)
    assert tracker.total_llm_token_count == provider.billed[0].total_tokens
    with watch(tracker, client):
        ask(client)
    assert len(tracker.llm_token_counts) == 2


def test_clients_of_a_session_are_watched_from_then_on(
    provider: LoopbackProvider, tracker: Tracker
):
    """A session is watched for the clients it will make; they're counted once, watched or not."""
    session = boto3.Session()
    with watch(tracker, session):
        client = session.client("bedrock-runtime", **provider.arguments("bedrock"))
        ask(client)
        with watch(tracker, client):
            ask(client)
        assert len(tracker.llm_token_counts) == 2
    ask(client)
    assert len(tracker.llm_token_counts) == 2


def test_another_service_is_refused(tracker: Tracker, provider: LoopbackProvider):
    """The error says what was found and what to give."""
    client = boto3.client("s3", **provider.arguments("bedrock"))
    with pytest.raises(TypeError, match=r"client of s3 .* boto3.client\('bedrock-runtime'\)"):
        watch(tracker, client)


@pytest.mark.parametrize("thing", [object(), None, "bedrock-runtime", 7])
def test_what_is_no_client_is_refused(thing: object, tracker: Tracker):
    """Whatever it is."""
    with pytest.raises(LlamaTokenTrackerError, match="can't be watched"):
        watch(tracker, thing)


@pytest.mark.parametrize("counter", [object(), None, print])
def test_who_does_not_count_is_refused(counter: object, client: Any):
    """A watch needs a tracker."""
    with pytest.raises(TypeError, match="doesn't count"):
        watch(counter, client)


def test_a_client_is_not_kept_alive(provider: LoopbackProvider, tracker: Tracker):
    """Nor is a handler that nobody else holds."""
    handler = TokenCountingHandler()
    client = boto3.client("bedrock-runtime", **provider.arguments("bedrock"))
    watch(tracker, client)
    watch(handler, client)
    ask(client)
    dead = [weakref.ref(client), weakref.ref(handler)]
    del handler
    gc.collect()
    assert dead[1]() is None
    ask(client)
    del client
    gc.collect()
    assert dead[0]() is None
    assert len(tracker.llm_token_counts) == 2


def test_a_body_that_is_no_json_is_counted_all_the_same(
    client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """The headers know its tokens; its prompt stays empty."""
    provider.script(Reply("yes"))
    watch(tracker, client)
    with pytest.raises(client.exceptions.ValidationException):
        client.invoke_model(modelId="stability.unknown", body=b"\xff\x00")
    client.invoke_model(modelId=TITAN, body=b"[1, 2]")
    [event], [billed] = tracker.embedding_token_counts, provider.billed
    assert (event.prompt, event.prompt_token_count) == ("", billed.input_tokens)


def test_the_body_is_botocores_own_kind(client: Any, tracker: Tracker, provider: LoopbackProvider):
    """Whatever reads a StreamingBody reads this one, in every way."""
    from botocore.response import StreamingBody

    watch(tracker, client)
    bodies = [client.invoke_model(modelId=CLAUDE, body=BODY)["body"] for _ in range(4)]
    assert all(isinstance(body, StreamingBody) for body in bodies)
    with bodies[3] as raw:
        texts = [
            json.load(bodies[0]),
            json.loads(b"".join(bodies[1])),
            json.loads(b"\n".join(bodies[2].iter_lines())),
            json.loads(raw.read()),
        ]
    assert len({text["content"][0]["text"] for text in texts}) == 1
    assert len(tracker.llm_token_counts) == 4


@given(st.integers(0, 10**7), st.lists(st.integers(0, 10**5), min_size=1, max_size=50))
def test_shares_add_up_to_the_whole(total: int, weights: list[int]):
    """Each is within one of its exact part."""
    parts = shares(total, weights)
    assert sum(parts) == total
    whole = sum(weights)
    if whole:
        for part, weight in zip(parts, weights, strict=True):
            assert abs(part - total * weight / whole) < 1


# --- asynchronous clients ------------------------------------------------------------------


@needs("aioboto3")
def test_asynchronous_clients_are_watched_too(provider: LoopbackProvider, tracker: Tracker):
    """Every operation of aioboto3, a stream that is left and an error included."""
    import aioboto3

    async def work() -> None:
        session = aioboto3.Session()
        async with session.client("bedrock-runtime", **provider.arguments("bedrock")) as client:
            watch(tracker, client)
            await client.converse(modelId=CLAUDE, messages=MESSAGES)
            stream = await client.converse_stream(modelId=CLAUDE, messages=MESSAGES)
            async for _ in stream["stream"]:
                pass
            answer = await client.invoke_model(modelId=CLAUDE, body=BODY)
            assert "content" in json.loads(await answer["body"].read())
            stream = await client.invoke_model_with_response_stream(modelId=CLAUDE, body=BODY)
            async for _ in stream["body"]:
                pass
            body = json.dumps({"inputText": "one"})
            answer = await client.invoke_model(modelId=TITAN, body=body)
            await answer["body"].read()
            provider.script(Reply(status=400))
            with pytest.raises(client.exceptions.ValidationException):
                await client.converse(modelId=CLAUDE, messages=MESSAGES)
            stream = await client.converse_stream(modelId=CLAUDE, messages=MESSAGES)
            async for _ in stream["stream"]:
                break
            stream["stream"].close()

    asyncio.run(work())
    billed = provider.billed
    *complete, left = tracker.llm_token_counts
    counted = [event.total_token_count for event in complete]
    assert counted == [usage.total_tokens for usage in billed[:4]]
    assert {event.completion for event in complete} == {"assistant: Canberra is the capital."}
    assert left.status == "abandoned"
    [text] = tracker.embedding_token_counts
    assert text.prompt_token_count == billed[4].input_tokens
    assert len(tracker.failed_calls) == 1


@needs("aioboto3")
def test_a_cancelled_call_is_abandoned(provider: LoopbackProvider, tracker: Tracker):
    """Nobody knows what AWS bills for it: its prompt is counted, and marked."""
    import aioboto3

    async def work() -> None:
        provider.script(Reply(delay_s=5))
        session = aioboto3.Session()
        async with session.client("bedrock-runtime", **provider.arguments("bedrock")) as client:
            watch(tracker, client)
            call = asyncio.ensure_future(client.converse(modelId=CLAUDE, messages=MESSAGES))
            await asyncio.sleep(0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(work())
    gc.collect()
    [event] = tracker.llm_token_counts
    assert (event.status, event.source) == ("abandoned", "estimated")
    assert event.prompt_token_count > 0


@needs("aioboto3")
def test_an_async_session_is_watched_for_its_clients(provider: LoopbackProvider, tracker: Tracker):
    """So are models that make a client for each call."""
    import aioboto3

    async def work() -> None:
        session = aioboto3.Session()
        with watch(tracker, session):
            for _ in range(2):
                arguments = provider.arguments("bedrock")
                async with session.client("bedrock-runtime", **arguments) as client:
                    await client.converse(modelId=CLAUDE, messages=MESSAGES)

    asyncio.run(work())
    assert tracker.total_llm_token_count == sum(usage.total_tokens for usage in provider.billed)
    assert len(tracker.llm_token_counts) == 2


@needs("aioboto3")
def test_a_client_that_is_not_entered_is_refused(provider: LoopbackProvider, tracker: Tracker):
    """The error says where to watch it."""
    import aioboto3

    async def work() -> None:
        waiting = aioboto3.Session().client("bedrock-runtime", **provider.arguments("bedrock"))
        with pytest.raises(TypeError, match="within its `async with`"):
            watch(tracker, waiting)
        async with waiting as client:
            watch(tracker, client)

    asyncio.run(work())

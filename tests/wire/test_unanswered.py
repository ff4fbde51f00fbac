"""Requests that have left and weren't answered may have been billed: each is an event."""

import asyncio
from contextlib import closing, nullcontext, suppress
from functools import partial
from typing import Any

import httpx
import pytest

from llama_token_tracker import Budget
from llama_token_tracker.errors import BudgetExceededError
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.late import Late, as_json, serving
from tests.needs import needs

CHAT = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-4o-mini",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "hi"}}
    ],
    "usage": {"prompt_tokens": 3_912, "completion_tokens": 5, "total_tokens": 3_917},
}
MESSAGE = {
    "id": "m",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-6",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 3_912, "output_tokens": 5},
}
CONVERSE = {
    "output": {"message": {"role": "assistant", "content": [{"text": "hi"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 3_912, "outputTokens": 5, "totalTokens": 3_917},
    "metrics": {"latencyMs": 1},
}
EMBEDDED = {
    "object": "list",
    "model": "text-embedding-3-small",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}],
    "usage": {"prompt_tokens": 9, "total_tokens": 9},
}
HELLO: list[Any] = [{"role": "user", "content": "one two three four"}]
TIMEOUT_S = 0.15
LATE_S = 0.6


def ask_openai(server: Late, tracker: Tracker, retries: int) -> None:
    """Ask for a chat."""
    openai = pytest.importorskip("openai")
    http = openai.DefaultHttpxClient(transport=WatchingTransport(tracker))
    client = openai.OpenAI(
        api_key="k",
        base_url=server.url + "/v1",
        timeout=TIMEOUT_S,
        max_retries=retries,
        http_client=http,
    )
    with client:
        client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)


def ask_anthropic(server: Late, tracker: Tracker, retries: int) -> None:
    """Ask for a message."""
    anthropic = pytest.importorskip("anthropic")
    http = anthropic.DefaultHttpxClient(transport=WatchingTransport(tracker))
    client = anthropic.Anthropic(
        api_key="k",
        base_url=server.url,
        timeout=TIMEOUT_S,
        max_retries=retries,
        http_client=http,
    )
    with client:
        client.messages.create(model="claude-opus-4-6", max_tokens=9, messages=HELLO)


def ask_converse(
    server: Late, tracker: Tracker, retries: int, mode: str = "standard", watched: str = "client"
) -> None:
    """Ask Converse, by a client that is watched alone, with its session or with the process."""
    boto3 = pytest.importorskip("boto3")
    from botocore.config import Config

    session = boto3.Session()
    if watched == "session":
        watch(tracker, session)
    client = session.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(
            read_timeout=TIMEOUT_S, retries={"total_max_attempts": retries + 1, "mode": mode}
        ),
    )
    if watched == "client":
        watch(tracker, client)
    with closing(client), watch(tracker) if watched == "process" else nullcontext():
        client.converse(
            modelId="anthropic.claude-3-haiku-20240307-v1:0",
            messages=[{"role": "user", "content": [{"text": "one two three four"}]}],
        )


ASKING = {
    "openai": (ask_openai, CHAT),
    "anthropic": (ask_anthropic, MESSAGE),
    "converse": (ask_converse, CONVERSE),
    "converse, legacy": (partial(ask_converse, mode="legacy"), CONVERSE),
    "converse, adaptive": (partial(ask_converse, mode="adaptive"), CONVERSE),
    "converse by a session": (partial(ask_converse, watched="session"), CONVERSE),
    "converse in a process": (partial(ask_converse, watched="process"), CONVERSE),
}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDKs wait between attempts; these tests needn't."""
    monkeypatch.setattr("openai._constants.INITIAL_RETRY_DELAY", 0.01, raising=False)
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01, raising=False)
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.01, raising=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("retries", [2, 1])
def test_each_attempt_that_left_is_an_event(name: str, retries: int):
    """Two attempts time out, and the third, if there is one, is answered."""
    ask, body = ASKING[name]
    tracker = Tracker()
    with serving(as_json(body), late=[LATE_S] * 2) as server:
        if retries == 2:
            ask(server, tracker, retries)
        else:
            with pytest.raises(Exception, match=r"(?i)time"):
                ask(server, tracker, retries)
    assert len(server.requests) == retries + 1
    events = tracker.llm_token_counts
    assert [event.status for event in events] == ["unanswered"] * 2 + ["complete"] * (retries - 1)
    for event in events[:2]:
        assert event.cost is not None
        assert not event.cost.is_whole
        assert event.prompt_token_count > 0
        assert event.completion_token_count == 0
        assert event.source != "reported"
        assert "one two three four" in event.prompt
    assert [event.total_token_count for event in events[2:]] == [3_917] * (retries - 1)
    assert tracker.total_cost_usd is not None
    assert tracker.estimated_cost_usd > 0
    assert tracker.failed_calls == []
    assert "unanswered" in str(tracker)


@pytest.mark.parametrize("name", ASKING)
def test_a_server_that_hangs_up_may_have_billed(name: str):
    """The connection was there, and the request read."""
    ask, body = ASKING[name]
    tracker = Tracker()
    with serving(as_json(body), lost=1) as server:
        ask(server, tracker, 1)
    lost, answered = tracker.llm_token_counts
    assert (lost.status, answered.status) == ("unanswered", "complete")
    assert lost.prompt_token_count > 0


@pytest.mark.parametrize("name", ASKING)
def test_a_connection_that_was_never_made_is_free(name: str):
    """Nobody listens."""
    ask, body = ASKING[name]
    tracker = Tracker()
    with serving(as_json(body)) as server:
        pass
    with pytest.raises(Exception, match=r"(?i)connect"):
        ask(server, tracker, 1)
    assert tracker.llm_token_counts == []
    assert {event.total_token_count for event in tracker.failed_calls} == {0}


@pytest.mark.parametrize("name", ASKING)
def test_an_http_error_is_free(name: str):
    """Each attempt that was refused costs nothing."""
    ask, _ = ASKING[name]
    tracker = Tracker()
    refusal = as_json({"error": {"message": "no"}, "message": "no"}, status=400)
    with serving(refusal) as server, pytest.raises(Exception, match="no"):
        ask(server, tracker, 1)
    assert tracker.llm_token_counts == []
    assert len(tracker.failed_calls) == len(server.requests) == 1


@pytest.mark.parametrize("name", ASKING)
def test_a_budget_is_charged_for_what_was_not_answered(name: str):
    """What was reserved counts, as nobody knows what came back; then nothing more is sent."""
    ask, body = ASKING[name]
    tracker = Tracker(budget=Budget(tokens=60, default_max_tokens=9))
    sent = 0
    with serving(as_json(body), lost=99) as server:
        for _ in range(20):
            try:
                ask(server, tracker, 0)
            except Exception as error:  # noqa: BLE001 - each SDK has errors of its own
                if isinstance(error, BudgetExceededError) or isinstance(
                    error.__cause__, BudgetExceededError
                ):
                    break
            sent += 1
        assert len(server.requests) == sent
    assert 1 <= sent < 10
    assert tracker.accounts[0].spent().tokens >= 9 * sent + tracker.total_llm_token_count


def test_an_asynchronous_request_that_is_not_answered_is_an_event():
    """And one that embeds is one, too."""
    tracker = Tracker()

    async def ask(server: Late) -> None:
        transport = AsyncWatchingTransport(tracker)
        async with httpx.AsyncClient(transport=transport, base_url=server.url) as client:
            body = {"model": "text-embedding-3-small", "input": ["one two three"]}
            with pytest.raises(httpx.RemoteProtocolError):
                await client.post("/v1/embeddings", json=body)
            await client.post("/v1/embeddings", json=body)

    with serving(as_json(EMBEDDED), lost=1) as server:
        asyncio.run(ask(server))
    lost, answered = tracker.embedding_token_counts
    assert (lost.status, lost.prompt_token_count, lost.source) == ("unanswered", 3, "counted")
    assert (answered.status, answered.prompt_token_count) == ("complete", 9)


async def aask_openai(server: Late, tracker: Tracker, retries: int) -> None:
    """Ask for a chat."""
    openai = pytest.importorskip("openai")
    http = openai.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(tracker))
    client = openai.AsyncOpenAI(
        api_key="k", base_url=server.url + "/v1", max_retries=retries, http_client=http
    )
    async with client:
        await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)


async def aask_anthropic(server: Late, tracker: Tracker, retries: int) -> None:
    """Ask for a message."""
    anthropic = pytest.importorskip("anthropic")
    http = anthropic.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(tracker))
    client = anthropic.AsyncAnthropic(
        api_key="k", base_url=server.url, max_retries=retries, http_client=http
    )
    async with client:
        await client.messages.create(model="claude-opus-4-6", max_tokens=9, messages=HELLO)


async def aask_converse(server: Late, tracker: Tracker, retries: int) -> None:
    """Ask Converse."""
    import aioboto3
    from botocore.config import Config

    async with aioboto3.Session().client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": retries + 1, "mode": "standard"}),
    ) as client:
        watch(tracker, client)
        await client.converse(
            modelId="anthropic.claude-3-haiku-20240307-v1:0",
            messages=[{"role": "user", "content": [{"text": "one two three four"}]}],
        )


AASKING = [
    pytest.param(aask_openai, CHAT, id="openai"),
    pytest.param(aask_anthropic, MESSAGE, id="anthropic"),
    pytest.param(aask_converse, CONVERSE, id="converse", marks=needs("aioboto3")),
]


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize(("ask", "body"), AASKING)
def test_each_asynchronous_attempt_is_an_event(ask: Any, body: dict[str, Any], lost: int):
    """One attempt is lost, and the other is answered or lost as well."""
    tracker = Tracker()
    with serving(as_json(body), lost=lost) as server, suppress(Exception):
        asyncio.run(ask(server, tracker, 1))
    assert len(server.requests) == 2
    events = tracker.llm_token_counts
    assert [event.status for event in events] == ["unanswered"] * lost + ["complete"] * (2 - lost)
    assert all(event.prompt_token_count > 0 for event in events)
    assert [event.total_token_count for event in events[lost:]] == [3_917] * (2 - lost)
    assert tracker.failed_calls == []


@pytest.mark.parametrize("name", ASKING)
@pytest.mark.parametrize("stops_after", [0, 20])
def test_an_answer_that_stops_before_it_is_one_is_not_seen(name: str, stops_after: int):
    """The status was 200: whatever was billed is in what didn't come."""
    ask, body = ASKING[name]
    tracker = Tracker()
    with (
        serving(as_json(body), stops_after=stops_after) as server,
        pytest.raises(Exception, match=r"(?i)time"),
    ):
        ask(server, tracker, 0)
    assert len(server.requests) == 1
    (event,) = tracker.llm_token_counts
    assert (event.status, event.completion_token_count) == ("unanswered", 0)
    assert event.prompt_token_count > 0
    assert event.source != "reported"

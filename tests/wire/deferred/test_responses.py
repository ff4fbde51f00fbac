"""A response in the background is one call, recorded when its answer is retrieved."""

import asyncio
import gc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from llama_token_tracker import Budget
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.interrupts import TimeLimit, handled, interrupted, raising
from tests.late import Late
from tests.wire.deferred.background import (
    TEXT,
    USAGE,
    Background,
    Elsewhere,
    background,
    response,
)

openai = pytest.importorskip("openai")

ASKED: dict[str, Any] = {"model": "gpt-4o-mini", "input": "write of otters", "background": True}


@pytest.fixture
def says() -> Background:
    """What the server says."""
    return Background()


@pytest.fixture
def server(says: Background) -> Iterator[Late]:
    """The server."""
    with background(says) as server:
        yield server


@pytest.fixture
def tracker() -> Tracker:
    """Who counts."""
    return Tracker()


def client_of(server: Late, tracker: Tracker, path: str = "/v1") -> Any:
    """A watched client of the SDK, that speaks to OpenAI as far as it knows."""
    http = httpx.Client(transport=WatchingTransport(tracker, Elsewhere(server)))
    return openai.OpenAI(api_key="k", base_url="https://api.openai.com" + path, http_client=http)


def figures(tracker: Tracker) -> list[tuple[str, int, int, str]]:
    """Each event's status, input, output, and source."""
    return [
        (event.status, event.prompt_token_count, event.completion_token_count, event.source)
        for event in tracker.llm_token_counts
    ]


ONCE = [("complete", USAGE["input_tokens"], USAGE["output_tokens"], "reported")]


def poll(client: Any) -> Any:
    """Begin a response and look until it's there, and twice more."""
    begun = client.responses.create(**ASKED)
    assert begun.status == "queued"
    while client.responses.retrieve(begun.id).status != "completed":
        pass
    client.responses.retrieve(begun.id)
    return client.responses.retrieve(begun.id)


def test_one_call_whoever_polls(server: Late, tracker: Tracker) -> None:
    """However often it's polled, it's one call, with what the provider reports."""
    with client_of(server, tracker) as client:
        assert poll(client).output_text == TEXT
    assert figures(tracker) == ONCE
    (event,) = tracker.llm_token_counts
    assert (event.usage.cache_read_tokens, event.usage.reasoning_tokens) == (1_001, 1_900)
    assert (event.completion, event.cost is not None and event.cost.is_whole) == (
        f"assistant: {TEXT}",
        True,
    )
    assert event.event_id == "req_begun"
    assert (tracker.pending_calls, tracker.uncounted) == (0, {})


def test_polled_asynchronously(server: Late, tracker: Tracker) -> None:
    """The asynchronous client's are the same."""

    async def ask() -> None:
        http = httpx.AsyncClient(transport=AsyncWatchingTransport(tracker))
        async with openai.AsyncOpenAI(
            api_key="k", base_url=server.url + "/v1", http_client=http
        ) as client:
            begun = await client.responses.create(**ASKED)
            for _ in range(3):
                await client.responses.retrieve(begun.id)

    asyncio.run(ask())
    assert figures(tracker) == ONCE


def test_retrieved_by_another_client(server: Late, tracker: Tracker) -> None:
    """Whichever watched client retrieves it, in whatever scope, it's the call that was begun."""
    with client_of(server, tracker) as first, tracker.scope("asking", user="ada") as asking:
        begun = first.responses.create(**ASKED)
    with client_of(server, tracker) as second, tracker.scope("reading", user="bob") as reading:
        for _ in range(2):
            second.responses.with_raw_response.retrieve(begun.id).parse()
    assert figures(tracker) == ONCE
    (event,) = tracker.llm_token_counts
    assert (event.scope, event.tags) == ("asking", {"user": "ada"})
    assert (asking.total_llm_token_count, reading.total_llm_token_count) == (9_020, 0)
    assert (event.model, event.operation) == ("gpt-4o-mini", "chat")


@pytest.mark.parametrize("library", ["requests", "aiohttp"])
def test_retrieved_by_other_libraries(server: Late, tracker: Tracker, library: str) -> None:
    """What other libraries retrieve is the same call."""
    client = openai.OpenAI(api_key="k", base_url=server.url + "/v1")
    with client, watch(tracker, client):
        begun = client.responses.create(**ASKED)
    url = f"{server.url}/v1/responses/{begun.id}"
    other = pytest.importorskip(library)

    async def get() -> None:
        async with other.ClientSession() as session:
            with watch(tracker, session):
                for _ in range(2):
                    async with session.get(url) as answer:
                        await answer.json()

    if library == "aiohttp":
        asyncio.run(get())
    else:
        with other.Session() as session, watch(tracker, session):
            for _ in range(2):
                session.get(url).json()
    assert figures(tracker) == ONCE


@pytest.mark.parametrize("path", ["/openai", "/openai/v1"])
def test_on_azure(server: Late, tracker: Tracker, path: str) -> None:
    """Azure's paths are the same."""
    http = httpx.Client(transport=WatchingTransport(tracker))
    with openai.AzureOpenAI(
        api_key="k", api_version="2025-04-01-preview", base_url=server.url + path, http_client=http
    ) as client:
        poll(client)
    assert figures(tracker) == ONCE


@pytest.mark.parametrize("after", [None, 3])
def test_streamed_by_its_id(server: Late, tracker: Tracker, after: int | None) -> None:
    """A stream that is asked for by the id, from wherever, ends the call."""
    with client_of(server, tracker) as client:
        begun = client.responses.create(**ASKED)
        more = {} if after is None else {"starting_after": after}
        for _ in client.responses.retrieve(begun.id, stream=True, **more):
            pass
        client.responses.retrieve(begun.id)
    assert figures(tracker) == ONCE
    assert tracker.llm_token_counts[0].completion == f"assistant: {TEXT}"


def test_a_stream_read_to_its_end(server: Late, says: Background, tracker: Tracker) -> None:
    """What's streamed at once and read to its end is a call as any other."""
    says.streams_when_asked = True
    with client_of(server, tracker) as client:
        (*_, last) = client.responses.create(**ASKED, stream=True)
        client.responses.retrieve(last.response.id)
    assert figures(tracker) == ONCE


@pytest.mark.parametrize("resumed", ["polled", "streamed"])
@pytest.mark.parametrize("left", ["closed", "cut"])
def test_a_stream_left_early(
    server: Late, says: Background, tracker: Tracker, resumed: str, left: str
) -> None:
    """A stream in the background that is left, or breaks off, waits to be taken up again."""
    says.streams_when_asked, says.events = True, 4 if left == "cut" else None
    with client_of(server, tracker) as client:
        stream = client.responses.create(**ASKED, stream=True)
        begun = next(stream).response.id
        for _ in stream if left == "cut" else range(0):
            pass
        stream.close()
        assert (figures(tracker), tracker.pending_calls) == ([], 1)
        says.events = None
        if resumed == "polled":
            client.responses.retrieve(begun)
            client.responses.retrieve(begun)
        else:
            with client.responses.retrieve(begun, stream=True, starting_after=1) as rest:
                next(rest)
            assert (figures(tracker), tracker.pending_calls) == ([], 1)
            for _ in client.responses.retrieve(begun, stream=True, starting_after=1):
                pass
    assert figures(tracker) == ONCE


ENDED: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "incomplete": (
        {"told": True, "incomplete_details": {"reason": "max_output_tokens"}},
        ["complete", 7_003, "reported"],
    ),
    "failed": ({"error": {"code": "server_error", "message": "x"}}, ["failed", 0, "estimated"]),
    "cancelled": ({}, ["unanswered", 0, "estimated"]),
}


@pytest.mark.parametrize("status", ENDED)
def test_other_ends(server: Late, says: Background, tracker: Tracker, status: str) -> None:
    """One that ends otherwise is recorded with what its provider says."""
    more, (ended, tokens, source) = ENDED[status]
    says.looks = [{"status": status, **more}]
    with client_of(server, tracker) as client:
        begun = client.responses.create(**ASKED)
        client.responses.retrieve(begun.id)
        client.responses.retrieve(begun.id)
    (event,) = tracker.llm_token_counts
    assert (event.status, event.source) == (ended, source)
    assert event.prompt_token_count == tokens or 0 < event.prompt_token_count < 20
    assert event.cost is not None
    assert event.cost.is_whole is (status == "incomplete")


@pytest.mark.parametrize(
    ("told", "found"), [(True, ("abandoned", 7_003, "reported")), (False, ("unanswered", 8, ""))]
)
def test_cancelled(
    server: Late, says: Background, tracker: Tracker, told: bool, found: tuple[Any, ...]
) -> None:
    """A cancelled call ends with what its provider says; without a word, marked."""
    says.cancelled = {"status": "cancelled", "told": told}
    with client_of(server, tracker) as client:
        begun = client.responses.create(**ASKED)
        client.responses.cancel(begun.id)
        client.responses.retrieve(begun.id)
    (event,) = tracker.llm_token_counts
    assert event.status == found[0]
    assert event.source == (found[2] or "estimated")
    assert event.cost is not None
    assert event.cost.is_whole is told
    assert tracker.pending_calls == 0


def test_begun_elsewhere(server: Late, tracker: Tracker) -> None:
    """What this process hasn't begun is no call of its."""
    with client_of(server, tracker) as client:
        for _ in range(2):
            client.responses.retrieve(response(7, "completed")["id"])
    assert (figures(tracker), tracker.uncounted, tracker.pending_calls) == ([], {}, 0)


@pytest.mark.parametrize("look", ["refused", "unreachable"])
def test_a_look_that_fails(server: Late, says: Background, tracker: Tracker, look: str) -> None:
    """A look that comes to nothing leaves the call pending."""
    with client_of(server, tracker) as client:
        begun = client.responses.create(**ASKED)
        if look == "refused":
            says.lost = {begun.id}
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(begun.id)
            says.lost = set()
        else:
            transport = WatchingTransport(tracker, httpx.MockTransport(_fails))
            with httpx.Client(transport=transport) as http, pytest.raises(httpx.ReadTimeout):
                http.get(f"https://api.openai.com/v1/responses/{begun.id}")
        assert (figures(tracker), tracker.pending_calls) == ([], 1)
        client.responses.retrieve(begun.id)
        client.responses.retrieve(begun.id)
    assert figures(tracker) == ONCE


def _fails(request: httpx.Request) -> httpx.Response:
    msg = "too late"
    raise httpx.ReadTimeout(msg, request=request)


# --- calls that nobody retrieves -------------------------------------------------------------


def test_pending_is_shown(server: Late, tracker: Tracker) -> None:
    """What is pending is in no figure, and shown."""
    with client_of(server, tracker) as client:
        with tracker.scope("asking") as asking:
            client.responses.create(**ASKED)
        with tracker.scope("idle") as idle:
            pass
    assert (tracker.pending_calls, asking.pending_calls, idle.pending_calls) == (1, 1, 0)
    assert "`pending_calls`" in tracker.summary()
    assert "pending_calls" in tracker._repr_html_()
    assert "pending_calls" not in idle.summary()


def test_never_retrieved(server: Late, tracker: Tracker) -> None:
    """One that is never retrieved is marked at the end: its prompt counts, its cost isn't whole."""
    with client_of(server, tracker) as client:
        begun = client.responses.create(**ASKED)
        tracker.close()
        (event,) = tracker.llm_token_counts
        assert (event.status, event.source) == ("unanswered", "estimated")
        assert 0 < event.prompt_token_count < 20
        assert event.cost is not None
        assert not event.cost.is_whole
        client.responses.retrieve(begun.id)
        client.responses.retrieve(begun.id)
    assert len(figures(tracker)) == 1
    assert tracker.pending_calls == 0


def test_the_table_is_bounded(
    server: Late,
    tracker: Tracker,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where too many are pending, the oldest are given up, and marked."""
    monkeypatch.setattr("llama_token_tracker.tracking.correlation.MAX_DEFERRED", 2)
    with client_of(server, tracker) as client:
        begun = [client.responses.create(**ASKED).id for _ in range(3)]
        assert tracker.pending_calls == 2
        for name in begun * 2:
            client.responses.retrieve(name)
    assert sorted(figures(tracker))[:2] == ONCE * 2
    assert [event.status for event in tracker.llm_token_counts].count("unanswered") == 1
    assert "too many answers were not retrieved" in caplog.text


def test_budgets_hold_what_it_may_use(server: Late) -> None:
    """A budget holds what a pending call may use, and spends what it used."""
    tracker = Tracker(budget=Budget(tokens=20_000, default_max_tokens=3_000))
    account = tracker.accounts[0]
    with client_of(server, tracker) as client:
        first = client.responses.create(**ASKED)
        second = client.responses.create(**ASKED)
        assert (account.spent().tokens, account.spent().reserved_tokens > 6_000) == (0, True)
        client.responses.retrieve(first.id)
        client.responses.retrieve(first.id)
        assert account.spent().tokens == 9_020
    tracker.close()
    assert account.spent().tokens > 9_020 + 3_000
    assert account.spent().reserved_tokens == 0
    assert second.id != first.id


@pytest.mark.slow
def test_a_call_is_never_lost_wherever_it_is_interrupted(server: Late) -> None:
    """A time limit that comes while the answer is taken in leaves the call to be retrieved."""

    def known(at: int) -> tuple[int, int]:
        tracker = Tracker()
        with httpx.Client(transport=WatchingTransport(tracker, Elsewhere(server))) as client:
            url = "https://api.openai.com/v1/responses"
            response = client.send(client.build_request("POST", url, json=ASKED), stream=True)
            places = 0
            with suppress(TimeLimit):
                places = interrupted(response.read, at)
            response.close()
            del response
        gc.collect()
        return tracker.pending_calls + len(tracker.llm_token_counts), places

    known(-1)
    found, places = known(-1)
    assert found == 1
    assert places > 100
    with handled(raising):
        # Earlier it isn't known yet that the call goes on in the background.
        last = range(places - 60, places)
        assert [at for at in last if known(at)[0] != 1] == []

"""Deferred calls among threads, processes, sinks and pickles."""

import asyncio
import gc
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport
from tests.late import Late
from tests.needs import left_out_if
from tests.wire.deferred.background import Background, Elsewhere, background

openai = pytest.importorskip("openai")

ASKED: dict[str, Any] = {"model": "gpt-4o-mini", "input": "write of otters", "background": True}


@pytest.fixture
def says() -> Background:
    """What the server says: at the first look the answer is there."""
    says = Background()
    says.looks = [{"status": "completed", "told": True}]
    return says


@pytest.fixture
def server(says: Background) -> Any:
    """The server."""
    with background(says) as server:
        yield server


def client_of(server: Late, tracker: Tracker) -> Any:
    """A watched client."""
    http = httpx.Client(transport=WatchingTransport(tracker, Elsewhere(server)))
    return openai.OpenAI(api_key="k", base_url="https://api.openai.com/v1", http_client=http)


def test_many_threads_look_at_once(server: Late) -> None:
    """However many threads retrieve one answer at once, it's one call."""
    tracker = Tracker()
    with client_of(server, tracker) as client, ThreadPoolExecutor(8) as threads:
        names = [client.responses.create(**ASKED).id for _ in range(5)]
        list(threads.map(client.responses.retrieve, names * 8))
    assert [event.total_token_count for event in tracker.llm_token_counts] == [9_020] * 5
    assert len({event.id for event in tracker.llm_token_counts}) == 5


def test_an_asynchronous_stream_that_is_dropped(server: Late, says: Background) -> None:
    """A stream that a cancelled task leaves goes on until it's retrieved."""
    tracker, says.streams_when_asked = Tracker(), True

    async def ask() -> str:
        http = httpx.AsyncClient(transport=AsyncWatchingTransport(tracker))
        async with openai.AsyncOpenAI(
            api_key="k", base_url=server.url + "/v1", http_client=http
        ) as client:
            names: list[str] = []

            async def read() -> None:
                async for event in await client.responses.create(**ASKED, stream=True):
                    names.append(event.response.id)
                    await asyncio.sleep(60)

            task = asyncio.create_task(read())
            while not names:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del task
            gc.collect()
            assert tracker.pending_calls == 1
            await client.responses.retrieve(names[0])
        return names[0]

    asyncio.run(asyncio.wait_for(ask(), 20))
    (event,) = tracker.llm_token_counts
    assert (event.total_token_count, event.status) == (9_020, "complete")


def test_a_lost_stream_keeps_what_came(server: Late, says: Background) -> None:
    """Of a stream that is left and never retrieved, what came is counted, as a lower bound."""
    tracker, says.streams_when_asked, says.events = Tracker(), True, 5
    with client_of(server, tracker) as client:
        for _ in client.responses.create(**ASKED, stream=True):
            pass
    tracker.close()
    (event,) = tracker.llm_token_counts
    assert (event.status, event.completion) == ("unanswered", "assistant: otters in space")
    assert 0 < event.completion_token_count < 9
    assert event.cost is not None
    assert not event.cost.is_whole


def test_sinks_get_it_at_the_end(server: Late) -> None:
    """Sinks are told once: when it's retrieved, or at the close."""
    told: list[Any] = []
    tracker = Tracker(sinks=[told.append])
    with client_of(server, tracker) as client:
        first, _ = (client.responses.create(**ASKED).id for _ in range(2))
        assert (tracker.flush(9), told) == (True, [])
        client.responses.retrieve(first)
        assert tracker.close(9)
    assert [event.status for event in told] == ["complete", "unanswered"]


@pytest.mark.slow
@left_out_if(not hasattr(os, "fork"), "no fork here")
def test_a_child_leaves_them_to_its_parent(server: Late) -> None:
    """What a parent process has begun, its child neither retrieves nor gives up."""
    code = f"""
import os, sys
from llama_token_tracker.tracking.tracker import Tracker
from tests.wire.deferred.test_many import ASKED, client_of
class Server: url = {server.url!r}
tracker = Tracker()
client = client_of(Server, tracker)
begun = client.responses.create(**ASKED)
if (child := os.fork()) == 0:
    client_of(Server, tracker).responses.retrieve(begun.id)
    tracker.close()
    os._exit(10 + len(tracker.llm_token_counts) + tracker.pending_calls)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
client.responses.retrieve(begun.id)
print(status, tracker.total_llm_token_count, tracker.pending_calls)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["10", "9020", "0"]


@pytest.mark.slow
def test_at_exit_sinks_are_told(server: Late) -> None:
    """A process that ends tells its sinks of what it never retrieved."""
    code = f"""
from llama_token_tracker.tracking.tracker import Tracker
from tests.wire.deferred.test_many import ASKED, client_of
class Server: url = {server.url!r}
tracker = Tracker(sinks=[lambda event: print(event.status, event.source, flush=True)])
client_of(Server, tracker).responses.create(**ASKED)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["unanswered", "estimated"]


def test_a_copy_has_none_pending(server: Late) -> None:
    """What is pending stays with the original."""
    tracker = Tracker()
    with client_of(server, tracker) as client:
        begun = client.responses.create(**ASKED)
        copy = pickle.loads(pickle.dumps(tracker))
        assert (tracker.pending_calls, copy.pending_calls) == (1, 0)
        client.responses.retrieve(begun.id)
    assert (tracker.total_llm_token_count, copy.total_llm_token_count) == (9_020, 0)


def test_a_reset_leaves_them_pending(server: Late) -> None:
    """A call that is under way at a reset counts when it ends."""
    tracker = Tracker()
    with client_of(server, tracker) as client:
        begun = client.responses.create(**ASKED)
        tracker.reset()
        assert tracker.pending_calls == 1
        client.responses.retrieve(begun.id)
    assert tracker.total_llm_token_count == 9_020


def test_a_server_that_repeats_an_id(server: Late, says: Background) -> None:
    """Of two calls that are to be retrieved at one place, the older one is given up."""
    tracker = Tracker()
    with client_of(server, tracker) as client:
        says.begins_anew = True
        names = {client.responses.create(**ASKED).id for _ in range(2)}
        for name in names:
            client.responses.retrieve(name)
    assert (len(names), tracker.pending_calls) == (1, 0)
    assert sorted(event.status for event in tracker.llm_token_counts) == ["complete", "unanswered"]

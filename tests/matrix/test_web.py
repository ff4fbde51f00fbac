"""A real web server: what each request and each user is told is what their provider billed."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import WSGIApplication

import httpx
import pytest
import uvicorn
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import Budget, TokenCountingHandler, Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.web import ASGIApp
from tests.needs import left_out_if, needs

from .cells import INVISIBLE
from .clients import LLMS
from .styles import Run
from .web import app, variants, wsgi

pytestmark = pytest.mark.matrix

INTEGRATIONS = {integration.name: integration for integration in LLMS}
USERS = ("ada", "bob", "cyd", "dan", "eve")
SOME = 40
BUILDS = [
    app.build,
    variants.in_threads,
    variants.in_middleware,
    variants.in_middleware_and_threads,
    variants.in_decorated_middleware,
    variants.by_dependency,
    variants.by_dependency_in_threads,
]
IN_THREADS = [wsgi.bare, wsgi.flask, wsgi.django]
FRAMEWORKS = {wsgi.flask: "flask", wsgi.django: "django", wsgi.django_asgi: "django"}
"""What no locked environment has."""

ABANDONABLE = [build for build in BUILDS if "threads" not in build.__name__]
DAILY = Budget(tokens=200, per="user", window="1 day", default_max_tokens=100)
NUMBER = re.compile(r"request (\d+),")


class Server(NamedTuple):
    """A server, and what it counts with."""

    url: str
    handler: TokenCountingHandler
    provider: LoopbackProvider

    def billed(self) -> dict[str, list[Usage]]:
        """What the provider billed, by the number of the request that it was asked for."""
        bills: dict[str, list[Usage]] = defaultdict(list)
        for call in self.provider.settle():
            found = NUMBER.search(json.dumps(dict(call.body)))
            assert found is not None
            assert call.billed is not None
            bills[found[1]].append(call.billed)
        return bills


Start = Callable[..., Server]


@pytest.fixture
def start(
    provider: LoopbackProvider, manager: CallbackManager, handler: TokenCountingHandler
) -> Iterator[Start]:
    """Start an app on a free port of the loopback; it is stopped after the test."""
    running = []

    def serve(build: Callable[..., Any], integration: str, *budgets: Budget) -> Server:
        counting = handler
        if budgets:
            counting = TokenCountingHandler(budget=budgets)
            manager.handlers = [counting]
        built = build(INTEGRATIONS[integration].llm(provider, manager), counting)
        is_wsgi = build in IN_THREADS
        context = serving_in_threads(built) if is_wsgi else serving(built)
        running.append(context)
        return Server(context.__enter__(), counting, provider)

    yield serve
    for context in running:
        context.__exit__(None, None, None)


@contextmanager
def serving(web: ASGIApp) -> Iterator[str]:
    """Run an app in uvicorn, in a thread and a loop of its own."""
    config = uvicorn.Config(web, host="127.0.0.1", port=0, log_level="error", backlog=1_024)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


class Threads(ThreadingMixIn, WSGIServer):
    """The standard library's server, with a thread for each request."""

    request_queue_size = 1_024
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


@contextmanager
def serving_in_threads(web: WSGIApplication) -> Iterator[str]:
    """Run an app with a thread for each request."""
    with make_server("127.0.0.1", 0, web, Threads, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def until(holds: Callable[[], Any], timeout_s: float = 20.0) -> None:
    """Wait for something that another thread brings about."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.005)


def parameters(number: int) -> dict[str, str]:
    """One request of one user."""
    user = USERS[number % len(USERS)]
    return {
        "question": f"This is request {number}, what is it?",
        "user": user,
        "number": f"{number}",
    }


async def ask(client: httpx.AsyncClient, number: int) -> dict[str, Any]:
    """Read an answer to its end, and give its last event."""
    response = await client.get("/ask", params=parameters(number))
    assert response.status_code == 200
    return json.loads(response.text.strip().splitlines()[-1].removeprefix("data: "))


async def ask_all(url: str, numbers: range) -> list[dict[str, Any]]:
    """Ask all at once."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        return await asyncio.gather(*[ask(client, number) for number in numbers])


async def leave(client: httpx.AsyncClient, number: int) -> None:
    """Hang up in the midst of an answer."""
    async with client.stream("GET", "/ask", params=parameters(number)) as response:
        async for line in response.aiter_lines():
            if line:
                break


async def leave_all(url: str, numbers: range) -> None:
    """Hang up on all at once."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*[leave(client, number) for number in numbers])


def cell(build: Any, *values: object) -> Any:
    """A case of a build, where its framework is installed."""
    marks = needs(FRAMEWORKS[build]) if build in FRAMEWORKS else ()
    return pytest.param(build, *values, marks=marks)


def invisible(integration: str) -> pytest.MarkDecorator:
    """Leave a test out where the integration itself drops the figures."""
    reason = INVISIBLE.get((integration, "astream_chat", "normal"))
    return left_out_if(reason is not None, reason or "")


def check(server: Server, bills: dict[str, list[Usage]]) -> None:
    """Hold every request and every user to the provider's bills."""
    by_user: dict[str, list[Usage]] = defaultdict(list)
    for number, billed in bills.items():
        by_user[parameters(int(number))["user"]] += billed
    for tag, expected in (("request", bills), ("user", by_user)):
        rows = server.handler.by(tag)
        found = {
            value: (row.calls, row.usage.input_tokens, row.usage.output_tokens)
            for value, row in rows.items()
        }
        assert found == {
            value: (
                len(of),
                sum(one.input_tokens or 0 for one in of),
                sum(one.output_tokens or 0 for one in of),
            )
            for value, of in expected.items()
        }


@pytest.mark.parametrize(
    ("build", "integration", "number"),
    [
        (app.build, "openai", 200),
        (variants.in_threads, "openai", 200),
        (variants.in_middleware, "openai", 200),
        *[cell(build, "openai", 200) for build in (variants.in_starlette, wsgi.django_asgi)],
        *[cell(build, "openai", 200) for build in IN_THREADS],
        *[(build, "openai", SOME) for build in BUILDS[3:]],
        *[
            pytest.param(build, integration, SOME, marks=invisible(integration))
            for build in BUILDS[:2]
            for integration in ("anthropic", "bedrock-converse")
        ],
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_each_request_is_told_what_its_provider_billed(
    build: Any, integration: str, number: int, start: Start, run: Run
):
    """Many streams at once, of a few users: none of their figures are mixed up."""
    server = start(build, integration)
    told = run(ask_all(server.url, range(number)))
    bills = server.billed()
    assert len(bills) == number
    assert told == [
        {"input": billed.input_tokens, "output": billed.output_tokens}
        for billed in (bills[str(n)][0] for n in range(number))
    ]
    check(server, bills)


def test_users_see_their_own_table(start: Start, run: Run):
    """What the server tells of its users adds up to what the provider billed."""
    server = start(app.build, "openai")
    run(ask_all(server.url, range(20)))
    table = httpx.get(f"{server.url}/users").json()
    billed = sum(bill.total_tokens for bills in server.billed().values() for bill in bills)
    assert {user: row["calls"] for user, row in table.items()} == dict.fromkeys(USERS, 4)
    assert sum(row["tokens"] for row in table.values()) == billed
    assert all(float(row["usd"]) > 0 for row in table.values())


@pytest.mark.parametrize(
    "integration", [pytest.param("anthropic", marks=invisible("anthropic")), "gemini"]
)
@pytest.mark.parametrize("build", ABANDONABLE, ids=lambda build: build.__name__)
def test_a_client_that_hangs_up_is_counted_in_its_request(
    build: Any, integration: str, start: Start, run: Run
):
    """What was sent until then has been billed, and belongs to whoever asked for it."""
    server = start(build, integration)
    # The provider halts, so that nobody can have come to the end.
    server.provider.script(*[Reply(stall_after=2)] * 10)
    run(leave_all(server.url, range(10)))
    # A task that is cancelled between two steps may leave its stream in a ring: the garbage
    # collector is off in these tests.
    until(lambda: gc.collect() >= 0 and len(server.handler.llm_token_counts) == 10)
    assert {call.ended for call in server.provider.settle()} == {"left"}
    check_left(server)
    # Whoever comes next has a request of their own.
    run(ask_all(server.url, range(100, 110)))
    check_left(server)
    rows = server.handler.by("request")
    bills = server.billed()
    assert all(rows[str(n)].total_tokens == bills[str(n)][0].total_tokens for n in range(100, 110))


@pytest.mark.parametrize(
    "build",
    [cell(build) for build in (variants.in_threads, *IN_THREADS)],
    ids=lambda build: build.__name__,
)
def test_a_client_that_hangs_up_on_a_thread_is_counted_in_its_request(
    build: Any, start: Start, run: Run
):
    """A plain generator is dropped between two of its steps."""
    server = start(build, "gemini")
    server.provider.script(*[Reply(text="word " * 20_000, chunks=20_000)] * 4)
    run(leave_all(server.url, range(4)))
    # Whoever is cancelled leaves it to the garbage collector, which is off in these tests.
    until(lambda: gc.collect() >= 0 and len(server.handler.llm_token_counts) == 4)
    check_left(server)


def check_left(server: Server) -> None:
    """Hold requests that were left to the input that the provider had told by then."""
    bills = server.billed()
    left = [event for event in server.handler.llm_token_counts if event.status == "abandoned"]
    assert len(left) == len([call for call in server.provider.calls if call.ended == "left"])
    for event in left:
        [billed] = bills[event.tags["request"]]
        assert event.tags["user"] == parameters(int(event.tags["request"]))["user"]
        assert event.prompt_token_count == billed.input_tokens
        assert event.completion_token_count > 0


def test_background_tasks_count_in_their_request(start: Start, run: Run):
    """They run when the answer has been sent, in a task or in a thread."""
    server = start(variants.with_background, "openai")
    assert run(ask_all(server.url, range(SOME))) == [{"begun": True}] * SOME
    until(lambda: len(server.handler.llm_token_counts) == 2 * SOME)
    bills = server.billed()
    assert {len(bill) for bill in bills.values()} == {2}
    check(server, bills)


@pytest.mark.parametrize("path", ["/ask", "/whole"], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "build",
    [
        *[variants.in_middleware, variants.refused_below_another],
        *[cell(build) for build in (wsgi.django_asgi, *IN_THREADS)],
    ],
    ids=lambda build: build.__name__,
)
def test_a_refused_call_is_a_429(build: Any, path: str, start: Start):
    """Streamed or not, the response has the budget's text, and says when to come again."""
    server = start(build, "openai", DAILY)
    server.provider.script(Reply(usage=Usage(input_tokens=150, output_tokens=20)), repeat=True)
    first, second, third = (
        httpx.get(server.url + path, params=parameters(number)) for number in (0, 5, 1)
    )
    assert (first.status_code, second.status_code, third.status_code) == (200, 429, 200)
    assert second.text.startswith("Budget exceeded for user 'ada': the call may use ")
    assert second.headers["content-type"] == "text/plain; charset=utf-8"
    assert 0 < int(second.headers["retry-after"]) <= 86_400
    # Nothing was sent for it.
    assert set(server.billed()) == {"0", "1"}

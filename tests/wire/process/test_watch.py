"""Where the process is heard, beside whom, and that all is as it was afterwards."""

import asyncio
import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any

import httpx
import pytest

from llama_token_tracker import Budget, BudgetExceededError, TokenCountingHandler, Tracker, watch
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.errors import WatchError
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport
from llama_token_tracker.wire.listening import POINTS
from tests.needs import is_installed, needs
from tests.wire.httpx_clients.relay import Relay
from tests.wire.process.calls import CALLS, MESSAGES, PROMPT

BODY: Any = {"model": "gpt-4o", "messages": MESSAGES}


def patched() -> dict[str, object]:
    """What stands where libraries are heard."""
    found: dict[str, object] = {}
    for point in POINTS:
        if not is_installed(point.module):
            continue
        owner, name = point.name.split(".")
        holder = getattr(import_module(point.module), owner)
        found[f"{point.module}.{point.name}"] = vars(holder)[name]
    return found


def ask(provider: LoopbackProvider, **options: Any) -> Any:
    """Send one request by httpx."""
    return httpx.post(f"{provider.url('openai')}/chat/completions", json=BODY, **options)


def test_all_is_as_it_was_after_the_last_stop():
    """Whichever watch stops last."""
    before = patched()
    first, second = watch(Tracker()), watch(Tracker())
    assert all(now is not before[name] for name, now in patched().items())
    first.stop()
    assert all(now is not before[name] for name, now in patched().items())
    second.stop()
    second.stop()
    assert all(now is before[name] for name, now in patched().items())


def test_what_is_imported_later_is_heard():
    """And what isn't imported stays unloaded."""
    code = """
import sys
from llama_token_tracker import Tracker, watch
from llama_token_tracker.testing import LoopbackProvider
tracker = Tracker()
watch(tracker)
assert not {"httpx", "aiohttp", "requests", "botocore", "openai"} & sys.modules.keys()
import httpx
with LoopbackProvider() as provider:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    httpx.post(provider.url("openai") + "/chat/completions", json=body)
    assert tracker.total_llm_token_count == provider.billed[0].total_tokens
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- others that instrument the same libraries -----------------------------------------------

_INSTRUMENTORS = {
    "httpx": ("opentelemetry.instrumentation.httpx", "HTTPXClientInstrumentor"),
    "botocore": ("opentelemetry.instrumentation.botocore", "BotocoreInstrumentor"),
}


class _Respx:
    """respx's router, which lets all pass."""

    def instrument(self) -> None:
        respx = import_module("respx")
        self._router = respx.mock(assert_all_called=False, assert_all_mocked=False)
        self._router.start()
        self._router.route().pass_through()

    def uninstrument(self) -> None:
        self._router.stop()


def instrumentor(name: str) -> Any:
    """Somebody else's instrumentation."""
    if name == "respx":
        return _Respx()
    module, kind = _INSTRUMENTORS[name]
    return getattr(import_module(module), kind)()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("httpx", marks=needs("opentelemetry.instrumentation.httpx")),
        pytest.param("botocore", marks=needs("opentelemetry.instrumentation.botocore")),
        pytest.param("respx", marks=needs("respx")),
    ],
)
@pytest.mark.parametrize("order", list(itertools.permutations(["watch", "other", "client"])))
@pytest.mark.parametrize("is_watch_stopped_first", [True, False])
def test_whoever_comes_first_the_figures_are_the_same(
    name: str, order: tuple[str, ...], is_watch_stopped_first: bool, provider: LoopbackProvider
):
    """And once both have stopped, all is as it was."""
    call = CALLS["boto3 converse" if name == "botocore" else "openai chat"]
    before, tracker, other, made = patched(), Tracker(), instrumentor(name), dict[str, Any]()
    steps: dict[str, Callable[[], object]] = {
        "watch": lambda: made.update(watch=watch(tracker)),
        "other": other.instrument,
        "client": lambda: made.update(client=call.make(provider)),
    }
    for step in order:
        steps[step]()
    try:
        call.run(made["client"])
    finally:
        ends = [made["watch"].stop, other.uninstrument]
        for end in ends if is_watch_stopped_first else reversed(ends):
            end()
    assert tracker.total_llm_token_count == provider.billed[0].total_tokens
    assert len(tracker.llm_token_counts) == 1
    assert all(now is before[place] for place, now in patched().items())


def test_a_wrapper_around_ours_stays(provider: LoopbackProvider):
    """Ours is taken out from within it."""
    wrapt, passed, tracker = import_module("wrapt"), list[str](), Tracker()

    def note(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        passed.append("sent")
        return wrapped(*args, **kwargs)

    original = httpx.Client.send
    watching = watch(tracker)
    wrapt.wrap_function_wrapper("httpx", "Client.send", note)
    try:
        ask(provider)
        watching.stop()
        ask(provider)
        assert (len(passed), len(tracker.llm_token_counts)) == (2, 1)
        assert httpx.Client.send.__wrapped__ is original  # type: ignore[attr-defined]
    finally:
        httpx.Client.send = original  # type: ignore[method-assign]


# --- one request, several layers -------------------------------------------------------------


@pytest.mark.parametrize("library", ["httpx", pytest.param("httpx2", marks=needs("httpx2"))])
@pytest.mark.parametrize("is_async", [False, True])
def test_a_watching_transport_within_counts_no_second_time(
    library: str, is_async: bool, provider: LoopbackProvider, tracker: Tracker
):
    """A transport of the same tracker's, on either generation of httpx."""
    module, url = import_module(library), f"{provider.url('openai')}/chat/completions"

    async def go() -> None:
        async with module.AsyncClient(transport=AsyncWatchingTransport(tracker)) as client:
            await client.post(url, json=BODY)

    if is_async:
        asyncio.run(go())
    else:
        with module.Client(transport=WatchingTransport(tracker)) as client:
            client.post(url, json=BODY)
    assert len(tracker.llm_token_counts) == len(provider.billed) == 1


@needs("aiohttp")
def test_a_client_that_sends_by_another_library_counts_once(
    provider: LoopbackProvider, tracker: Tracker
):
    """As LiteLLM does: a transport of httpx's that asks aiohttp."""
    aiohttp = import_module("aiohttp")

    class ByAiohttp(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            async with (
                aiohttp.ClientSession() as session,
                session.post(str(request.url), data=request.content) as response,
            ):
                return httpx.Response(response.status, content=await response.read())

    async def go() -> None:
        async with httpx.AsyncClient(transport=ByAiohttp()) as client:
            await client.post(f"{provider.url('openai')}/chat/completions", json=BODY)

    asyncio.run(go())
    [event] = tracker.llm_token_counts
    assert event.total_token_count == provider.billed[0].total_tokens


class _Moved:
    """A server that sends whoever asks for a completion elsewhere."""

    def __init__(self, place: str) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(307)
                self.send_header("Location", f"{place}/chat/completions")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/v1/chat/completions"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.mark.parametrize("follow_redirects", [True, False])
def test_a_redirect_is_one_call(
    follow_redirects: bool, provider: LoopbackProvider, tracker: Tracker
):
    """Followed by the client, or by hand."""
    with _Moved(provider.url("openai")) as moved, httpx.Client() as client:
        response = client.post(moved, json=BODY, follow_redirects=follow_redirects)
        if not follow_redirects:
            assert response.next_request is not None
            client.send(response.next_request)
    [event] = tracker.llm_token_counts
    assert event.total_token_count == provider.billed[0].total_tokens


def test_the_same_request_sent_twice_is_two_calls(provider: LoopbackProvider, tracker: Tracker):
    """What marks it while it's under way is gone afterwards."""
    with httpx.Client() as client:
        request = client.build_request(
            "POST", f"{provider.url('openai')}/chat/completions", json=BODY
        )
        client.send(request)
        client.send(request)
    assert len(tracker.llm_token_counts) == len(provider.billed) == 2


# --- budgets ---------------------------------------------------------------------------------


def test_a_budget_stops_a_request_before_it_leaves(provider: LoopbackProvider):
    """By httpx itself the error is the budget's own."""
    tracker = Tracker(budget=Budget(tokens=1_500))
    with watch(tracker):
        ask(provider)
        with pytest.raises(BudgetExceededError):
            ask(provider)
    assert len(provider.billed) == 1


REDIRECTED: dict[str, Any] = {
    "httpx": lambda url: httpx.post(url, json=BODY, follow_redirects=True),
    "requests": lambda url: import_module("requests").post(url, json=BODY),
    "requests stream": lambda url: import_module("requests").post(url, json=BODY, stream=True).text,
    "aiohttp": lambda url: asyncio.run(by_aiohttp(url)),
}


async def by_aiohttp(url: str) -> None:
    """Send one request by aiohttp."""
    session: Any = import_module("aiohttp").ClientSession()
    async with session, session.post(url, json=BODY) as response:
        await response.read()


@pytest.mark.parametrize("library", REDIRECTED)
def test_a_redirected_request_is_one_call(library: str, provider: LoopbackProvider):
    """Whoever follows."""
    pytest.importorskip(library.partition(" ")[0])
    tracker = Tracker()
    with watch(tracker), Relay(provider, redirects=True) as relay:
        REDIRECTED[library](f"{relay.url}/openai/v1/chat/completions")
    assert len(relay.requests) == 2
    [event] = tracker.llm_token_counts
    assert (event.source, event.status) == ("reported", "complete")
    assert event.total_token_count == provider.billed[0].total_tokens


def test_an_answer_that_a_session_leaves_unread_is_not_read(provider: LoopbackProvider):
    """Though whoever sends the request says nothing of it."""
    requests: Any = pytest.importorskip("requests")
    tracker = Tracker()
    with watch(tracker), requests.Session() as session:
        session.stream = True
        url = f"{provider.url('openai')}/chat/completions"
        request = session.prepare_request(requests.Request("POST", url, json=BODY))
        response = session.send(request)
        assert response.raw.tell() == 0
        response.json()
        del response
    assert [event.source for event in tracker.llm_token_counts] == ["reported"]


def test_a_client_that_lets_nobody_listen_is_answered(
    provider: LoopbackProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It isn't heard, which the log says."""
    boto3: Any = pytest.importorskip("boto3")

    def refuse(*_: object) -> None:
        msg = "nobody may listen"
        raise RuntimeError(msg)

    client = boto3.client("bedrock-runtime", **provider.arguments("bedrock"))
    monkeypatch.setattr(client.meta.events, "register", refuse)
    forget_notices()
    with watch(Tracker()):
        answer = client.converse(
            modelId="anthropic.claude-3-haiku-20240307-v1:0",
            messages=[{"role": "user", "content": [{"text": PROMPT}]}],
        )
    forget_notices()
    assert answer["usage"]["totalTokens"] == provider.billed[0].total_tokens
    assert "can't be heard" in caplog.text


# --- some clients alone ----------------------------------------------------------------------

ALONE = {
    name: call
    for name, call in CALLS.items()
    if not call.module.startswith(("httpx", "aiohttp", "requests"))
}


@pytest.mark.parametrize(
    "call", [pytest.param(c, id=name, marks=needs(c.module)) for name, c in ALONE.items()]
)
def test_one_client_is_heard_and_no_other(call: Any, provider: LoopbackProvider):
    """Whatever it's built on."""
    tracker = Tracker()
    heard, other = call.make(provider), call.make(provider)
    with watch(tracker, heard):
        call.run(other)
        call.run(heard)
    events = [*tracker.llm_token_counts, *tracker.embedding_token_counts]
    assert len(provider.billed) == 2
    assert sum(e.total_token_count for e in events) == provider.billed[1].total_tokens


@pytest.mark.parametrize("name", ["httpx", "httpx2", "requests"])
def test_plain_clients_are_heard_alone(name: str, provider: LoopbackProvider):
    """Each library's own."""
    module = pytest.importorskip(name)
    make = module.Session if name == "requests" else module.Client
    tracker, heard, other = Tracker(), make(), make()
    with watch(tracker, heard), heard, other:
        for client in (other, heard):
            client.post(f"{provider.url('openai')}/chat/completions", json=BODY)
    assert tracker.total_llm_token_count == provider.billed[1].total_tokens


@pytest.mark.parametrize("thing", [object(), None, "openai", [], {}])
def test_what_holds_no_client_is_refused(thing: object, tracker: Tracker):
    """The error says what was found and what to give."""
    with pytest.raises(WatchError, match=r"can't be watched.*to watch all of this process"):
        watch(tracker, thing)


@pytest.mark.parametrize("counter", [None, object(), httpx.Client])
def test_who_does_not_count_is_refused(counter: object):
    """Nothing is patched then."""
    before = patched()
    with pytest.raises(WatchError, match="doesn't count"):
        watch(counter)
    assert patched() == before


# --- what nobody reads, and much at once -------------------------------------------------------


def test_a_stream_that_is_never_read_is_abandoned(provider: LoopbackProvider, tracker: Tracker):
    """Its prompt counts."""
    provider.script(Reply("much " * 50, chunks=20))
    with httpx.Client() as client:
        request = client.build_request(
            "POST", f"{provider.url('openai')}/chat/completions", json=BODY | {"stream": True}
        )
        client.send(request, stream=True).close()
    gc.collect()
    [event] = tracker.llm_token_counts
    assert (event.status, event.source) == ("abandoned", "estimated")
    assert event.prompt_token_count > 0


@pytest.mark.slow
def test_threads_and_tasks_add_up(provider: LoopbackProvider, tracker: Tracker):
    """Whoever calls, however many at once."""
    url = f"{provider.url('openai')}/chat/completions"

    def work() -> None:
        with httpx.Client() as client:
            for _ in range(50):
                client.post(url, json=BODY)

    async def go() -> None:
        async with httpx.AsyncClient() as client:
            await asyncio.gather(*(client.post(url, json=BODY) for _ in range(100)))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    asyncio.run(go())
    for thread in threads:
        thread.join()
    assert len(tracker.llm_token_counts) == len(provider.billed) == 400
    assert tracker.total_llm_token_count == sum(bill.total_tokens for bill in provider.billed)


@pytest.fixture
def handler() -> Iterator[TokenCountingHandler]:
    """A handler that hears the whole process beside LlamaIndex's callbacks."""
    handler = TokenCountingHandler(watch=True)
    yield handler
    assert handler.watching is not None
    handler.watching.stop()


def test_a_handler_may_watch(provider: LoopbackProvider, handler: TokenCountingHandler):
    """By one argument."""
    ask(provider)
    assert handler.total_llm_token_count == provider.billed[0].total_tokens
    assert handler.llm_token_counts[0].prompt == f"user: {PROMPT}"

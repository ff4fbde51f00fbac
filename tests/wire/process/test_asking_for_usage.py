"""Usage that is asked for on the way: the figures are the provider's, and nobody sees it."""

import asyncio
import gzip
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import aiohttp
import httpx
import pytest
import requests

from llama_token_tracker import Budget, BudgetExceededError, TokenCountingHandler, Tracker, watch
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker._names import HOSTS
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import WatchingTransport
from llama_token_tracker.wire.operations import forget_operations
from tests.needs import is_installed, needs
from tests.wire.httpx_clients.relay import Relay
from tests.wire.process.asked import ASKED, PLAIN, asked, recorded
from tests.wire.process.calls import MESSAGES, PROMPT

BODY: Any = {"model": "gpt-4o", "messages": MESSAGES, "stream": True}


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    """A tracker that hears the whole process, and asks."""
    tracker = Tracker()
    with watch(tracker, ask_for_usage=True):
        yield tracker


# --- ways of reading by hand -----------------------------------------------------------------

Way = Callable[[str], bytes]
WAYS: dict[str, Way] = {}


def way(function: Way) -> Way:
    """Have a way of sending `BODY`, and of reading all that comes, be tested."""
    WAYS[function.__name__.strip("_")] = function
    return function


def _by_httpx(library: str, read: Callable[[Any], bytes]) -> Way:
    def go(url: str) -> bytes:
        with import_module(library).stream("POST", url, json=BODY) as response:
            return read(response)

    return go


def _by_async_httpx(library: str, *, streams: bool) -> Way:
    async def go(url: str) -> bytes:
        async with import_module(library).AsyncClient() as client:
            if not streams:
                content: bytes = (await client.post(url, json=BODY)).content
                return content
            async with client.stream("POST", url, json=BODY) as response:
                return b"".join([piece async for piece in response.aiter_bytes()])

    return lambda url: asyncio.run(go(url))


for _library in ("httpx", "httpx2"):
    if is_installed(_library):
        WAYS |= {
            f"{_library} bytes": _by_httpx(_library, lambda it: b"".join(it.iter_bytes())),
            f"{_library} small": _by_httpx(_library, lambda it: b"".join(it.iter_bytes(7))),
            f"{_library} read": _by_httpx(_library, lambda it: it.read()),
            f"{_library} text": _by_httpx(_library, lambda it: "".join(it.iter_text()).encode()),
            f"{_library} whole": lambda url, name=_library: (
                import_module(name).post(url, json=BODY).content
            ),
            f"{_library} async": _by_async_httpx(_library, streams=True),
            f"{_library} async whole": _by_async_httpx(_library, streams=False),
        }


def _by_requests(read: Callable[[Any], bytes]) -> Way:
    def go(url: str) -> bytes:
        with requests.post(url, json=BODY, stream=True) as response:
            return read(response)

    return go


def _by_parts(read: Callable[[int], bytes], size: int) -> bytes:
    return b"".join(iter(lambda: read(size), b""))


WAYS |= {
    "requests whole": lambda url: requests.post(url, json=BODY).content,
    "requests text": lambda url: requests.post(url, data=json.dumps(BODY)).text.encode(),
    "requests bytes": _by_requests(lambda it: b"".join(it.iter_content(512))),
    "requests each": _by_requests(lambda it: b"".join(it.iter_content(1))),
    "requests raw": _by_requests(lambda it: b"".join(it.raw.stream(9, decode_content=True))),
    "requests parts": _by_requests(
        lambda it: _by_parts(lambda size: it.raw.read(size, decode_content=True), 9)
    ),
    "requests all": _by_requests(lambda it: it.raw.read(decode_content=True)),
}


def _by_aiohttp(read: Callable[[Any], Any], *, written: bool = False) -> Way:
    async def go(url: str) -> bytes:
        sent: Any = {"data": json.dumps(BODY).encode()} if written else {"json": BODY}
        async with aiohttp.ClientSession() as session, session.post(url, **sent) as response:
            content: bytes = await read(response)
            assert response.content.at_eof()
            return content

    return lambda url: asyncio.run(go(url))


async def _all(pieces: Any) -> bytes:
    return b"".join([piece if type(piece) is bytes else piece[0] async for piece in pieces])


async def _repeated(read: Callable[[], Any]) -> bytes:
    content = b""
    while piece := await read():
        content += piece
    return content


async def _in_chunks(content: Any) -> bytes:
    found = b""
    while (chunk := await content.readchunk()) != (b"", False):
        found += chunk[0]
    return found


async def _exactly(content: Any) -> bytes:
    before = await content.readexactly(100)
    with pytest.raises(asyncio.IncompleteReadError) as raised:
        await content.readexactly(100_000)
    return bytes(before + raised.value.partial)


WAYS |= {
    "aiohttp read": _by_aiohttp(lambda it: it.read()),
    "aiohttp written": _by_aiohttp(lambda it: it.read(), written=True),
    "aiohttp lines": _by_aiohttp(lambda it: _all(it.content)),
    "aiohttp any": _by_aiohttp(lambda it: _all(it.content.iter_any())),
    "aiohttp chunked": _by_aiohttp(lambda it: _all(it.content.iter_chunked(5))),
    "aiohttp chunks": _by_aiohttp(lambda it: _all(it.content.iter_chunks())),
    "aiohttp parts": _by_aiohttp(lambda it: _repeated(lambda: it.content.read(9))),
    "aiohttp until": _by_aiohttp(lambda it: _repeated(lambda: it.content.readuntil(b"}"))),
    "aiohttp chunk": _by_aiohttp(lambda it: _in_chunks(it.content)),
    "aiohttp exactly": _by_aiohttp(lambda it: _exactly(it.content)),
}

every_way = pytest.mark.parametrize("go", [pytest.param(go, id=name) for name, go in WAYS.items()])


@every_way
@pytest.mark.parametrize(("encoding", "size"), [("", 7), ("", 10_000), ("gzip", 61)])
def test_the_program_sees_what_it_would_have_seen(
    go: Way, encoding: str, size: int, tracker: Tracker
) -> None:
    """To the byte, two choices and empty usages included, however the bytes are cut."""
    with asked(encoding=encoding, size=size) as server:
        assert go(server.url) == PLAIN
    assert server.asks == [True]
    assert server.headers["content-length"] == str(len(server.bodies[0]))
    [event] = tracker.llm_token_counts
    assert (event.source, event.status) == ("reported", "complete")
    assert (event.prompt_token_count, event.completion_token_count) == (5, 3)


@every_way
def test_unless_it_is_asked_for_nothing_is_changed(go: Way) -> None:
    """A watch by itself reads along, and a stopped one not even that."""
    tracker = Tracker()
    with asked() as server:
        watch(tracker, ask_for_usage=True).stop()
        assert go(server.url) == PLAIN
        with watch(tracker):
            assert go(server.url) == PLAIN
    assert server.asks == [False, False]
    assert server.bodies[0] == server.bodies[1]
    assert {event.source for event in tracker.llm_token_counts} <= {"counted", "estimated"}


def test_all_else_of_a_request_stays_as_it_was_written(tracker: Tracker) -> None:
    """Numbers, order and blanks included."""
    written = b'{"messages": [],  "temperature": 1e0, "stream" :true, "x": "\\u00e9"}\n'
    with asked() as server:
        response = httpx.post(server.url, content=written, headers={"content-type": "x"})
    added = b',"stream_options":{"include_usage":true}}\n'
    assert server.bodies == [written[:-2] + added]
    assert response.request.content == written
    assert tracker.llm_token_counts[0].source == "reported"


def _first_by_httpx(url: str, go_on: Callable[[], None]) -> bytes:
    with httpx.stream("POST", url, json=BODY) as response:
        return _first(response.iter_bytes(), go_on)


def _first_by_requests(url: str, go_on: Callable[[], None]) -> bytes:
    with requests.post(url, json=BODY, stream=True, timeout=5) as response:
        return _first(response.iter_content(512), go_on)


def _first(pieces: Iterator[bytes], go_on: Callable[[], None]) -> bytes:
    piece = next(pieces)
    go_on()
    return piece + b"".join(pieces)


def _first_by_aiohttp(url: str, go_on: Callable[[], None]) -> bytes:
    async def go() -> bytes:
        timeout = aiohttp.ClientTimeout(sock_read=5)
        session = aiohttp.ClientSession(timeout=timeout)
        async with session, session.post(url, json=BODY) as response:
            piece = await response.content.readany()
            go_on()
            return bytes(piece + await response.content.read())

    return asyncio.run(go())


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("go", [_first_by_httpx, _first_by_requests, _first_by_aiohttp])
def test_an_event_is_there_before_the_next_has_come(
    go: Callable[[str, Callable[[], None]], bytes],
    encoding: str,
    tracker: Tracker,
    provider: LoopbackProvider,
) -> None:
    """The server waits until the first was read."""
    with Relay(provider, waits=True, encoding=encoding) as relay:
        content = go(f"{relay.url}/openai/v1/chat/completions", relay.go_on.set)
    assert content.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in content
    assert [event.source for event in tracker.llm_token_counts] == ["reported"]


# --- SDKs and frameworks ---------------------------------------------------------------------


def _sdk(provider: LoopbackProvider) -> Any:
    return import_module("openai").OpenAI(**provider.arguments("openai"))


def _chat(provider: LoopbackProvider) -> list[Any]:
    with _sdk(provider) as client:
        return [chunk.to_dict() for chunk in client.chat.completions.create(**BODY)]


def _async_chat(provider: LoopbackProvider) -> list[Any]:
    async def go() -> list[Any]:
        client = import_module("openai").AsyncOpenAI(**provider.arguments("openai"))
        async with client:
            stream = await client.chat.completions.create(**BODY)
            return [chunk.to_dict() async for chunk in stream]

    return asyncio.run(go())


def _helper(provider: LoopbackProvider) -> list[Any]:
    given = {name: value for name, value in BODY.items() if name != "stream"}
    with _sdk(provider) as client, client.chat.completions.stream(**given) as stream:
        return [event.to_dict() for event in stream]


def _raw(provider: LoopbackProvider) -> list[Any]:
    with _sdk(provider) as client:
        response = client.chat.completions.with_raw_response.create(**BODY)
        return [chunk.to_dict() for chunk in response.parse()]


def _text(provider: LoopbackProvider) -> list[Any]:
    with _sdk(provider) as client:
        stream = client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a", stream=True)
        return [chunk.to_dict() for chunk in stream]


def _llama_index(provider: LoopbackProvider, *callbacks: Any) -> list[Any]:
    module = import_module("llama_index.llms.openai")
    manager = import_module("llama_index.core.callbacks").CallbackManager([*callbacks])
    url = provider.url("openai")
    llm = module.OpenAI("gpt-4o", api_key="none", api_base=url, callback_manager=manager)
    return [piece.raw.to_dict() for piece in llm.stream_complete(PROMPT)]


def _llama_index_async(provider: LoopbackProvider) -> list[Any]:
    async def go() -> list[Any]:
        module = import_module("llama_index.llms.openai")
        llm = module.OpenAI("gpt-4o", api_key="none", api_base=provider.url("openai"))
        return [piece.raw.to_dict() async for piece in await llm.astream_complete(PROMPT)]

    return asyncio.run(go())


def _langchain(provider: LoopbackProvider) -> list[Any]:
    module = import_module("langchain_openai")
    url = provider.url("openai")
    model = module.ChatOpenAI(model="gpt-4o", api_key="none", base_url=url, stream_usage=False)
    return [piece.model_dump(exclude={"id"}) for piece in model.stream(PROMPT)]


SDKS: Mapping[str, tuple[str, Callable[[LoopbackProvider], list[Any]]]] = {
    "chat": ("openai", _chat),
    "chat async": ("openai", _async_chat),
    "chat helper": ("openai", _helper),
    "chat raw": ("openai", _raw),
    "completions": ("openai", _text),
    "llama_index": ("llama_index.llms.openai", _llama_index),
    "llama_index async": ("llama_index.llms.openai", _llama_index_async),
    "langchain": ("langchain_openai", _langchain),
}


def _without_ids(seen: list[Any]) -> str:
    return re.sub(r"chatcmpl-\w+|lc_run--[\w-]+", "", json.dumps(seen, default=str))


@pytest.mark.parametrize(
    "run", [pytest.param(run, id=name, marks=needs(module)) for name, (module, run) in SDKS.items()]
)
def test_an_sdk_gives_what_it_would_have_given(
    run: Callable[[LoopbackProvider], list[Any]], provider: LoopbackProvider
) -> None:
    """And the event has the bill."""
    provider.script(Reply("Canberra."), Reply("Canberra."))
    unasked = run(provider)
    tracker = Tracker()
    with watch(tracker, ask_for_usage=True):
        assert _without_ids(run(provider)) == _without_ids(unasked)
    [event] = tracker.llm_token_counts
    bill = provider.billed[-1]
    assert event.source == "reported"
    assert (event.prompt_token_count, event.completion_token_count) == (
        bill.input_tokens,
        bill.output_tokens,
    )


@needs("llama_index.llms.openai")
def test_a_call_of_a_framework_takes_the_figures(provider: LoopbackProvider) -> None:
    """It's one event, by its callbacks and on the wire."""
    handler = TokenCountingHandler()
    with watch(handler, ask_for_usage=True):
        _llama_index(provider, handler)
    [event] = handler.llm_token_counts
    assert event.source == "reported"
    assert event.total_token_count == provider.billed[0].total_tokens


def test_a_stream_that_is_left_is_abandoned(tracker: Tracker, provider: LoopbackProvider) -> None:
    """No figure came: it's counted, as one that wasn't asked."""
    pytest.importorskip("openai")
    provider.script(Reply("Canberra is the capital.", chunks=8, pause_s=0.02))
    with _sdk(provider) as client:
        stream = client.chat.completions.create(**BODY)
        next(stream)
        stream.close()
    [event] = tracker.llm_token_counts
    assert event.status == "abandoned"
    assert event.source != "reported"


# --- what is left alone ----------------------------------------------------------------------

_WRITTEN = json.dumps(BODY).encode()
_PLAIN = {name: value for name, value in BODY.items() if name != "stream"}

LEFT: Mapping[str, dict[str, Any]] = {
    "it says no": {"json": BODY | {"stream_options": {"include_usage": False}}},
    "it says something": {"json": BODY | {"stream_options": {"include_obfuscation": False}}},
    "it says null": {"json": BODY | {"stream_options": None}},
    "no stream": {"json": _PLAIN},
    "a stream denied": {"json": BODY | {"stream": False}},
    "signed by AWS": {
        "content": _WRITTEN,
        "headers": {"authorization": "AWS4-HMAC-SHA256 Credential=x"},
    },
    "its digest is sent": {"content": _WRITTEN, "headers": {"Content-Digest": "sha-256=:x:"}},
}


@pytest.mark.parametrize("options", LEFT.values(), ids=LEFT)
def test_a_request_is_left_as_it_is(options: dict[str, Any], tracker: Tracker) -> None:
    """If it says something of it, is no stream, or its bytes are what is signed."""
    with asked() as server:
        response = httpx.post(server.url, **options)
    assert server.bodies == [response.request.content]
    assert server.asks == [False]
    assert len(tracker.llm_token_counts) == 1


def test_compressed_and_odd_bodies_are_left_as_they_are(tracker: Tracker) -> None:
    """Nobody here can write into them."""
    bodies = [gzip.compress(_WRITTEN), json.dumps(BODY).encode("utf-16"), b'{"stream": true']
    with recorded() as (url, sent):
        for body in bodies:
            httpx.post(f"{url}/v1/chat/completions", content=body)
        length = {"Content-Length": str(len(_WRITTEN))}
        httpx.post(f"{url}/v1/chat/completions", content=iter([_WRITTEN]), headers=length)
    assert sent == [*bodies, _WRITTEN]
    assert len(tracker.llm_token_counts) == len(sent)


@pytest.mark.parametrize("path", ["/v1/fim/completions", "/v1/agents/completions", "/v1/responses"])
def test_other_operations_are_left_as_they_are(path: str, tracker: Tracker) -> None:
    """Mistral's refuse what they don't know, and Responses always report."""
    with recorded() as (url, sent):
        httpx.post(f"{url}{path}", content=_WRITTEN)
    assert sent == [_WRITTEN]
    assert len(tracker.llm_token_counts) == 1


@pytest.mark.parametrize(("provider_name", "asks"), [("mistral_ai", False), ("openai", True)])
def test_a_known_host_is_asked_if_it_reports_only_then(
    provider_name: str, asks: bool, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistral reports unasked, and refuses to be asked."""
    monkeypatch.setitem(HOSTS, "127.0.0.1", provider_name)
    forget_operations()
    with asked() as server:
        httpx.post(server.url, json=BODY)
    forget_operations()
    assert server.asks == [asks]
    assert len(tracker.llm_token_counts) == 1


# --- refusals --------------------------------------------------------------------------------

REFUSED: Mapping[str, Callable[[str], int]] = {
    "httpx": lambda url: httpx.post(url, json=BODY).status_code,
    "requests": lambda url: requests.post(url, json=BODY, timeout=9).status_code,
    "aiohttp": lambda url: asyncio.run(_status(url)),
}


async def _status(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.post(url, json=BODY) as response:
        await response.read()
        return response.status


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("go", REFUSED.values(), ids=REFUSED)
def test_a_host_that_refuses_is_not_asked_again(
    go: Callable[[str], int], encoding: str, tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    """The request was the user's and isn't sent again; how to leave the host out is said once."""
    forget_notices()
    with asked(refuses=True, encoding=encoding) as server, caplog.at_level(logging.WARNING):
        assert [go(server.url) for _ in range(3)] == [400, 200, 200]
    assert server.asks == [True, False, False]
    [said] = [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]
    assert "127.0.0.1" in said
    assert "ask_for_usage=" in said
    assert len(tracker.failed_calls) == 1


def test_only_the_hosts_that_are_named_are_asked() -> None:
    """As for a service that refuses."""
    for hosts, asks in (({"127.0.0.1"}, True), ("127.0.0.1", True), (["other.example"], False)):
        with watch(Tracker(), ask_for_usage=hosts), asked() as server:
            assert httpx.post(server.url, json=BODY).content == PLAIN
        assert server.asks == [asks]


def test_one_client_alone_can_be_asked_for() -> None:
    """Whoever else listens to all."""
    tracker = Tracker()
    with httpx.Client() as client, asked() as server, watch(tracker):
        watching = watch(tracker, client, ask_for_usage=True)
        assert client.post(server.url, json=BODY).content == PLAIN
        assert httpx.post(server.url, json=BODY).content == PLAIN
        watching.stop()
    assert server.asks == [True, False]
    assert [event.source == "reported" for event in tracker.llm_token_counts] == [True, False]


def test_whoever_else_counts_takes_the_figures_too(tracker: Tracker) -> None:
    """Another watch, and a transport within the client."""
    other, within = Tracker(), Tracker()
    transport: Any = WatchingTransport(within, httpx.HTTPTransport())
    with watch(other), httpx.Client(transport=transport) as client, asked() as server:
        assert client.post(server.url, json=BODY).content == PLAIN
    for one in (tracker, other, within):
        assert [event.source for event in one.llm_token_counts] == ["reported"]


def test_a_redirected_request_asks_once(tracker: Tracker, provider: LoopbackProvider) -> None:
    """What follows is made of the one that asks."""
    with Relay(provider, redirects=True, encoding="gzip") as relay:
        url = f"{relay.url}/openai/v1/chat/completions"
        for post in (partial(httpx.post, follow_redirects=True), requests.post):
            response: Any = post(url, json=BODY)
            assert b'"usage"' not in response.content
    assert [event.source for event in tracker.llm_token_counts] == ["reported"] * 2


def test_a_budget_stops_it_before_it_leaves() -> None:
    """As any other request."""
    tracker = Tracker(budget=Budget(tokens=1))
    with watch(tracker, ask_for_usage=True), asked() as server:
        for go in REFUSED.values():
            with pytest.raises(BudgetExceededError):
                go(server.url)
    assert server.bodies == []


def test_an_answer_that_is_not_what_its_header_says_is_an_error_as_without(
    tracker: Tracker,
) -> None:
    """It is that of httpx."""
    del tracker
    with recorded(b"no gzip", {"Content-Encoding": "gzip"}) as (url, _):
        for library in filter(is_installed, ("httpx", "httpx2")):
            module = import_module(library)
            with pytest.raises(module.DecodingError):
                module.post(f"{url}/v1/chat/completions", json=BODY)


@pytest.mark.parametrize("encoding", ["rot13", ", ".join(["identity"] * 6)])
def test_an_encoding_that_nothing_undoes_is_left(
    encoding: str, tracker: Tracker, caplog: pytest.LogCaptureFixture
) -> None:
    """The usage stays in then, which is said."""
    forget_notices()
    with recorded(ASKED, {"Content-Encoding": encoding}) as (url, _):
        response = httpx.post(f"{url}/v1/chat/completions", json=BODY)
    assert response.content == ASKED
    assert response.headers["content-encoding"] == encoding
    assert "stays in" in caplog.text
    assert len(tracker.llm_token_counts) == 1

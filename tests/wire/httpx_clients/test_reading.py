"""Whichever way a response is read, and whoever else listens, it's counted once and for each."""

import asyncio
import copy
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest

from llama_token_tracker import Tracker
from llama_token_tracker.testing import LoopbackProvider
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport
from tests.wire.httpx_clients.relay import Relay
from tests.wire.httpx_clients.test_cut_streams import Pieces

WAYS: dict[str, Callable[[Any], Any]] = {
    "read": lambda response: response.read(),
    "iter_bytes": lambda response: b"".join(response.iter_bytes()),
    "iter_bytes, few": lambda response: b"".join(response.iter_bytes(7)),
    "iter_raw": lambda response: b"".join(response.iter_raw()),
    "iter_text": lambda response: "".join(response.iter_text()),
    "iter_lines": lambda response: "\n".join(response.iter_lines()),
}
ASYNC_WAYS = ("aread", "aiter_bytes", "aiter_raw", "aiter_text", "aiter_lines")

is_streamed = pytest.mark.parametrize("is_streamed", [True, False])
each_library = pytest.mark.parametrize("library", [httpx, httpx2], ids=lambda it: it.__name__)


def _request(provider: LoopbackProvider, is_streamed: bool) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    if is_streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return {"method": "POST", "url": f"{provider.url('openai')}/chat/completions", "json": body}


def _check(trackers: list[Tracker], provider: LoopbackProvider) -> None:
    for tracker in trackers:
        [event], [billed] = tracker.llm_token_counts, provider.billed
        assert (event.total_token_count, event.source) == (billed.total_tokens, "reported")
        assert event.status == "complete"


@each_library
@is_streamed
@pytest.mark.parametrize("way", WAYS)
def test_a_response_is_heard_whichever_way_it_is_read(
    way: str, is_streamed: bool, library: Any, provider: LoopbackProvider
):
    """By two trackers, of which one watches twice; bytes and extensions are the library's own."""
    one, other = Tracker(), Tracker()
    transport: Any = library.HTTPTransport()
    for tracker in (one, other, one):
        transport = WatchingTransport(tracker, transport)
    with (
        library.Client(transport=transport) as client,
        client.stream(**_request(provider, is_streamed)) as response,
    ):
        assert isinstance(response.stream, library.SyncByteStream)
        content = WAYS[way](response)
        assert response.num_bytes_downloaded >= len(content) > 0
        assert response.extensions["http_version"] == b"HTTP/1.1"
        assert "network_stream" in response.extensions
    _check([one, other], provider)


@each_library
@is_streamed
@pytest.mark.parametrize("way", ASYNC_WAYS)
def test_an_asynchronous_response_is_heard_whichever_way_it_is_read(
    way: str, is_streamed: bool, library: Any, provider: LoopbackProvider
):
    """The same of the other kind."""
    one, other = Tracker(), Tracker()

    async def work() -> None:
        transport: Any = library.AsyncHTTPTransport()
        for tracker in (one, other, one):
            transport = AsyncWatchingTransport(tracker, transport)
        async with (
            library.AsyncClient(transport=transport) as client,
            client.stream(**_request(provider, is_streamed)) as response,
        ):
            assert isinstance(response.stream, library.AsyncByteStream)
            if way == "aread":
                assert await response.aread()
            else:
                assert [piece async for piece in getattr(response, way)()]

    asyncio.run(work())
    _check([one, other], provider)


def test_a_redirected_request_counts_once_for_each_tracker(provider: LoopbackProvider):
    """Each transport knows its own request again."""
    trackers = [Tracker(), Tracker()]
    transport: Any = httpx.HTTPTransport()
    for tracker in trackers:
        transport = WatchingTransport(tracker, transport)
    with Relay(provider, redirects=True) as relay:
        url = relay.arguments("openai")["base_url"] + "/chat/completions"
        with httpx.Client(transport=transport, follow_redirects=True) as client:
            client.post(url, json=_request(provider, False)["json"])
    _check(trackers, provider)
    assert [tracker.failed_calls for tracker in trackers] == [[], []]


@pytest.mark.parametrize("status", [200, 204])
def test_an_empty_answer_says_nothing(status: int, tracker: Tracker):
    """Its prompt may be billed."""
    answer = httpx.Response(status, stream=Pieces())
    transport = WatchingTransport(tracker, httpx.MockTransport(lambda _: answer))
    with httpx.Client(transport=transport) as client:
        body = {"messages": [{"role": "user", "content": "hello"}]}
        client.post("http://localhost/v1/chat/completions", json=body)
    [event] = tracker.llm_token_counts
    assert (event.completion_token_count, event.completion_source) == (0, "estimated")
    assert event.prompt_token_count > 0


def test_a_response_that_is_closed_unread_is_counted(provider: LoopbackProvider, tracker: Tracker):
    """As one that was left, once."""
    with (
        httpx.Client(transport=WatchingTransport(tracker)) as client,
        client.stream(**_request(provider, True)) as response,
    ):
        response.close()
    [event] = tracker.llm_token_counts
    assert event.status == "abandoned"
    assert event.prompt_token_count > 0


def test_a_stream_has_the_attributes_of_the_transports_own(tracker: Tracker):
    """Its copies, too."""
    inner = Pieces(b"{}")
    answer = httpx.Response(200, stream=inner)
    transport = WatchingTransport(tracker, httpx.MockTransport(lambda _: answer))
    request = httpx.Request("POST", "http://localhost/v1/chat/completions", json={})
    stream: Any = transport.handle_request(request).stream
    assert copy.copy(stream).pieces == stream.pieces == inner.pieces
    assert not hasattr(stream, "nothing")
    assert list(stream) == [b"{}"]

"""What a watched client hands on is the SDK's own, and is heard whichever way it's read."""

import asyncio
import copy
import gc
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.eventstream import EventStream
from botocore.response import StreamingBody
from urllib3.response import HTTPResponse

from llama_token_tracker import Tracker
from llama_token_tracker.testing import LoopbackProvider
from llama_token_tracker.wire import watch
from tests.needs import needs
from tests.wire.bedrock.conftest import BODY, CLAUDE, MESSAGES

SAID = "assistant: Canberra is the capital."


def _into(readinto: Callable[[bytearray], int]) -> bytes:
    buffer, content = bytearray(50), b""
    while size := readinto(buffer):
        content += buffer[:size]
    assert readinto(bytearray(0)) == 0
    return content


def _until_empty(read: Callable[[], bytes]) -> bytes:
    return b"".join(iter(read, b""))


BODIES: dict[str, Callable[[StreamingBody], bytes]] = {
    "read": lambda body: body.read(),
    "read in parts": lambda body: _until_empty(lambda: body.read(0) + body.read(33)),
    "readinto": lambda body: _into(body.readinto),
    "readlines": lambda body: b"".join(body.readlines()),
    "readline": lambda body: _until_empty(body.readline),
    "__iter__": lambda body: b"".join(body),
    "__next__": lambda body: _until_empty(lambda: next(body, b"")),
    "next": lambda body: body.next(),
    "iter_chunks": lambda body: b"".join(body.iter_chunks(7)),
    "iter_lines": lambda body: b"".join(body.iter_lines(7, keepends=True)),
}
"""By the method that is tested, the ways to read a body."""

RAW: dict[str, Callable[[HTTPResponse], bytes]] = {
    "read": lambda raw: raw.read(),
    "read of no length": lambda raw: raw.read(0) + raw.read(),
    "read1": lambda raw: _until_empty(raw.read1),
    "readinto": lambda raw: _into(raw.readinto),
    "readlines": lambda raw: b"".join(raw.readlines()),
    "stream": lambda raw: b"".join(raw.stream(9)),
    "iteration": lambda raw: b"".join(raw),
    "data": lambda raw: raw.data,
    "json": lambda raw: json.dumps(raw.json()).encode(),
}
"""The ways to read what a body gives in a `with`."""

NO_READING = {"set_socket_timeout", "readable", "tell", "close", "__enter__", "__exit__", "__del__"}


def test_each_method_of_a_body_is_tried():
    """No version of botocore has one that nobody has thought of."""
    methods = {name for name, value in vars(StreamingBody).items() if callable(value)}
    inner = {"__init__", "_verify_content_length"}
    assert methods - inner - NO_READING <= {name.split()[0] for name in BODIES}


def _without_figures(response_dict: Any, **_: Any) -> None:
    for name in list(response_dict["headers"]):
        if "token-count" in name:
            del response_dict["headers"][name]


@pytest.fixture(params=["headers", "body"])
def told(request: pytest.FixtureRequest, client: Any) -> Iterator[str]:
    """Where the figures stand."""
    event = "before-parse.bedrock-runtime.InvokeModel"
    if request.param == "body":
        client.meta.events.register(event, _without_figures)
    yield request.param
    client.meta.events.unregister(event, _without_figures)


def _check(trackers: list[Tracker], provider: LoopbackProvider, content: bytes) -> None:
    assert json.loads(content)["content"][0]["text"] in SAID
    for tracker in trackers:
        [event], [billed] = tracker.llm_token_counts, provider.billed
        assert (event.total_token_count, event.source) == (billed.total_tokens, "reported")
        assert (event.status, event.completion) == ("complete", SAID)


@pytest.mark.parametrize("way", BODIES)
def test_a_body_is_heard_whichever_way_it_is_read(
    way: str, told: str, client: Any, provider: LoopbackProvider
):
    """By two trackers that watch one client; it's botocore's own body."""
    trackers = [Tracker(), Tracker()]
    for tracker in (*trackers, *trackers):
        watch(tracker, client)
    body = client.invoke_model(modelId=CLAUDE, body=BODY)["body"]
    assert type(body) is StreamingBody
    assert repr(body).startswith("<botocore.response.StreamingBody object")
    body.set_socket_timeout(9)
    assert (body.tell(), body.readable()) == (0, True)
    content = BODIES[way](body)
    if told == "headers" or way != "next":
        _check(trackers, provider, content)
    assert way in {"readlines", "readline"} or body.tell() == len(content)
    body.close()


@pytest.mark.parametrize("way", RAW)
def test_what_a_body_gives_in_a_block_is_heard(
    way: str, told: str, client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """It's urllib3's response, in which all ways of reading end."""
    watch(tracker, client)
    with client.invoke_model(modelId=CLAUDE, body=BODY)["body"] as raw:
        assert isinstance(raw, HTTPResponse)
        assert repr(raw).startswith("<urllib3.response.HTTPResponse object")
        content = RAW[way](raw)
    assert raw.closed
    _check([tracker], provider, content)


def test_a_body_that_is_closed_unread_is_counted(
    client: Any, told: str, provider: LoopbackProvider, tracker: Tracker
):
    """Once, by its headers or as one that was left."""
    watch(tracker, client)
    with closing(client.invoke_model(modelId=CLAUDE, body=BODY)["body"]) as body:
        body.read(3)
    del body
    gc.collect()
    [event] = tracker.llm_token_counts
    assert event.status == ("complete" if told == "headers" else "abandoned")
    assert event.prompt_token_count > 0


# --- streams -------------------------------------------------------------------------------


def _converse(client: Any) -> Any:
    return client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"]


def _invoke(client: Any) -> Any:
    return client.invoke_model_with_response_stream(modelId=CLAUDE, body=BODY)["body"]


streams = pytest.mark.parametrize("ask", [_converse, _invoke])


@streams
def test_a_stream_is_the_sdks_own(ask: Any, client: Any, provider: LoopbackProvider):
    """To `isinstance`, `repr`, `vars`, `copy` and `pickle`; two trackers hear it."""
    plain = ask(boto3.client("bedrock-runtime", **provider.arguments("bedrock")))
    provider.reset()
    trackers = [Tracker(), Tracker()]
    for tracker in trackers:
        watch(tracker, client)
    stream = ask(client)
    assert isinstance(stream, EventStream)
    assert repr(stream).split(" at ")[0] == repr(plain).split(" at ")[0]
    assert set(vars(plain)) <= set(vars(stream))
    assert type(iter(stream)) is type(iter(plain))
    with pytest.raises((TypeError, pickle.PicklingError)):
        pickle.dumps(stream)
    both = [copy.copy(stream), stream]
    assert len([next(iter(one)) for one in both]) == 2
    list(both[0])
    for tracker in trackers:
        [event], [billed] = tracker.llm_token_counts, provider.billed
        assert (event.total_token_count, event.status) == (billed.total_tokens, "complete")


@streams
@pytest.mark.parametrize("how", ["closing", "dropped"])
def test_a_stream_that_is_left_half_read_is_abandoned(
    ask: Any, how: str, client: Any, provider: LoopbackProvider, tracker: Tracker
):
    """Where it's closed, and where it's collected."""
    watch(tracker, client)
    stream = ask(client)
    if how == "closing":
        with closing(stream):
            next(iter(stream))
    else:
        next(iter(stream))
        del stream
        gc.collect()
    [event] = tracker.llm_token_counts
    assert event.status == "abandoned"


# --- asynchronous clients ------------------------------------------------------------------


async def _async_into(body: Any) -> bytes:
    buffer, content = bytearray(50), b""
    while size := await body.readinto(buffer):
        content += buffer[:size]
    return content


async def _async_read(read: Callable[[], Any]) -> bytes:
    content = b""
    while piece := await read():
        content += piece
    return content


async def _collected(pieces: Any) -> bytes:
    return b"".join([piece if isinstance(piece, bytes) else piece[0] async for piece in pieces])


async def _within(body: Any, read: Callable[[Any], Any]) -> bytes:
    async with body as response:
        content: bytes = await read(response)
        return content


async def _joined(lines: Any) -> bytes:
    return b"".join(await lines)


async def _dumped(fields: Any) -> bytes:
    return json.dumps(await fields).encode()


ASYNC_BODIES: dict[str, Callable[[Any], Any]] = {
    "read": lambda body: body.read(),
    "read in parts": lambda body: _async_read(lambda: body.read(33)),
    "readinto": _async_into,
    "readlines": lambda body: _joined(body.readlines()),
    "__aiter__": _collected,
    "__anext__": lambda body: body.__anext__(),
    "anext": lambda body: body.anext(),
    "iter_chunks": lambda body: _collected(body.iter_chunks(7)),
    "iter_lines": lambda body: _collected(body.iter_lines(7, keepends=True)),
    "within, read": lambda body: _within(body, lambda response: response.read()),
    "within, json": lambda body: _within(body, lambda r: _dumped(r.json())),
    "content, iter_chunked": lambda body: _collected(body.content.iter_chunked(9)),
    "content, iter_any": lambda body: _collected(body.content.iter_any()),
    "content, iter_chunks": lambda body: _collected(body.content.iter_chunks()),
    "content, lines": lambda body: _collected(body.content),
    "content, readline": lambda body: _async_read(body.content.readline),
    "content, readany": lambda body: _async_read(body.content.readany),
}


@needs("aioboto3")
def test_each_method_of_an_asynchronous_body_is_tried():
    """No version of aiobotocore has one that nobody has thought of."""
    from aiobotocore.response import StreamingBody

    methods = {name for name, value in vars(StreamingBody).items() if callable(value)}
    inner = {"__init__", "_verify_content_length", "__aenter__", "__aexit__"}
    assert methods - inner - NO_READING <= {name.split()[0] for name in ASYNC_BODIES}


@needs("aioboto3")
@pytest.mark.parametrize("told", ["headers", "body"])
def test_an_asynchronous_body_is_heard_whichever_way_it_is_read(
    told: str, provider: LoopbackProvider
):
    """By two trackers; it's aiobotocore's own body, with aiohttp's own response."""
    import aioboto3
    from aiobotocore.response import StreamingBody
    from aiohttp import StreamReader

    async def work(way: str, client: Any) -> None:
        trackers = [Tracker(), Tracker()]
        watching = [watch(tracker, client) for tracker in (*trackers, *trackers)]
        body = (await client.invoke_model(modelId=CLAUDE, body=BODY))["body"]
        assert type(body) is StreamingBody
        assert isinstance(body.content, StreamReader)
        assert body.tell() == 0
        content = await ASYNC_BODIES[way](body)
        if told == "headers" or "next" not in way:
            _check(trackers, provider, content)
        for one in watching:
            one.stop()
        provider.reset()

    async def all_of_them() -> None:
        session = aioboto3.Session()
        async with session.client("bedrock-runtime", **provider.arguments("bedrock")) as client:
            if told == "body":
                client.meta.events.register(
                    "before-parse.bedrock-runtime.InvokeModel", _without_figures
                )
            for way in ASYNC_BODIES:
                await work(way, client)

    asyncio.run(all_of_them())


@needs("aioboto3")
def test_an_asynchronous_stream_is_the_sdks_own(provider: LoopbackProvider):
    """Two trackers hear it, and left half-read it's abandoned."""
    import aioboto3
    from aiobotocore.eventstream import AioEventStream

    trackers = [Tracker(), Tracker()]

    async def work() -> None:
        session = aioboto3.Session()
        async with session.client("bedrock-runtime", **provider.arguments("bedrock")) as client:
            for tracker in trackers:
                watch(tracker, client)
            stream = (await client.converse_stream(modelId=CLAUDE, messages=MESSAGES))["stream"]
            assert isinstance(stream, AioEventStream)
            assert repr(stream).startswith("<aiobotocore.eventstream.AioEventStream object")
            assert isinstance(copy.copy(stream), AioEventStream)
            with pytest.raises(NotImplementedError):
                iter(stream)
            async for _ in stream:
                pass
            stream = (await client.converse_stream(modelId=CLAUDE, messages=MESSAGES))["stream"]
            with closing(stream):
                async for _ in stream:
                    break

    asyncio.run(work())
    for tracker in trackers:
        statuses = [event.status for event in tracker.llm_token_counts]
        assert statuses == ["complete", "abandoned"]

"""OpenTelemetry's instrumentors see the same calls beside ours, whoever came first."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest

from llama_token_tracker import Tracker
from llama_token_tracker.testing import LoopbackProvider
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.needs import needs
from tests.wire.bedrock.conftest import BODY, CLAUDE, MESSAGES

pytestmark = [needs("opentelemetry.instrumentation.botocore"), needs("opentelemetry.sdk.trace")]


@pytest.fixture
def spans() -> Iterator[Any]:
    """What an exporter gets, and who sends it there."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, traced = InMemorySpanExporter(), TracerProvider()
    traced.add_span_processor(SimpleSpanProcessor(exporter))
    yield exporter, traced
    traced.shutdown()


def _read(client: Any, way: str) -> None:
    if way == "converse":
        client.converse(modelId=CLAUDE, messages=MESSAGES)
    elif way == "invoke":
        client.invoke_model(modelId=CLAUDE, body=BODY)["body"].read()
    elif way == "converse stream":
        list(client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"])
    elif way == "invoke stream":
        list(client.invoke_model_with_response_stream(modelId=CLAUDE, body=BODY)["body"])
    else:
        stream = client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"]
        next(iter(stream))
        stream.close()


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("way", ["converse", "invoke", "converse stream", "invoke stream", "left"])
def test_spans_of_bedrock_end_with_their_figures(
    way: str, is_first: bool, spans: Any, provider: LoopbackProvider
):
    """A span a call, with the tokens that are billed, and an event a call."""
    from opentelemetry.instrumentation.botocore import BotocoreInstrumentor

    exporter, traced = spans
    tracker, instrumentor = Tracker(), BotocoreInstrumentor()
    client = boto3.client("bedrock-runtime", **provider.arguments("bedrock"))
    if not is_first:
        watch(tracker, client)
    instrumentor.instrument(tracer_provider=traced)
    try:
        if is_first:
            watch(tracker, client)
        _read(client, way)
    finally:
        instrumentor.uninstrument()
    [span], [event], [billed] = (
        exporter.get_finished_spans(),
        tracker.llm_token_counts,
        provider.billed,
    )
    if way == "left":
        assert event.status == "abandoned"
        return
    assert span.attributes["gen_ai.usage.output_tokens"] == billed.output_tokens
    assert (event.total_token_count, event.status) == (billed.total_tokens, "complete")
    assert event.completion == "assistant: Canberra is the capital."


@needs("aioboto3")
def test_asynchronous_spans_of_bedrock_end(spans: Any, provider: LoopbackProvider):
    """Each of a call and of a stream."""
    import aioboto3
    from opentelemetry.instrumentation.botocore import AiobotocoreInstrumentor

    exporter, traced = spans
    tracker, instrumentor = Tracker(), AiobotocoreInstrumentor()

    async def work() -> None:
        session = aioboto3.Session()
        async with session.client("bedrock-runtime", **provider.arguments("bedrock")) as client:
            watch(tracker, client)
            answer = await client.invoke_model(modelId=CLAUDE, body=BODY)
            assert json.loads(await answer["body"].read())
            stream = await client.converse_stream(modelId=CLAUDE, messages=MESSAGES)
            async for _ in stream["stream"]:
                pass

    instrumentor.instrument(tracer_provider=traced)
    try:
        asyncio.run(work())
    finally:
        # It can't undo its own work, for it gives a path where a class is wanted.
        import aiobotocore.client
        import botocore.endpoint

        for kind, name in (
            (aiobotocore.client.AioBaseClient, "_make_api_call"),
            (botocore.endpoint.Endpoint, "prepare_request"),
        ):
            setattr(kind, name, getattr(kind, name).__wrapped__)
    assert len(exporter.get_finished_spans()) == 2
    assert [event.status for event in tracker.llm_token_counts] == ["complete"] * 2


def _asked(provider: LoopbackProvider) -> tuple[str, dict[str, Any]]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    options = {"stream_options": {"include_usage": True}}
    return f"{provider.url('openai')}/chat/completions", body | options


@pytest.mark.parametrize("order", ["inside", "outside"])
def test_spans_of_httpx_end(order: str, spans: Any, provider: LoopbackProvider):
    """Within our transport, and around it."""
    from opentelemetry.instrumentation.httpx import (
        HTTPXClientInstrumentor,
        SyncOpenTelemetryTransport,
    )

    exporter, traced = spans
    tracker, instrumentor = Tracker(), HTTPXClientInstrumentor()
    url, body = _asked(provider)
    transport: Any = WatchingTransport(tracker)
    if order == "outside":
        transport = SyncOpenTelemetryTransport(transport, tracer_provider=traced)
    else:
        instrumentor.instrument(tracer_provider=traced)
    try:
        with (
            httpx.Client(transport=transport) as client,
            client.stream("POST", url, json=body) as response,
        ):
            assert isinstance(response.stream, httpx.SyncByteStream)
            list(response.iter_lines())
    finally:
        if order == "inside":
            instrumentor.uninstrument()
    assert len(exporter.get_finished_spans()) == 1
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert (event.total_token_count, event.status) == (billed.total_tokens, "complete")


def test_asynchronous_spans_of_httpx_end(spans: Any, provider: LoopbackProvider):
    """The same of the other kind."""
    from opentelemetry.instrumentation.httpx import AsyncOpenTelemetryTransport

    exporter, traced = spans
    tracker = Tracker()
    url, body = _asked(provider)

    async def work() -> None:
        inner = AsyncWatchingTransport(tracker)
        transport = AsyncOpenTelemetryTransport(inner, tracer_provider=traced)
        async with (
            httpx.AsyncClient(transport=transport) as client,
            client.stream("POST", url, json=body) as response,
        ):
            assert isinstance(response.stream, httpx.AsyncByteStream)
            assert [line async for line in response.aiter_lines()]

    asyncio.run(work())
    assert len(exporter.get_finished_spans()) == 1
    [event], [billed] = tracker.llm_token_counts, provider.billed
    assert (event.total_token_count, event.status) == (billed.total_tokens, "complete")

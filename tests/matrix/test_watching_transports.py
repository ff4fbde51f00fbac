"""Integrations whose HTTP client is watched: a call is one event, at the figures of the wire."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_token_tracker import TokenCountingHandler, Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport

from .cells import CELL, STYLES, cells, check_totals, exercise, expect, matches
from .clients import EMBEDDINGS, LLMS, Integration, each
from .styles import MESSAGES, PROMPT, Run, Style

pytestmark = pytest.mark.matrix

BY_NAME = {integration.name: integration for integration in [*LLMS, *EMBEDDINGS]}
TEXTS = ["one", "two words", "three\nmore\nwords", "one", "a last text\nof several words"]
CACHED = Usage(
    input_tokens=22_739, output_tokens=1_259, cache_read_tokens=21_503, cache_write_tokens=701
)

Made = Callable[..., Any]


def _http_clients(handler: TokenCountingHandler) -> dict[str, Any]:
    return {
        "http_client": httpx.Client(transport=WatchingTransport(handler)),
        "async_http_client": httpx.AsyncClient(transport=AsyncWatchingTransport(handler)),
    }


def _openai(
    name: str, provider: LoopbackProvider, manager: CallbackManager, handler: Any, **more: Any
) -> Any:
    return BY_NAME[name].build(provider, manager, _http_clients(handler) | more)


def _gemini(
    _: str, provider: LoopbackProvider, manager: CallbackManager, handler: Any, **more: Any
) -> Any:
    from llama_index.llms.google_genai import GoogleGenAI

    return GoogleGenAI(
        model="gemini-2.5-flash",
        api_key="none",
        # A dict: of an `HttpOptions` the integration keeps only what JSON can say.
        http_options={
            "base_url": provider.url("gemini"),
            "client_args": {"transport": WatchingTransport(handler)},
            "async_client_args": {"transport": AsyncWatchingTransport(handler)},
        },
        max_tokens=64,
        context_window=100_000,
        max_retries=0,
        callback_manager=manager,
        **more,
    )


def _ollama(
    _: str, provider: LoopbackProvider, manager: CallbackManager, handler: Any, **more: Any
) -> Any:
    import ollama
    from llama_index.llms.ollama import Ollama

    url = provider.url("ollama")
    return Ollama(
        model="llama3.2",
        context_window=8192,
        client=ollama.Client(url, transport=WatchingTransport(handler)),
        async_client=ollama.AsyncClient(url, transport=AsyncWatchingTransport(handler)),
        callback_manager=manager,
        **more,
    )


WATCHED: dict[str, Made] = {
    "openai": _openai,
    "openai-default": _openai,
    "openai-responses": _openai,
    "gemini": _gemini,
    "ollama": _ollama,
}

INTEGRATIONS = [BY_NAME[name] for name in WATCHED]
every_integration = each(INTEGRATIONS)


def watched(integration: Integration, *arguments: Any, **more: Any) -> Any:
    """A model with a watched client."""
    return WATCHED[integration.name](integration.name, *arguments, **more)


@pytest.mark.parametrize(CELL, cells(STYLES, among=INTEGRATIONS))
def test_a_call_is_one_event_with_its_bill(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    manager: CallbackManager,
    handler: TokenCountingHandler,
    run: Run,
) -> None:
    """Structured calls too, which integrations make behind LlamaIndex's back."""
    provider.script(*style.replies)
    llm = watched(integration, provider, manager, handler)
    exercise(integration, style, llm, provider, run)
    run(_collected())
    # Nobody can say what isn't on the wire.
    is_told = integration.name != "openai-default" or not style.streamed
    expect(handler, provider, reported=is_told)


async def _collected() -> None:
    gc.collect()


async def _drained(stream: Any) -> None:
    async for _ in await stream:
        pass


@every_integration
@pytest.mark.parametrize("way", ["stream_chat", "astream_chat"])
def test_a_stream_that_is_left_is_one_event(
    integration: Integration,
    way: str,
    provider: LoopbackProvider,
    manager: CallbackManager,
    handler: TokenCountingHandler,
    run: Run,
) -> None:
    """What LlamaIndex calls abandoned isn't counted a second time by the watch."""
    provider.script(Reply("Canberra is the capital of Australia.", chunks=8, pause_s=0.05))
    llm = watched(integration, provider, manager, handler)

    async def left() -> None:
        stream = await llm.astream_chat(MESSAGES)
        async for _ in stream:
            break
        await stream.aclose()

    if way == "astream_chat":
        run(left())
    else:
        stream = llm.stream_chat(MESSAGES)
        next(stream)
        stream.close()
    run(_collected())
    [event] = handler.llm_token_counts
    assert event.status == "abandoned"
    assert event.prompt_token_count > 0
    check_totals(handler)


@every_integration
def test_many_calls_at_once_keep_apart(
    integration: Integration,
    provider: LoopbackProvider,
    manager: CallbackManager,
    handler: TokenCountingHandler,
    run: Run,
) -> None:
    """Each event has the figures of one bill, and each bill one event."""
    llm = watched(integration, provider, manager, handler)

    async def work() -> None:
        await asyncio.gather(*[llm.achat(MESSAGES) for _ in range(8)])

    run(work())
    counted = sorted(event.total_token_count for event in handler.llm_token_counts)
    assert counted == sorted(usage.total_tokens for usage in provider.billed)
    assert len(counted) == 8


def test_a_handler_that_hears_nothing_of_a_model_counts_its_requests(
    provider: LoopbackProvider, handler: TokenCountingHandler
) -> None:
    """A model without this handler in its callback manager is a plain program to it."""
    llm = _openai("openai", provider, CallbackManager([]), handler)
    llm.chat(MESSAGES)
    list(llm.stream_chat(MESSAGES))
    events = handler.llm_token_counts
    assert [event.total_token_count for event in events] == [
        usage.total_tokens for usage in provider.billed
    ]
    assert events[0].prompt == f"user: {PROMPT}"


def test_an_empty_stream_of_gemini_has_its_figures(
    provider: LoopbackProvider, manager: CallbackManager, handler: TokenCountingHandler
) -> None:
    """The integration drops the only chunk, and what it says of tokens."""
    provider.script(Reply("", CACHED))
    list(_gemini("gemini", provider, manager, handler).stream_chat(MESSAGES))
    [event], [call] = handler.llm_token_counts, provider.settle()
    assert event.source == "reported"
    assert call.billed is not None
    assert event.total_token_count == call.billed.total_tokens


def test_a_call_that_is_tried_again_is_one_event(
    provider: LoopbackProvider, manager: CallbackManager, handler: TokenCountingHandler
) -> None:
    """The attempts that were refused cost nothing."""
    from llama_index.llms.openai import OpenAI

    provider.script(Reply(status=429), Reply(usage=CACHED))
    llm = OpenAI(
        model="gpt-4o-mini",
        api_key="none",
        api_base=provider.url("openai"),
        max_retries=2,
        callback_manager=manager,
        **_http_clients(handler),
    )
    llm.chat(MESSAGES)
    assert [call.status for call in provider.calls] == [429, 200]
    [event] = handler.llm_token_counts
    matches(event, CACHED)


@pytest.mark.parametrize("way", ["stream_chat", "stream_complete", "astream_chat"])
def test_streams_of_any_llms_anthropic_take_the_figures_of_the_wire(
    way: str,
    provider: LoopbackProvider,
    manager: CallbackManager,
    handler: TokenCountingHandler,
    run: Run,
) -> None:
    """Before 0.9 it drops them, and from then on it shows the first without the cache's share.

    It takes no HTTP client, so whoever wants this replaces the SDK's client that it keeps.
    """
    import anthropic

    llm = BY_NAME["anthropic"].llm(provider, manager)
    clients = _http_clients(handler)
    arguments = provider.arguments("anthropic")
    llm._client = anthropic.Anthropic(http_client=clients["http_client"], **arguments)
    llm._aclient = anthropic.AsyncAnthropic(http_client=clients["async_http_client"], **arguments)
    provider.script(Reply(usage=CACHED))
    if way == "astream_chat":
        run(_drained(llm.astream_chat(MESSAGES)))
    else:
        list(llm.stream_chat(MESSAGES) if way == "stream_chat" else llm.stream_complete(PROMPT))
    [event] = handler.llm_token_counts
    matches(event, CACHED)


# --- embeddings ----------------------------------------------------------------------------


def batch(model: Any, _: Run) -> None:
    """A batch of texts."""
    model.get_text_embedding_batch(TEXTS)


def abatch(model: Any, run: Run) -> None:
    """The same, asynchronously: all requests are under way together."""
    run(model.aget_text_embedding_batch(TEXTS))


def one_by_one(model: Any, _: Run) -> None:
    """Each text for itself."""
    for text in TEXTS:
        model.get_text_embedding(text)


def together(model: Any, run: Run) -> None:
    """Each text for itself, all at once."""

    async def work() -> None:
        await asyncio.gather(*[model.aget_text_embedding(text) for text in TEXTS])

    run(work())


@pytest.mark.parametrize("batch_size", [1, 2, 10])
@pytest.mark.parametrize("way", [batch, abatch, one_by_one, together], ids=lambda w: w.__name__)
def test_embedded_texts_take_the_figures_of_the_wire(
    way: Callable[[Any, Run], None],
    batch_size: int,
    provider: LoopbackProvider,
    manager: CallbackManager,
    handler: TokenCountingHandler,
    run: Run,
) -> None:
    """One event a text, reported, and together exactly what the provider has billed.

    The integration sends spaces in the place of line ends; it's the same text.
    """
    model = _openai("openai-embedding", provider, manager, handler, embed_batch_size=batch_size)
    way(model, run)
    run(_collected())
    events = handler.embedding_token_counts
    assert sorted(event.prompt for event in events) == sorted(TEXTS)
    assert {event.source for event in events} == {"reported"}
    billed = sum(usage.input_tokens or 0 for usage in provider.billed)
    assert sum(event.prompt_token_count for event in events) == billed
    assert handler.total_embedding_token_count == billed
    assert handler.llm_token_counts == []


@pytest.mark.parametrize("way", [batch, abatch], ids=lambda w: w.__name__)
def test_texts_of_a_cache_cost_nothing(
    way: Callable[[Any, Run], None],
    provider: LoopbackProvider,
    manager: CallbackManager,
    handler: TokenCountingHandler,
    run: Run,
) -> None:
    """The second time nothing is sent, and nothing counted."""
    model = _openai(
        "openai-embedding", provider, manager, handler, embeddings_cache=SimpleKVStore()
    )
    way(model, run)
    way(model, run)
    billed = sum(usage.input_tokens or 0 for usage in provider.billed)
    assert handler.total_embedding_token_count == billed
    assert {event.source for event in handler.embedding_token_counts} == {"reported"}

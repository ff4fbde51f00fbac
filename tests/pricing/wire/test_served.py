"""What an answer says of how its call was served decides the price, whoever reads the answer.

Dollars are computed by hand, from the providers' published prices per million tokens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import boto3
import httpx
import openai
import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage

from llama_token_tracker import Budget, TokenCountingEvent, TokenCountingHandler, Tracker
from llama_token_tracker._names import STATE_COSTS
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.needs import left_out_if, needs, release
from tests.pricing.wire.conftest import AsyncLoop, Json, Loop, Server, usd

ASK: Any = [{"role": "user", "content": "hi"}]
AZURE = "https://acme.openai.azure.com"
OPENAI = "https://api.openai.com/v1"
OPENROUTER = "https://openrouter.ai/api/v1"

Event = TokenCountingEvent
Ask = Callable[[Server, str, str], Event]
"""Asks a model at a host in one way, and gives the event."""


def chat(model: str, usage: Json, **more: Any) -> Json:
    """An answer of chat completions."""
    message = {"role": "assistant", "content": "hello"}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    head = {"id": "c", "object": "chat.completion", "created": 1, "model": model}
    return {**head, "choices": choices, "usage": usage, **more}


def chunks(model: str, usage: Json, **more: Any) -> list[Json]:
    """The same as a stream, whose last chunk has the usage."""
    head = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": model, **more}
    delta = {"role": "assistant", "content": "hello"}
    said = {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}]}
    return [said, {**head, "choices": [], "usage": usage}]


def tokens(went_in: int, came_out: int, **more: Any) -> Json:
    """A usage of chat completions."""
    total = went_in + came_out
    return {"prompt_tokens": went_in, "completion_tokens": came_out, "total_tokens": total, **more}


def only(counter: Tracker | TokenCountingHandler) -> Event:
    """The one event."""
    [event] = counter.llm_token_counts
    return event


# --- ways to ask ---------------------------------------------------------------------------


def sdk(server: Server, url: str, model: str, **more: Any) -> Event:
    """OpenAI's SDK, on a watched transport."""
    tracker = Tracker()
    http = httpx.Client(transport=WatchingTransport(tracker, Loop(server)))
    with openai.OpenAI(api_key="x", base_url=url, max_retries=0, http_client=http) as client:
        answer = client.chat.completions.create(model=model, messages=ASK, **more)
        if more:
            assert list(answer)
    return only(tracker)


def sdk_stream(server: Server, url: str, model: str) -> Event:
    """The same, streamed."""
    return sdk(server, url, model, stream=True, stream_options={"include_usage": True})


def sdk_async(server: Server, url: str, model: str) -> Event:
    """The same, asynchronous."""
    tracker = Tracker()

    async def ask() -> None:
        transport = AsyncWatchingTransport(tracker, AsyncLoop(server))
        http = httpx.AsyncClient(transport=transport)
        async with openai.AsyncOpenAI(api_key="x", base_url=url, http_client=http) as client:
            await client.chat.completions.create(model=model, messages=ASK)

    asyncio.run(ask())
    return only(tracker)


def llama_index(server: Server, url: str, model: str, *, is_streamed: bool = False) -> Event:
    """LlamaIndex alone: nothing is watched."""
    from llama_index.llms.openai import OpenAI

    handler = TokenCountingHandler()
    http = httpx.Client(transport=Loop(server))
    llm = OpenAI(
        model=model,
        api_key="x",
        api_base=url,
        http_client=http,
        callback_manager=CallbackManager([handler]),
    )
    if is_streamed:
        assert list(llm.stream_chat([ChatMessage("hi")]))
    else:
        llm.chat([ChatMessage("hi")])
    return only(handler)


def llama_index_stream(server: Server, url: str, model: str) -> Event:
    """The same, streamed."""
    return llama_index(server, url, model, is_streamed=True)


def langchain(
    server: Server, url: str, model: str, *, is_streamed: bool = False, is_watched: bool = False
) -> Event:
    """LangChain alone."""
    from langchain_openai import ChatOpenAI

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    handler = TokenCountingCallbackHandler()
    transport: httpx.BaseTransport = Loop(server)
    if is_watched:
        transport = WatchingTransport(handler, transport)
    http = httpx.Client(transport=transport)
    llm = ChatOpenAI(model=model, api_key="x", base_url=url, http_client=http, stream_usage=True)  # type: ignore[arg-type, call-arg]
    config: Any = {"callbacks": [handler]}
    if is_streamed:
        assert list(llm.stream("hi", config=config))
    else:
        llm.invoke("hi", config=config)
    return only(handler.tracker)


def langchain_watched(server: Server, url: str, model: str) -> Event:
    """A stream of LangChain's, on a watched transport."""
    return langchain(server, url, model, is_streamed=True, is_watched=True)


def langchain_stream(server: Server, url: str, model: str) -> Event:
    """The same, streamed."""
    return langchain(server, url, model, is_streamed=True)


WAYS: list[Any] = [
    sdk,
    sdk_async,
    llama_index,
    pytest.param(langchain, marks=needs("langchain_openai")),
]
STREAMED: list[Any] = [
    sdk_stream,
    llama_index_stream,
    pytest.param(langchain_stream, marks=needs("langchain_openai")),
]


def told(server: Server, ask: Ask, model: str, usage: Json, **more: Any) -> None:
    """Have the server answer as this way of asking wants it."""
    if ask in (sdk_stream, llama_index_stream, langchain_stream, langchain_watched):
        server.streams(*chunks(model, usage, **more))
    else:
        server.says(chat(model, usage, **more))


# --- the model that has answered -----------------------------------------------------------

SERVED = tokens(120_000, 5_010)
MINI = usd((120_000, "0.15"), (5_010, "0.6"))


def azure(server: Server, _url: str, model: str) -> Event:
    """Azure's client, whose path names a deployment."""
    tracker = Tracker()
    http = httpx.Client(transport=WatchingTransport(tracker, Loop(server)))
    with openai.AzureOpenAI(
        api_key="x",
        azure_endpoint=AZURE,
        api_version="2024-06-01",
        azure_deployment=model,
        http_client=http,
    ) as client:
        client.chat.completions.create(model=model, messages=ASK)
    return only(tracker)


def azure_langchain(server: Server, _url: str, model: str) -> Event:
    """LangChain's class for it."""
    from langchain_openai import AzureChatOpenAI

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    handler = TokenCountingCallbackHandler()
    llm = AzureChatOpenAI(
        azure_deployment=model,
        api_version="2024-06-01",
        api_key="x",  # type: ignore[arg-type]
        azure_endpoint=AZURE,
        http_client=httpx.Client(transport=Loop(server)),
    )
    llm.invoke("hi", config={"callbacks": [handler]})
    return only(handler.tracker)


@pytest.mark.parametrize(
    "ask", [azure, pytest.param(azure_langchain, marks=needs("langchain_openai")), *WAYS, *STREAMED]
)
def test_the_model_that_has_answered_decides(ask: Ask, canned: Server):
    """A deployment may be called like another model."""
    told(canned, ask, "gpt-4o-mini-2024-07-18", SERVED)
    event = ask(canned, OPENAI, "gpt-4o")
    assert (event.cost_usd, event.model) == (MINI, "gpt-4o")
    assert event.served.model == "gpt-4o-mini-2024-07-18"
    assert event.cost is not None
    assert event.cost.is_whole


@pytest.mark.parametrize("ask", [*WAYS, *STREAMED])
def test_a_model_that_nobody_lists_takes_wholeness_away(ask: Ask, canned: Server):
    """What was asked for is the best that's known."""
    told(canned, ask, "acme-tuned-7b", SERVED)
    event = ask(canned, OPENAI, "gpt-4o-mini")
    assert event.cost_usd == MINI
    assert event.to_dict()["cost_is_whole"] is False


@pytest.mark.parametrize("ask", [*WAYS, *STREAMED])
def test_a_dated_name_of_the_same_model_changes_nothing(ask: Ask, canned: Server):
    """Providers answer with it as a rule."""
    told(canned, ask, "gpt-4o-mini-2024-07-18", SERVED, service_tier="default")
    event = ask(canned, OPENAI, "gpt-4o-mini")
    assert event.cost_usd == MINI
    assert event.to_dict()["cost_is_whole"] is True


@pytest.mark.parametrize("ask", [*WAYS, *STREAMED])
def test_a_host_that_nobody_knows_is_no_provider(ask: Ask, canned: Server):
    """A gateway speaks as OpenAI does, and bills as it likes."""
    told(canned, ask, "gpt-4o-mini-2024-07-18", SERVED)
    event = ask(canned, "https://llm.acme.example/v1", "gpt-4o-mini")
    assert event.provider is None
    assert event.cost_usd == MINI
    assert event.to_dict()["cost_is_whole"] is False


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize(
    ("url", "provider"),
    [
        (OPENROUTER, "openrouter"),
        ("https://api.moonshot.ai/v1", "moonshot_ai"),
        ("https://api.together.xyz/v1", "together"),
        ("https://api.groq.com/openai/v1", "groq"),
        ("https://api.deepseek.com", "deepseek"),
        ("https://acme.services.ai.azure.com/openai/v1", "azure.ai.inference"),
    ],
)
def test_others_who_speak_as_openai_does_are_named(
    ask: Ask, url: str, provider: str, canned: Server
):
    """By the host that a client was made for."""
    told(canned, ask, "gpt-4o-mini", SERVED)
    assert ask(canned, url, "gpt-4o-mini").provider == provider


# --- tiers ---------------------------------------------------------------------------------

USAGE = tokens(40_000, 3_000, prompt_tokens_details={"cached_tokens": 10_000})


@pytest.mark.parametrize("ask", [*WAYS, *STREAMED])
@pytest.mark.parametrize(
    ("tier", "expected", "is_whole"),
    [
        ("default", usd((30_000, "1.25"), (10_000, "0.125"), (3_000, "10")), True),
        ("flex", usd((30_000, "0.625"), (10_000, "0.0625"), (3_000, "5")), True),
        ("priority", usd((30_000, "2.5"), (10_000, "0.25"), (3_000, "20")), True),
        # A contract of one's own.
        ("scale", usd((30_000, "1.25"), (10_000, "0.125"), (3_000, "10")), False),
    ],
)
def test_openais_tier_is_priced(
    ask: Ask, tier: str, expected: Decimal, is_whole: bool, canned: Server
):
    """At half the price, at twice the price; or not whole, if the list knows of no such price."""
    told(canned, ask, "gpt-5", USAGE, service_tier=tier)
    event = ask(canned, OPENAI, "gpt-5")
    assert (event.cost_usd, event.served.service_tier) == (expected, tier)
    assert event.to_dict()["cost_is_whole"] is is_whole


def test_a_tier_of_responses_is_read_of_a_streams_last_event(canned: Server):
    """Its first says what was asked for."""
    head = {"id": "r", "object": "response", "created_at": 1, "model": "gpt-5", "output": []}
    usage = {"input_tokens": 40_000, "output_tokens": 3_000, "total_tokens": 43_000}
    asked = {**head, "service_tier": "auto", "status": "in_progress", "usage": None}
    done = {**head, "service_tier": "flex", "status": "completed", "usage": usage}
    canned.streams(
        {"type": "response.created", "response": {**asked, "max_output_tokens": 9}},
        {"type": "response.completed", "response": done},
        named=True,
    )
    tracker = Tracker()
    http = httpx.Client(transport=WatchingTransport(tracker, Loop(canned)))
    with openai.OpenAI(api_key="x", http_client=http) as client:
        assert list(client.responses.create(model="gpt-5", input="hi", stream=True))
    event = only(tracker)
    assert event.cost_usd == usd((40_000, "0.625"), (3_000, "5"))
    assert event.to_dict()["service_tier"] == "flex"
    assert event.to_dict()["cost_is_whole"] is True


def test_a_region_with_prices_of_its_own_takes_wholeness_away(canned: Server):
    """Data residency costs more for some models, and the list doesn't say for which."""
    canned.says(chat("gpt-5", USAGE))
    event = sdk(canned, "https://eu.api.openai.com/v1", "gpt-5")
    assert (event.provider, event.served.region) == ("openai", "eu")
    assert event.to_dict()["cost_is_whole"] is False


# --- what providers say they have billed ---------------------------------------------------


@pytest.mark.parametrize(
    "ask",
    [
        *WAYS,
        sdk_stream,
        llama_index_stream,
        # LangChain itself drops it of a stream, so that such a call has no price.
        pytest.param(langchain_watched, marks=needs("langchain_openai")),
    ],
)
def test_the_cost_that_openrouter_states_is_the_cost(ask: Ask, canned: Server):
    """Whatever its router has chosen."""
    told(canned, ask, "acme/some-model", tokens(1_000, 500, cost=0.0123, is_byok=False))
    event = ask(canned, OPENROUTER, "gpt-4o-mini")
    assert event.cost is not None
    assert (event.cost_usd, event.cost.is_whole) == (Decimal("0.0123"), True)
    assert event.cost.input_usd + event.cost.output_usd == event.cost.usd
    assert (event.cost.source, event.served.model) == ("billed by openrouter", "acme/some-model")


@pytest.mark.parametrize(
    "ask", [sdk, pytest.param(langchain_stream, marks=needs("langchain_openai"))]
)
@pytest.mark.parametrize(
    ("url", "model", "source"),
    [
        (OPENROUTER, "openai/gpt-4o-mini", "reported"),
        ("https://api.x.ai/v1", "grok-4", "reported"),
        ("https://api.perplexity.ai", "sonar-pro", "estimated"),
        ("https://api.deepseek.com", "deepseek-chat", "reported"),
        ("https://api.moonshot.ai/v1", "kimi-k2-0905-preview", "estimated"),
    ],
)
def test_what_the_list_says_is_not_whole_where_a_stated_cost_is_missing(
    ask: Ask, url: str, model: str, source: str, canned: Server
):
    """As LangChain drops it of a stream, and with it tokens that Perplexity bills apart."""
    told(canned, ask, model, tokens(1_000, 500))
    event = ask(canned, url, model)
    assert event.cost_usd
    is_stated_by_names_of_its_own = source == "estimated" and ask is not sdk
    is_whole = event.provider not in STATE_COSTS and not is_stated_by_names_of_its_own
    assert event.to_dict()["cost_is_whole"] is is_whole
    assert event.source == ("reported" if ask is sdk else source)


@pytest.mark.parametrize(
    ("url", "usage", "expected", "is_whole"),
    [
        ("https://api.x.ai/v1", {"cost_in_usd_ticks": 37_756_000}, Decimal("0.0037756"), True),
        ("https://api.perplexity.ai", {"cost": {"total_cost": 0.006}}, Decimal("0.006"), True),
        # OpenRouter bills its fee, and the user's own provider the rest.
        (
            OPENROUTER,
            {
                "cost": 0.001,
                "is_byok": True,
                "cost_details": {"upstream_inference_cost": 0.02},
            },
            Decimal("0.021"),
            True,
        ),
        # Anybody may write a figure there.
        ("https://llm.acme.example/v1", {"cost": 0.5}, None, False),
    ],
)
def test_others_state_theirs_elsewhere(
    url: str, usage: Json, expected: Decimal | None, is_whole: bool, canned: Server
):
    """And a stranger's figure is nobody's bill."""
    canned.says(chat("m", tokens(1_000, 500, **usage)))
    event = sdk(canned, url, "m")
    assert event.cost_usd == expected
    assert event.to_dict()["cost_is_whole"] is is_whole


# --- Anthropic -----------------------------------------------------------------------------

FAST: Json = {"input_tokens": 50_000, "output_tokens": 5_000, "speed": "fast"}
"""At twice the price of Opus 5, 5 and 25."""


def message(usage: Json, model: str = "claude-opus-5") -> Json:
    """An answer of Anthropic's."""
    content = [{"type": "text", "text": "hello"}]
    head = {"id": "m", "type": "message", "role": "assistant", "model": model}
    return {**head, "content": content, "stop_reason": "end_turn", "usage": usage}


CUMULATIVE = ("input_tokens", "cache_creation_input_tokens", "output_tokens", "server_tool_use")
"""What a stream's last event says of it as well."""


def message_events(usage: Json, model: str = "claude-opus-5") -> list[Json]:
    """The same as a stream: the first event has all but the output."""
    start = {**message({**usage, "output_tokens": 1}, model), "content": [], "stop_reason": None}
    block = {"type": "text", "text": ""}
    return [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "hello"},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {name: count for name, count in usage.items() if name in CUMULATIVE},
        },
        {"type": "message_stop"},
    ]


def claude(server: Server, usage: Json, *, is_streamed: bool = False) -> Event:
    """Anthropic's SDK, on a watched transport."""
    import anthropic

    tracker = Tracker()
    http = httpx.Client(transport=WatchingTransport(tracker, Loop(server)))
    with anthropic.Anthropic(api_key="x", http_client=http) as client:
        asked: Any = {"model": "claude-opus-5", "max_tokens": 9, "messages": ASK}
        if is_streamed:
            server.streams(*message_events(usage), named=True)
            assert list(client.messages.create(**asked, stream=True))
        else:
            server.says(message(usage))
            client.messages.create(**asked)
    return only(tracker)


def claude_stream(server: Server, usage: Json) -> Event:
    """The same, streamed."""
    return claude(server, usage, is_streamed=True)


def claude_llama_index(server: Server, usage: Json) -> Event:
    """LlamaIndex alone."""
    import anthropic
    from llama_index.llms.anthropic import Anthropic

    server.says(message(usage))
    handler = TokenCountingHandler()
    llm = Anthropic(
        model="claude-opus-4-1", api_key="x", callback_manager=CallbackManager([handler])
    )
    llm._client = anthropic.Anthropic(api_key="x", http_client=httpx.Client(transport=Loop(server)))
    llm.chat([ChatMessage("hi")])
    return only(handler)


def claude_langchain(server: Server, usage: Json, *, is_streamed: bool = False) -> Event:
    """LangChain alone."""
    import anthropic
    from langchain_anthropic import ChatAnthropic

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    server.says(message(usage))
    handler = TokenCountingCallbackHandler()
    llm = ChatAnthropic(model="claude-opus-5", api_key="x", max_tokens=9)  # type: ignore[call-arg, arg-type]
    llm.__dict__["_client"] = anthropic.Anthropic(
        api_key="x", http_client=httpx.Client(transport=Loop(server))
    )
    config: Any = {"callbacks": [handler]}
    if is_streamed:
        server.streams(*message_events(usage), named=True)
        assert list(llm.stream("hi", config=config))
    else:
        llm.invoke("hi", config=config)
    return only(handler.tracker)


NEWER_ANTHROPIC = left_out_if(
    release("llama-index-llms-anthropic") < (0, 12), "an older llama-index-llms-anthropic"
)


def claude_langchain_stream(server: Server, usage: Json) -> Event:
    """The same, streamed."""
    return claude_langchain(server, usage, is_streamed=True)


CLAUDES: list[Any] = [
    claude,
    claude_stream,
    pytest.param(claude_llama_index, marks=NEWER_ANTHROPIC),
    pytest.param(claude_langchain, marks=needs("langchain_anthropic")),
]


@pytest.mark.parametrize("ask", CLAUDES)
@pytest.mark.parametrize(
    ("more", "per_input", "per_output", "is_whole"),
    [
        ({"speed": "fast", "service_tier": "standard"}, "10", "50", True),
        ({"speed": "standard"}, "5", "25", True),
        ({"service_tier": "batch"}, "2.5", "12.5", True),
        # Tokens that were bought in advance.
        ({"service_tier": "priority"}, "5", "25", False),
        ({"inference_geo": "us"}, "5", "25", False),
        ({"inference_geo": "global"}, "5", "25", True),
    ],
)
def test_anthropics_usage_says_how_fast_and_where(
    ask: Callable[[Server, Json], Event],
    more: Json,
    per_input: str,
    per_output: str,
    is_whole: bool,
    canned: Server,
):
    """What it names is priced, or takes wholeness away."""
    event = ask(canned, {"input_tokens": 50_000, "output_tokens": 5_000, **more})
    assert event.cost_usd == usd((50_000, per_input), (5_000, per_output))
    plain = event.to_dict()
    assert plain["cost_is_whole"] is is_whole
    assert (plain["speed"], plain["region"]) == (more.get("speed"), more.get("inference_geo"))
    assert plain["is_batch"] is (more.get("service_tier") == "batch")


@pytest.mark.parametrize("ask", CLAUDES)
def test_searches_are_billed_beside_tokens(ask: Callable[[Server, Json], Event], canned: Server):
    """Ten dollars for a thousand, by Anthropic's page on prices."""
    usage = {"input_tokens": 50_000, "output_tokens": 5_000}
    event = ask(canned, {**usage, "server_tool_use": {"web_search_requests": 3}})
    assert event.cost_usd == usd((50_000, "5"), (5_000, "25")) + Decimal("0.03")
    assert event.units == {"web_searches": 3}
    assert event.to_dict()["cost_is_whole"] is True


@pytest.mark.parametrize(
    ("creation", "per_written", "is_whole"),
    [
        (None, "6.25", False),
        ({"ephemeral_5m_input_tokens": 8_000, "ephemeral_1h_input_tokens": 0}, "6.25", True),
        ({"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 8_000}, "10", True),
    ],
)
@pytest.mark.parametrize(
    "ask", [claude, claude_stream, pytest.param(claude_llama_index, marks=NEWER_ANTHROPIC)]
)
def test_what_was_written_for_who_knows_how_long_costs_at_least_the_short(
    ask: Callable[[Server, Json], Event],
    creation: Json | None,
    per_written: str,
    is_whole: bool,
    canned: Server,
):
    """The smaller price is sure, the cost isn't."""
    usage = {"input_tokens": 1_000, "output_tokens": 500, "cache_creation_input_tokens": 8_000}
    event = ask(canned, usage if creation is None else {**usage, "cache_creation": creation})
    assert event.cost_usd == usd((1_000, "5"), (8_000, per_written), (500, "25"))
    assert event.to_dict()["cost_is_whole"] is is_whole


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(claude_langchain, marks=needs("langchain_anthropic")),
        pytest.param(claude_langchain_stream, marks=needs("langchain_anthropic")),
    ],
)
def test_langchains_copy_of_a_write_without_its_life_is_not_whole(
    ask: Callable[[Server, Json], Event], canned: Server
):
    """Unless the answer beside it says more."""
    usage = {"input_tokens": 1_000, "output_tokens": 500, "cache_creation_input_tokens": 8_000}
    event = ask(canned, usage)
    assert event.cost_usd == usd((1_000, "5"), (8_000, "6.25"), (500, "25"))
    assert event.to_dict()["cost_is_whole"] is False


# --- Bedrock -------------------------------------------------------------------------------

SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
CLAIMED: Json = {"inputTokens": 40_000, "outputTokens": 2_000, "totalTokens": 42_000}
REGIONAL = usd((40_000, "3.3"), (2_000, "16.5"))


def bedrock(server: Server, tracker: Tracker, region: str = "us-east-1") -> Any:
    """A watched client."""
    client: Any = boto3.client(
        "bedrock-runtime",
        endpoint_url=server.url,
        region_name=region,
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    watch(tracker, client)
    return client


def converse(server: Server, model: str, more: Json, region: str = "us-east-1") -> Event:
    """Converse."""
    content = {"message": {"role": "assistant", "content": [{"text": "hello"}]}}
    server.says({"output": content, "stopReason": "end_turn", "usage": CLAIMED, **more})
    tracker = Tracker()
    bedrock(server, tracker, region).converse(
        modelId=model, messages=[{"role": "user", "content": [{"text": "hi"}]}]
    )
    return only(tracker)


def converse_stream(server: Server, model: str, more: Json, region: str = "us-east-1") -> Event:
    """ConverseStream."""
    server.streams_events(
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"delta": {"text": "hello"}, "contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", {"usage": CLAIMED, "metrics": {"latencyMs": 1}, **more}),
    )
    tracker = Tracker()
    answer = bedrock(server, tracker, region).converse_stream(
        modelId=model, messages=[{"role": "user", "content": [{"text": "hi"}]}]
    )
    assert list(answer["stream"])
    return only(tracker)


def converse_llama_index(
    server: Server, model: str, more: Json, region: str = "us-east-1"
) -> Event:
    """LlamaIndex alone."""
    from llama_index.llms.bedrock_converse import BedrockConverse

    content = {"message": {"role": "assistant", "content": [{"text": "hello"}]}}
    server.says({"output": content, "stopReason": "end_turn", "usage": CLAIMED, **more})
    handler = TokenCountingHandler()
    client = boto3.client(
        "bedrock-runtime",
        endpoint_url=server.url,
        region_name=region,
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    llm = BedrockConverse(model=SONNET, client=client, callback_manager=CallbackManager([handler]))
    llm.chat([ChatMessage("hi")])
    return only(handler)


def converse_langchain(server: Server, model: str, more: Json, region: str = "us-east-1") -> Event:
    """LangChain alone."""
    from langchain_aws import ChatBedrockConverse

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    content = {"message": {"role": "assistant", "content": [{"text": "hello"}]}}
    body = {"output": content, "stopReason": "end_turn", "usage": CLAIMED, **more}
    server.says({**body, "metrics": {"latencyMs": 1}})
    handler = TokenCountingCallbackHandler()
    client = boto3.client(
        "bedrock-runtime",
        endpoint_url=server.url,
        region_name=region,
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    llm = ChatBedrockConverse(model=model, client=client, region_name=region, provider="anthropic")  # type: ignore[call-arg]
    llm.invoke("hi", config={"callbacks": [handler]})
    return only(handler.tracker)


def invoke(server: Server, model: str, more: Json, region: str = "us-east-1") -> Event:
    """InvokeModel, whose headers say all of it."""
    tier, speed = more.get("serviceTier", {}), more.get("performanceConfig", {})
    headers = {
        "x_amzn_bedrock_input_token_count": "40000",
        "x_amzn_bedrock_output_token_count": "2000",
        "x_amzn_bedrock_service_tier": tier.get("type"),
        "x_amzn_bedrock_performanceConfig_latency": speed.get("latency"),
    }
    known = {name: value for name, value in headers.items() if value}
    body = message({"input_tokens": 40_000, "output_tokens": 2_000}, "claude-sonnet-4-5-20250929")
    server.says(json.dumps(body).encode(), **known)
    tracker = Tracker()
    answer = bedrock(server, tracker, region).invoke_model(
        modelId=model, body=json.dumps({"messages": ASK, "max_tokens": 9})
    )
    assert answer["body"].read()
    return only(tracker)


TIERS = left_out_if(release("botocore") < (1, 42), "an older botocore drops the tier")
BEDROCKS: list[Any] = [
    converse,
    converse_stream,
    converse_llama_index,
    invoke,
    pytest.param(converse_langchain, marks=needs("langchain_aws")),
]


@pytest.mark.parametrize("ask", BEDROCKS)
@pytest.mark.parametrize(
    ("more", "is_whole"),
    [
        ({}, True),
        pytest.param({"serviceTier": {"type": "default"}}, True, marks=TIERS),
        pytest.param({"serviceTier": {"type": "flex"}}, False, marks=TIERS),
        pytest.param({"serviceTier": {"type": "priority"}}, False, marks=TIERS),
        ({"performanceConfig": {"latency": "optimized"}}, False),
        ({"performanceConfig": {"latency": "standard"}}, True),
    ],
)
def test_bedrocks_tier_and_latency_take_wholeness_away(
    ask: Any, more: Json, is_whole: bool, canned: Server
):
    """The list has no prices for them."""
    event: Event = ask(canned, SONNET, more)
    assert event.cost_usd == REGIONAL
    assert event.to_dict()["cost_is_whole"] is is_whole
    assert event.served.service_tier == more.get("serviceTier", {}).get("type")
    assert event.served.speed == more.get("performanceConfig", {}).get("latency")


@pytest.mark.parametrize("ask", [converse, converse_stream, invoke])
@pytest.mark.parametrize(
    ("model", "region", "is_whole"),
    [
        (SONNET, "us-east-1", True),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "eu-central-1", True),
        ("anthropic.claude-sonnet-4-5-20250929-v1:0", "us-gov-west-1", False),
    ],
)
def test_a_clients_region_is_part_of_the_price(
    ask: Any, model: str, region: str, is_whole: bool, canned: Server
):
    """GovCloud's prices are its own."""
    event: Event = ask(canned, model, {}, region)
    assert (event.cost_usd, event.served.region) == (REGIONAL, region)
    assert event.to_dict()["cost_is_whole"] is is_whole


@pytest.mark.parametrize("ask", [converse, converse_stream])
@pytest.mark.parametrize(
    ("details", "per_written", "is_whole"),
    [
        (None, "4.125", False),
        pytest.param([{"ttl": "5m", "inputTokens": 8_000}], "4.125", True, marks=TIERS),
        pytest.param([{"ttl": "1h", "inputTokens": 8_000}], "6.6", True, marks=TIERS),
    ],
)
def test_converse_may_say_how_long_a_cache_is_kept(
    ask: Any,
    details: list[Json] | None,
    per_written: str,
    is_whole: bool,
    canned: Server,
    monkeypatch: pytest.MonkeyPatch,
):
    """If it doesn't, the cost is the smaller one."""
    written = {"cacheWriteInputTokens": 8_000} | ({"cacheDetails": details} if details else {})
    monkeypatch.setattr(f"{__name__}.CLAIMED", CLAIMED | written)
    event: Event = ask(canned, SONNET, {})
    assert event.cost_usd == REGIONAL + usd((8_000, per_written))
    assert event.to_dict()["cost_is_whole"] is is_whole


ROUTER = "arn:aws:bedrock:us-east-1:123456789012:default-prompt-router/anthropic.claude:1"
CHOSEN = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/" + SONNET


@pytest.mark.parametrize("ask", [converse, converse_stream])
def test_a_routers_choice_is_priced(ask: Any, canned: Server):
    """Its own id names no model."""
    event: Event = ask(canned, ROUTER, {"trace": {"promptRouter": {"invokedModelId": CHOSEN}}})
    assert (event.cost_usd, event.served.model) == (REGIONAL, CHOSEN)
    assert event.to_dict()["cost_is_whole"] is True


def test_a_profile_that_names_no_model_is_priced_by_its_answer(canned: Server):
    """Whether it's global, and so cheaper, only its owner knows."""
    profile = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
    event = invoke(canned, profile, {})
    assert event.cost_usd == REGIONAL
    assert event.to_dict()["cost_is_whole"] is False


# --- budgets -------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", ["fast", "billed"])
def test_budgets_are_charged_what_was_billed(ask: str, canned: Server):
    """Not what the request alone would have cost."""
    tracker = Tracker(budget=Budget(usd=100, unpriced="allow"))
    http = httpx.Client(transport=WatchingTransport(tracker, Loop(canned)))
    if ask == "fast":
        canned.says(chat("gpt-5", USAGE, service_tier="priority"))
        url, model = OPENAI, "gpt-5"
        expected = usd((30_000, "2.5"), (10_000, "0.25"), (3_000, "20"))
    else:
        canned.says(chat("acme/m", tokens(10, 5, cost=7.25)))
        url, model, expected = OPENROUTER, "openrouter/auto", Decimal("7.25")
    with openai.OpenAI(api_key="x", base_url=url, http_client=http) as client:
        client.chat.completions.create(model=model, messages=ASK)
    assert tracker.accounts[0].spent().usd == expected == tracker.total_cost_usd

"""Calls of LangChain that weren't answered, or raise though they were: paid all the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import httpx
import pytest

from llama_token_tracker import Budget
from llama_token_tracker.errors import BudgetExceededError
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.late import Answer, Late, as_json, as_stream, serving
from tests.llama_index.test_paid_and_raised import RESPONSE, Song
from tests.needs import needs
from tests.wire.test_unanswered import CHAT, CONVERSE, MESSAGE

pytestmark = needs("langchain_openai", "langchain_anthropic", "langchain_aws")

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """SDKs wait between attempts; these tests needn't."""
    for sdk in ("openai", "anthropic"):
        monkeypatch.setattr(f"{sdk}._base_client.INITIAL_RETRY_DELAY", 0.01)


def chat_openai(server: Late, retries: int = 0, **options: Any) -> Any:
    """ChatOpenAI."""
    from langchain_openai import ChatOpenAI

    url = server.url + "/v1"
    model: Any = ChatOpenAI
    return model(
        model="gpt-4o-mini", api_key="k", base_url=url, max_retries=retries, timeout=5, **options
    )


def chat_anthropic(server: Late, retries: int = 0) -> Any:
    """ChatAnthropic."""
    from langchain_anthropic import ChatAnthropic

    model: Any = ChatAnthropic
    return model(model="claude-sonnet-4-5", api_key="k", base_url=server.url, max_retries=retries)


def converse_client(server: Late, retries: int = 0) -> Any:
    """A client of Bedrock's."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=server.url,
        aws_access_key_id="a",
        aws_secret_access_key="b",
        config=Config(retries={"total_max_attempts": retries + 1, "mode": "standard"}),
    )


def chat_converse(server: Late, client: Any = None) -> Any:
    """ChatBedrockConverse."""
    from langchain_aws import ChatBedrockConverse

    client = client or converse_client(server)
    return ChatBedrockConverse(model=CLAUDE, client=client, region_name="us-east-1")


def watched_openai(server: Late, handler: TokenCountingCallbackHandler) -> Any:
    """ChatOpenAI, whose requests are seen."""
    return chat_openai(
        server,
        1,
        http_client=httpx.Client(transport=WatchingTransport(handler)),
        http_async_client=httpx.AsyncClient(transport=AsyncWatchingTransport(handler)),
    )


def watched_converse(server: Late, handler: TokenCountingCallbackHandler) -> Any:
    """ChatBedrockConverse, whose requests are seen."""
    client = converse_client(server, 1)
    watch(handler, client)
    return chat_converse(server, client)


def ask(model: Any, style: str, handler: TokenCountingCallbackHandler) -> None:
    """Ask in one of LangChain's four ways."""
    config = {"callbacks": [handler]}

    async def drain() -> None:
        async for _ in model.astream("one two three", config):
            pass

    if style == "astream":
        asyncio.run(drain())
    elif style == "ainvoke":
        asyncio.run(model.ainvoke("one two three", config))
    elif style == "stream":
        list(model.stream("one two three", config))
    else:
        model.invoke("one two three", config)


STYLES = ("invoke", "ainvoke", "stream", "astream")
MODELS = {"openai": chat_openai, "anthropic": chat_anthropic, "converse": chat_converse}
WATCHED = {"openai": (watched_openai, CHAT), "converse": (watched_converse, CONVERSE)}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", MODELS)
def test_a_call_whose_answer_nobody_saw_is_marked_and_not_zero(name: str, style: str) -> None:
    """The server hangs up once it has read the request."""
    handler = TokenCountingCallbackHandler()
    with serving(as_json({}), lost=9) as server, pytest.raises(Exception, match=r"(?i)conn|serv"):
        ask(MODELS[name](server), style, handler)
    [event] = handler.llm_token_counts
    assert (event.status, event.completion_token_count) == ("unanswered", 0)
    assert event.prompt_token_count > 0
    assert event.cost is not None
    assert not event.cost.is_whole
    assert handler.failed_calls == []


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", WATCHED)
def test_each_attempt_of_a_watched_client_is_an_event(name: str, style: str) -> None:
    """Those that the SDK makes within one call; what is lost is counted by itself."""
    build, body = WATCHED[name]
    handler = TokenCountingCallbackHandler()
    lost = 2 if "stream" in style else 1
    with serving(as_json(body), lost=lost) as server, suppress(Exception):
        ask(build(server, handler), style, handler)
    assert len(server.requests) == 2
    events = handler.llm_token_counts
    assert [event.status for event in events] == ["unanswered"] * lost + ["complete"] * (2 - lost)
    assert all(event.prompt_token_count > 0 for event in events)
    assert [event.total_token_count for event in events[lost:]] == [3_917] * (2 - lost)


@pytest.mark.parametrize("is_watched", [False, True])
def test_a_budget_is_charged_for_what_was_not_answered(is_watched: bool) -> None:
    """By what was reserved, attempts that a watched client has seen included."""
    handler = TokenCountingCallbackHandler(budget=Budget(tokens=500, default_max_tokens=100))
    with serving(as_json({}), lost=99) as server:
        build = watched_openai(server, handler) if is_watched else chat_openai(server)
        for _ in range(2 if is_watched else 4):
            with pytest.raises(Exception, match=r"(?i)connection"):
                ask(build, "invoke", handler)
        with pytest.raises(BudgetExceededError):
            ask(build, "invoke", handler)
    # Watched, each call is tried twice.
    assert len(server.requests) == 4
    assert handler.accounts[0].spent().tokens >= 400


def test_a_connection_that_was_never_made_is_free() -> None:
    """Nobody listens."""
    handler = TokenCountingCallbackHandler()
    with serving(as_json({})) as server:
        pass
    for build in (chat_openai, chat_anthropic, chat_converse):
        with pytest.raises(Exception, match=r"(?i)connect"):
            ask(build(server), "invoke", handler)
    assert handler.llm_token_counts == []
    assert len(handler.failed_calls) == 3


def with_choice(reason: str, text: str) -> dict[str, Any]:
    """A chat that ended for a reason."""
    message = {"role": "assistant", "content": text}
    return {**CHAT, "choices": [{"index": 0, "finish_reason": reason, "message": message}]}


REFUSED: dict[str, tuple[Answer, dict[str, Any]]] = {
    "no json": (as_json(with_choice("stop", "no json")), {}),
    "too long": (as_json(with_choice("length", "{")), {}),
    "filtered": (as_json(with_choice("content_filter", "")), {}),
    "response": (as_json(RESPONSE), {"use_responses_api": True}),
}


@pytest.mark.parametrize("style", ["invoke", "ainvoke"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_structured_answer_that_does_not_parse_is_counted(name: str, style: str) -> None:
    """OpenAI's SDK raises, with the answer in hand."""
    answer, options = REFUSED[name]
    handler = TokenCountingCallbackHandler()
    with serving(answer) as server:
        model = chat_openai(server, **options).with_structured_output(Song, method="json_schema")
        with pytest.raises(Exception, match=r"(?i)json|length|rejected"):
            ask(model, style, handler)
    [event] = handler.llm_token_counts
    assert event.total_token_count == (358 if name == "response" else 3_917)
    assert (event.status, event.source) == ("failed", "reported")


@pytest.mark.parametrize("style", ["stream", "astream"])
def test_a_structured_stream_that_does_not_parse_is_counted(style: str) -> None:
    """Of chats the error comes before the usage: what came through counts, and is no bill."""
    chunk = {key: CHAT[key] for key in ("id", "created", "model")}
    chunk["object"] = "chat.completion.chunk"
    delta = {"role": "assistant", "content": "{"}
    chunks = [
        {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
        {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]},
        {**chunk, "choices": [], "usage": CHAT["usage"]},
    ]
    handler = TokenCountingCallbackHandler()
    with serving(as_stream(*chunks)) as server:
        model = chat_openai(server, stream_usage=True)
        with pytest.raises(Exception, match="length"):
            ask(model.with_structured_output(Song, method="json_schema"), style, handler)
    [event] = handler.llm_token_counts
    assert event.status == "failed"
    assert event.total_token_count > 0
    assert event.source != "reported"


ODD: dict[str, tuple[Any, dict[str, Any]]] = {
    "openai": (chat_openai, {**CHAT, "choices": None}),
    "anthropic": (chat_anthropic, {**MESSAGE, "content": None}),
    "converse": (
        chat_converse,
        {key: value for key, value in CONVERSE.items() if key != "output"},
    ),
}


@pytest.mark.parametrize("style", ["invoke", "ainvoke"])
@pytest.mark.parametrize("name", ODD)
def test_an_answer_that_its_integration_refuses_is_counted(name: str, style: str) -> None:
    """It raises where it holds the answer, and that has the figures."""
    build, body = ODD[name]
    handler = TokenCountingCallbackHandler()
    with serving(as_json(body)) as server, pytest.raises(Exception, match=r"(?s).+"):
        ask(build(server), style, handler)
    [event] = handler.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (3_912, 5)
    assert (event.status, event.source) == ("failed", "reported")

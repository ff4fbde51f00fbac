"""Calls that raise though they were answered, or may have been."""

import asyncio
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
import pytest
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import ChatMessage
from llama_index.core.prompts import PromptTemplate
from pydantic import BaseModel

from llama_token_tracker import Budget, TokenCountingHandler
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.errors import BudgetExceededError
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.late import Answer, Late, as_json, as_stream, serving
from tests.needs import left_out_if, needs, release
from tests.wire.test_unanswered import CHAT, CONVERSE, MESSAGE

# google-genai derives a class of its own from aiohttp's.
pytestmark = pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")

GEMINI: dict[str, Any] = {
    "candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}],
    "usageMetadata": {
        "promptTokenCount": 4_321,
        "thoughtsTokenCount": 8_018,
        "totalTokenCount": 12_339,
    },
    "modelVersion": "gemini-2.5-flash",
}
RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "gpt-4o-mini",
    "parallel_tool_calls": True,
    "tool_choice": "none",
    "tools": [],
    "output": [
        {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "no json", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 337,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 21,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 358,
    },
}


class Song(BaseModel):
    """What is asked for."""

    title: str


def gemini(server: Late, handler: TokenCountingHandler) -> Any:
    """Gemini."""
    from llama_index.llms.google_genai import GoogleGenAI

    return GoogleGenAI(
        model="gemini-2.5-flash",
        api_key="k",
        http_options={"base_url": server.url},
        context_window=9_999,
        max_tokens=99,
        callback_manager=CallbackManager([handler]),
    )


def responses(server: Late, handler: TokenCountingHandler) -> Any:
    """OpenAI's Responses."""
    return openai(server, handler, "OpenAIResponses")


def openai(
    server: Late, handler: TokenCountingHandler, name: str = "OpenAI", **options: Any
) -> Any:
    """OpenAI's chats."""
    import llama_index.llms.openai

    options = {"max_retries": 0, **options}
    return getattr(llama_index.llms.openai, name)(
        model="gpt-4o-mini",
        api_key="k",
        api_base=server.url + "/v1",
        callback_manager=CallbackManager([handler]),
        **options,
    )


def anthropic(server: Late, handler: TokenCountingHandler) -> Any:
    """Claude."""
    from llama_index.llms.anthropic import Anthropic

    return Anthropic(
        model="claude-3-haiku-20240307",
        api_key="k",
        base_url=server.url,
        max_retries=0,
        callback_manager=CallbackManager([handler]),
    )


def converse(server: Late, handler: TokenCountingHandler, client: Any = None) -> Any:
    """Bedrock's Converse."""
    from llama_index.llms.bedrock_converse import BedrockConverse

    keys: Any = {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    return BedrockConverse(
        model="anthropic.claude-3-haiku-20240307-v1:0",
        region_name="us-east-1",
        client=client or converse_client(server),
        callback_manager=CallbackManager([handler]),
        **keys,
    )


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


MESSAGES = [ChatMessage(role="user", content="one two three")]
PROMPT = PromptTemplate("a song")


def run(awaited: Any) -> Any:
    """Wait for an answer, and for all of a stream."""

    async def wait() -> object:
        answer = await awaited
        return [chunk async for chunk in answer] if hasattr(answer, "__aiter__") else answer

    return asyncio.run(wait())


ASKED: dict[str, Callable[[Any], object]] = {
    "complete": lambda llm: llm.complete("one two three"),
    "chat": lambda llm: llm.chat(MESSAGES),
    "acomplete": lambda llm: run(llm.acomplete("one two three")),
    "achat": lambda llm: run(llm.achat(MESSAGES)),
}
STREAMED: dict[str, Callable[[Any], object]] = {
    "stream_complete": lambda llm: list(llm.stream_complete("one two three")),
    "stream_chat": lambda llm: list(llm.stream_chat(MESSAGES)),
    "astream_complete": lambda llm: run(llm.astream_complete("one two three")),
    "astream_chat": lambda llm: run(llm.astream_chat(MESSAGES)),
}
STRUCTURED: dict[str, Callable[[Any], object]] = {
    "structured_predict": lambda llm: llm.structured_predict(Song, PROMPT),
    "astructured_predict": lambda llm: run(llm.astructured_predict(Song, PROMPT)),
    "as_structured_llm": lambda llm: llm.as_structured_llm(Song).chat(MESSAGES),
    "as_structured_llm, asynchronous": lambda llm: run(llm.as_structured_llm(Song).achat(MESSAGES)),
}
STRUCTURED_STREAMS: dict[str, Callable[[Any], object]] = {
    "stream_structured_predict": lambda llm: list(llm.stream_structured_predict(Song, PROMPT)),
    "astream_structured_predict": lambda llm: run(llm.astream_structured_predict(Song, PROMPT)),
}
LLMS: dict[str, Callable[..., Any]] = {
    "openai": openai,
    "anthropic": anthropic,
    "converse": converse,
    "gemini": gemini,
}


def refused(answer: Answer, build: Callable[..., Any], asked: Callable[[Any], object]) -> Any:
    """Ask for an answer that its integration raises at, and give the one event of it."""
    handler = TokenCountingHandler()
    with serving(answer) as server, pytest.raises(Exception, match=r"(?s).+"):
        asked(build(server, handler))
    (event,) = handler.llm_token_counts
    assert handler.failed_calls == []
    return event


@needs("llama_index.llms.google_genai")
@pytest.mark.parametrize("reason", ["MAX_TOKENS", "SAFETY", "RECITATION"])
@pytest.mark.parametrize("style", ASKED)
def test_an_answer_that_its_integration_refuses_is_counted(style: str, reason: str):
    """Gemini's thoughts took all there was: what was billed is in the answer at hand."""
    body = {**GEMINI, "candidates": [{**GEMINI["candidates"][0], "finishReason": reason}]}
    event = refused(as_json(body), gemini, ASKED[style])
    assert (event.prompt_token_count, event.completion_token_count) == (4_321, 8_018)
    assert (event.status, event.source) == ("failed", "reported")


CLAUDE = pytest.param(
    "anthropic",
    marks=left_out_if(
        release("llama-index-llms-anthropic") < (0, 8) and release("anthropic") >= (1,),
        "this llama-index-llms-anthropic can't ask by an SDK that is newer than it",
    ),
)
PARSES_INSIDE = release("llama-index-llms-openai") >= (0, 5)
"""Whether it parses a structured answer before its call has ended, not after it."""
ODD: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "openai": (openai, {**CHAT, "choices": []}),
    "anthropic": (anthropic, {**MESSAGE, "content": None}),
    "converse": (converse, {key: value for key, value in CONVERSE.items() if key != "output"}),
}


@pytest.mark.parametrize("style", ["chat", "achat"])
@pytest.mark.parametrize("name", ["openai", CLAUDE, "converse"])
def test_an_answer_without_what_it_should_hold_is_counted(name: str, style: str):
    """The integration raises with the answer in hand."""
    if (name, style) == ("converse", "achat"):
        style = "complete"  # it asks a client of another kind
    build, body = ODD[name]
    event = refused(as_json(body), build, ASKED[style])
    assert (event.prompt_token_count, event.completion_token_count) == (3_912, 5)
    assert (event.status, event.source) == ("failed", "reported")


@pytest.mark.parametrize("style", STRUCTURED)
@pytest.mark.parametrize(
    "name", ["responses", pytest.param("gemini", marks=needs("llama_index.llms.google_genai"))]
)
def test_a_structured_answer_that_does_not_parse_is_counted(name: str, style: str):
    """The SDK raises, with the answer in hand."""
    part = {"content": {"role": "model", "parts": [{"text": "no json"}]}, "finishReason": "STOP"}
    text = {**GEMINI, "candidates": [part]}
    answer, build = {"responses": (RESPONSE, responses), "gemini": (text, gemini)}[name]
    event = refused(as_json(answer), build, STRUCTURED[style])
    assert event.total_token_count == {"responses": 358, "gemini": 12_339}[name]
    status = "failed" if PARSES_INSIDE or name == "gemini" else "complete"
    assert (event.status, event.source) == (status, "reported")


@pytest.mark.parametrize("style", [*STRUCTURED, *STRUCTURED_STREAMS])
@pytest.mark.parametrize(
    "name", ["responses", pytest.param("gemini", marks=needs("llama_index.llms.google_genai"))]
)
def test_a_budget_stops_structured_calls_without_a_watch(
    name: str, style: str, caplog: pytest.LogCaptureFixture
):
    """No callback tells of them: they're stopped as their requests leave, and no others are."""
    forget_notices()
    part = {
        "content": {"role": "model", "parts": [{"text": '{"title": "a"}'}]},
        "finishReason": "STOP",
    }
    answer, build, used = {
        "responses": (RESPONSE, responses, 358),
        "gemini": ({**GEMINI, "candidates": [part]}, gemini, 12_339),
    }[name]
    handler = TokenCountingHandler(budget=Budget(tokens=used + 5, default_max_tokens=50))
    ask = {**STRUCTURED, **STRUCTURED_STREAMS}[style]
    is_streamed = style in STRUCTURED_STREAMS
    with serving(as_stream(answer) if is_streamed else as_json(answer)) as server:
        llm = build(server, handler)
        with suppress(ValueError):  # the one answers as it was asked, the other doesn't
            ask(llm)
        for _ in range(3):
            with pytest.raises(Exception, match=r"(?s).+") as caught:
                ask(llm)
            assert isinstance(caught.value, BudgetExceededError)
        assert len(server.requests) == 1
        url = f"{server.url}/v1/responses"
        assert httpx.post(url, json={"model": "gpt-4o", "input": "x"}).status_code == 200
    assert handler.accounts[0].spent().tokens == handler.total_llm_token_count == used
    assert handler.accounts[0].spent().reserved_tokens == 0
    assert "could not stop" not in caplog.text


def test_no_client_is_heard_once_the_handler_is_gone():
    """Whoever counts next sees to it, as a collector may take no locks."""

    def is_heard() -> bool:
        return hasattr(httpx.Client.send, "__wrapped__")

    def count() -> None:
        gc.collect()
        handler = TokenCountingHandler()
        openai(server, handler).chat(MESSAGES)
        assert handler.total_llm_token_count > 0

    with serving(as_json(CHAT)) as server:
        count()
        assert not is_heard()
        handler = TokenCountingHandler(budget=Budget(tokens=10))
        with pytest.raises(BudgetExceededError):
            responses(server, handler).structured_predict(Song, PROMPT)
        assert is_heard()
        del handler
        count()
        assert not is_heard()


@needs("llama_index.llms.google_genai")
@pytest.mark.parametrize("style", ["complete", "achat"])
def test_a_budget_stops_calls_that_raise(style: str):
    """After the one that passes it."""
    handler = TokenCountingHandler(budget=Budget(tokens=20_000))
    with serving(as_json(GEMINI)) as server:
        llm = gemini(server, handler)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="MAX_TOKENS"):
                ASKED[style](llm)
        with pytest.raises(BudgetExceededError):
            ASKED[style](llm)
    assert len(server.requests) == 2


@needs("llama_index.llms.google_genai")
@pytest.mark.parametrize("style", ["stream_chat", "astream_chat"])
def test_a_stream_of_which_nothing_came_is_charged_as_reserved(style: str):
    """The integration drops chunks without parts, and with them the only usage."""
    handler = TokenCountingHandler(budget=Budget(tokens=400))
    with serving(as_stream(GEMINI)) as server:
        for _ in range(3):
            STREAMED[style](gemini(server, handler))
        with pytest.raises(BudgetExceededError):
            STREAMED[style](gemini(server, handler))
    assert len(server.requests) == 3
    assert {event.source for event in handler.llm_token_counts} == {"estimated"}


# --- what wasn't answered ------------------------------------------------------------------


@pytest.mark.parametrize("style", [*ASKED, *STREAMED])
@pytest.mark.parametrize("name", ["openai", CLAUDE, "converse"])
def test_a_call_whose_answer_nobody_saw_is_marked_and_not_zero(name: str, style: str):
    """At a server that hangs up once it has read the request."""
    if name == "converse" and style.startswith("a"):
        style = style[1:]
    handler = TokenCountingHandler()
    with serving(as_json({}), lost=9) as server, pytest.raises(Exception, match=r"(?i)conn|serv"):
        (ASKED | STREAMED)[style](LLMS[name](server, handler))
    (event,) = handler.llm_token_counts
    assert (event.status, event.completion_token_count) == ("unanswered", 0)
    assert event.prompt_token_count > 0
    assert event.cost is not None
    assert not event.cost.is_whole
    assert handler.failed_calls == []


def watched_openai(server: Late, handler: TokenCountingHandler) -> Any:
    """OpenAI, whose requests are seen."""
    return openai(
        server,
        handler,
        max_retries=1,
        http_client=httpx.Client(transport=WatchingTransport(handler)),
        async_http_client=httpx.AsyncClient(transport=AsyncWatchingTransport(handler)),
    )


def watched_converse(server: Late, handler: TokenCountingHandler) -> Any:
    """Converse, whose requests are seen."""
    client = converse_client(server, 1)
    watch(handler, client)
    return converse(server, handler, client)


WATCHED = {"openai": (watched_openai, CHAT), "converse": (watched_converse, CONVERSE)}


@pytest.mark.parametrize(
    ("name", "style"),
    [
        *(("openai", style) for style in ("chat", "achat", "stream_chat", "astream_chat")),
        *(("converse", style) for style in ("chat", "stream_chat")),
    ],
)
def test_each_attempt_of_a_watched_client_is_an_event(name: str, style: str):
    """Those that the SDK makes within one call; what is lost is counted by itself."""
    build, body = WATCHED[name]
    handler = TokenCountingHandler()
    lost = 2 if "stream" in style else 1
    with serving(as_json(body), lost=lost) as server, suppress(Exception):
        (ASKED | STREAMED)[style](build(server, handler))
    assert len(server.requests) == 2
    events = handler.llm_token_counts
    assert [event.status for event in events] == ["unanswered"] * lost + ["complete"] * (2 - lost)
    assert all(event.prompt_token_count > 0 for event in events)
    assert [event.total_token_count for event in events[lost:]] == [3_917] * (2 - lost)


@pytest.mark.parametrize("stops_after", [0, 20])
@pytest.mark.parametrize("style", ["chat", "achat"])
def test_an_answer_that_stops_before_it_is_one_is_not_seen(style: str, stops_after: int):
    """The status was 200, and the client asks again: two events."""
    handler = TokenCountingHandler()
    with serving(as_json(CHAT), stops_after=stops_after) as server:
        llm = watched_openai(server, handler)
        llm.timeout = 0.15
        with pytest.raises(Exception, match=r"(?i)time"):
            ASKED[style](llm)
    assert len(server.requests) == 2
    assert [event.status for event in handler.llm_token_counts] == ["unanswered"] * 2


@pytest.mark.parametrize("is_watched", [False, True])
def test_a_budget_is_charged_for_what_was_not_answered(is_watched: bool):
    """By what was reserved, attempts that a watched client has seen included."""
    handler = TokenCountingHandler(budget=Budget(tokens=500, default_max_tokens=100))
    with serving(as_json({}), lost=99) as server:
        llm = watched_openai(server, handler) if is_watched else openai(server, handler)
        for _ in range(2 if is_watched else 4):
            with pytest.raises(Exception, match=r"(?i)connection"):
                llm.chat(MESSAGES)
        with pytest.raises(BudgetExceededError):
            llm.chat(MESSAGES)
    # Watched, each call is tried twice.
    assert len(server.requests) == 4
    assert handler.accounts[0].spent().tokens >= 400


@needs("llama_index.embeddings.openai")
@pytest.mark.parametrize("is_watched", [False, True])
@pytest.mark.parametrize("is_async", [False, True])
def test_texts_whose_embeddings_nobody_saw_are_counted(is_async: bool, is_watched: bool):
    """Once each, whoever tells of them."""
    from llama_index.embeddings.openai import OpenAIEmbedding

    handler = TokenCountingHandler()
    options: Any = {}
    if is_watched:
        options = {
            "http_client": httpx.Client(transport=WatchingTransport(handler)),
            "async_http_client": httpx.AsyncClient(transport=AsyncWatchingTransport(handler)),
        }
    with serving(as_json({}), lost=99) as server:
        model = OpenAIEmbedding(
            api_key="k",
            api_base=server.url + "/v1",
            max_retries=0,
            callback_manager=CallbackManager([handler]),
            **options,
        )
        texts = ["one two", "three"]
        with pytest.raises(Exception, match=r"(?i)connection"):
            _ = (
                run(model.aget_text_embedding_batch(texts))
                if is_async
                else model.get_text_embedding_batch(texts)
            )
    assert len(server.requests) == 1
    events = handler.embedding_token_counts
    assert [event.status for event in events] == ["unanswered"] * 2
    assert sum(event.prompt_token_count for event in events) == 3

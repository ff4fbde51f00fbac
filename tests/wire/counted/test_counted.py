"""`counted` means that all of the request is in the figure; whatever isn't makes it `estimated`."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from pydantic import BaseModel

from llama_token_tracker import TokenCountingHandler, Tracker, count_messages, count_tokens
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.canned import bedrock, canned
from tests.needs import needs

GPT, CLAUDE = "gpt-4o", "claude-3-7-sonnet-20250219"
PROMPT = "What is the capital of Australia?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "Its name"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
FRAMED = count_messages(PROMPT, model=GPT).tokens
BARE = count_tokens(PROMPT, model=GPT)


class City(BaseModel):
    """A city."""

    city: str


def _choice(**fields: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": GPT,
        "choices": [{"index": 0, "finish_reason": "stop", **fields}],
    }


CHAT = _choice(message={"role": "assistant", "content": '{"city": "Canberra"}'})
STREAM = [_choice(delta={"role": "assistant", "content": "Canberra"})]
BY_CLAUDE = {
    "id": "1",
    "type": "message",
    "role": "assistant",
    "model": CLAUDE,
    "content": [{"type": "text", "text": "Canberra"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 0, "output_tokens": 0},
}
BY_RESPONSES = {
    "id": "1",
    "object": "response",
    "created_at": 1,
    "model": GPT,
    "status": "completed",
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    # LlamaIndex takes no answer without it.
    "usage": {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    },
    "output": [
        {
            "id": "2",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Canberra", "annotations": []}],
        }
    ],
}
CONVERSED = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Canberra"}]}},
    "stopReason": "end_turn",
}


@pytest.fixture
def url() -> Iterator[str]:
    """Where a server answers that says nothing of tokens."""
    with canned(CHAT) as url:
        yield url


@pytest.fixture
def handler() -> TokenCountingHandler:
    """A handler that has counted nothing."""
    return TokenCountingHandler()


def llm(url: str, handler: Any, *, watched: bool = False, **settings: Any) -> Any:
    """LlamaIndex's OpenAI."""
    from llama_index.llms.openai import OpenAI

    client = {"http_client": httpx.Client(transport=WatchingTransport(handler))} if watched else {}
    return OpenAI(
        model=GPT,
        api_base=url + "/v1",
        api_key="none",
        max_retries=0,
        callback_manager=CallbackManager([handler]),
        **client,
        **settings,
    )


def _prompt(counter: Any) -> tuple[int, str]:
    [event] = counter.llm_token_counts
    return event.prompt_token_count, event.prompt_source


def _complete(model: Any) -> None:
    model.complete(PROMPT)


def _stream_complete(model: Any) -> None:
    list(model.stream_complete(PROMPT))


def _astream_complete(model: Any) -> None:
    async def ask() -> None:
        async for _ in await model.astream_complete(PROMPT):
            pass

    asyncio.run(ask())


def _stream_chat(model: Any) -> None:
    list(model.stream_chat([ChatMessage(PROMPT)]))


# --- the frame of a chat -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (_complete, CHAT),
        (_stream_complete, STREAM),
        (_astream_complete, STREAM),
        (_stream_chat, STREAM),
    ],
)
def test_a_text_that_is_sent_as_a_message_has_its_frame(
    ask: Callable[[Any], None], answer: Any, handler: TokenCountingHandler
):
    """Every method of LlamaIndex's OpenAI counts the same request alike."""
    with canned(answer) as url:
        ask(llm(url, handler))
    assert _prompt(handler) == (FRAMED, "counted")
    assert FRAMED == BARE + 7


def test_a_model_that_completes_texts_gets_no_frame(tracker: Tracker):
    """As gpt-3.5-turbo-instruct does."""
    model = "gpt-3.5-turbo-instruct"
    answer = {**_choice(text="Canberra"), "object": "text_completion"}
    with canned(answer) as url, _openai(url, tracker) as client:
        client.completions.create(model=model, prompt=PROMPT)
    assert _prompt(tracker) == (count_tokens(PROMPT, model=model), "counted")


# --- LlamaIndex ----------------------------------------------------------------------------


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"response_format": FORMAT},
        {"reasoning_effort": "low"},
        {"prediction": {"type": "content", "content": "Canberra"}},
        {"extra_body": {"guided_json": SCHEMA}},
    ],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.parametrize("where", ["call", "model"])
def test_an_option_that_no_rule_covers_is_marked(
    where: str, options: Any, watched: bool, url: str, handler: TokenCountingHandler
):
    """Whether the call or the model's settings hold it, and whether the request is seen or not."""
    set_to = options if where == "model" else {}
    given = options if where == "call" else {}
    if "reasoning_effort" not in set_to:
        set_to = {"additional_kwargs": set_to}
    client = llm(url, handler, watched=watched, **set_to)
    client.chat([ChatMessage(PROMPT)], **given)
    tokens, source = _prompt(handler)
    # That setting isn't sent to this model, as the request shows.
    is_unsent = "reasoning_effort" in options and where == "model"
    assert source == ("counted" if is_unsent and watched else "estimated")
    assert (tokens > FRAMED) == ("properties" in str(options))


@pytest.mark.parametrize("watched", [False, True])
def test_usual_options_cost_nothing(watched: bool, url: str, handler: TokenCountingHandler):
    """What says how the answer is chosen, and whose it is, adds no token."""
    model = llm(url, handler, watched=watched, temperature=0.5, max_tokens=9, timeout=20.0)
    model.chat([ChatMessage(PROMPT)], seed=1, user="me", stop=["."], top_p=0.5)
    assert _prompt(handler) == (FRAMED, "counted")


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("way", ["structured_predict", "as_structured_llm"])
def test_a_schema_is_marked_and_counted(
    way: str, watched: bool, url: str, handler: TokenCountingHandler
):
    """However it is asked for, more than the prompt was sent."""
    from llama_index.core.prompts import PromptTemplate

    model = llm(url, handler, watched=watched)
    if way == "structured_predict":
        model.structured_predict(City, PromptTemplate(PROMPT))
    else:
        model.as_structured_llm(City).chat([ChatMessage(PROMPT)])
    tokens, source = _prompt(handler)
    assert source == "estimated"
    assert tokens > FRAMED + 20


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(
    "settings", [{"instructions": "Be brief."}, {"reasoning_options": {"effort": "low"}}, {}]
)
def test_settings_of_a_model_for_responses_are_marked(
    settings: dict[str, Any], watched: bool, handler: TokenCountingHandler
):
    """Those of which LlamaIndex tells nothing included; on the wire instructions are counted."""
    from llama_index.llms.openai import OpenAIResponses

    client = {"http_client": httpx.Client(transport=WatchingTransport(handler))} if watched else {}
    with canned(BY_RESPONSES) as url:
        OpenAIResponses(
            model=GPT,
            api_base=url + "/v1",
            api_key="none",
            max_retries=0,
            callback_manager=CallbackManager([handler]),
            **client,
            **settings,
        ).chat([ChatMessage(PROMPT)])
    tokens, source = _prompt(handler)
    # A model that doesn't reason isn't sent how to.
    is_covered = watched or not settings
    assert source == ("counted" if is_covered else "estimated")
    assert (tokens > FRAMED) == ("instructions" in settings)


# --- SDKs on httpx, and boto3 --------------------------------------------------------------


def _openai(url: str, counter: Any) -> openai.OpenAI:
    sender = openai.DefaultHttpxClient(transport=WatchingTransport(counter))
    return openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, http_client=sender)


@pytest.fixture
def tracker() -> Tracker:
    """A tracker that has counted nothing."""
    return Tracker()


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({}, "counted"),
        ({"temperature": 0, "max_tokens": 9, "metadata": {"a": "b"}}, "counted"),
        ({"response_format": {"type": "text"}}, "counted"),
        ({"response_format": FORMAT}, "estimated"),
        ({"reasoning_effort": "low"}, "estimated"),
        ({"extra_body": {"an_option_of_tomorrow": 1}}, "estimated"),
    ],
)
def test_requests_of_openais_sdk(options: Any, source: str, url: str, tracker: Tracker):
    """The request is read as it was sent, so that what no rule covers is seen."""
    with _openai(url, tracker) as client:
        client.chat.completions.create(
            model=GPT, messages=[{"role": "user", "content": PROMPT}], **options
        )
    tokens, found = _prompt(tracker)
    assert found == source
    assert tokens > FRAMED if "schema" in str(options) else tokens == FRAMED


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({}, "counted"),
        ({"previous_response_id": "resp_1"}, "estimated"),
        ({"conversation": "conv_1"}, "estimated"),
        ({"text": {"format": {"type": "text"}}}, "counted"),
        ({"prompt": {"id": "pmpt_1"}}, "estimated"),
    ],
)
def test_requests_for_responses(options: Any, source: str, tracker: Tracker):
    """What an earlier response holds isn't in the request."""
    with canned(BY_RESPONSES) as url, _openai(url, tracker) as client:
        client.responses.create(model=GPT, input=PROMPT, **options)
    assert _prompt(tracker) == (FRAMED, source)


def test_a_message_may_hold_more_than_content(url: str, tracker: Tracker):
    """What stands beside it isn't nothing."""
    earlier: Any = {"role": "assistant", "content": "Canberra.", "function_call": {"name": "f"}}
    with _openai(url, tracker) as client:
        client.chat.completions.create(
            model=GPT, messages=[earlier, {"role": "user", "content": PROMPT}]
        )
    assert _prompt(tracker)[1] == "estimated"


@pytest.mark.parametrize("is_async", [False, True])
@needs("ctok")
def test_thinking_costs_claude_more(is_async: bool, tracker: Tracker):
    """Some tokens more for the same messages, which nobody publishes."""
    messages: Any = [{"role": "user", "content": PROMPT}]
    thinking: Any = {"type": "enabled", "budget_tokens": 1_024}

    def ask(url: str, **options: Any) -> tuple[int, str]:
        given = {"base_url": url, "api_key": "none", "max_retries": 0}
        asked = {"model": CLAUDE, "messages": messages, "max_tokens": 2_000, **options}

        async def ask_later() -> None:
            sender = anthropic.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(tracker))
            async with anthropic.AsyncAnthropic(**given, http_client=sender) as client:
                await client.messages.create(**asked)

        if is_async:
            asyncio.run(ask_later())
        else:
            sender = anthropic.DefaultHttpxClient(transport=WatchingTransport(tracker))
            anthropic.Anthropic(**given, http_client=sender).messages.create(**asked)
        [event] = tracker.llm_token_counts
        tracker.reset()
        return event.prompt_token_count, event.prompt_source

    with canned(BY_CLAUDE) as url:
        plain, disabled = ask(url), ask(url, thinking={"type": "disabled"})
        thinks = ask(url, thinking=thinking)
    assert plain == disabled
    assert thinks == (plain[0] + 28, "estimated")


@pytest.mark.parametrize("thinks", [False, True])
def test_requests_of_boto3(thinks: bool, tracker: Tracker):
    """The same on Bedrock, whose options stand within others."""
    more: Any = {"thinking": {"type": "enabled", "budget_tokens": 1_024}}
    with canned(CONVERSED) as url:
        client = bedrock(url)
        watch(tracker, client)
        client.converse(
            modelId=f"us.anthropic.{CLAUDE}-v1:0",
            messages=[{"role": "user", "content": [{"text": PROMPT}]}],
            inferenceConfig={"maxTokens": 2_000, "temperature": 1},
            **({"additionalModelRequestFields": more} if thinks else {}),
        )
    tokens, _ = _prompt(tracker)
    assert tokens == count_messages(PROMPT, model=CLAUDE).tokens + 28 * thinks


# --- LangChain -----------------------------------------------------------------------------


@needs("langchain_openai")
@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize("way", ["plain", "schema", "option"])
def test_runs_of_langchain(way: str, watched: bool, url: str):
    """The same by LangChain's parameters."""
    from langchain_openai import ChatOpenAI

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    handler = TokenCountingCallbackHandler()
    client = {"http_client": httpx.Client(transport=WatchingTransport(handler))} if watched else {}
    model: Any = ChatOpenAI(
        model=GPT, base_url=url + "/v1", api_key="none", max_retries=0, temperature=0, **client
    )
    if way == "schema":
        model = model.with_structured_output(City, method="json_schema")
    elif way == "option":
        model = model.bind(prediction={"type": "content", "content": "Canberra"})
    model.invoke(PROMPT, config={"callbacks": [handler]})
    tokens, source = _prompt(handler)
    assert source == ("counted" if way == "plain" else "estimated")
    assert (tokens > FRAMED) == (way == "schema")


# --- embeddings ----------------------------------------------------------------------------

LINES = "one\n\ntwo\n\n\n\nthree\n\n\n\n\n\nfour\n" * 3


@pytest.mark.parametrize("watched", [False, True])
def test_embeddings_are_counted_as_they_are_sent(watched: bool, handler: TokenCountingHandler):
    """LlamaIndex's OpenAI sends spaces in the place of line ends; the event shows the text."""
    from llama_index.embeddings.openai import OpenAIEmbedding

    embedded = {"object": "embedding", "index": 0, "embedding": [0.5]}
    answer = {"object": "list", "model": "text-embedding-3-small", "data": [embedded]}
    client = {"http_client": httpx.Client(transport=WatchingTransport(handler))} if watched else {}
    with canned(answer) as url:
        OpenAIEmbedding(
            model="text-embedding-3-small",
            api_base=url + "/v1",
            api_key="none",
            max_retries=0,
            callback_manager=CallbackManager([handler]),
            **client,
        ).get_text_embedding(LINES)
    [event] = handler.embedding_token_counts
    sent = count_tokens(LINES.replace("\n", " "), model="text-embedding-3-small")
    assert (event.prompt_token_count, event.source) == (sent, "counted")
    assert sent != count_tokens(LINES, model="text-embedding-3-small")
    assert event.prompt == LINES


# --- before a call -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "estimates"),
    [
        ({"temperature": 1, "max_tokens": 5, "stream": True}, ()),
        ({"response_format": {"type": "text"}, "tool_choice": "auto"}, ()),
        ({"response_format": FORMAT}, ("the request's response_format",)),
        ({"extra_body": {"guided_json": SCHEMA}}, ("the request's guided_json",)),
        ({"previous_response_id": "resp_1"}, ("the request's previous_response_id",)),
    ],
)
def test_a_count_takes_the_other_fields_of_a_request(fields: Any, estimates: tuple[str, ...]):
    """And names those that it can't be sure of."""
    count = count_messages(PROMPT, model=GPT, **fields)
    assert count.estimates == estimates
    assert count.source == ("estimated" if estimates else "counted")
    assert (count.tokens > FRAMED) == ("properties" in str(fields))


def test_functions_are_tools():
    """OpenAI's older name for them."""
    function = {"name": "f", "description": "d", "parameters": SCHEMA}
    as_tools = count_messages(PROMPT, model=GPT, tools=[{"type": "function", "function": function}])
    assert count_messages(PROMPT, model=GPT, functions=[function]) == as_tools
    assert as_tools.source == "counted"


def test_a_name_of_a_users_message():
    """gpt-4o was billed 15 tokens where the cookbook's rule for system messages gives 16."""
    named = [{"role": "user", "content": PROMPT, "name": "bob"}]
    count = count_messages(named, model=GPT)
    assert (count.tokens, count.source) == (FRAMED + count_tokens("bob", model=GPT), "estimated")
    assert count_messages(named, model="gpt-4").tokens == count.tokens + 1

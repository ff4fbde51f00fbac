"""A figure is `reported`, and a cost whole, only if nothing in the answer contradicts it."""

import asyncio
import json
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeAlias

import anthropic
import boto3
import httpx
import openai
import pytest
from botocore.config import Config
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingEvent, TokenCountingHandler, Tracker
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.canned import Canned, canned
from tests.needs import needs

PROMPT = "What is the capital of Australia?"
MESSAGES: Any = [{"role": "user", "content": PROMPT}]
SAID = "Canberra is the capital of Australia, and has been that since 1913."
CLAUDE, GPT = "claude-opus-4-6", "gpt-4o"
ON_AWS, GPT_ON_AWS = "anthropic.claude-opus-4-6-v1", "openai.gpt-5.6-v1:0"
USAGE = {"include_usage": True}

Ask: TypeAlias = Callable[[str, str, Any], None]
"""Asks at a URL for a model's answer, and has it counted."""


# --- how it is asked -----------------------------------------------------------------------


def _sync(counter: Any, sdk: Any) -> Any:
    return sdk.DefaultHttpxClient(transport=WatchingTransport(counter))


def _key(url: str) -> dict[str, Any]:
    return {"base_url": url, "api_key": "none", "max_retries": 0}


def chat(url: str, model: str, counter: Any) -> None:
    """OpenAI's SDK."""
    client = openai.OpenAI(**_key(url + "/v1"), http_client=_sync(counter, openai))
    client.chat.completions.create(model=model, messages=MESSAGES)


def async_chat(url: str, model: str, counter: Any) -> None:
    """The same, asynchronous."""

    async def ask() -> None:
        sender = openai.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(counter))
        async with openai.AsyncOpenAI(**_key(url + "/v1"), http_client=sender) as client:
            await client.chat.completions.create(model=model, messages=MESSAGES)

    asyncio.run(ask())


def chat_stream(url: str, model: str, counter: Any) -> None:
    """A stream of OpenAI's SDK."""
    client = openai.OpenAI(**_key(url + "/v1"), http_client=_sync(counter, openai))
    for _ in client.chat.completions.create(
        model=model, messages=MESSAGES, stream=True, stream_options=USAGE
    ):
        pass


def async_chat_stream(url: str, model: str, counter: Any) -> None:
    """The same, asynchronous."""

    async def ask() -> None:
        sender = openai.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(counter))
        async with openai.AsyncOpenAI(**_key(url + "/v1"), http_client=sender) as client:
            async for _ in await client.chat.completions.create(
                model=model, messages=MESSAGES, stream=True
            ):
                pass

    asyncio.run(ask())


def responses(url: str, model: str, counter: Any) -> None:
    """The Responses API."""
    client = openai.OpenAI(**_key(url + "/v1"), http_client=_sync(counter, openai))
    client.responses.create(model=model, input=PROMPT)


def embed(url: str, model: str, counter: Any) -> None:
    """OpenAI's embeddings."""
    client = openai.OpenAI(**_key(url + "/v1"), http_client=_sync(counter, openai))
    client.embeddings.create(model=model, input=[PROMPT], encoding_format="float")


def messages(url: str, model: str, counter: Any) -> None:
    """Anthropic's SDK."""
    client = anthropic.Anthropic(**_key(url), http_client=_sync(counter, anthropic))
    client.messages.create(model=model, messages=MESSAGES, max_tokens=64)


def messages_stream(url: str, model: str, counter: Any) -> None:
    """A stream of Anthropic's SDK, however it ends."""
    client = anthropic.Anthropic(**_key(url), http_client=_sync(counter, anthropic))
    try:
        for _ in client.messages.create(model=model, messages=MESSAGES, max_tokens=64, stream=True):
            pass
    except anthropic.APIError:
        pass


def post(path: str, **body: Any) -> Ask:
    """A request without an SDK."""

    def ask(url: str, model: str, counter: Any) -> None:
        httpx.Client(transport=WatchingTransport(counter)).post(
            url + path, json={"model": model, **body}
        )

    return ask


def _bedrock(url: str, counter: Any) -> Any:
    client = boto3.client(
        "bedrock-runtime",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(retries={"total_max_attempts": 1}),
    )
    watch(counter, client)
    return client


_CONVERSATION = [{"role": "user", "content": [{"text": PROMPT}]}]


def converse(url: str, model: str, counter: Any) -> None:
    """Bedrock's Converse."""
    _bedrock(url, counter).converse(modelId=model, messages=_CONVERSATION)


def converse_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    answer = _bedrock(url, counter).converse_stream(modelId=model, messages=_CONVERSATION)
    for _ in answer["stream"]:
        pass


def invoke(url: str, model: str, counter: Any) -> None:
    """Bedrock's InvokeModel."""
    body = json.dumps({"messages": MESSAGES, "max_tokens": 64})
    _bedrock(url, counter).invoke_model(modelId=model, body=body)["body"].read()


WITH_OPENAI = needs("llama_index.llms.openai")
WITH_CLAUDE = needs("llama_index.llms.anthropic")


def llama_openai(url: str, model: str, counter: Any) -> None:
    """LlamaIndex's OpenAI, with the handler alone."""
    kind = import_module("llama_index.llms.openai").OpenAI
    made = kind(model=GPT, api_base=url + "/v1", api_key="none", max_retries=0)
    made.callback_manager = CallbackManager([counter])
    made.complete(PROMPT)


def llama_openai_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    kind = import_module("llama_index.llms.openai").OpenAI
    made = kind(model=GPT, api_base=url + "/v1", api_key="none", max_retries=0)
    made.callback_manager = CallbackManager([counter])
    for _ in made.stream_complete(PROMPT):
        pass


def llama_claude(url: str, model: str, counter: Any) -> None:
    """LlamaIndex's Anthropic, with the handler alone."""
    kind = import_module("llama_index.llms.anthropic").Anthropic
    made = kind(model="claude-3-haiku-20240307", base_url=url, api_key="none", max_retries=0)
    made.callback_manager = CallbackManager([counter])
    made.complete(PROMPT)


WITH_BEDROCK = needs("llama_index.llms.bedrock_converse")
_KEYS = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}


def _llama_converse(url: str, model: str, counter: Any) -> Any:
    kind = import_module("llama_index.llms.bedrock_converse").BedrockConverse
    client = boto3.client("bedrock-runtime", endpoint_url=url, **_KEYS)
    made = kind(model=model, client=client, max_tokens=64, **_KEYS)
    made.callback_manager = CallbackManager([counter])
    return made


def llama_converse(url: str, model: str, counter: Any) -> None:
    """LlamaIndex's Converse, with the handler alone."""
    _llama_converse(url, model, counter).complete(PROMPT)


def llama_converse_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    for _ in _llama_converse(url, model, counter).stream_complete(PROMPT):
        pass


WITH_LANGCHAIN = needs("langchain_openai")
WITH_LANGCHAIN_AWS = needs("langchain_aws")


def _langchain_openai(url: str) -> Any:
    kind = import_module("langchain_openai").ChatOpenAI
    return kind(model=GPT, base_url=url + "/v1", api_key="none", max_retries=0, stream_usage=True)


def langchain_openai(url: str, model: str, counter: Any) -> None:
    """LangChain's OpenAI, with the handler alone."""
    _langchain_openai(url).invoke(PROMPT, config={"callbacks": [counter]})


def langchain_openai_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    for _ in _langchain_openai(url).stream(PROMPT, config={"callbacks": [counter]}):
        pass


def watched_langchain_stream(url: str, model: str, counter: Any) -> None:
    """The same stream, watched: LangChain drops what stands in a choice."""
    with watch(counter):
        for _ in _langchain_openai(url).stream(PROMPT):
            pass


def _langchain_converse(url: str, model: str) -> Any:
    kind = import_module("langchain_aws").ChatBedrockConverse
    client = boto3.client("bedrock-runtime", endpoint_url=url, **_KEYS)
    return kind(model=model, client=client, disable_streaming=False)


def langchain_converse(url: str, model: str, counter: Any) -> None:
    """LangChain's Converse, with the handler alone."""
    _langchain_converse(url, model).invoke(PROMPT, config={"callbacks": [counter]})


def langchain_converse_stream(url: str, model: str, counter: Any) -> None:
    """Its stream."""
    for _ in _langchain_converse(url, model).stream(PROMPT, config={"callbacks": [counter]}):
        pass


def _counter(ask: Ask) -> Any:
    if ask.__name__.startswith("llama"):
        return TokenCountingHandler()
    if ask.__name__.startswith("langchain"):
        return import_module("llama_token_tracker.langchain").TokenCountingCallbackHandler()
    return Tracker()


def asked(ask: Ask, answer: Canned, model: str) -> TokenCountingEvent:
    """Ask, and give the one event of it."""
    counter = _counter(ask)
    with canned(answer) as url:
        ask(url, model, counter)
    events = counter.llm_token_counts or counter.embedding_token_counts
    [event] = events
    return event


def is_exact(event: TokenCountingEvent) -> bool:
    """Whether it claims to be the bill."""
    return event.source == "reported" and bool(event.cost and event.cost.is_whole)


# --- what is answered ----------------------------------------------------------------------


def completion(usage: Any, text: str = SAID) -> Canned:
    """A chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    answer = {"id": "x", "object": "chat.completion", "created": 1, "model": GPT}
    return {**answer, "choices": [choice], "usage": usage}


def chunks(usage: Any, *, within: bool = False) -> Canned:
    """A streamed one, with its usage at the end or within the last choice."""
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": GPT}
    said = {"index": 0, "delta": {"role": "assistant", "content": SAID}, "finish_reason": None}
    end: Any = {"index": 0, "delta": {}, "finish_reason": "stop"}
    if within:
        return [{**head, "choices": [said]}, {**head, "choices": [end | {"usage": usage}]}]
    return [{**head, "choices": [said]}, {**head, "choices": []} | {"usage": usage}]


def response(usage: Any) -> Canned:
    """An answer of the Responses API."""
    content = [{"type": "output_text", "text": SAID, "annotations": []}]
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    head = {"id": "r", "object": "response", "created_at": 1, "model": GPT, "status": "completed"}
    more = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    return {**head, **more, "output": [{**item, "content": content}], "usage": usage}


def embeddings(usage: Any) -> Canned:
    """An embedding."""
    one = {"object": "embedding", "index": 0, "embedding": [0.1]}
    return {"object": "list", "model": "voyage-3", "data": [one], "usage": usage}


def message(usage: Any) -> Canned:
    """A message of Anthropic's."""
    head = {"id": "m", "type": "message", "role": "assistant", "model": CLAUDE}
    text = [{"type": "text", "text": SAID}]
    return {**head, "content": text, "stop_reason": "end_turn", "usage": usage}


def events(start: Any, delta: Any = None, *, error: bool = False) -> Canned:
    """A streamed one; without `delta` it ends early."""
    head = {"id": "m", "type": "message", "role": "assistant", "model": CLAUDE, "content": []}
    told: list[Any] = [
        {"type": "message_start", "message": {**head, "usage": start}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": SAID},
        },
    ]
    if delta is not None:
        end = {"stop_reason": "end_turn", "stop_sequence": None}
        told.append({"type": "content_block_stop", "index": 0})
        told.append({"type": "message_delta", "delta": end, "usage": delta})
        told.append({"type": "message_stop"})
    if error:
        told.append({"type": "error", "error": {"type": "overloaded_error", "message": "busy"}})
    return told


def conversed(usage: Any, text: str = SAID, stop: str = "end_turn") -> Canned:
    """An answer of Converse."""
    output = {"message": {"role": "assistant", "content": [{"text": text}]}}
    return {"output": output, "stopReason": stop, "usage": usage, "metrics": {"latencyMs": 1}}


def conversed_stream(usage: Any, text: str = SAID, stop: str = "end_turn") -> Canned:
    """A streamed one."""
    return [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}}),
        ("messageStop", {"stopReason": stop}),
        ("metadata", {"usage": usage, "metrics": {"latencyMs": 1}}),
    ]


# --- 3: billed parts outside the known keys ------------------------------------------------

COMPACTED = {
    "input_tokens": 23_011,
    "cache_read_input_tokens": 0,
    "output_tokens": 1_007,
    "iterations": [
        {"type": "compaction", "input_tokens": 180_013, "output_tokens": 3_511},
        {"type": "message", "input_tokens": 23_011, "output_tokens": 1_007},
    ],
}
ADVISED = {
    "input_tokens": 412,
    "output_tokens": 531,
    "iterations": [
        {"type": "message", "input_tokens": 412, "output_tokens": 89},
        {"type": "advisor_message", "input_tokens": 823, "output_tokens": 1_612},
    ],
}


@pytest.mark.parametrize(
    ("ask", "answer", "model"),
    [
        (messages, message(COMPACTED), CLAUDE),
        (messages_stream, events({"input_tokens": 23_011, "output_tokens": 1}, COMPACTED), CLAUDE),
        (invoke, message(COMPACTED), ON_AWS),
        pytest.param(llama_claude, message(COMPACTED), CLAUDE, marks=WITH_CLAUDE),
    ],
)
def test_what_compaction_takes_is_billed(ask: Ask, answer: Canned, model: str):
    """Its figures stand beside the sums."""
    event = asked(ask, answer, model)
    assert event.prompt_token_count == 23_011 + 180_013
    assert event.completion_token_count == 1_007 + 3_511
    assert (event.source, event.not_understood) == ("reported", ())


UNKNOWN_PLAIN = {"prompt_tokens": 33, "completion_tokens": 71, "total_tokens": 104}
RESEARCH = UNKNOWN_PLAIN | {"citation_tokens": 20_016, "reasoning_tokens": 73_997}


@pytest.mark.parametrize(
    ("ask", "answer", "model", "unknown"),
    [
        (chat, completion(RESEARCH), GPT, "citation_tokens"),
        (async_chat, completion(RESEARCH), GPT, "reasoning_tokens"),
        (chat_stream, chunks(RESEARCH), GPT, "citation_tokens"),
        (async_chat_stream, chunks(RESEARCH), GPT, "reasoning_tokens"),
        (
            responses,
            response(
                {
                    "input_tokens": 5,
                    "output_tokens": 6,
                    "total_tokens": 11,
                    "input_tokens_details": {"cached_tokens": 0, "tool_tokens": 9},
                    "output_tokens_details": {"reasoning_tokens": 0},
                }
            ),
            GPT,
            "input_tokens_details.tool_tokens",
        ),
        (messages, message(ADVISED), CLAUDE, "iterations[type=advisor_message].input_tokens"),
        (
            converse,
            conversed({"inputTokens": 5, "outputTokens": 6, "totalTokens": 11}),
            ON_AWS,
            "",
        ),
        (
            invoke,
            message({"input_tokens": 5, "output_tokens": 6, "memory_tokens": 7}),
            ON_AWS,
            "memory_tokens",
        ),
        pytest.param(llama_openai, completion(RESEARCH), GPT, "citation_tokens", marks=WITH_OPENAI),
        pytest.param(
            llama_openai_stream, chunks(RESEARCH), GPT, "citation_tokens", marks=WITH_OPENAI
        ),
        pytest.param(
            llama_claude,
            message(ADVISED),
            CLAUDE,
            "iterations[type=advisor_message].output_tokens",
            marks=WITH_CLAUDE,
        ),
    ],
)
def test_tokens_that_no_table_knows_lower_the_label(
    ask: Ask, answer: Canned, model: str, unknown: str
):
    """They are named, and neither figure nor cost passes for the bill."""
    event = asked(ask, answer, model)
    assert is_exact(event) == (not unknown)
    assert not unknown or unknown in event.not_understood
    assert event.to_dict()["not_understood"] == list(event.not_understood)


# --- 7: net or gross -----------------------------------------------------------------------

GROSS = {
    "inputTokens": 12_401,
    "outputTokens": 41,
    "cacheReadInputTokens": 8_367,
    "cacheWriteInputTokens": 4_032,
    "totalTokens": 24_841,
}
NET = GROSS | {"inputTokens": 2, "totalTokens": 12_442}


@pytest.mark.parametrize(
    ("ask", "answer", "model", "expected", "source"),
    [
        (converse, conversed(GROSS), GPT_ON_AWS, 12_401, "estimated"),
        (converse_stream, conversed_stream(GROSS), "us." + GPT_ON_AWS, 12_401, "estimated"),
        (converse, conversed(NET), GPT_ON_AWS, 12_401, "reported"),
        (converse, conversed(GROSS), ON_AWS, 24_800, "reported"),
        (converse_stream, conversed_stream(GROSS), ON_AWS, 24_800, "reported"),
        *[
            pytest.param(ask, answer(usage), model, expected, source, marks=mark)
            for asks, mark in (
                ((llama_converse, llama_converse_stream), WITH_BEDROCK),
                ((langchain_converse, langchain_converse_stream), WITH_LANGCHAIN_AWS),
            )
            for ask, answer in zip(asks, (conversed, conversed_stream), strict=True)
            for usage, model, expected, source in (
                (GROSS, "openai.gpt-6-sol", 12_401, "estimated"),
                (NET, "openai.gpt-6-sol", 12_401, "reported"),
                (GROSS, ON_AWS, 24_800, "reported"),
            )
        ],
    ],
)
def test_net_or_gross_is_a_matter_of_the_model(
    ask: Ask, answer: Canned, model: str, expected: int, source: str
):
    """Where the sources disagree, the smaller figure stands, marked."""
    event = asked(ask, answer, model)
    assert (event.prompt_token_count, event.prompt_source) == (expected, source)
    assert (event.completion_token_count, event.completion_source) == (41, "reported")
    assert (event.usage.cache_read_tokens, event.usage.cache_write_tokens) == (8_367, 4_032)


# --- 8: dialects ---------------------------------------------------------------------------

MOONSHOT = {
    "prompt_tokens": 22_013,
    "completion_tokens": 511,
    "total_tokens": 22_524,
    "cached_tokens": 20_000,
}


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (chat, completion(MOONSHOT)),
        (chat_stream, chunks(MOONSHOT, within=True)),
        (async_chat_stream, chunks(MOONSHOT, within=True)),
        pytest.param(llama_openai, completion(MOONSHOT), marks=WITH_OPENAI),
        pytest.param(llama_openai_stream, chunks(MOONSHOT, within=True), marks=WITH_OPENAI),
        pytest.param(langchain_openai, completion(MOONSHOT), marks=WITH_LANGCHAIN),
        pytest.param(watched_langchain_stream, chunks(MOONSHOT, within=True), marks=WITH_LANGCHAIN),
    ],
)
def test_usage_within_a_choice_is_read(ask: Ask, answer: Canned):
    """Moonshot's streams have it there, and cached tokens beside the sums."""
    event = asked(ask, answer, "kimi-k2.5")
    assert (event.prompt_token_count, event.completion_token_count) == (22_013, 511)
    assert (event.source, event.usage.cache_read_tokens) == ("reported", 20_000)


@pytest.mark.parametrize(
    ("ask", "answer", "figures"),
    [
        (embed, embeddings({"total_tokens": 37}), (37, 0)),
        (post("/v1/embeddings", input=PROMPT), embeddings({"total_tokens": 37}), (37, 0)),
        (chat, completion({"prompt_tokens": 40, "total_tokens": 47}), (40, 7)),
        (chat_stream, chunks({"completion_tokens": 7, "total_tokens": 47}), (40, 7)),
        (converse, conversed({"inputTokens": 40, "totalTokens": 47, "outputTokens": 7}), (40, 7)),
        pytest.param(
            llama_openai,
            completion({"prompt_tokens": 40, "total_tokens": 47}),
            (40, 7),
            marks=WITH_OPENAI,
        ),
        pytest.param(
            langchain_openai,
            completion({"prompt_tokens": 40, "total_tokens": 47}),
            (40, 7),
            marks=WITH_LANGCHAIN,
        ),
    ],
)
def test_a_total_gives_what_is_missing(ask: Ask, answer: Canned, figures: tuple[int, int]):
    """Of an embedding it is the input; of two sides it gives the other."""
    event = asked(ask, answer, GPT)
    assert (event.prompt_token_count, event.completion_token_count) == figures
    assert event.source == "reported"


@WITH_LANGCHAIN
def test_what_langchain_drops_is_not_called_the_bill():
    """Of Moonshot's streams it hands on no figures; without a watch ours stand, marked."""
    event = asked(langchain_openai_stream, chunks(MOONSHOT, within=True), "kimi-k2.5")
    assert event.source != "reported"
    assert event.prompt_token_count > 0
    assert event.completion_token_count > 0


def test_a_total_alone_is_split_by_our_own_count():
    """The sum is the provider's, its parts are marked."""
    event = asked(chat, completion({"total_tokens": 470}), GPT)
    assert (event.total_token_count, event.source) == (470, "estimated")
    assert event.prompt_token_count > event.completion_token_count > 0


# --- 12: a contradiction lowers its own side -----------------------------------------------


def _contradicted(output: str, details: str) -> dict[str, Any]:
    return {details: {"reasoning_tokens": 500}, output: 100}


CONTRADICTED = {
    "prompt_tokens": 900,
    "total_tokens": 1_000,
    "prompt_tokens_details": {"cached_tokens": 800},
} | _contradicted("completion_tokens", "completion_tokens_details")


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (chat, completion(CONTRADICTED)),
        (async_chat, completion(CONTRADICTED)),
        (chat_stream, chunks(CONTRADICTED)),
        (
            responses,
            response(
                {
                    "input_tokens": 900,
                    "total_tokens": 1_000,
                    "input_tokens_details": {"cached_tokens": 800},
                }
                | _contradicted("output_tokens", "output_tokens_details")
            ),
        ),
        pytest.param(llama_openai, completion(CONTRADICTED), marks=WITH_OPENAI),
        pytest.param(llama_openai_stream, chunks(CONTRADICTED), marks=WITH_OPENAI),
    ],
)
def test_a_contradiction_lowers_its_own_side(ask: Ask, answer: Canned):
    """Input and its cached tokens stand as they were reported."""
    event = asked(ask, answer, GPT)
    assert (event.prompt_token_count, event.prompt_source) == (900, "reported")
    assert event.usage.cache_read_tokens == 800
    assert event.completion_source == "estimated"
    assert not is_exact(event)


# --- 14: zeros and errors ------------------------------------------------------------------

ZEROS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
NO_TOKENS = {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}


@pytest.mark.parametrize(
    ("ask", "answer", "model"),
    [
        (chat, completion(ZEROS), GPT),
        (async_chat, completion(ZEROS), GPT),
        (chat_stream, chunks(ZEROS), GPT),
        (messages, message({"input_tokens": 0, "output_tokens": 0}), CLAUDE),
        (converse, conversed(NO_TOKENS), ON_AWS),
        (converse_stream, conversed_stream(NO_TOKENS), ON_AWS),
        (embed, embeddings({"prompt_tokens": 0, "total_tokens": 0}), "text-embedding-3-small"),
        pytest.param(llama_openai, completion(ZEROS), GPT, marks=WITH_OPENAI),
        pytest.param(llama_openai_stream, chunks(ZEROS), GPT, marks=WITH_OPENAI),
    ],
)
def test_zeros_beside_texts_are_silence(ask: Ask, answer: Canned, model: str):
    """They are counted, as if nothing had been said."""
    event = asked(ask, answer, model)
    assert event.prompt_token_count > 0
    assert event.prompt_source != "reported"
    assert event.operation == "embedding" or event.completion_token_count > 0
    assert event.source != "reported"


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (converse, conversed(NO_TOKENS, "Blocked.", "guardrail_intervened")),
        (converse_stream, conversed_stream(NO_TOKENS, "Blocked.", "guardrail_intervened")),
    ],
)
def test_a_guardrail_explains_zeros(ask: Ask, answer: Canned):
    """Then the answer is none of the model's."""
    event = asked(ask, answer, ON_AWS)
    assert (event.total_token_count, event.source) == (0, "reported")


@pytest.mark.parametrize("ask", [messages_stream])
def test_zeros_take_nothing_back(ask: Ask):
    """A stream's last figures may be zeros after a full beginning."""
    start = {"input_tokens": 70, "cache_read_input_tokens": 900, "output_tokens": 1}
    end = {"input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 17}
    event = asked(ask, events(start, end), CLAUDE)
    assert (event.prompt_token_count, event.completion_token_count) == (970, 17)
    assert (event.source, event.usage.cache_read_tokens) == ("reported", 900)


@pytest.mark.parametrize(
    ("ask", "model"),
    [
        (post("/v1/chat/completions", messages=MESSAGES), GPT),
        (post("/v1/messages", messages=MESSAGES, max_tokens=5), CLAUDE),
        (post("/v1/embeddings", input=[PROMPT]), "text-embedding-3-small"),
    ],
)
def test_an_error_in_a_body_is_no_answer(ask: Ask, model: str):
    """Whatever its HTTP status: what it cost isn't known."""
    error = {"error": {"message": "upstream failed", "code": 502}}
    event = asked(ask, error, model)
    assert event.status == "failed"
    assert event.source == "estimated"
    assert not (event.cost and event.cost.is_whole)


# --- 19: provisional figures ---------------------------------------------------------------

START = {"input_tokens": 70, "cache_read_input_tokens": 0, "output_tokens": 2}


@pytest.mark.parametrize(
    "answer", [events(START), events(START, error=True)], ids=["cut", "error within"]
)
def test_a_beginnings_output_is_a_lower_bound(answer: Canned):
    """What has come since is counted."""
    event = asked(messages_stream, answer, CLAUDE)
    assert (event.prompt_token_count, event.prompt_source) == (70, "reported")
    assert event.completion_token_count > 2
    assert event.completion_source != "reported"

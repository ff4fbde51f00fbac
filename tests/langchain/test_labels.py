"""What LangChain has added up, or made of what a provider said, doesn't pass for the bill."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

import httpx
import pytest

from llama_token_tracker import TokenCountingEvent
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.wire import WatchingTransport
from tests.canned import Canned, canned
from tests.needs import needs

GPT = "gpt-4o"
SAID = "Canberra is the capital of Australia, and has been that since 1913."
WORDS = ["Can", "berra", " is", " the", " capital", "."]
Ask: TypeAlias = Callable[[str, Any], None]


# --- how it is asked -----------------------------------------------------------------------


def _openai(url: str, **more: Any) -> Any:
    from langchain_openai import ChatOpenAI

    return ChatOpenAI(
        model=GPT, base_url=url + "/v1", api_key="none", max_retries=0, stream_usage=True, **more
    )


def stream(url: str, counter: Any) -> None:
    """A stream."""
    for _ in _openai(url).stream("hi", config={"callbacks": [counter]}):
        pass


def astream(url: str, counter: Any) -> None:
    """The same, asynchronous."""

    async def ask() -> None:
        async for _ in _openai(url).astream("hi", config={"callbacks": [counter]}):
            pass

    asyncio.run(ask())


def invoke_streaming(url: str, counter: Any) -> None:
    """A model that streams within."""
    _openai(url, streaming=True).invoke("hi", config={"callbacks": [counter]})


def invoke(url: str, counter: Any) -> None:
    """A whole answer."""
    _openai(url).invoke("hi", config={"callbacks": [counter]})


def watched_stream(url: str, counter: Any) -> None:
    """A stream of a watched client."""
    sender = httpx.Client(transport=WatchingTransport(counter))
    model = _openai(url, http_client=sender)
    for _ in model.stream("hi", config={"callbacks": [counter]}):
        pass


def claude(url: str, counter: Any) -> None:
    """Anthropic's."""
    from langchain_anthropic import ChatAnthropic

    model = ChatAnthropic(model="claude-opus-4-6", base_url=url, api_key="none", max_retries=0)
    model.invoke("hi", config={"callbacks": [counter]})


def converse(model: str) -> Ask:
    """Bedrock's."""

    def ask(url: str, counter: Any) -> None:
        from langchain_aws import ChatBedrockConverse

        made = ChatBedrockConverse(
            model=model,
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="none",
            aws_secret_access_key="none",
        )
        made.invoke("hi", config={"callbacks": [counter]})

    return ask


def asked(ask: Ask, answer: Canned) -> TokenCountingEvent:
    """Ask, and give the one event of it."""
    counter = TokenCountingCallbackHandler()
    with canned(answer) as url:
        ask(url, counter)
    [event] = counter.llm_token_counts
    return event


# --- what is answered ----------------------------------------------------------------------


def chunks(usages: list[Any]) -> Canned:
    """A stream each of whose chunks has a usage."""
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": GPT}
    told: list[Any] = []
    for number, usage in enumerate(usages):
        said = {"role": "assistant", "content": WORDS[number % len(WORDS)]}
        choice = {"index": 0, "delta": said, "finish_reason": None}
        told.append({**head, "choices": [choice], "usage": usage})
    return told


def usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    """OpenAI's."""
    total = prompt + completion
    sums = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}
    return sums | more


def completion(usage: Any) -> Canned:
    """A whole answer."""
    message = {"role": "assistant", "content": SAID}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    head = {"id": "x", "object": "chat.completion", "created": 1, "model": GPT}
    return {**head, "choices": [choice], "usage": usage}


CUMULATIVE = [usage(7_013, n) for n in (1, 2, 3, 4, 5, 6, 6, 6)]
streams = pytest.mark.parametrize("ask", [stream, astream, invoke_streaming, watched_stream])


@needs("langchain_openai")
@streams
def test_repeated_figures_are_not_added_up(ask: Ask):
    """Each chunk says how much it has been so far."""
    event = asked(ask, chunks(CUMULATIVE))
    assert (event.prompt_token_count, event.completion_token_count) == (7_013, 6)
    assert event.source == "reported"


@needs("langchain_openai")
@pytest.mark.parametrize("ask", [stream, astream, invoke_streaming])
def test_a_sum_that_nobody_said_is_not_reported(ask: Ask):
    """Neither the last figures nor their sum are surely the bill."""
    event = asked(ask, chunks([usage(7_013, 5), usage(12, 1)]))
    assert event.source == "estimated"
    assert event.not_understood
    assert event.cost is None or not event.cost.is_whole


@needs("langchain_openai")
@pytest.mark.parametrize("ask", [stream, astream, invoke_streaming, watched_stream])
def test_figures_that_come_once_are_reported(ask: Ask):
    """As most providers say them."""
    event = asked(ask, chunks([None, None, usage(7_013, 6)]))
    assert (event.total_token_count, event.source) == (7_019, "reported")


@needs("langchain_openai")
@pytest.mark.parametrize(
    ("answer", "source"),
    [
        (completion(usage(0, 0)), "counted"),
        (completion(usage(33, 71, citation_tokens=20_016)), "estimated"),
        (completion({"prompt_tokens": 40, "total_tokens": 47}), "reported"),
        (completion(usage(40, 7, completion_tokens_details={"reasoning_tokens": 9})), "estimated"),
    ],
    ids=["zeros", "unknown tokens", "a missing side", "a contradiction"],
)
def test_whole_answers_earn_their_label(answer: Canned, source: str):
    """As they do on the wire."""
    event = asked(invoke, answer)
    assert event.source == source
    assert event.prompt_token_count > 0
    assert event.completion_token_count > 0


@needs("langchain_anthropic")
def test_what_compaction_takes_is_billed():
    """LangChain leaves it out of its own figures."""
    figures = {"input_tokens": 23_011, "output_tokens": 1_007, "cache_read_input_tokens": 0}
    made = {"type": "compaction", "input_tokens": 180_013, "output_tokens": 3_511}
    head = {"id": "m", "type": "message", "role": "assistant", "model": "claude-opus-4-6"}
    body = {
        **head,
        "content": [{"type": "text", "text": SAID}],
        "stop_reason": "end_turn",
        "usage": {**figures, "iterations": [made]},
    }
    event = asked(claude, body)
    assert (event.total_token_count, event.source) == (207_542, "reported")


@needs("langchain_aws")
@pytest.mark.parametrize(
    ("model", "expected", "source"),
    [
        ("openai.gpt-5.6-v1:0", 12_401, "estimated"),
        ("anthropic.claude-opus-4-6-v1", 24_800, "reported"),
    ],
)
def test_net_or_gross_is_a_matter_of_the_model(model: str, expected: int, source: str):
    """LangChain adds cached tokens for all of Converse's models."""
    figures = {
        "inputTokens": 12_401,
        "outputTokens": 41,
        "cacheReadInputTokens": 8_367,
        "cacheWriteInputTokens": 4_032,
        "totalTokens": 24_841,
    }
    output = {"message": {"role": "assistant", "content": [{"text": SAID}]}}
    body = {"output": output, "stopReason": "end_turn", "usage": figures}
    event = asked(converse(model), body | {"metrics": {"latencyMs": 1}})
    assert (event.prompt_token_count, event.prompt_source) == (expected, source)


@needs("langchain_aws")
def test_a_guardrail_explains_zeros():
    """Nothing was asked of the model."""
    figures = {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}
    output = {"message": {"role": "assistant", "content": [{"text": "Blocked."}]}}
    body = {"output": output, "stopReason": "guardrail_intervened", "usage": figures}
    event = asked(converse("anthropic.claude-opus-4-6-v1"), body | {"metrics": {"latencyMs": 1}})
    assert (event.total_token_count, event.source) == (0, "reported")

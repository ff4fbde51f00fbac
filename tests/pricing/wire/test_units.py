"""What is billed by other units than tokens is recorded as such, and is never free by silence."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import boto3
import cohere
import httpx
import openai
import pytest

from llama_token_tracker import Budget, TokenCountingEvent, Tracker
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.pricing.wire.conftest import AsyncLoop, Loop, Server, usd

DOCUMENTS = ["one", "two"]
RANKED = [{"index": 0, "relevance_score": 0.9}]


def client(canned: Server, tracker: Tracker) -> Any:
    """OpenAI's."""
    http = httpx.Client(transport=WatchingTransport(tracker, Loop(canned)))
    return openai.OpenAI(api_key="x", max_retries=0, http_client=http)


def bedrock_rerank(canned: Server, tracker: Tracker) -> None:
    """InvokeModel of a model that ranks; nothing in its answer tells of units."""
    canned.says({"results": RANKED})
    bedrock: Any = boto3.client(
        "bedrock-runtime",
        endpoint_url=canned.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    watch(tracker, bedrock)
    asked = {"query": "q", "documents": DOCUMENTS, "api_version": 2}
    answer = bedrock.invoke_model(modelId="cohere.rerank-v3-5:0", body=json.dumps(asked))
    assert answer["body"].read()


def bedrock_image(canned: Server, tracker: Tracker) -> None:
    """InvokeModel of a model that draws."""
    canned.says({"images": ["aGk=", "aGk="]})
    bedrock: Any = boto3.client(
        "bedrock-runtime",
        endpoint_url=canned.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    watch(tracker, bedrock)
    asked = {"taskType": "TEXT_IMAGE", "textToImageParams": {"text": "a cat"}}
    answer = bedrock.invoke_model(modelId="amazon.nova-canvas-v1:0", body=json.dumps(asked))
    assert answer["body"].read()


def _ranked(canned: Server) -> None:
    billed = {"api_version": {"version": "2"}, "billed_units": {"search_units": 3}}
    canned.says({"id": "r", "results": RANKED, "meta": billed})


def cohere_rerank(canned: Server, tracker: Tracker) -> None:
    """Cohere's SDK."""
    _ranked(canned)
    http = httpx.Client(transport=WatchingTransport(tracker, Loop(canned)))
    asker = cohere.ClientV2(api_key="x", httpx_client=http)
    asker.rerank(model="rerank-v3.5", query="q", documents=DOCUMENTS)


def cohere_rerank_async(canned: Server, tracker: Tracker) -> None:
    """The same, asynchronous."""
    _ranked(canned)

    async def ask() -> None:
        http = httpx.AsyncClient(transport=AsyncWatchingTransport(tracker, AsyncLoop(canned)))
        asker = cohere.AsyncClientV2(api_key="x", httpx_client=http)
        await asker.rerank(model="rerank-v3.5", query="q", documents=DOCUMENTS)
        await http.aclose()

    asyncio.run(ask())


def images(canned: Server, tracker: Tracker) -> None:
    """OpenAI's model that bills each image."""
    canned.says({"created": 1, "data": [{"url": "https://x/1"}, {"url": "https://x/2"}]})
    client(canned, tracker).images.generate(model="dall-e-3", prompt="a cat", n=2)


def transcription(canned: Server, tracker: Tracker) -> None:
    """Whisper, whose request is a form that nobody reads twice."""
    canned.says({"text": "hello", "usage": {"type": "duration", "seconds": 90}})
    sound = ("a.wav", b"RIFF")
    client(canned, tracker).audio.transcriptions.create(model="whisper-1", file=sound)


def speech(canned: Server, tracker: Tracker) -> None:
    """The request alone says how much it is; the answer is sound."""
    canned.says(b"\xff\xf3sound", "audio/mpeg")
    client(canned, tracker).audio.speech.create(model="tts-1", voice="alloy", input="x" * 2_000)


Ask = Callable[[Server, Tracker], None]
CASES: list[tuple[Ask, str, dict[str, float], Decimal | None]] = [
    (bedrock_rerank, "rerank", {}, None),
    (bedrock_image, "image", {"images": 2}, None),
    (cohere_rerank, "rerank", {"search_units": 3}, None),
    (cohere_rerank_async, "rerank", {"search_units": 3}, None),
    (images, "image", {"images": 2}, None),
    # A form's fields aren't read, so that its model isn't known.
    (transcription, "transcription", {"seconds": 90}, None),
    # 15 dollars for a million characters.
    (speech, "speech", {"characters": 2_000}, Decimal("0.03")),
]


@pytest.mark.parametrize(
    ("ask", "operation", "units", "cost"), CASES, ids=[case[0].__name__ for case in CASES]
)
def test_a_call_without_tokens_is_no_free_call(
    ask: Ask, operation: str, units: dict[str, float], cost: Decimal | None, canned: Server
):
    """It has a price, or it's counted as unpriced."""
    tracker = Tracker()
    ask(canned, tracker)
    [event] = tracker.llm_token_counts
    assert (event.operation, event.total_token_count) == (operation, 0)
    assert (event.units, event.to_dict()["units"]) == (units, units)
    assert (event.cost_usd, tracker.total_cost_usd) == (cost, cost)
    assert tracker.unpriced_calls == (cost is None)


def test_beside_priced_calls_it_is_left_out_and_said(canned: Server):
    """The sum is of those that have a price."""
    tracker = Tracker()
    speech(canned, tracker)
    cohere_rerank(canned, tracker)
    assert (tracker.total_cost_usd, tracker.unpriced_calls) == (Decimal("0.03"), 1)
    assert tracker.by("operation")["rerank"].cost_usd is None


def test_images_that_are_billed_as_tokens_cost_what_those_cost(canned: Server):
    """By the images they'd be counted twice."""
    usage = {
        "input_tokens": 50,
        "output_tokens": 4_160,
        "total_tokens": 4_210,
        "input_tokens_details": {"text_tokens": 50, "image_tokens": 0},
    }
    canned.says({"created": 1, "data": [{"b64_json": "aGk="}], "usage": usage})
    tracker = Tracker()
    client(canned, tracker).images.generate(model="gpt-image-1", prompt="a cat")
    [event] = tracker.llm_token_counts
    assert (event.total_token_count, event.units) == (4_210, {"images": 1})


def test_searches_of_responses_are_billed_beside_tokens(canned: Server):
    """Ten dollars for a thousand, by OpenAI's page on prices."""
    search = {"id": "ws", "type": "web_search_call", "status": "completed"}
    usage = {"input_tokens": 8_000, "output_tokens": 500, "total_tokens": 8_500}
    head = {"id": "r", "object": "response", "created_at": 1, "model": "gpt-5"}
    canned.says({**head, "output": [search, {**search, "id": "ws2"}], "usage": usage})
    tracker = Tracker()
    client(canned, tracker).responses.create(model="gpt-5", input="news?")
    [event] = tracker.llm_token_counts
    assert event.units == {"web_searches": 2}
    assert event.cost_usd == usd((8_000, "1.25"), (500, "10")) + Decimal("0.02")


def test_a_budget_of_money_is_charged_for_characters_and_hears_of_units_without_price(
    canned: Server,
):
    """As the totals do."""
    tracker = Tracker(budget=Budget(usd=1, unpriced="allow"))
    speech(canned, tracker)
    cohere_rerank(canned, tracker)
    spent = tracker.accounts[0].spent()
    assert (spent.usd, spent.unpriced_calls) == (Decimal("0.03"), 1)


def test_a_budget_of_tokens_knows_of_no_unpriced_calls(canned: Server):
    """Nobody has asked for a price."""
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    canned.says({"id": "c", "model": "gpt-4o", "choices": [choice], "usage": usage})
    tracker = Tracker(budget=Budget(tokens=10_000))
    asked: Any = [{"role": "user", "content": "hi"}]
    client(canned, tracker).chat.completions.create(model="gpt-4o", messages=asked)
    spent = tracker.accounts[0].spent()
    assert (spent.tokens, spent.unpriced_calls) == (15, 0)


def test_a_refused_call_is_free():
    """It's neither priced nor unpriced."""
    assert TokenCountingEvent("", "", 0, 0, status="failed").is_free
    assert not TokenCountingEvent("", "", 0, 0).is_free

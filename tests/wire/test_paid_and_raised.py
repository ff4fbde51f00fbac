"""SDKs that raise at an answer which has come: it's counted as it was billed."""

import asyncio
from collections.abc import Callable
from typing import Any

import anthropic
import openai
import pytest
from pydantic import BaseModel, ValidationError

from llama_token_tracker import Budget, BudgetExceededError, Tracker
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport
from tests.canned import Canned, canned
from tests.wire.labels.answers import completion, message, response
from tests.wire.labels.asking import CLAUDE, GPT, MESSAGES, PROMPT

SENT, CAME = 4_321, 8_018
CUT = '{"capital": "Canb'
CHAT = completion(
    {"prompt_tokens": SENT, "completion_tokens": CAME, "total_tokens": SENT + CAME}, CUT
)
CHAT["choices"][0]["finish_reason"] = "length"
FIGURES = {"input_tokens": SENT, "output_tokens": CAME}
RESPONSE = response({**FIGURES, "total_tokens": SENT + CAME}, CUT)
MESSAGE = message(FIGURES, CUT)


class Answer(BaseModel):
    """What is asked for."""

    capital: str


def _given(url: str) -> dict[str, Any]:
    return {"base_url": url, "api_key": "none", "max_retries": 0}


def _openai(url: str, tracker: Tracker) -> Any:
    http = openai.DefaultHttpxClient(transport=WatchingTransport(tracker))
    return openai.OpenAI(**_given(url + "/v1"), http_client=http)


def chat(url: str, tracker: Tracker) -> None:
    """OpenAI's chats, cut by a limit."""
    client = _openai(url, tracker)
    client.chat.completions.parse(model=GPT, messages=MESSAGES, response_format=Answer)


def async_chat(url: str, tracker: Tracker) -> None:
    """The same, asynchronous."""

    async def ask() -> None:
        http = openai.DefaultAsyncHttpxClient(transport=AsyncWatchingTransport(tracker))
        async with openai.AsyncOpenAI(**_given(url + "/v1"), http_client=http) as client:
            await client.chat.completions.parse(
                model=GPT, messages=MESSAGES, response_format=Answer
            )

    asyncio.run(ask())


def responses(url: str, tracker: Tracker) -> None:
    """OpenAI's Responses."""
    _openai(url, tracker).responses.parse(model=GPT, input=PROMPT, text_format=Answer)


def messages(url: str, tracker: Tracker) -> None:
    """Anthropic's."""
    http = anthropic.DefaultHttpxClient(transport=WatchingTransport(tracker))
    client: Any = anthropic.Anthropic(**_given(url), http_client=http)
    client.messages.parse(model=CLAUDE, messages=MESSAGES, max_tokens=9, output_format=Answer)


RAISED = (openai.LengthFinishReasonError, ValidationError)
ASKED = [(chat, CHAT), (async_chat, CHAT), (responses, RESPONSE), (messages, MESSAGE)]


@pytest.mark.parametrize(("ask", "answer"), ASKED)
def test_an_answer_that_an_sdk_raises_at_is_counted(
    ask: Callable[[str, Tracker], None], answer: Canned
):
    """The wire has seen it."""
    tracker = Tracker()
    with canned(answer) as url, pytest.raises(RAISED):
        ask(url, tracker)
    [event] = tracker.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (SENT, CAME)
    assert (event.source, event.status) == ("reported", "complete")


@pytest.mark.parametrize(("ask", "answer"), ASKED)
def test_a_budget_stops_the_next(ask: Callable[[str, Tracker], None], answer: Canned):
    """After the one that passes it."""
    tracker = Tracker(budget=Budget(tokens=20_000, default_max_tokens=9))
    stopped: BaseException | None = None
    with canned(answer) as url:
        for _ in range(6):
            try:
                ask(url, tracker)
            except RAISED:
                continue
            except BudgetExceededError as error:
                stopped = error
    assert stopped is not None
    assert [event.total_token_count for event in tracker.llm_token_counts] == [SENT + CAME] * 2

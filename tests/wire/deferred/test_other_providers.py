"""Other providers defer answers as well: xAI its chats, Perplexity its research."""

import json
from typing import Any

import httpx
import pytest

from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire import WatchingTransport
from tests.late import Answer, serving
from tests.wire.deferred.background import Elsewhere

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why 42?"}]}
USAGE = {"prompt_tokens": 4_007, "completion_tokens": 911, "total_tokens": 4_918}
CHAT: dict[str, Any] = {
    "id": "c0161816-8b53-4c28-bd2b-3877c6edb800",
    "object": "chat.completion",
    "created": 1_760_000_000,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "so"}}
    ],
    "usage": USAGE,
}
JOB: dict[str, Any] = {"id": "job-9f8e7d6c", "model": "m", "created_at": 1_760_000_000}

XAI = (
    "https://api.x.ai/v1/chat/completions",
    {**ASKED, "deferred": True},
    "https://api.x.ai/v1/chat/deferred-completion/f15c114e",
    [(200, {"request_id": "f15c114e"}), (202, None), (200, CHAT)],
)
PERPLEXITY = [
    (
        f"https://api.perplexity.ai{path}",
        {"request": ASKED},
        f"https://api.perplexity.ai{path}/job-9f8e7d6c",
        [
            (200, {**JOB, "status": "CREATED"}),
            (200, {**JOB, "status": "IN_PROGRESS", "response": None}),
            (200, {**JOB, "status": "COMPLETED", "response": CHAT}),
        ],
    )
    for path in ("/async/chat/completions", "/v1/async/sonar")
]
DEFERRED = {"xai": XAI, "perplexity": PERPLEXITY[0], "perplexity-v1": PERPLEXITY[1]}


def saying(answers: list[tuple[int, Any]]) -> Answer:
    """Give these answers, one after the other, the last again and again."""
    left = list(answers)

    def answer(_path: str) -> tuple[int, dict[str, str], bytes]:
        status, body = left.pop(0) if len(left) > 1 else left[0]
        content = b"" if body is None else json.dumps(body).encode()
        return status, {"Content-Type": "application/json"}, content

    return answer


@pytest.mark.parametrize("name", DEFERRED)
def test_one_call_when_retrieved(name: str) -> None:
    """It's one call, with the bill, as soon as the answer is there."""
    begin, body, place, answers = DEFERRED[name]
    tracker = Tracker()
    with (
        serving(saying(answers)) as server,
        httpx.Client(transport=WatchingTransport(tracker, Elsewhere(server))) as http,
    ):
        http.post(begin, json=body)
        http.get(place)
        assert (tracker.total_llm_token_count, tracker.pending_calls) == (0, 1)
        for _ in range(2):
            http.get(place)
    (event,) = tracker.llm_token_counts
    assert (event.prompt_token_count, event.completion_token_count) == (4_007, 911)
    assert (event.status, event.source, event.model) == ("complete", "reported", "m")
    assert (event.prompt, event.completion) == ("user: why 42?", "assistant: so")
    assert (tracker.pending_calls, tracker.uncounted) == (0, {})


@pytest.mark.parametrize("name", DEFERRED)
def test_never_retrieved(name: str) -> None:
    """Never retrieved, its prompt counts, marked."""
    begin, body, _, answers = DEFERRED[name]
    tracker = Tracker()
    with (
        serving(saying(answers)) as server,
        httpx.Client(transport=WatchingTransport(tracker, Elsewhere(server))) as http,
    ):
        http.post(begin, json=body)
    tracker.close()
    (event,) = tracker.llm_token_counts
    assert (event.status, event.source) == ("unanswered", "estimated")
    assert event.prompt_token_count > 0


def test_a_plain_chat_of_xai_is_as_any() -> None:
    """A chat that isn't deferred is counted as it comes."""
    tracker = Tracker()
    with (
        serving(saying([(200, CHAT)])) as server,
        httpx.Client(transport=WatchingTransport(tracker, Elsewhere(server))) as http,
    ):
        http.post(XAI[0], json=ASKED)
    (event,) = tracker.llm_token_counts
    assert (event.provider, event.total_token_count, event.source) == ("x_ai", 4_918, "reported")

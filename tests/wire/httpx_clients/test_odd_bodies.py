"""Requests whose bodies hold anything at all: a budget alone stops one, and each is counted."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_token_tracker import Budget, BudgetExceededError, Tracker
from llama_token_tracker.wire import WatchingTransport

# Drawn examples take their time.
pytestmark = pytest.mark.slow
patient = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)

URLS = [
    "https://api.openai.com/v1/chat/completions",
    "https://api.openai.com/v1/completions",
    "https://api.openai.com/v1/responses",
    "https://api.openai.com/v1/embeddings",
    "https://api.anthropic.com/v1/messages",
    "https://api.cohere.com/v2/chat",
    "https://api.cohere.com/v1/chat",
    "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
    "http://localhost:11434/api/chat",
]
NAMES = [
    *("max_tokens", "max_completion_tokens", "max_output_tokens", "n", "messages", "prompt"),
    *("input", "contents", "parts", "content", "role", "text", "type", "tools", "system", "model"),
    *("generationConfig", "maxOutputTokens", "options", "num_predict", "message", "instructions"),
    *("chat_history", "tool_calls", "function", "name", "image_url", "url", "source", "data"),
]
LEAVES = st.one_of(
    st.sampled_from([None, True, False, "", "hello", "a.png", "\ud800", "tool", "image"]),
    st.sampled_from([0, -1, 7, 10**9, sys.maxsize, 10**30, 10**600, 0.5, 7.0, float("nan")]),
    st.sampled_from([float("inf"), -float("inf")]),
)
BODIES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=12,
)


def send(tracker: Tracker, url: str, body: bytes, answer: Any) -> httpx.Response:
    """Send a request that a server answers with this."""
    inner = httpx.MockTransport(lambda _: httpx.Response(200, json=answer))
    with httpx.Client(transport=WatchingTransport(tracker, inner)) as client:
        return client.post(url, content=body, headers={"content-type": "application/json"})


@patient
@given(st.sampled_from(URLS), st.lists(BODIES, min_size=1, max_size=3))
def test_a_budget_that_warns_stops_no_request(url: str, bodies: list[Any]):
    """Each is one request in the totals, marked, and none keeps another from being read."""
    tracker = Tracker(budget=Budget(tokens=1, usd=1, on_exceed="warn"))
    for body in [*bodies, {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}]:
        assert send(tracker, url, json.dumps(body).encode(), {}).status_code == 200
    events = [*tracker.llm_token_counts, *tracker.embedding_token_counts]
    if "embeddings" not in url:
        assert len(events) == len(bodies) + 1
    assert tracker.accounts[0].spent().reserved_tokens == 0
    assert str(tracker)


@patient
@given(st.sampled_from(URLS), BODIES)
def test_nothing_but_the_budgets_error_crosses(url: str, body: Any):
    """A request that's refused is refused by the one error that says so."""
    tracker = Tracker(budget=Budget(tokens=10_000))
    with contextlib.suppress(BudgetExceededError):
        send(tracker, url, json.dumps(body).encode(), {})
    assert tracker.total_llm_token_count >= 0
    assert tracker.accounts[0].spent().reserved_tokens == 0


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 10_000, b"null", b'{"a":' * 5_000])
def test_a_body_that_is_no_json(body: bytes):
    """It leaves, and counts as what is known of it."""
    tracker = Tracker(budget=Budget(tokens=5_000))
    assert send(tracker, URLS[0], body, {}).status_code == 200
    [event] = tracker.llm_token_counts
    assert event.source == "estimated"

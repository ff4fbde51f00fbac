"""Requests that are nobody's, whose answers are whole: both are kept until somebody asks."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

import anthropic
import httpx
import openai
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_token_tracker import TokenCountingEvent, Tracker, watch
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.usage import Usage
from tests.wire.interrupted import assert_counted_once

CACHED: Final = Usage(input_tokens=907, output_tokens=13, cache_read_tokens=502)
MESSAGES: Final[Any] = [{"role": "user", "content": "whose is it?"}]
ASKED: Final = {"model": "gpt-4.1", "messages": MESSAGES}
CHAT: Final = "https://api.openai.com/v1/chat/completions"
EMBEDDINGS: Final = "https://api.openai.com/v1/embeddings"
MESSAGE: Final = "https://api.anthropic.com/v1/messages"
GEMINI: Final = (
    "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent"
)

Call = Callable[[LoopbackProvider], Callable[[], object]]
"""Makes a client, and gives what asks by it."""


def _openai(provider: LoopbackProvider) -> openai.OpenAI:
    return openai.OpenAI(**provider.arguments("openai"))


def _chat(provider: LoopbackProvider) -> Callable[[], object]:
    create = _openai(provider).chat.completions.create
    return lambda: create(model="gpt-4.1", messages=MESSAGES)


def _embedding(provider: LoopbackProvider) -> Callable[[], object]:
    create = _openai(provider).embeddings.create
    return lambda: create(model="text-embedding-3-small", input=["of otters"])


def _message(provider: LoopbackProvider) -> Callable[[], object]:
    client = anthropic.Anthropic(**provider.arguments("anthropic"))
    return lambda: client.messages.create(
        model="claude-sonnet-4-5", max_tokens=99, messages=MESSAGES
    )


def _by_requests(provider: LoopbackProvider) -> Callable[[], object]:
    session, url = requests.Session(), f"{_openai(provider).base_url}chat/completions"
    return lambda: session.post(url, json=ASKED, timeout=9)


CALLS: Final[dict[str, Call]] = {
    "a chat": _chat,
    "an embedding": _embedding,
    "a message": _message,
    "requests": _by_requests,
}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_it_is_counted_once_wherever_it_is_interrupted(call: str):
    """Whatever interrupts the caller, what was billed is an event, and no other call is."""
    with LoopbackProvider(Reply("yes", CACHED, embedding=(0.5,))) as provider:
        # SDKs raise errors of their own for whatever ends a request.
        assert_counted_once(CALLS[call](provider), provider, raised=Exception)


@contextmanager
def _answering(answer: httpx.Response) -> Iterator[httpx.Client]:
    """A client that gets this answer."""
    with httpx.Client(transport=httpx.MockTransport(lambda _: answer)) as client:
        yield client


def _told(url: str, answer: httpx.Response, scope: str | None) -> list[dict[str, Any]]:
    """All that events say of a request but when and where it was."""
    events: list[TokenCountingEvent] = []
    tracker = Tracker(sinks=[events.append])
    with watch(tracker), _answering(answer) as client:
        # What may belong to a scope isn't plain: its answer is read as it comes.
        with nullcontext() if scope is None else tracker.scope(scope):
            client.post(url, json=ASKED)
        tracker.flush()
    assert [event.scope for event in events] == [scope]
    told = [event.to_dict() for event in events]
    for one in told:
        for name in ("id", "started_at", "duration_s", "scope"):
            del one[name]
    return told


def _kept_and_read(url: str, *answer: Any) -> list[dict[str, Any]]:
    """What is told of an answer that's kept until somebody asks, and of one that's read at once."""
    status, headers, content = answer
    return [
        one
        for scope in (None, "asking")
        for one in _told(url, httpx.Response(status, headers=headers, content=content), scope)
    ]


USAGE: Final = {"prompt_tokens": 907, "completion_tokens": 13, "total_tokens": 920}
ANSWER: Final[dict[str, Any]] = {
    "id": "chatcmpl-otters",
    "model": "gpt-4.1-2025-04-14",
    "choices": [{"message": {"role": "assistant", "content": "mine"}, "finish_reason": "stop"}],
    "usage": USAGE,
}
JSON: Final = {"content-type": "application/json", "x-request-id": "req_otters"}
WHOLE: Final = json.dumps(ANSWER).encode()
ERROR: Final = b'{"error": {"message": "no", "type": "server_error"}}'
BILLED: Final = (907, 13, "complete", "reported")
FAILED: Final = (0, 0, "failed", "estimated")
ANSWERS: Final[dict[str, tuple[int, dict[str, str], bytes, tuple[Any, ...]]]] = {
    "as usual": (200, JSON, WHOLE, BILLED),
    "on several lines": (200, JSON, json.dumps(ANSWER, indent=2).encode(), BILLED),
    "with space around it": (200, JSON, b"\n " + WHOLE + b"\n", BILLED),
    "with a character set": (
        200,
        {"content-type": "application/json; charset=utf-8"},
        WHOLE,
        BILLED,
    ),
    "said to be text": (200, {"content-type": "text/plain"}, WHOLE, BILLED),
    "of no type": (200, {}, WHOLE, BILLED),
    "a list": (200, JSON, b"[" + WHOLE + b"]", BILLED),
    "two lines": (200, JSON, b'{"id": "chatcmpl-otters"}\n' + WHOLE, BILLED),
    "two lines, one of them empty": (200, JSON, b"{}\n" + WHOLE, BILLED),
    "a stream, said to be whole": (200, JSON, b"data: " + WHOLE + b"\n\ndata: [DONE]\n\n", BILLED),
    "an error of a good status": (200, JSON, ERROR, (None, None, "failed", "estimated")),
    "an error": (429, JSON, ERROR, FAILED),
    "an error with an answer": (500, JSON, WHOLE, FAILED),
    "no JSON": (200, JSON, b"{" + b"nothing" * 3 + b"}", (None, None, "complete", "estimated")),
    "nothing": (200, JSON, b"", (None, None, "complete", "estimated")),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_kept_says_what_is_read_at_once(answer: str):
    """Whatever an answer looks like."""
    *answered, (prompt, completion, status, source) = ANSWERS[answer]
    kept, read = _kept_and_read(CHAT, *answered)
    assert kept == read
    assert (kept["status"], kept["source"]) == (status, source)
    if prompt is not None:
        assert (kept["prompt_token_count"], kept["completion_token_count"]) == (prompt, completion)


LEAVES = st.sampled_from([None, True, "", "hello", 0, 7, -1, 10**30, 0.5, {}, []])
FIELDS = st.dictionaries(
    st.sampled_from([*USAGE, "usage", "usageMetadata", "input_tokens", "output_tokens", "error"]),
    LEAVES | st.dictionaries(st.sampled_from([*USAGE, "input_tokens", "total_tokens"]), LEAVES),
    max_size=4,
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)
@given(st.sampled_from([CHAT, EMBEDDINGS, MESSAGE, GEMINI]), FIELDS)
def test_any_answer_that_is_kept_says_what_is_read_at_once(url: str, fields: dict[str, Any]):
    """Of every provider's format."""
    kept, read = _kept_and_read(url, 200, JSON, json.dumps({**ANSWER, **fields}).encode())
    assert kept == read


def test_it_tells_whose_it_was_and_what_was_said():
    """Not who asks for it later."""
    tracker = Tracker()
    answer = httpx.Response(200, headers=JSON, content=WHOLE)
    with watch(tracker), _answering(answer) as client:
        client.post(CHAT, json=ASKED)
    with tracker.scope("asking"):
        [event] = tracker.llm_token_counts
    assert event.scope is None
    assert (event.request_id, event.model) == ("req_otters", ASKED["model"])
    assert "whose is it?" in event.prompt
    assert event.completion == "assistant: mine"

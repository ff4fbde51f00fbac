"""Mistral's conversations, by its own SDK: whole and streamed, with connectors and without."""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from llama_token_tracker import Tracker, Usage
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport
from tests.canned import Canned, canned

MODEL = "mistral-medium-latest"
SAID = "Canberra is the capital."


def _started() -> dict[str, Any]:
    return {"object": "conversation.response", "conversation_id": "conv_1"}


def _entry(**fields: Any) -> dict[str, Any]:
    return {"object": "entry", "created_at": "2026-11-29T12:00:00Z", "id": "msg_1", **fields}


def _answer(usage: Any, *, content: Any = SAID) -> dict[str, Any]:
    message = _entry(type="message.output", role="assistant", model=MODEL, content=content)
    return {**_started(), "outputs": [message], "usage": usage}


def _stream(usage: Any) -> list[Any]:
    at = {"created_at": "2026-11-29T12:00:00Z", "output_index": 0, "id": "msg_1"}
    words = [
        {**at, "type": "message.output.delta", "model": MODEL, "role": "assistant", "content": word}
        for word in (SAID[:9], {"type": "text", "text": SAID[9:]})
    ]
    begin = {"type": "conversation.response.started", "conversation_id": "conv_1"}
    return [begin, *words, {"type": "conversation.response.done", "usage": usage}]


PLAIN = {
    "prompt_tokens": 7_013,
    "completion_tokens": 211,
    "total_tokens": 7_224,
    "connector_tokens": None,
    "connectors": None,
}
# As in Mistral's documentation: what a connector found is in the total alone.
SEARCHED = {
    "prompt_tokens": 188,
    "completion_tokens": 55,
    "total_tokens": 7_355,
    "connector_tokens": 7_112,
    "connectors": {"web_search": 1},
}


def _client(tracker: Tracker, url: str) -> Any:
    """A watched client of the provider's own host, whose requests go to the loopback."""
    module = pytest.importorskip("mistralai.client")
    httpx2 = pytest.importorskip("httpx2")
    port = urlsplit(url).port

    class Here(httpx2.HTTPTransport):  # type: ignore[misc, name-defined]
        def handle_request(self, request: Any) -> Any:
            request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)
            return super().handle_request(request)

    class HereToo(httpx2.AsyncHTTPTransport):  # type: ignore[misc, name-defined]
        async def handle_async_request(self, request: Any) -> Any:
            request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=port)
            return await super().handle_async_request(request)

    return module.Mistral(
        api_key="none",
        client=httpx2.Client(transport=WatchingTransport(tracker, Here())),
        async_client=httpx2.AsyncClient(transport=AsyncWatchingTransport(tracker, HereToo())),
    ).beta.conversations


CALLS: dict[str, tuple[bool, Callable[[Any], object]]] = {
    "start": (False, lambda one: one.start(model=MODEL, inputs="Which?", store=False)),
    "append": (False, lambda one: one.append(conversation_id="conv_1", inputs="Which?")),
    "restart": (
        False,
        lambda one: one.restart(conversation_id="conv_1", from_entry_id="msg_0", inputs="Which?"),
    ),
    "start async": (
        False,
        lambda one: asyncio.run(one.start_async(model=MODEL, inputs="Which?")),
    ),
    "start stream": (True, lambda one: list(one.start_stream(model=MODEL, inputs="Which?"))),
    "append stream": (
        True,
        lambda one: list(one.append_stream(conversation_id="conv_1", inputs="Which?")),
    ),
    "restart stream": (
        True,
        lambda one: list(
            one.restart_stream(conversation_id="conv_1", from_entry_id="msg_0", inputs="Which?")
        ),
    ),
}


def _event(answer: Canned, call: Callable[[Any], object]) -> Any:
    tracker = Tracker()
    with canned(answer) as url:
        call(_client(tracker, url))
    [event] = tracker.llm_token_counts
    assert tracker.uncounted == {}
    return event


@pytest.mark.parametrize("name", CALLS)
def test_a_conversation_is_counted_as_billed(name: str) -> None:
    """Once, whichever way it goes on, with the model that has answered."""
    is_streamed, call = CALLS[name]
    event = _event(_stream(PLAIN) if is_streamed else _answer(PLAIN), call)
    assert event.usage == Usage(input_tokens=7_013, output_tokens=211)
    assert (event.prompt_source, event.completion_source) == ("reported", "reported")
    assert (event.provider, event.operation, event.status) == ("mistral_ai", "chat", "complete")
    assert event.served.model == MODEL
    assert event.not_understood == ()
    assert (event.prompt, event.completion) == ("user: Which?", f"assistant: {SAID}")
    assert event.cost is not None
    assert event.cost.is_whole


@pytest.mark.parametrize("name", CALLS)
def test_what_a_connector_found_is_input_and_its_runs_are_billed_apart(name: str) -> None:
    """No list knows their price, so the cost isn't whole."""
    is_streamed, call = CALLS[name]
    event = _event(_stream(SEARCHED) if is_streamed else _answer(SEARCHED), call)
    assert event.usage == Usage(input_tokens=188 + 7_112, output_tokens=55)
    assert (event.prompt_source, event.completion_source) == ("reported", "reported")
    assert event.served.units == {"web_searches": 1, "connector_tokens": 7_112}
    assert event.cost is not None
    assert not event.cost.is_whole


@pytest.mark.parametrize("connector", ["code_interpreter", "image_generation", "a_new_one"])
def test_any_connectors_run_takes_the_cost_its_certainty(connector: str) -> None:
    """One that isn't known, too."""
    usage = {**SEARCHED, "connectors": {connector: 2}}
    event = _event(_answer(usage), CALLS["start"][1])
    assert event.usage == Usage(input_tokens=188 + 7_112, output_tokens=55)
    assert not event.cost.is_whole


def test_an_answer_in_pieces_is_read() -> None:
    """Text among references."""
    content = [
        {"type": "text", "text": SAID[:9]},
        {"type": "tool_reference", "tool": "web_search", "title": "A page"},
        {"type": "text", "text": SAID[9:]},
    ]
    event = _event(_answer(PLAIN, content=content), CALLS["start"][1])
    assert event.completion == f"assistant: {SAID}"


def test_a_stream_that_breaks_off_is_abandoned_and_estimated() -> None:
    """What came of it is counted."""
    event = _event(_stream(PLAIN)[:-1], CALLS["append stream"][1])
    assert event.status == "abandoned"
    assert (event.prompt_source, event.completion_source) == ("estimated", "estimated")
    assert event.total_token_count > 0


def test_a_stream_that_fails_says_so() -> None:
    """With what came before."""
    error = {"type": "conversation.response.error", "message": "broken", "code": 500}
    event = _event([*_stream(PLAIN)[:-1], error], CALLS["start stream"][1])
    assert event.status == "failed"

"""Odd options and odd texts: a budget alone stops a call, and every call is counted."""

from __future__ import annotations

import sys
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.callbacks import CBEventType, EventPayload

from llama_token_tracker import (
    Budget,
    BudgetExceededError,
    TokenCountingEvent,
    TokenCountingHandler,
)
from llama_token_tracker._log_once import forget_notices
from tests.hostile import NUMBERS, ODD, OPTIONS, TEXTS, HostileObject, HostileText, armed

# Drawn examples take their time.
pytestmark = pytest.mark.slow
patient = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
LLM = CBEventType.LLM
ABOUT = OPTIONS | st.dictionaries(
    st.sampled_from(["class_name", "model", "num_output", "max_tokens", "additional_kwargs"]),
    ODD | OPTIONS,
)


def start(handler: TokenCountingHandler, number: int, **more: Any) -> None:
    """Start a call with these options."""
    payload = {EventPayload.MESSAGES: [ChatMessage("hello")], **more}
    handler.on_event_start(LLM, payload, str(number))


def end(handler: TokenCountingHandler, number: int) -> None:
    """End it."""
    answer = ChatResponse(message=ChatMessage("hi", role="assistant"))
    handler.on_event_end(LLM, {EventPayload.RESPONSE: answer}, str(number))


@patient
@given(
    st.lists(st.tuples(OPTIONS, ABOUT), min_size=1, max_size=4), st.sampled_from(["usd", "tokens"])
)
def test_a_budget_that_warns_stops_no_call(calls: list[Any], limit: str):
    """Whatever stands in the options of a call or in its model's settings."""
    handler = TokenCountingHandler(budget=Budget(**{limit: 1}, on_exceed="warn"))  # type: ignore[arg-type]
    with armed():
        for number, (options, about) in enumerate(calls):
            more = {EventPayload.ADDITIONAL_KWARGS: options, EventPayload.SERIALIZED: about}
            start(handler, number, **more)
            end(handler, number)
    assert len(handler.llm_token_counts) == len(calls)
    assert handler.accounts[0].spent().reserved_tokens == 0


@patient
@given(OPTIONS, ABOUT)
def test_nothing_but_the_budgets_error_crosses(options: Any, about: Any):
    """A limit that is refused is refused by the one error that says so."""
    handler = TokenCountingHandler(budget=Budget(tokens=10_000))
    more = {EventPayload.ADDITIONAL_KWARGS: options, EventPayload.SERIALIZED: about}
    with armed():
        try:
            start(handler, 1, **more)
        except BudgetExceededError:
            pass
        else:
            end(handler, 1)
    assert handler.open_calls == 0


@pytest.mark.parametrize(
    ("value", "reserved"),
    [
        (sys.maxsize, 1_024),
        pytest.param(10**5_000, 1_024, id="huge"),
        (float("nan"), 1_024),
        (0.5, 1_024),
        (True, 1_024),
        ("many", 1_024),
        (-1, 1_024),
        (64.0, 64),
    ],
)
def test_an_odd_limit_is_taken_as_none_stated(
    value: Any, reserved: int, caplog: pytest.LogCaptureFixture
):
    """What the budget assumes is reserved then, which is said once, but for "no limit"."""
    forget_notices()
    handler = TokenCountingHandler(budget=Budget(tokens=10**9))
    for number in range(2):
        start(handler, number, **{EventPayload.ADDITIONAL_KWARGS: {"max_tokens": value}})
    held = handler.accounts[0].spent().reserved_tokens
    assert 2 * reserved < held < 2 * reserved + 50
    said = [one for one in caplog.records if "max_tokens" in one.getMessage()]
    assert len(said) == (0 if value in (-1, 64.0) else 1)


def test_so_many_answers_are_asked_for():
    """A billion answers are a billion times the limit of one."""
    handler = TokenCountingHandler(budget=Budget(tokens=10**6))
    with pytest.raises(BudgetExceededError, match="100,000,000,0"):
        start(handler, 1, **{EventPayload.ADDITIONAL_KWARGS: {"max_tokens": 100, "n": 10**9}})


@patient
@given(
    st.lists(ODD, min_size=1, max_size=3),
    st.sampled_from(["chat", "complete", "embed", "messages"]),
    st.booleans(),
)
def test_texts_of_any_class_are_counted(texts: list[Any], kind: str, keep_text: bool):
    """One call's texts never keep others from being read; each call is an event."""
    handler = TokenCountingHandler(keep_text=keep_text)
    with armed():
        for number, text in enumerate([*texts, "plain"]):
            _call(handler, kind, str(number), text)
        total = handler.total_llm_token_count + handler.total_embedding_token_count
        events = [*handler.llm_token_counts, *handler.embedding_token_counts]
    assert len(events) == len(texts) + 1
    assert total == sum(event.total_token_count for event in events) > 0
    for event in events:
        assert type(event.prompt) is type(event.completion) is str
    assert str(handler)


def _call(handler: TokenCountingHandler, kind: str, event_id: str, text: Any) -> None:
    """A call whose prompt and answer are this."""
    if kind == "embed":
        handler.on_event_start(CBEventType.EMBEDDING, {}, event_id)
        handler.on_event_end(CBEventType.EMBEDDING, {EventPayload.CHUNKS: [text]}, event_id)
        return
    answer: Any = CompletionResponse.model_construct(text=text, raw=None, additional_kwargs={})
    asked: dict[str, Any] = {EventPayload.PROMPT: text}
    if kind != "complete":
        message = ChatMessage("hello")
        message.blocks[0].text = text  # type: ignore[union-attr]
        asked = {EventPayload.MESSAGES: text if kind == "messages" else [message]}
        answer = ChatResponse.model_construct(message=message, raw=None, additional_kwargs={})
    handler.on_event_start(LLM, asked, event_id)
    handler.on_event_end(LLM, {EventPayload.RESPONSE: answer}, event_id)


@patient
@given(ODD, ODD, st.dictionaries(st.sampled_from(["user", "team"]), ODD, max_size=2))
def test_one_odd_event_keeps_no_other_from_being_read(
    model: Any, status: Any, tags: dict[str, Any]
):
    """Whatever an event holds that a program records by itself."""
    handler = TokenCountingHandler()
    fine = TokenCountingEvent("a", "b", 3, 4, model="gpt-4o")
    odd = TokenCountingEvent("a", "b", 1, 2, model=model, provider=status, tags=tags)
    with armed():
        for event in (fine, odd, fine):
            handler.tracker.record(event)
        assert handler.total_llm_token_count >= 14
        assert handler.total_llm_token_count >= 14
        assert isinstance(handler.total_cost_usd, Decimal | None)
        assert handler.summary()


@patient
@given(
    TEXTS.map(HostileText) | NUMBERS | st.builds(HostileObject), st.sampled_from(["model", "user"])
)
def test_tags_and_names_of_any_class(value: Any, name: str):
    """A scope's name may be of a class of its own, and a tag's value may be anything."""
    handler = TokenCountingHandler()
    with armed(), handler.scope(HostileText("step"), **{name: value}):
        _call(handler, "chat", "1", "hello")
    assert handler.by("scope")["step"].calls == 1
    assert str(handler)

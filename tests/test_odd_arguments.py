"""What the package's own functions are given is checked where it's given."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.llms import MockLLM

from llama_token_tracker import (
    Budget,
    PriceError,
    TokenCountingEvent,
    TokenCountingHandler,
    Tracker,
    Usage,
    UsageShapeError,
    count_messages,
    count_tokens,
)
from llama_token_tracker._log_once import forget_notices
from tests.needs import needs


@pytest.mark.parametrize(
    "messages",
    [
        "hello",
        ["hello"],
        {"role": "user", "content": "hello"},
        ({"role": "user", "content": "hello"},),
        ChatMessage("hello"),
        iter([ChatMessage("hello")]),
    ],
    ids=["text", "texts", "dict", "dicts", "message", "iterator"],
)
def test_one_message_is_as_good_as_a_list(messages: Any):
    """A text is the user's message: its one token, and seven around it."""
    counted = count_messages(messages, model="gpt-4o")
    assert (counted.tokens, counted.source) == (8, "counted")


ODD: dict[str, tuple[type[Exception], str, Callable[[], object]]] = {
    "misspelt": (
        TypeError,
        "contnet",
        lambda: count_messages([{"role": "user", "contnet": "hello"}], model="gpt-4o"),
    ),
    "roleless": (TypeError, "role", lambda: count_messages({"content": "hello"}, model="gpt-4o")),
    "number": (TypeError, "message 1 is 5", lambda: count_messages(["a", 5], model="gpt-4o")),
    "nothing": (TypeError, "message 0 is None", lambda: count_messages(None, model="gpt-4o")),
    "no text": (TypeError, "text is None", lambda: count_tokens(None, model="gpt-4o")),  # type: ignore[call-overload]
    "no texts": (TypeError, "text is", lambda: count_tokens([None], model="gpt-4o")),  # type: ignore[list-item]
    "usage": (
        UsageShapeError,
        "input_tokens is '5'; give a whole number",
        lambda: Usage(input_tokens="5"),  # type: ignore[arg-type]
    ),
    "prices": (PriceError, r"give Prices\({", lambda: Tracker(prices={"m": 1})),  # type: ignore[arg-type]
    "event": (TypeError, "give a TokenCountingEvent", lambda: Tracker().record({})),  # type: ignore[arg-type]
    "tags": (ValueError, "the tag 'team' is", lambda: Tracker().scope("x", team=["a", "b"])),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_the_error_says_what_was_found(odd: tuple[type[Exception], str, Callable[[], object]]):
    """And what to give instead."""
    kind, said, call = odd
    with pytest.raises(kind, match=said):
        call()


def test_none_is_no_tag():
    """So a user who isn't known needs no case of its own."""
    with Tracker().scope("outer", user="ada") as outer, Tracker().scope("x", user=None) as scope:
        pass
    assert (scope.tags, outer.tags) == ({}, {"user": "ada"})


def test_any_callable_is_a_tokenizer():
    """A class too, as in LlamaIndex: here each letter is a token."""
    handler = TokenCountingHandler(tokenizer=list)
    MockLLM(callback_manager=CallbackManager([handler])).complete("hello")
    [event] = handler.llm_token_counts
    assert event.prompt_token_count == event.completion_token_count == 5


def test_what_no_call_has_is_said(caplog: pytest.LogCaptureFixture):
    """With the names that calls do have, once; the rows are right all the same."""
    forget_notices()
    handler = TokenCountingHandler(budget=Budget(tokens=10**6, per="modle"))
    llm = MockLLM(callback_manager=CallbackManager([handler]))
    assert handler.by("modle") == {}
    with handler.scope("step", user="ada"):
        llm.complete("hello")
    for _ in range(2):
        assert handler.by("modle")[None].calls == 1
    budget, table = [record.getMessage() for record in caplog.records if "modle" in record.message]
    assert "['user']" in budget
    assert "'model'" in table
    assert "'user'" in table
    forget_notices()


def test_a_budget_of_tokens_prices_nothing():
    """So no call is said to be without a price."""
    usage = Usage(input_tokens=1, output_tokens=1)
    event = TokenCountingEvent("", "", 1, 1, usage=usage, model="gpt-4o", provider="openai")
    tracker = Tracker(budget=[Budget(tokens=100), Budget(usd=100, unpriced="allow")])
    tracker.record(event)
    assert tracker.unpriced_calls == 0
    assert [accounts.spent().unpriced_calls for accounts in tracker.accounts] == [0, 0]


@needs("langchain_core")
def test_a_handler_of_the_other_framework(caplog: pytest.LogCaptureFixture):
    """The error says which is the right one."""
    from langchain_core.language_models import FakeListLLM

    from llama_token_tracker.langchain import TokenCountingCallbackHandler

    caplog.set_level(logging.ERROR)
    model: Any = FakeListLLM(responses=["hi"])
    with pytest.raises(AttributeError, match=r"TokenCountingCallbackHandler\(tracker="):
        model.invoke("hello", {"callbacks": [TokenCountingHandler()]})
    manager = CallbackManager([TokenCountingCallbackHandler()])  # type: ignore[list-item]
    with pytest.raises(AttributeError, match=r"llama_token_tracker\.TokenCountingHandler"):
        MockLLM(callback_manager=manager).complete("hello")

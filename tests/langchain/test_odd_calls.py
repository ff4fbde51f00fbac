"""Odd prompts, messages, options and answers: a budget alone stops a run, and every run counts."""

from __future__ import annotations

import contextlib
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from llama_token_tracker import Budget, BudgetExceededError
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from tests.hostile import HOSTILE, ODD, OPTIONS, HostileList, armed

# Drawn examples take their time.
pytestmark = pytest.mark.slow
patient = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)

MESSAGES = st.one_of(
    ODD,
    st.builds(HumanMessage.model_construct, content=ODD | st.lists(ODD | OPTIONS, max_size=2)),
    st.builds(HumanMessage, content=st.sampled_from(["hello", [{"type": "text", "text": "hi"}]])),
)
PROMPTS = st.one_of(ODD, st.lists(ODD, max_size=3), st.lists(ODD, max_size=2).map(HostileList))
CHATS = st.one_of(
    ODD,
    st.lists(MESSAGES, max_size=2),
    st.lists(st.lists(MESSAGES, max_size=2), max_size=2),
    st.lists(MESSAGES, max_size=2).map(HostileList),
)
METADATA = OPTIONS | st.dictionaries(
    st.sampled_from(["ls_model_name", "ls_provider", "ls_max_tokens", "user"]), ODD
)
ANSWERS = st.one_of(
    ODD,
    st.builds(
        LLMResult.model_construct,
        generations=ODD
        | st.lists(
            st.lists(
                st.builds(Generation.model_construct, text=ODD, generation_info=ODD)
                | st.builds(
                    ChatGeneration.model_construct,
                    text=ODD,
                    message=st.builds(
                        AIMessage.model_construct, content=ODD, usage_metadata=OPTIONS
                    ),
                    generation_info=OPTIONS,
                ),
                max_size=2,
            ),
            max_size=2,
        ),
        llm_output=OPTIONS,
    ),
)


def _run(handler: TokenCountingCallbackHandler, call: tuple[Any, ...]) -> None:
    asked, serialized, metadata, options, chunk, answer, is_chat = call
    run_id = uuid4()
    start = handler.on_chat_model_start if is_chat else handler.on_llm_start
    start(
        serialized,
        asked,
        run_id=run_id,
        metadata=metadata,
        invocation_params=options,
        batch_size=chunk,
    )
    handler.on_llm_new_token("x", chunk=chunk, run_id=run_id)
    handler.on_llm_end(answer, run_id=run_id)


CALLS = st.one_of(
    st.tuples(PROMPTS, OPTIONS, METADATA, OPTIONS, HOSTILE, ANSWERS, st.just(False)),
    st.tuples(CHATS, OPTIONS, METADATA, OPTIONS, HOSTILE, ANSWERS, st.just(True)),
)
PLAIN = (["hello there"], {}, {}, {}, None, LLMResult(generations=[[Generation(text="hi")]]), False)


@patient
@given(st.lists(CALLS, min_size=1, max_size=3), st.booleans())
def test_every_run_is_an_event(calls: list[Any], keep_text: bool) -> None:
    """However odd it is, it's counted, and its siblings are read."""
    handler = TokenCountingCallbackHandler(
        keep_text=keep_text, budget=Budget(usd=1, tokens=1, on_exceed="warn")
    )
    with armed():
        for call in [*calls, PLAIN]:
            _run(handler, call)
        events = handler.llm_token_counts
        total = handler.total_tokens
    assert len(events) == len(calls) + 1
    assert total == sum(event.total_token_count for event in events) > 0
    for event in events:
        assert type(event.prompt) is type(event.completion) is str
    assert handler.open_calls == 0
    assert handler.accounts[0].spent().reserved_tokens == 0
    assert str(handler)


@patient
@given(CALLS)
def test_nothing_but_the_budgets_error_crosses(call: Any) -> None:
    """A run that's refused is refused by the one error that says so."""
    handler = TokenCountingCallbackHandler(budget=Budget(tokens=5_000))
    with armed(), contextlib.suppress(BudgetExceededError):
        _run(handler, call)
    assert handler.open_calls == 0
    assert handler.accounts[0].spent().reserved_tokens == 0

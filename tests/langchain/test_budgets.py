"""Budgets stop a call of LangChain before it's sent, and settle by what it really used."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache

from llama_token_tracker import (
    Budget,
    BudgetError,
    BudgetExceededError,
    TokenCountingHandler,
    Usage,
)
from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.langchain.integrations import (
    INTEGRATIONS,
    STYLES,
    TITAN,
    Integration,
    bedrock_llm,
    each,
)
from tests.langchain.test_handler import Chatting, chatting
from tests.needs import needs

BILL = Usage(input_tokens=30, output_tokens=20)
SAID = {"input_tokens": 30, "output_tokens": 20, "total_tokens": 50}


def limited(*budgets: Budget) -> TokenCountingCallbackHandler:
    """A handler with these budgets."""
    return TokenCountingCallbackHandler(budget=budgets)


def standing(token_counter: TokenCountingCallbackHandler) -> tuple[int, int]:
    """What is spent, and what is reserved."""
    spent = token_counter.accounts[0].spent()
    return spent.tokens, spent.reserved_tokens


@each(INTEGRATIONS)
@pytest.mark.parametrize("style", STYLES)
def test_the_call_that_would_pass_the_limit_is_not_sent(
    integration: Integration, style: str, provider: LoopbackProvider, runner: asyncio.Runner
) -> None:
    """In every style the error reaches the caller, and the provider hears of no request."""
    token_counter = limited(Budget(tokens=5_000, default_max_tokens=4_096))
    model, config = integration.model(provider, style), {"callbacks": [token_counter]}
    provider.script(Reply(usage=Usage(input_tokens=900, output_tokens=200)))
    STYLES[style](model, config, runner.run)
    assert standing(token_counter) == (1_100, 0)
    for _ in range(2):
        with pytest.raises(BudgetExceededError):
            STYLES[style](model, config, runner.run)
    assert len(provider.settle()) == 1
    assert standing(token_counter) == (1_100, 0)
    assert token_counter.failed_calls == []
    assert token_counter.open_calls == 0


@needs("langchain_aws")
def test_what_a_call_says_of_its_output_is_reserved(provider: LoopbackProvider) -> None:
    """LangChain names the limit of each integration alike, that of the single call before all."""
    token_counter = limited(Budget(tokens=100_000, default_max_tokens=7))
    model = bedrock_llm(provider.url(), streaming=True)
    reserved = []
    for more in ({}, {"max_tokens": 1_000}):
        stream = model.stream("hello", {"callbacks": [token_counter]}, **more)
        next(stream)
        reserved.append(standing(token_counter)[1])
        list(stream)
    assert reserved == [7 + 2, 1_000 + 2]
    assert standing(token_counter) == (token_counter.total_tokens, 0)


@needs("langchain_aws")
def test_a_failed_call_gives_its_reservation_back(provider: LoopbackProvider) -> None:
    """It cost nothing."""
    token_counter = limited(Budget(tokens=100, default_max_tokens=90))
    provider.script(*[Reply(status=400)] * 3)
    for _ in range(3):
        with pytest.raises(Exception, match="400"):
            bedrock_llm(provider.url()).invoke("hi", {"callbacks": [token_counter]})
    assert standing(token_counter) == (0, 0)
    assert len(provider.calls) == 3


@needs("langchain_aws")
def test_a_stream_that_is_left_settles_for_what_it_used(provider: LoopbackProvider) -> None:
    """Closed or dropped."""
    token_counter = limited(Budget(tokens=10_000, default_max_tokens=1_000))
    model = bedrock_llm(provider.url(), streaming=True)
    for _ in range(2):
        stream = model.stream("hello", {"callbacks": [token_counter]})
        next(stream)
        stream.close()
    stream = model.stream("hello", {"callbacks": [token_counter]})
    next(stream)
    del stream
    gc.collect()
    assert [event.status for event in token_counter.llm_token_counts] == ["abandoned"] * 3
    assert standing(token_counter) == (token_counter.total_tokens, 0)


@needs("langchain_aws")
def test_a_batch_is_refused_as_a_whole(provider: LoopbackProvider) -> None:
    """Prompts that start together are sent together or not at all, and hold nothing then."""
    token_counter = limited(Budget(tokens=250, default_max_tokens=100))
    model = bedrock_llm(provider.url(), TITAN)
    with pytest.raises(BudgetExceededError):
        model.batch(["one", "two", "three"], {"callbacks": [token_counter]})
    gc.collect()
    assert provider.calls == []
    assert standing(token_counter) == (0, 0)
    assert token_counter.failed_calls == token_counter.llm_token_counts == []
    provider.script(Reply(usage=BILL), Reply(usage=BILL))
    model.batch(["one", "two"], {"callbacks": [token_counter]})
    assert standing(token_counter) == (100, 0)


@needs("langchain_aws")
def test_a_batch_that_fails_half_way_holds_nothing(provider: LoopbackProvider) -> None:
    """Neither for what failed nor for what wasn't sent."""
    token_counter = limited(Budget(tokens=10_000, default_max_tokens=100))
    provider.script(Reply(usage=BILL), Reply(status=400))
    with pytest.raises(Exception, match="400"):
        bedrock_llm(provider.url()).batch(["1", "2", "3", "4"], {"callbacks": [token_counter]})
    gc.collect()
    assert standing(token_counter) == (50, 0)


def test_what_langchains_cache_serves_gives_its_reservation_back() -> None:
    """It's reserved, as nobody knows yet, and costs nothing."""
    token_counter = limited(Budget(tokens=10_000, default_max_tokens=100))
    model = Chatting(answer=chatting(SAID).answer, cache=InMemoryCache())
    for _ in range(3):
        model.invoke("hi", {"callbacks": [token_counter]})
    assert standing(token_counter) == (50, 0)


def test_each_user_has_a_limit_of_their_own() -> None:
    """By a run's metadata."""
    token_counter = limited(Budget(tokens=120, per="user", default_max_tokens=100))
    for user in ("ada", "bob"):
        config: Any = {"callbacks": [token_counter], "metadata": {"user": user}}
        chatting(SAID).invoke("hi", config)
        with pytest.raises(BudgetExceededError) as refused:
            chatting(SAID).invoke("hi", config)
        assert refused.value.account == ("user", user)
    assert {user: row.calls for user, row in token_counter.by("user").items()} == {
        "ada": 1,
        "bob": 1,
    }


def test_the_budgets_of_scopes_and_of_a_given_tracker_hold() -> None:
    """Whoever made the tracker."""
    llama = TokenCountingHandler(budget=Budget(tokens=300, default_max_tokens=100))
    lang = TokenCountingCallbackHandler(tracker=llama.tracker)
    inner = Budget(tokens=120, default_max_tokens=100)
    with lang.scope("request", budget=inner):
        chatting(SAID).invoke("hi", {"callbacks": [lang]})
        with pytest.raises(BudgetExceededError, match="120"):
            chatting(SAID).invoke("hi", {"callbacks": [lang]})
    for _ in range(3):
        chatting(SAID).invoke("hi", {"callbacks": [lang]})
    with pytest.raises(BudgetExceededError, match="300"):
        chatting(SAID).invoke("hi", {"callbacks": [lang]})
    assert standing(lang) == (200, 0)


def test_a_budget_beside_a_tracker_is_refused() -> None:
    """It belongs to the tracker; and what is no budget is none here either."""
    with pytest.raises(ValueError, match="budget came with a tracker"):
        TokenCountingCallbackHandler(
            tracker=TokenCountingHandler().tracker, budget=Budget(tokens=1)
        )
    with pytest.raises(BudgetError, match=r"give a Budget\(...\)"):
        TokenCountingCallbackHandler(budget=7)  # type: ignore[arg-type]


def test_sixteen_threads_never_pass_the_limit() -> None:
    """Each call reserves exactly what it uses at the most, so not one is too many."""
    token_counter = limited(Budget(tokens=5_000, default_max_tokens=49))
    gate = threading.Barrier(16)

    def work(_: int) -> Counter[str]:
        ends: Counter[str] = Counter()
        gate.wait()
        for _ in range(20):
            try:
                # Reserves 50: 2 letters are 1 token beside 49, and a message's 8 more.
                chatting(SAID).invoke("hi", {"callbacks": [token_counter]})
                ends["answered"] += 1
            except BudgetExceededError:
                ends["refused"] += 1
        return ends

    with ThreadPoolExecutor(16) as pool:
        ends = sum(pool.map(work, range(16)), Counter[str]())
    spent, reserved = standing(token_counter)
    assert spent == 50 * ends["answered"] == token_counter.total_tokens <= 5_000
    assert (reserved, ends.total(), token_counter.open_calls) == (0, 320, 0)
    assert ends["answered"] > 90
    assert ends["refused"] > 200

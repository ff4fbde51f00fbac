"""Budgets stop a call of LlamaIndex before it's sent, and settle by what it really used."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import MockLLM
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_token_tracker import Budget, BudgetError, BudgetExceededError, TokenCountingHandler
from llama_token_tracker.pricing import Price
from tests.features import needs_names_in_metadata
from tests.scripted import Asking, Chatty, Scripted, reported

PROMPT = "hello"
ASKED = 2
"""What is reserved for that prompt: 5 bytes, 3 to a token."""


def limited(*budgets: Budget, kind: type[Scripted] = Scripted, **fields: Any) -> Any:
    """A handler with these budgets, and a model that it counts."""
    handler = TokenCountingHandler(
        budget=budgets, prices={"scripted-1": Price(input_mtok=1_000, output_mtok=2_000)}
    )
    fields = {"raw": reported(7, 3), **fields}
    return handler, kind(callback_manager=CallbackManager([handler]), **fields)


def test_the_call_that_would_pass_the_limit_is_not_sent():
    """What was answered before is kept, and what it used is what is spent."""
    handler, llm = limited(Budget(tokens=120))
    assert llm.complete(PROMPT, max_tokens=100).text == "hi"
    assert llm.complete(PROMPT, max_tokens=98).text == "hi"
    with pytest.raises(BudgetExceededError, match="120") as refused:
        llm.complete(PROMPT, max_tokens=100)
    assert llm.calls == 2
    assert handler.total_llm_token_count == 20
    assert (refused.value.spent.tokens, refused.value.asked.tokens) == (20, 100 + ASKED)
    assert handler.accounts[0].spent().reserved_tokens == 0
    assert llm.complete(PROMPT, max_tokens=98).text == "hi"


def test_budget_errors_are_value_errors():
    """As LlamaIndex's own is, so that who catches that catches this."""
    _, llm = limited(Budget(tokens=1))
    with pytest.raises(ValueError, match="larger than the whole limit"):
        llm.complete(PROMPT, max_tokens=100)


@pytest.mark.parametrize(
    ("arguments", "reserved"),
    [
        ({"max_tokens": 100}, 100),
        ({"max_completion_tokens": 90}, 90),
        ({"max_tokens": 50, "n": 2}, 100),
        ({"generation_config": {"max_output_tokens": 80}}, 80),
        ({"max_tokens": -1}, 64),
        ({}, 64),
    ],
)
def test_what_a_call_says_of_its_output_is_reserved(arguments, reserved):
    """Or the budget's default, if it says nothing."""
    handler, llm = limited(Budget(tokens=10_000, default_max_tokens=64), raws=[None])
    stream = llm.stream_complete(PROMPT, **arguments)
    assert handler.accounts[0].spent().reserved_tokens == reserved + ASKED
    list(stream)
    assert handler.accounts[0].spent().reserved_tokens == 0


def test_a_call_within_a_call_reserves_once():
    """`complete()` that asks `chat()` is one call, and so is what it holds."""
    handler, llm = limited(Budget(tokens=10_000, default_max_tokens=64), kind=Chatty)
    assert llm.complete(PROMPT).text == "hi"
    spent = handler.accounts[0].spent()
    assert (spent.tokens, spent.reserved_tokens) == (10, 0)
    assert len(handler.llm_token_counts) == 1


@pytest.mark.parametrize("kind", [Scripted, Chatty])
def test_a_nested_call_fits_where_one_call_fits(kind):
    """A limit with room for one reservation lets it pass."""
    handler, llm = limited(Budget(tokens=70, default_max_tokens=64), kind=kind)
    assert llm.complete(PROMPT).text == "hi"
    assert handler.accounts[0].spent().tokens == 10


def test_a_failed_call_gives_its_reservation_back():
    """It cost nothing."""
    handler, llm = limited(Budget(tokens=100), fails=ConnectionRefusedError("refused"))
    for _ in range(5):
        with pytest.raises(ConnectionError):
            llm.complete(PROMPT, max_tokens=90)
    spent = handler.accounts[0].spent()
    assert (spent.tokens, spent.reserved_tokens, llm.calls) == (0, 0, 5)


def test_an_abandoned_stream_settles_for_what_it_used():
    """Its prompt and what came through: not what was reserved."""
    handler, llm = limited(Budget(tokens=10_000), raws=[None] * 50)
    stream = llm.stream_complete(PROMPT, max_tokens=5_000)
    next(stream)
    stream.close()
    (event,) = handler.llm_token_counts
    spent = handler.accounts[0].spent()
    assert event.status == "abandoned"
    assert (spent.tokens, spent.reserved_tokens) == (event.total_token_count, 0)
    assert 0 < spent.tokens < 50


def test_a_stream_that_is_never_read_gives_its_reservation_back():
    """It was never sent."""
    handler, llm = limited(Budget(tokens=10_000), raws=[None])
    stream = llm.stream_complete(PROMPT, max_tokens=5_000)
    del stream
    spent = handler.accounts[0].spent()
    assert (spent.tokens, spent.reserved_tokens) == (0, 0)


def test_a_silent_call_settles_by_our_count():
    """The next start counts it, if nobody else has."""
    handler, llm = limited(Budget(tokens=150), raw=None)
    llm.complete(PROMPT, max_tokens=100)
    llm.complete(PROMPT, max_tokens=100)
    assert handler.accounts[0].spent().tokens < 30
    assert handler.total_llm_token_count == handler.accounts[0].spent().tokens


def test_each_user_has_a_limit_of_their_own():
    """By tag, whoever else spends at the same time."""
    handler, llm = limited(Budget(tokens=105, per="user"))
    for user in ("ada", "bob"):
        with handler.scope("request", user=user):
            llm.complete(PROMPT, max_tokens=100)
            with pytest.raises(BudgetExceededError) as refused:
                llm.complete(PROMPT, max_tokens=100)
        assert refused.value.account == ("user", user)
    assert llm.calls == 2
    assert handler.accounts[0].spent({"user": "ada"}).tokens == 10


def test_a_scope_may_have_a_limit_of_its_own():
    """It holds for scopes within it, and beside the handler's: in all or in none."""
    handler, llm = limited(Budget(tokens=1_000))
    with handler.scope("outer", budget=Budget(tokens=105)) as outer, handler.scope("inner"):
        llm.complete(PROMPT, max_tokens=100)
        with pytest.raises(BudgetExceededError):
            llm.complete(PROMPT, max_tokens=100)
    llm.complete(PROMPT, max_tokens=100)
    assert outer.accounts[0].spent().tokens == 10
    spent = handler.accounts[0].spent()
    assert (spent.tokens, spent.reserved_tokens) == (20, 0)


@pytest.mark.parametrize(
    ("raw", "tokens"), [(reported(7, 3), 10), (None, 1 + 1)], ids=["reported", "silent"]
)
def test_a_scope_s_limit_holds_for_a_call_within_another(raw, tokens):
    """A model that opens a scope to ask another: what is reserved there is settled there."""
    handler = TokenCountingHandler(tokenizer=str.split)
    manager = CallbackManager([handler])
    asked = Scripted(callback_manager=manager, raw=raw)
    scope = handler.scope("inner", budget=Budget(tokens=10_000))

    def ask(prompt):
        with scope:
            return asked.complete(prompt)

    Asking(callback_manager=manager, ask=ask).complete(PROMPT)
    assert handler.total_llm_token_count == tokens
    spent = scope.accounts[0].spent()
    assert (spent.tokens, spent.reserved_tokens) == (tokens, 0)


def test_a_failed_call_within_another_gives_its_reservation_back():
    """In the scope that it was reserved in."""
    handler = TokenCountingHandler()
    manager = CallbackManager([handler])
    asked = Scripted(callback_manager=manager, fails=ConnectionRefusedError("refused"))
    scope = handler.scope("inner", budget=Budget(tokens=10_000))

    def ask(prompt):
        with scope:
            return asked.complete(prompt)

    with pytest.raises(ConnectionError):
        Asking(callback_manager=manager, ask=ask).complete(PROMPT)
    assert handler.total_llm_token_count == 0
    spent = scope.accounts[0].spent()
    assert (spent.tokens, spent.reserved_tokens) == (0, 0)


def test_a_stream_within_a_stream_settles_in_its_own_scope():
    """As a whole answer does."""
    handler = TokenCountingHandler()
    manager = CallbackManager([handler])
    asked = Scripted(callback_manager=manager, raws=[None, reported(7, 3)])
    scope = handler.scope("inner", budget=Budget(tokens=10_000))

    def ask(prompt):
        with scope:
            yield from asked.stream_complete(prompt)

    assert len(list(Asking(callback_manager=manager, ask=ask).stream_complete(PROMPT))) == 2
    assert handler.total_llm_token_count == 10
    spent = scope.accounts[0].spent()
    assert (spent.tokens, spent.reserved_tokens) == (10, 0)


@needs_names_in_metadata
def test_money_is_limited_by_the_model_s_price():
    """7 tokens in at $1,000 and 3 out at $2,000 a million cost 1.3 cents."""
    handler, llm = limited(Budget(usd="0.25", default_max_tokens=100))
    llm.complete(PROMPT)
    llm.complete(PROMPT)
    assert handler.total_cost_usd == Decimal("0.026")
    assert handler.accounts[0].spent().usd == Decimal("0.026")
    with pytest.raises(BudgetExceededError) as refused:
        llm.complete(PROMPT, max_tokens=112)
    assert refused.value.over == ("usd",)
    assert llm.calls == 2


def test_a_model_without_a_price_is_refused_or_let_through():
    """By choice; the error says how."""
    handler = TokenCountingHandler(budget=Budget(usd=1))
    llm = Scripted(raw=reported(7, 3), callback_manager=CallbackManager([handler]))
    with pytest.raises(BudgetExceededError, match="unpriced"):
        llm.complete(PROMPT)
    assert llm.calls == 0
    handler.tracker = TokenCountingHandler(budget=Budget(usd=1, unpriced="allow")).tracker
    assert llm.complete(PROMPT).text == "hi"


def test_windows_follow_the_clock():
    """What was spent in one window is forgotten in the next."""
    now = [datetime(2026, 11, 22, 12, tzinfo=UTC)]
    handler, llm = limited(Budget(tokens=110, window="1 hour", clock=lambda: now[0]))
    llm.complete(PROMPT, max_tokens=100)
    with pytest.raises(BudgetExceededError) as refused:
        llm.complete(PROMPT, max_tokens=100)
    assert refused.value.until == now[0] + timedelta(hours=1)
    now[0] += timedelta(hours=1)
    llm.complete(PROMPT, max_tokens=100)
    assert handler.accounts[0].spent().tokens == 10


def test_a_warning_lets_calls_pass(caplog):
    """It's logged once a window."""
    _, llm = limited(Budget(tokens=5, on_exceed="warn"))
    llm.complete(PROMPT)
    llm.complete(PROMPT)
    assert llm.calls == 2
    assert caplog.text.count("The call is sent all the same") == 1


def test_a_function_of_the_user_s_may_stop_the_call():
    """What it raises is theirs; nothing is sent, and nothing stays reserved."""

    class Stop(Exception):
        pass

    def stop(error: BudgetExceededError) -> None:
        raise Stop from error

    handler, llm = limited(Budget(tokens=5, on_exceed=stop))
    with pytest.raises(Stop):
        llm.complete(PROMPT)
    assert llm.calls == 0
    assert handler.accounts[0].spent().reserved_tokens == 0


def test_embeddings_count_too():
    """They reserve their texts, and settle for what they used."""
    handler = TokenCountingHandler(budget=Budget(tokens=30))
    model = MockEmbedding(embed_dim=2, callback_manager=CallbackManager([handler]))
    model.get_text_embedding_batch(["one two three", "four five six"])
    first = handler.total_embedding_token_count
    assert handler.accounts[0].spent().tokens == first == 6
    with pytest.raises(BudgetExceededError):
        model.get_text_embedding("word " * 40)
    assert handler.total_embedding_token_count == first


def test_cached_embeddings_cost_nothing():
    """A text that a cache serves neither reserves nor spends."""
    handler = TokenCountingHandler(budget=Budget(tokens=30))
    model = MockEmbedding(
        embed_dim=2, callback_manager=CallbackManager([handler]), embeddings_cache=SimpleKVStore()
    )
    for _ in range(20):
        model.get_text_embedding_batch(["one two three", "four five six"])
    spent = handler.accounts[0].spent()
    assert (spent.tokens, spent.reserved_tokens) == (6, 0)


def test_async_calls_and_streams_are_stopped_as_well():
    """Where they are awaited, before anything is sent."""
    _, llm = limited(Budget(tokens=5))

    async def main() -> None:
        with pytest.raises(BudgetExceededError):
            await llm.acomplete(PROMPT)
        with pytest.raises(BudgetExceededError):
            await llm.astream_complete(PROMPT)
        with pytest.raises(BudgetExceededError):
            llm.stream_complete(PROMPT)

    asyncio.run(main())
    assert llm.calls == 0


class Slow(Scripted):
    """Waits for others while its call is under way."""

    barrier: Any = None

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Ask, together with others."""
        with contextlib.suppress(threading.BrokenBarrierError):
            self.barrier.wait(0.05)
        return super().complete(prompt, formatted=formatted, **kwargs)


def test_threads_that_race_never_pass_the_limit():
    """32 threads ask for more than there is: nobody who was refused is sent, no answer is lost."""
    handler, llm = limited(Budget(tokens=1_000), kind=Slow, barrier=threading.Barrier(32))
    answers: list[str] = []
    refusals: list[int] = []

    def ask() -> None:
        for _ in range(20):
            try:
                answers.append(llm.complete(PROMPT, max_tokens=8).text)
            except BudgetExceededError as error:
                refusals.append(error.spent.tokens)

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spent = handler.accounts[0].spent()
    assert len(answers) + len(refusals) == 32 * 20
    assert len(answers) == len(handler.llm_token_counts) == 100
    # Every reservation is what the call then used, so not a token too many is spent.
    assert spent.tokens == handler.total_llm_token_count == 1_000
    assert spent.reserved_tokens == 0


def test_an_estimate_that_was_too_low_overspends_by_no_more_than_its_error():
    """Each call reserves 4 tokens and uses 10: those under way pass the limit by 6 each."""
    handler, llm = limited(Budget(tokens=400), kind=Slow, barrier=threading.Barrier(32))
    under_way = 32

    def ask() -> None:
        for _ in range(10):
            with contextlib.suppress(BudgetExceededError):
                llm.complete(PROMPT, max_tokens=2)

    threads = [threading.Thread(target=ask) for _ in range(under_way)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 400 - 4 < handler.total_llm_token_count <= 400 + under_way * 6
    with pytest.raises(BudgetExceededError):
        llm.complete(PROMPT, max_tokens=2)


@pytest.fixture(params=[7, "2 dollars", [Budget(tokens=1), None]])
def odd(request: pytest.FixtureRequest) -> Iterator[Any]:
    """What is no budget."""
    return request.param


def test_what_is_no_budget_is_refused(odd):
    """Where it's given, with what to give instead."""
    with pytest.raises(BudgetError, match="give a Budget"):
        TokenCountingHandler(budget=odd)


def test_token_budget_stays_as_it_is_in_llama_index():
    """It raises when the answer is there, in LlamaIndex's words."""
    handler = TokenCountingHandler(token_budget=5)
    llm = Scripted(raw=reported(7, 3), callback_manager=CallbackManager([handler]))
    with pytest.raises(ValueError, match="Token budget exceeded! Limit: 5, Current: 10"):
        llm.complete(PROMPT)
    assert llm.calls == 1


def test_a_model_s_settings_tell_its_output():
    """What its constructor was given is reserved, if the call itself says nothing."""
    handler = TokenCountingHandler(budget=Budget(tokens=10_000))
    llm = MockLLM(max_tokens=300, callback_manager=CallbackManager([handler]))
    llm.stream_complete(PROMPT)
    stream = llm.stream_complete(PROMPT)
    assert handler.accounts[0].spent().reserved_tokens == 300 + ASKED
    list(stream)

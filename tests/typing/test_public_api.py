"""What type checkers make of the public names: mypy and pyright read this file strictly."""

from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import assert_type

from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks import TokenCountingHandler as LlamaIndexHandler

from llama_token_tracker import (
    Budget,
    BudgetExceededError,
    SqlAccounts,
    TokenCountingEvent,
    TokenCountingHandler,
    Usage,
    extract_usage,
)
from llama_token_tracker.budgets import Accounts, AccountStore, MemoryAccounts
from llama_token_tracker.testing import Call, LoopbackProvider, Reply, ToolCall


def test_a_handler_is_typed() -> None:
    """Totals are integers, lists hold events, and LlamaIndex takes the handler as its own."""
    handler = TokenCountingHandler()
    CallbackManager([handler])
    drop_in: LlamaIndexHandler = handler
    assert_type(drop_in.total_llm_token_count, int)
    assert_type(handler.total_llm_token_count, int)
    assert_type(handler.prompt_llm_token_count, int)
    assert_type(handler.completion_llm_token_count, int)
    assert_type(handler.total_embedding_token_count, int)
    for event in handler.llm_token_counts:
        checked: TokenCountingEvent = event
        assert_type(checked.usage, Usage)


def test_an_event_is_typed() -> None:
    """What may be unknown says so in its type."""
    event = TokenCountingEvent("prompt", "completion", 2, 1)
    assert_type(event.total_token_count, int)
    assert_type(event.model, str | None)
    assert_type(event.started_at, datetime | None)
    assert_type(event.usage.cache_read_tokens, int | None)


def test_a_loopback_provider_is_typed() -> None:
    """What a provider was asked and what it billed have types of their own."""
    with LoopbackProvider(default=Reply("Paris", Usage(input_tokens=1))) as provider:
        provider.script(Reply(usage=None, tool_calls=[ToolCall("add", {"a": 1})]), model="gpt")
        assert_type(provider.url("bedrock"), str)
        assert_type(provider.environment(), dict[str, str])
        assert_type(provider.billed, list[Usage])
        for call in provider.calls:
            assert_type(call, Call)
            assert_type(call.reported, Usage | None)


def test_an_extraction_is_typed() -> None:
    """A response may carry no usage."""
    assert_type(extract_usage({"usage": {"prompt_tokens": 1}}), Usage | None)


def test_a_budget_is_typed(tmp_path: Path) -> None:
    """A limit may be given in many types, and is kept in one."""
    budgets = [
        Budget(usd=2, tokens=1_000_000, per="user", window="1 day", on_exceed="raise"),
        Budget(usd=0.5, window=timedelta(hours=1), on_exceed="warn", unpriced="allow"),
        Budget(usd="0.5", on_exceed=print),
        Budget(usd=Decimal("0.5"), default_max_tokens=100),
        Budget(tokens=100, shared=MemoryAccounts(), at={0.8: print, 1: print}, away="refuse"),
    ]
    store: AccountStore = SqlAccounts(tmp_path / "usage.db", lease_s=30)
    assert_type(Budget(tokens=1, shared=store).name, str | None)
    assert_type(budgets[0].usd, Decimal | None)
    assert_type(budgets[0].tokens, int | None)
    accounts = Accounts(budgets[0])
    call = accounts.reserve({}, None, input_tokens=1, output_tokens=1, usd=Decimal(1))
    call.settle(2, None)
    assert_type(accounts.spent().usd, Decimal)
    assert_type(accounts.spent().until, datetime | None)
    try:
        accounts.reserve({}, None, input_tokens=10**7, output_tokens=None, usd=None)
    except BudgetExceededError as error:
        assert_type(error.asked.usd, Decimal | None)
        assert_type(error.account, tuple[str | None, str | None])

"""What an error says, and what it knows."""

import copy
import pickle
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from llama_token_tracker import Budget, BudgetExceededError, LlamaTokenTrackerError
from llama_token_tracker.budgets import Accounts

from .spending import Clock, refusal, reserve

HELD = {"tokens": 300, "output": 50, "usd": Decimal("0.35")}
"""What other calls hold in the examples below."""


@pytest.mark.parametrize(
    ("budget", "call", "message"),
    [
        (
            {"tokens": 5_000, "per": "user", "window": "1 day"},
            {"tokens": 1_476, "output": 2_024, "user": "ann"},
            "Budget exceeded for user 'ann': the call may use 3,500 tokens (1,476 in, up to 2,024 "
            "out), but of 5,000 tokens 2,000 are spent and 350 are reserved by calls under way. "
            "The window ends at 2026-11-23 00:00:00 UTC. Lower max_tokens, wait for the next "
            "window, or raise the limit.",
        ),
        (
            {"tokens": 5_000, "per": "user", "window": "1 day"},
            {"tokens": 976, "output": 2_024, "user": "ann"},
            "Budget exceeded for user 'ann': the call may use 3,000 tokens (976 in, up to 2,024 "
            "out), but of 5,000 tokens 2,000 are spent and 350 are reserved by calls under way. "
            "The window ends at 2026-11-23 00:00:00 UTC. Lower max_tokens, wait for calls under "
            "way to end, or raise the limit.",
        ),
        (
            {"tokens": 5_000},
            {"tokens": 1_000, "output": 4_001, "user": "ann"},
            "Budget exceeded for all calls: the call may use 5,001 tokens (1,000 in, up to 4,001 "
            "out), but of 5,000 tokens 2,000 are spent and 350 are reserved by calls under way. "
            "The limit has no window: it is for good. It is larger than the whole limit: lower "
            "max_tokens to at most 4,000, or raise the limit.",
        ),
        (
            {"tokens": 5_000, "per": "user"},
            {"tokens": 5_001, "output": None},
            "Budget exceeded for calls without a tag 'user' (their account is None): the call may "
            "use 6,025 tokens (5,001 in, up to 1,024 out), but of 5,000 tokens 2,000 are spent and "
            "350 are reserved by calls under way. The limit has no window: it is for good. The "
            "call states no max_tokens, so default_max_tokens (1,024) is assumed. Its input alone "
            "is larger than the whole limit: shorten it, or raise the limit.",
        ),
        (
            {"usd": 2, "per": "scope"},
            {"usd": Decimal("0.5"), "scope": "request"},
            "Budget exceeded for scope 'request': the call may cost $0.5, but of $2 $1.25 is spent "
            "and $0.35 is reserved by calls under way. The limit has no window: it is for good. "
            "Lower max_tokens, wait for calls under way to end, or raise the limit.",
        ),
        (
            {"usd": 2, "per": "scope"},
            {"usd": Decimal("0.76")},
            "Budget exceeded for calls outside every scope (their account is None): the call may "
            "cost $0.76, but of $2 $1.25 is spent and $0.35 is reserved by calls under way. The "
            "limit has no window: it is for good. Lower max_tokens, or raise the limit.",
        ),
        (
            {"usd": "20e-1"},
            {"usd": Decimal("2.01")},
            "Budget exceeded for all calls: the call may cost $2.01, but of $2.0 $1.25 is spent "
            "and $0.35 is reserved by calls under way. The limit has no window: it is for good. "
            "It is larger than the whole limit: lower max_tokens, or raise the limit.",
        ),
        (
            {"usd": 2},
            {"usd": None},
            "Budget exceeded for all calls: the price of the call is not known, and of $2 $1.25 is "
            "spent and $0.35 is reserved by calls under way. The limit has no window: it is for "
            "good. Give its model a price, or let such calls pass with "
            'Budget(..., unpriced="allow").',
        ),
        (
            {"tokens": 3_000, "usd": 2},
            {"tokens": 1_000, "usd": Decimal(1)},
            "Budget exceeded for all calls: the call may use 1,000 tokens (1,000 in, up to 0 out), "
            "but of 3,000 tokens 2,000 are spent and 350 are reserved by calls under way; the call "
            "may cost $1, but of $2 $1.25 is spent and $0.35 is reserved by calls under way. The "
            "limit has no window: it is for good. Lower max_tokens, wait for calls under way to "
            "end, or raise the limit. Lower max_tokens, or raise the limit.",
        ),
    ],
)
def test_an_error_says_what_was_found_and_the_way_out(
    budget: dict[str, Any], call: dict[str, Any], message: str
):
    """The limit, what is spent, reserved and asked for, by whom, until when, and what to do."""
    accounts = Accounts(Budget(**budget, clock=Clock()))
    tags = {"user": call["user"]} if "user" in call else {}
    accounts.spend(tags, call.get("scope"), 2_000, Decimal("1.25"))
    whose = {name: call[name] for name in ("user", "scope") if name in call}
    held = reserve(accounts, **HELD, **whose)
    assert str(refusal(accounts, **call)) == message
    held.release()


def test_an_error_knows_what_it_says():
    """All that a message says can be read without parsing it."""
    budget = Budget(tokens=5_000, usd=2, per="user", window="1 day", clock=Clock())
    accounts = Accounts(budget)
    accounts.spend({"user": "ann"}, None, 2_000, Decimal("1.25"))
    held = reserve(accounts, **HELD, user="ann")
    error = refusal(accounts, 4_000, 50, Decimal("0.3"), user="ann")
    assert isinstance(error, ValueError)
    assert isinstance(error, LlamaTokenTrackerError)
    assert error.budget is budget
    assert error.over == ("tokens",)
    assert (error.limit.tokens, error.limit.usd) == (5_000, 2)
    assert (error.spent.tokens, error.spent.usd) == (2_000, Decimal("1.25"))
    assert (error.reserved.tokens, error.reserved.usd) == (350, Decimal("0.35"))
    assert (error.asked.tokens, error.asked.usd) == (4_050, Decimal("0.3"))
    assert error.account == ("user", "ann")
    assert error.until == datetime(2026, 11, 23, tzinfo=UTC)
    held.release()


def test_an_error_travels():
    """An error that a worker's process raises arrives whole."""
    error = refusal(Accounts(Budget(tokens=10, per="user")), 11, user="ann")
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is BudgetExceededError
        assert (str(twin), twin.__dict__) == (str(error), error.__dict__)


def test_a_long_name_is_shortened():
    """A tag that holds a document doesn't fill the log with it."""
    assert len(str(refusal(Accounts(Budget(tokens=1, per="user")), 2, user="x" * 10**6))) < 500

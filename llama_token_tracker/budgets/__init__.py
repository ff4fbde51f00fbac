"""Limits on tokens and money that stop a call before it is sent.

A call reserves what it may use at its start and settles what it did use at its end. `Budget` is
the limit, `Accounts` what was spent and reserved under it, `Reservation` one call's share of that.
Nothing here knows LlamaIndex, or where a price comes from.
"""

from llama_token_tracker.budgets.accounts import Accounts, reserve_all
from llama_token_tracker.budgets.budget import (
    DEFAULT_MAX_TOKENS,
    Away,
    Budget,
    OnExceed,
    OnReach,
    Price,
    Reached,
    Spent,
    Unpriced,
)
from llama_token_tracker.budgets.redis_accounts import RedisAccounts
from llama_token_tracker.budgets.reservations import Reservation
from llama_token_tracker.budgets.store import (
    AccountStore,
    Hold,
    Limits,
    MemoryAccounts,
    Standing,
    Used,
)
from llama_token_tracker.budgets.table import MAX_ACCOUNTS
from llama_token_tracker.errors import Amount, BudgetError, BudgetExceededError, Over

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "MAX_ACCOUNTS",
    "AccountStore",
    "Accounts",
    "Amount",
    "Away",
    "Budget",
    "BudgetError",
    "BudgetExceededError",
    "Hold",
    "Limits",
    "MemoryAccounts",
    "OnExceed",
    "OnReach",
    "Over",
    "Price",
    "Reached",
    "RedisAccounts",
    "Reservation",
    "Spent",
    "Standing",
    "Unpriced",
    "Used",
    "reserve_all",
]

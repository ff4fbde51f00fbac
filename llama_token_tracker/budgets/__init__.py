"""Limits on tokens and money that stop a call before it is sent.

A call reserves what it may use at its start and settles what it did use at its end. `Budget` is
the limit, `Accounts` what was spent and reserved under it, `Reservation` one call's share of that.
Nothing here knows LlamaIndex, or where a price comes from.
"""

from llama_token_tracker.budgets.accounts import MAX_ACCOUNTS
from llama_token_tracker.budgets.budget import (
    DEFAULT_MAX_TOKENS,
    Budget,
    OnExceed,
    Price,
    Unpriced,
)
from llama_token_tracker.budgets.reservations import Accounts, Reservation, Spent, reserve_all
from llama_token_tracker.errors import Amount, BudgetError, BudgetExceededError, Over

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "MAX_ACCOUNTS",
    "Accounts",
    "Amount",
    "Budget",
    "BudgetError",
    "BudgetExceededError",
    "OnExceed",
    "Over",
    "Price",
    "Reservation",
    "Spent",
    "Unpriced",
    "reserve_all",
]

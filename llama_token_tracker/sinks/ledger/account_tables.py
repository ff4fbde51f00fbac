"""The tables of budgets' accounts, which every ledger has: see `SqlAccounts`."""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, PrimaryKeyConstraint, Table, Text

from llama_token_tracker.sinks.ledger.schema import METADATA

ACCOUNTS: Final = Table(
    "ledger_accounts",
    METADATA,
    Column("budget", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("end_us", BigInteger, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("nanodollars", BigInteger, nullable=False),
    Column("unpriced", BigInteger, nullable=False),
    Column("reserved_tokens", BigInteger, nullable=False),
    Column("reserved_nanodollars", BigInteger, nullable=False),
    PrimaryKeyConstraint("budget", "key"),
    sqlite_with_rowid=False,
)
"""What is spent in an account's window, which ends at `end_us`, and what is reserved."""

HOLDS: Final = Table(
    "ledger_accounts_holds",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("budget", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("nanodollars", BigInteger, nullable=False),
    Column("expires_us", BigInteger, nullable=False),
    Column("is_counted", BigInteger, nullable=False),
    Index("ledger_accounts_holds_account", "budget", "key", "is_counted", "expires_us"),
    sqlite_with_rowid=False,
)
"""Reservations. `is_counted`: 1 while it's part of its account's sum, 0 once its lease is over."""

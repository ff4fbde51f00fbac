"""The accounts of one budget: what was spent in the current window, and what is reserved.

Their number is bounded; `Accounts` describes the rule by which they are dropped.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

from llama_token_tracker._log_once import notice
from llama_token_tracker.budgets.amounts import attodollars_of, usd_of
from llama_token_tracker.budgets.budget import Budget, Spent
from llama_token_tracker.budgets.shared import shared_by
from llama_token_tracker.budgets.thresholds import levels_of
from llama_token_tracker.budgets.windows import end_of, length_of, time_by
from llama_token_tracker.errors import Over

MAX_ACCOUNTS: Final = 10_000
"""How many accounts of one budget are told apart."""


class Account:
    """What calls of one value of `per` have spent, and what those under way have reserved.

    The lock lets its own thread in a second time, when the garbage collector closes a stream. So
    the sums are changed by plain additions, between which the collector doesn't run.
    """

    __slots__ = (
        "assumed_attodollars",
        "assumed_tokens",
        "attodollars",
        "epoch",
        "open",
        "reserved_attodollars",
        "reserved_tokens",
        "tokens",
        "unpriced",
        "warned",
    )

    SPENT: ClassVar = (
        "assumed_tokens",
        "assumed_attodollars",
        "tokens",
        "unpriced",
        "attodollars",
        "warned",
    )
    """What belongs to the window, and not to the calls under way."""

    def __init__(self, epoch: int, tokens: int = 0, attodollars: int = 0) -> None:
        self.open = 0
        self.reserved_tokens = 0
        self.reserved_attodollars = 0
        self.start(epoch, tokens, attodollars)

    def start(self, epoch: int, tokens: int = 0, attodollars: int = 0) -> None:
        """Begin a window: what was spent is forgotten, what is reserved is carried over."""
        self.epoch = epoch
        self.tokens = self.assumed_tokens = tokens
        self.attodollars = self.assumed_attodollars = attodollars
        self.unpriced = 0
        self.warned: frozenset[Over] = frozenset()


class AccountTable:
    """All accounts of one budget, by name. Who calls a method that changes it holds the lock."""

    def __init__(self, budget: Budget, max_accounts: int) -> None:
        self.budget = budget
        self.max_accounts = max_accounts
        self.limit_tokens = budget.tokens
        self.limit_attodollars = None if budget.usd is None else attodollars_of(budget.usd)
        self.shared = shared_by(budget)
        """Its accounts in a store; these here are then what this process knows of them."""
        self.levels = levels_of(budget) if self.shared is None else ()
        # Compared here, without the lock: an object of the user's may compare by code of its own.
        self.refuses = not callable(budget.on_exceed) and budget.on_exceed == "raise"
        self.refuses_unpriced = budget.unpriced == "refuse"
        self._per_token = _weight(self.limit_tokens)
        self._per_attodollar = _weight(self.limit_attodollars)
        self.until: datetime | None = None
        self._length = None if budget.window is None else length_of(budget.window)
        self._batch = max(1, max_accounts // 10)
        self._full_at = max_accounts
        self._accounts: dict[str | None, Account] = {}
        self._epoch = 0
        self._floor_tokens = 0
        self._floor_attodollars = 0

    def __len__(self) -> int:
        """How many accounts there are."""
        return len(self._accounts)

    # --- what may run users' code, and so comes before the lock ----------------------------

    def key(self, tags: Mapping[str, str], scope: str | None) -> str | None:
        """The name of the account that a call belongs to."""
        per = self.budget.per
        if per is None:
            return None
        value: object = scope if per == "scope" else tags.get(per)
        if value is None and per != "scope":
            found, consequence = list(tags), "those without it share one account"
            notice("a call has no tag {}, which its budget is per", found, consequence, per)
        if value is None or type(value) is str:
            return value
        # No subclass, which might compare in a way of its own, under the lock.
        return str.__str__(str(value))

    def time(self) -> datetime | None:
        """The time in UTC; `None` if it doesn't matter, or if the clock fails."""
        try:
            return None if self._length is None else time_by(self.budget.clock)
        except Exception as error:  # noqa: BLE001 - a user's clock may raise anything
            notice("a budget's clock failed", error, "the call counts in the last known window")
            return None

    # --- accounts and windows ---------------------------------------------------------------

    def account(self, key: str | None, now: datetime | None) -> Account:
        """The account of this name, in the window of this time."""
        self.roll(now)
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= self._full_at:
                self._make_room()
            # Not by assignment: the collector may have brought a call of the same name.
            account = self._accounts.setdefault(key, self._newcomer())
        elif account.epoch != self._epoch:
            account.start(self._epoch)
        return account

    def peek(self, key: str | None, now: datetime | None) -> Account:
        """The account of this name, or for a name without any one that isn't kept."""
        self.roll(now)
        return self.account(key, now) if key in self._accounts else self._newcomer()

    def carry_over(self, account: Account, now: datetime | None) -> None:
        """Bring an account into the window of this time, with what is reserved."""
        self.roll(now)
        if account.epoch != self._epoch:
            account.start(self._epoch)

    def roll(self, now: datetime | None) -> None:
        """Start a new window if the last one has ended by this time."""
        if now is not None and self._length is not None:
            until = self.until
            if until is None or now >= until:
                self.start(end_of(self._length, now))

    def start(self, until: datetime | None) -> None:
        """Start a window. Accounts find out when they're next used, however many they are."""
        self.until = until
        self._epoch += 1
        self._floor_tokens = self._floor_attodollars = 0

    def _newcomer(self) -> Account:
        return Account(self._epoch, self._floor_tokens, self._floor_attodollars)

    def _make_room(self) -> None:
        """Drop a tenth of the accounts, so that as many newcomers cost nothing."""
        # A list, as the collector may bring another call while this goes on.
        idle = [(key, account) for key, account in list(self._accounts.items()) if not account.open]
        idle.sort(key=self.share)
        for key, account in idle[: len(self._accounts) - self.max_accounts + self._batch]:
            if account.open:
                continue
            # Before it goes: whoever has no account is assumed to have spent as much.
            if account.epoch == self._epoch:
                if account.tokens > self._floor_tokens:
                    self._floor_tokens = account.tokens
                if account.attodollars > self._floor_attodollars:
                    self._floor_attodollars = account.attodollars
            self._accounts.pop(key, None)
        self._full_at = max(self.max_accounts, len(self._accounts) + self._batch)

    def share(self, item: tuple[str | None, Account]) -> float:
        """How much of its limits an account has used up in this window."""
        account = item[1]
        if account.epoch != self._epoch:
            return 0.0
        tokens = account.tokens * self._per_token
        money = account.attodollars * self._per_attodollar
        return tokens if tokens > money else money

    def kept(self, now: datetime | None) -> list[tuple[str | None, Account]]:
        """All accounts that are kept, by name, with the window of this time begun."""
        self.roll(now)
        return list(self._accounts.items())

    # --- copies -----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What is spent; reservations belong to calls of this process."""
        return {
            "until": self.until,
            "floor": (self._floor_tokens, self._floor_attodollars),
            "accounts": {
                key: {name: getattr(account, name) for name in Account.SPENT}
                for key, account in list(self._accounts.items())
                if account.epoch == self._epoch
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over the `state` of another table."""
        self.until = state["until"]
        self._floor_tokens, self._floor_attodollars = state["floor"]
        for key, spent in state["accounts"].items():
            account = self._accounts[key] = Account(self._epoch)
            for name, value in spent.items():
                setattr(account, name, value)


def spent_of(account: Account, until: datetime | None) -> Spent:
    """The state of an account, as users read it."""
    return Spent(
        tokens=account.tokens,
        usd=usd_of(account.attodollars),
        reserved_tokens=account.reserved_tokens,
        reserved_usd=usd_of(account.reserved_attodollars),
        unpriced_calls=account.unpriced,
        assumed_tokens=account.assumed_tokens,
        assumed_usd=usd_of(account.assumed_attodollars),
        until=until,
    )


def _weight(limit: int | None) -> float:
    """Which part of a limit one unit is."""
    return 0.0 if limit is None else 1 / max(limit, 1)

"""The part of a reservation that is in one budget's account: in memory, or in a store.

A shared account stands in memory as well, as far as this process knows it: what the store said
last, and what calls of this process use. By that calls are held while the store is away.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TypeAlias, cast

from llama_token_tracker.budgets.amounts import attodollars_of
from llama_token_tracker.budgets.budget import Price, Spent
from llama_token_tracker.budgets.shared import ATTO_A_NANO, SharedBudget
from llama_token_tracker.budgets.store import Hold, Standing
from llama_token_tracker.budgets.table import Account, AccountTable, spent_of
from llama_token_tracker.budgets.thresholds import Level, crossed
from llama_token_tracker.budgets.violations import Violation
from llama_token_tracker.budgets.windows import time_of
from llama_token_tracker.errors import Over

Reached: TypeAlias = tuple[Sequence[Level], Spent]
"""Thresholds that a call has reached, and what was spent then."""


class Part:
    """The part of a reservation that is in one budget's account.

    It's made without the lock, as a price is users' code; who calls a method holds the lock.
    """

    __slots__ = (
        "account",
        "attodollars",
        "input_tokens",
        "key",
        "now",
        "states_output",
        "table",
        "tokens",
    )

    def __init__(
        self,
        table: AccountTable,
        key: str | None,
        now: datetime | None,
        input_tokens: int,
        output_tokens: int | None,
        usd: Decimal | Price | None,
    ) -> None:
        expected = table.budget.default_max_tokens if output_tokens is None else output_tokens
        if callable(usd):
            usd = None if table.limit_attodollars is None else usd(input_tokens, expected)
        self.table = table
        self.key = key
        self.now = now
        self.input_tokens = input_tokens
        self.tokens = input_tokens + expected
        self.states_output = output_tokens is not None
        self.attodollars = None if usd is None else attodollars_of(usd)
        self.account: Account | None = None

    def reserve(self) -> Violation | None:
        """Reserve, whatever the limit is.

        Returns:
            What is violated if that passes the limit, and `None` if it doesn't.
        """
        account = self.account = self.table.account(self.key, self.now)
        account.open += 1
        account.reserved_tokens += self.tokens
        account.reserved_attodollars += self.attodollars or 0
        over = self._over(account)
        return self._violation(account, over) if over else None

    def _over(self, account: Account) -> tuple[Over, ...]:
        table = self.table
        tokens, attodollars = table.limit_tokens, table.limit_attodollars
        over: list[Over] = []
        if tokens is not None and account.tokens + account.reserved_tokens > tokens:
            over.append("tokens")
        if attodollars is not None:
            if account.attodollars + account.reserved_attodollars > attodollars:
                over.append("usd")
            if self.attodollars is None and table.refuses_unpriced:
                over.append("unpriced")
        return tuple(over)

    def _violation(self, account: Account, over: tuple[Over, ...]) -> Violation:
        return Violation(
            budget=self.table.budget,
            key=self.key,
            over=over,
            input_tokens=self.input_tokens,
            output_tokens=self.tokens - self.input_tokens,
            states_output=self.states_output,
            attodollars=self.attodollars,
            spent_tokens=account.tokens,
            spent_attodollars=account.attodollars,
            reserved_tokens=account.reserved_tokens - self.tokens,
            reserved_attodollars=account.reserved_attodollars - (self.attodollars or 0),
            assumed_tokens=account.assumed_tokens,
            assumed_attodollars=account.assumed_attodollars,
            until=self.table.until,
        )

    def should_notify(self, over: tuple[Over, ...]) -> bool:
        """Whether the user is to be notified that this call passes these limits."""
        account = self.account
        if callable(self.table.budget.on_exceed):
            return True
        if account is None or account.warned.issuperset(over):
            return False
        account.warned = account.warned.union(over)
        return True

    def settle(
        self, tokens: int | None, attodollars: int | None, now: datetime | None
    ) -> Reached | None:
        """Spend what was used in the place of what was reserved; `None` if that isn't known.

        Returns:
            The thresholds that it has reached, if it has reached any.
        """
        account = self.account
        if account is None:
            return None
        table = self.table
        table.carry_over(account, now)
        before = account.tokens, account.attodollars
        # No call from here on, so that nothing interrupts it, and nobody comes between.
        self.account = None
        # Unknown is not zero: what was reserved is the best that is known.
        account.tokens += self.tokens if tokens is None else tokens
        account.attodollars += (self.attodollars or 0) if attodollars is None else attodollars
        account.unpriced += attodollars is None and table.limit_attodollars is not None
        account.open -= 1
        account.reserved_tokens -= self.tokens
        account.reserved_attodollars -= self.attodollars or 0
        if not table.levels:
            return None
        levels = crossed(table.levels, before, (account.tokens, account.attodollars))
        return (levels, spent_of(account, table.until)) if levels else None

    def release(self) -> None:
        """Give back what was reserved, if it was."""
        account, self.account = self.account, None
        if account is not None:
            account.open -= 1
            account.reserved_tokens -= self.tokens
            account.reserved_attodollars -= self.attodollars or 0


class SharedPart(Part):
    """The part that is in an account which others share.

    What asks the store holds no lock, and comes before what's done in memory.
    """

    __slots__ = ("_hold", "_is_handed_in", "_pid", "_shared", "_standing")

    def __init__(
        self,
        table: AccountTable,
        key: str | None,
        now: datetime | None,
        input_tokens: int,
        output_tokens: int | None,
        usd: Decimal | Price | None,
    ) -> None:
        super().__init__(table, key, now, input_tokens, output_tokens, usd)
        self._shared = cast("SharedBudget", table.shared)
        self._pid = self._shared.client.pid
        self._hold: Hold = self._shared.hold(key, self.tokens, self.attodollars or 0)
        self._standing: Standing | None = None
        self._is_handed_in = False

    # --- without the lock -------------------------------------------------------------------

    def ask(self) -> None:
        """Reserve in the store."""
        self._standing = self._shared.reserve(self._hold)

    def hand_in(self, tokens: int | None, attodollars: int | None) -> None:
        """Spend in the store; what happens twice counts once."""
        if self._is_handed_in:
            return
        standing = self._standing
        self._standing = self._shared.settle(
            self._hold,
            self.tokens if tokens is None else tokens,
            (self.attodollars or 0) if attodollars is None else attodollars,
            int(attodollars is None and self.table.limit_attodollars is not None),
            is_reserved=standing is not None and standing.is_held,
        )
        self._is_handed_in = True

    def give_back(self) -> None:
        """Give back what's reserved in the store; in a forked child it's the parent's."""
        standing = self._standing
        is_held = standing is not None and standing.is_held and not self._is_handed_in
        if is_held and self._shared.client.pid == self._pid:
            self._shared.client.release(self._hold)

    # --- with the lock ----------------------------------------------------------------------

    def reserve(self) -> Violation | None:
        """Take what the store has answered; if it's away, ask what this process knows."""
        standing = self._standing
        if standing is None:
            found = super().reserve()
            if self.table.budget.away == "refuse" and self.account is not None:
                return self._violation(self.account, ("away",))
            return found
        self.now = time_of(standing.now_us)
        super().reserve()
        self._take_over(standing)
        seen = self._seen(standing)
        over = self._over(seen)
        if not (over or standing.is_held):
            over = ("usd",) if self.table.limit_tokens is None else ("tokens",)
        return self._violation(seen, over) if over else None

    def settle(
        self, tokens: int | None, attodollars: int | None, now: datetime | None
    ) -> Reached | None:
        """Spend in memory, too; which thresholds are reached, the store says."""
        account, standing = self.account, self._standing
        super().settle(tokens, attodollars, time_of(standing.now_us) if standing else now)
        if account is not None and standing is not None:
            self.account = account
            self._take_over(standing)
            self.account = None
        return None

    def _take_over(self, standing: Standing) -> None:
        """Have memory know what the store says is spent."""
        account, known = self.account, standing.current()
        if account is not None:
            account.tokens = known.tokens
            account.attodollars = known.nanodollars * ATTO_A_NANO
            account.unpriced = known.unpriced

    def _seen(self, standing: Standing) -> Account:
        """The account as the store sees it, with this call's reservation."""
        known = standing.current()
        account = Account(0, known.tokens, known.nanodollars * ATTO_A_NANO)
        account.assumed_tokens = account.assumed_attodollars = 0
        account.reserved_tokens = known.reserved_tokens
        account.reserved_attodollars = known.reserved_nanodollars * ATTO_A_NANO
        if not known.is_held:
            account.reserved_tokens += self._hold.tokens
            account.reserved_attodollars += self._hold.nanodollars * ATTO_A_NANO
        return account


def part_of(
    table: AccountTable,
    key: str | None,
    now: datetime | None,
    input_tokens: int,
    output_tokens: int | None,
    usd: Decimal | Price | None,
) -> Part:
    """What a call is to reserve in one budget."""
    kind = Part if table.shared is None else SharedPart
    return kind(table, key, now, input_tokens, output_tokens, usd)

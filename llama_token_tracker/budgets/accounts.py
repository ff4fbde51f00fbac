"""`Accounts`: the running accounts of one budget, as users of budgets alone work with them."""

from collections.abc import Iterable, Mapping
from copy import copy
from decimal import Decimal
from heapq import nlargest
from typing import Any

from llama_token_tracker._background import run_late
from llama_token_tracker._lock import LOCK
from llama_token_tracker.budgets.amounts import count_of
from llama_token_tracker.budgets.budget import Budget, Price, Spent
from llama_token_tracker.budgets.reservations import Reservation, reserve_in, spend_in
from llama_token_tracker.budgets.table import MAX_ACCOUNTS, AccountTable, spent_of
from llama_token_tracker.errors import BudgetError


class Accounts:
    """The running accounts of one budget: one for each value of what it is `per`.

    Spend counts in the window in which it settles; until then its reservation is carried from
    window to window. Time never goes back: with a clock that does, the window stays the one it
    was, until the clock has passed its end again or `reset()` is called.

    Beyond `max_accounts`, those without calls under way that spent the smallest part of their
    limit are dropped, and the most that any of them had spent in this window is remembered.
    Whoever has no account, whether it's new or was dropped, is assumed to have spent that much.
    So no limit can be passed by being forgotten; the price is that a newcomer's limit is the
    smaller by what the smallest spenders spent, which errors and `Spent` say.

    Args:
        budget: The limit that applies to the calls.
        max_accounts: How many accounts are told apart. There may be more only while more than
            this have calls under way.

    Source:
        The rule is that of Space-Saving: Metwally, Agrawal and El Abbadi, "Efficient computation
        of frequent and top-k elements in data streams" (2005).
    """

    def __init__(self, budget: Budget, *, max_accounts: int = MAX_ACCOUNTS) -> None:
        if count_of("max_accounts", max_accounts) < 1:
            msg = "max_accounts is 0; give a number from 1 on."
            raise BudgetError(msg)
        self._table = AccountTable(budget, max_accounts)

    @property
    def budget(self) -> Budget:
        """The limit that applies to the calls."""
        return self._table.budget

    def reserve(
        self,
        tags: Mapping[str, str],
        scope: str | None,
        *,
        input_tokens: int,
        output_tokens: int | None,
        usd: Decimal | Price | None,
    ) -> Reservation:
        """Reserve what a call may use, before it is sent: `reserve_all` for one budget."""
        return reserve_all(
            (self,),
            tags,
            scope,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            usd=usd,
        )

    def spend(
        self, tags: Mapping[str, str], scope: str | None, tokens: int, usd: Decimal | None
    ) -> None:
        """Charge what a call has used that reserved nothing, as its start was not seen.

        Args:
            tags: The call's tags.
            scope: The name of its scope, or `None`.
            tokens: What it used, input and output.
            usd: What it cost, or `None` if the price is not known.

        Raises:
            BudgetError: A figure is none.
        """
        table = self._table
        spend_in(table, table.key(tags, scope), tokens, usd)

    def spent(self, tags: Mapping[str, str] | None = None, scope: str | None = None) -> Spent:
        """The state of the account that calls with these tags, in this scope, belong to."""
        run_late()  # what nobody holds any more is given back
        table = self._table
        key, now = table.key(tags or {}, scope), table.time()
        if table.shared is not None and (found := table.shared.spent(key)) is not None:
            return found
        with LOCK:
            account, until = copy(table.peek(key, now)), table.until
        return spent_of(account, until)

    def fullest(self, most: int) -> tuple[list[tuple[str | None, Spent]], int]:
        """The accounts that have used up most of their limits, by name, and how many there are.

        Args:
            most: So many are given, the fullest first.
        """
        run_late()
        table = self._table
        if table.shared is not None and (known := table.shared.fullest(most)) is not None:
            return known
        now = table.time()
        with LOCK:
            kept = table.kept(now)
        # Without the lock, as there may be thousands.
        found = nlargest(most, kept, key=table.share)
        with LOCK:
            for _, account in found:
                table.carry_over(account, now)
            copies, until = [(key, copy(account)) for key, account in found], table.until
        return [(key, spent_of(account, until)) for key, account in copies], len(kept)

    def reset(self) -> None:
        """Start again from nothing spent, and look at the clock afresh.

        A call that is under way keeps its reservation and counts when it ends. Accounts that are
        shared start again for all who share them.
        """
        if self._table.shared is not None:
            self._table.shared.reset()
        with LOCK:
            self._table.start(None)

    def __getstate__(self) -> dict[str, Any]:
        """What is spent; reservations belong to calls of this process."""
        with LOCK:
            state = self._table.state()
        return {"budget": self.budget, "max_accounts": self._table.max_accounts, **state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make accounts of their own in the state of the pickled ones."""
        self._table = AccountTable(state["budget"], state["max_accounts"])
        self._table.restore(state)


def reserve_all(
    accounts: Iterable[Accounts],
    tags: Mapping[str, str],
    scope: str | None,
    *,
    input_tokens: int,
    output_tokens: int | None,
    usd: Decimal | Price | None,
) -> Reservation:
    """Reserve what a call may use in several accounts: in all of them, or in none.

    Args:
        accounts: Those of each budget that the call is subject to. One that is named twice
            counts once.
        tags: The call's tags.
        scope: The name of its scope, or `None`.
        input_tokens: How many tokens will be sent, as far as that is known.
        output_tokens: How many may come back at the most: 0 for embeddings, `None` if the call
            doesn't state it; then each budget assumes its `default_max_tokens`.
        usd: What all that would cost, or `None` if the price is not known; or a function that
            says so, which is asked for each budget that limits money.

    Returns:
        The reservation, to be settled or released at the call's end.

    Raises:
        BudgetExceededError: The call would pass a limit. Nothing is reserved, nor is it if a
            price or a function for `on_exceed` raises.
        BudgetError: A figure is none.
    """
    tables = [one._table for one in dict.fromkeys(accounts)]  # pyright: ignore[reportPrivateUsage]  # made here
    return reserve_in(tables, tags, scope, input_tokens, output_tokens, usd)

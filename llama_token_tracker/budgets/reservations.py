"""Reservations: what a call may use, set aside before it's sent, in one budget or in several.

`Accounts` are what users of budgets alone work with; `reserve_all` checks a call against several.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from heapq import nlargest
from typing import Any, Self

from llama_token_tracker._background import run_late, soon
from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import logger
from llama_token_tracker.budgets.accounts import MAX_ACCOUNTS, Account, AccountTable
from llama_token_tracker.budgets.amounts import attodollars_of, count_of, usd_of
from llama_token_tracker.budgets.budget import Budget, Price
from llama_token_tracker.budgets.violations import Violation, error_of
from llama_token_tracker.errors import BudgetError, Over


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """The state of an account.

    Attributes:
        tokens: What was settled in this window, and what is assumed.
        usd: The same in US dollars.
        reserved_tokens: What calls under way have reserved.
        reserved_usd: The same in US dollars.
        unpriced_calls: How many calls were settled without a price, if money is limited.
        assumed_tokens: How many of `tokens` are assumed: see `Accounts`.
        assumed_usd: The same in US dollars.
        until: When the window ends, or `None` if it never does.
    """

    tokens: int
    usd: Decimal
    reserved_tokens: int
    reserved_usd: Decimal
    unpriced_calls: int
    assumed_tokens: int
    assumed_usd: Decimal
    until: datetime | None


class _Part:
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

    def settle(self, tokens: int | None, attodollars: int | None, now: datetime | None) -> None:
        """Spend what was used in the place of what was reserved; `None` if that isn't known."""
        account = self.account
        if account is None:
            return
        self.table.carry_over(account, now)
        # No call from here on, so that nothing interrupts it, and nobody comes between.
        self.account = None
        # Unknown is not zero: what was reserved is the best that is known.
        account.tokens += self.tokens if tokens is None else tokens
        account.attodollars += (self.attodollars or 0) if attodollars is None else attodollars
        account.unpriced += attodollars is None and self.table.limit_attodollars is not None
        account.open -= 1
        account.reserved_tokens -= self.tokens
        account.reserved_attodollars -= self.attodollars or 0

    def release(self) -> None:
        """Give back what was reserved, if it was."""
        account, self.account = self.account, None
        if account is not None:
            account.open -= 1
            account.reserved_tokens -= self.tokens
            account.reserved_attodollars -= self.attodollars or 0


class Reservation:
    """What a call under way has reserved in each of the accounts that it was checked against.

    The first `settle()` or `release()` counts, and whatever comes after it does nothing. Once
    a reservation is garbage, nobody can settle it, and it's released.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[_Part] = ()) -> None:
        self._parts = parts

    @property
    def is_open(self) -> bool:
        """Whether it is neither settled nor given back."""
        return bool(self._parts)

    def settle(self, tokens: int | None, usd: Decimal | None) -> None:
        """Spend what the call has used, in the window in which it ends.

        Args:
            tokens: What it used, input and output; `None` if nobody can say, and then what was
                reserved counts.
            usd: What it cost; `None` if the price is not known. Then what was reserved in money
                counts, if the price was known at that time, and the call is counted as unpriced.

        Raises:
            BudgetError: A figure is none. The reservation stays open.
        """
        count = None if tokens is None else count_of("tokens", tokens)
        cost = None if usd is None else attodollars_of(usd)
        # Outside the lock: clocks are users'.
        times = [part.table.time() for part in self._parts]
        with LOCK:
            for part, now in zip(self._parts, times, strict=False):
                part.settle(count, cost, now)
            # Last: if this is interrupted, the rest is settled when it's charged again.
            self._parts = ()

    def release(self) -> None:
        """Give back what was reserved: the call has used nothing."""
        with LOCK:
            for part in self._parts:
                part.release()
            self._parts = ()

    def __del__(self, is_exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        # A finalizer takes no lock: whoever reserves or asks next gives it back.
        if self._parts and not is_exiting():
            soon(self.release)

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """A copy is closed: the call and its reservation stay with the original."""
        return type(self), ()


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
        count, cost = count_of("tokens", tokens), None if usd is None else attodollars_of(usd)
        table = self._table
        part = _Part(table, table.key(tags, scope), table.time(), 0, 0, None)
        with LOCK:
            part.reserve()
            part.settle(count, cost, part.now)

    def spent(self, tags: Mapping[str, str] | None = None, scope: str | None = None) -> Spent:
        """The state of the account that calls with these tags, in this scope, belong to."""
        run_late()  # what nobody holds any more is given back
        table = self._table
        key, now = table.key(tags or {}, scope), table.time()
        with LOCK:
            account, until = copy(table.peek(key, now)), table.until
        return _spent(account, until)

    def fullest(self, most: int) -> tuple[list[tuple[str | None, Spent]], int]:
        """The accounts that have used up most of their limits, by name, and how many there are.

        Args:
            most: So many are given, the fullest first.
        """
        run_late()
        table = self._table
        now = table.time()
        with LOCK:
            kept = table.kept(now)
        # Without the lock, as there may be thousands.
        found = nlargest(most, kept, key=table.share)
        with LOCK:
            for _, account in found:
                table.carry_over(account, now)
            copies, until = [(key, copy(account)) for key, account in found], table.until
        return [(key, _spent(account, until)) for key, account in copies], len(kept)

    def reset(self) -> None:
        """Start again from nothing spent, and look at the clock afresh.

        A call that is under way keeps its reservation and counts when it ends.
        """
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


def _spent(account: Account, until: datetime | None) -> Spent:
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
    run_late()  # what nobody holds any more
    count = count_of("input_tokens", input_tokens)
    expected = None if output_tokens is None else count_of("output_tokens", output_tokens)
    parts = [
        # Everything that may run users' code comes before the lock.
        _Part(table, table.key(tags, scope), table.time(), count, expected, usd)
        for table in _tables(accounts)
    ]
    reservation = Reservation(parts)
    try:
        for violation in _reserved(reservation, parts):
            _notify(violation)
    except BaseException:
        reservation.release()
        raise
    return reservation


def _tables(accounts: Iterable[Accounts]) -> Iterable[AccountTable]:
    for one in dict.fromkeys(accounts):
        yield one._table  # pyright: ignore[reportPrivateUsage]  # made here


def _reserved(reservation: Reservation, parts: Sequence[_Part]) -> Sequence[Violation]:
    """Reserve all parts or none.

    Returns:
        What the user is to be notified of: limits that are passed, and that stop no call.

    Raises:
        BudgetExceededError: A limit is passed that does.
    """
    with LOCK:
        # First all are reserved: who comes between, or into the lock, finds them reserved.
        passed = [(part, over) for part in parts if (over := part.reserve()) is not None]
        if not passed:
            return ()
        refused = [violation for part, violation in passed if part.table.refuses]
        if not refused:
            return [one for part, one in passed if part.should_notify(one.over)]
        reservation.release()
    raise error_of(refused[0])


def _notify(violation: Violation) -> None:
    """Notify the user that a call is sent although it passes a limit."""
    error, on_exceed = error_of(violation), violation.budget.on_exceed
    if callable(on_exceed):
        on_exceed(error)
    else:
        logger.warning("%s The call is sent all the same.", error)

"""Budgets against a simple model of them, whatever calls and the clock do."""

import copy
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from llama_token_tracker import Budget, BudgetExceededError
from llama_token_tracker.budgets import Accounts, Reservation, Spent

from .spending import NOON, Clock

# Drawn examples take their time.
pytestmark = pytest.mark.slow

USERS = st.sampled_from(["ann", "bob", None])
AMOUNTS = st.integers(0, 60)


class Spending(RuleBasedStateMachine):
    """Calls that start, end, fail and get lost, while the clock does what it likes."""

    calls: Bundle[Any] = Bundle("calls")
    closed: Bundle[Any] = Bundle("closed")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.accounts = Accounts(
            Budget(tokens=100, usd=100, per="user", window="1 hour", clock=self.clock)
        )
        self.until = NOON
        self.open: list[tuple[Any, str | None, int, int]] = []
        self.spent: dict[str | None, list[int]] = {}
        self.errors: dict[str | None, list[int]] = {}
        self.look()

    def look(self) -> None:
        """Start a new window if the clock says so."""
        if self.clock.now >= self.until:
            self.until = self.clock.now.replace(minute=0) + timedelta(hours=1)
            self.spent = defaultdict(lambda: [0, 0])
            self.errors = defaultdict(lambda: [0, 0])

    def reserved(self, user: str | None) -> tuple[int, int]:
        """What a user's calls hold."""
        mine = [call for call in self.open if call[1] == user]
        return sum(call[2] for call in mine), sum(call[3] for call in mine)

    def ask(self, user: str | None, given: int, output: int, usd: int) -> Reservation:
        """Reserve for a user."""
        tags = {} if user is None else {"user": user}
        return self.accounts.reserve(
            tags, None, input_tokens=given, output_tokens=output, usd=Decimal(usd)
        )

    def refuse(self, user: str | None, given: int, output: int, usd: int) -> None:
        """Have a call refused, and find in the error how things stand."""
        with pytest.raises(BudgetExceededError) as caught:
            self.ask(user, given, output, usd)
        error, spent, held = caught.value, self.spent[user], self.reserved(user)
        assert error.spent == tuple(spent)
        assert error.reserved == held
        assert error.asked == (given + output, usd)
        assert ("tokens" in error.over) == (spent[0] + held[0] + given + output > 100)
        assert ("usd" in error.over) == (spent[1] + held[1] + usd > 100)
        assert error.account == ("user", user)
        assert error.until == self.until

    @rule(target=calls, user=USERS, given=AMOUNTS, output=AMOUNTS, usd=AMOUNTS)
    def reserve(self, user: str | None, given: int, output: int, usd: int) -> Any:
        """A call may start if, and only if, both limits hold with it."""
        self.look()
        held, (tokens_spent, usd_spent) = self.reserved(user), self.spent[user]
        sums = (tokens_spent + held[0] + given + output, usd_spent + held[1] + usd)
        if max(sums) > 100:
            self.refuse(user, given, output, usd)
            return None
        reservation = self.ask(user, given, output, usd)
        call = (reservation, user, given + output, usd)
        self.open.append(call)
        return call

    @rule(target=closed, call=consumes(calls), tokens=AMOUNTS, usd=AMOUNTS)
    def settle(self, call: Any, tokens: int, usd: int) -> Any:
        """A call ends, with more or less than it reserved."""
        if call is None:
            return None
        self.look()
        reservation, user, reserved_tokens, reserved_usd = call
        reservation.settle(tokens, Decimal(usd))
        self.open.remove(call)
        for unit, (truth, held) in enumerate(((tokens, reserved_tokens), (usd, reserved_usd))):
            self.spent[user][unit] += truth
            self.errors[user][unit] += max(0, truth - held)
        return reservation

    @rule(target=closed, call=consumes(calls))
    def release(self, call: Any) -> Any:
        """A call fails."""
        if call is None:
            return None
        call[0].release()
        self.open.remove(call)
        return call[0]

    @rule(reservation=closed, tokens=AMOUNTS)
    def end_again(self, reservation: Any, tokens: int) -> None:
        """Somebody ends a call that has ended."""
        if reservation is not None:
            reservation.settle(tokens, Decimal(tokens))
            reservation.release()
            self.look()

    @rule(user=USERS, tokens=AMOUNTS, usd=AMOUNTS)
    def spend(self, user: str | None, tokens: int, usd: int) -> None:
        """A call ends whose start was not heard."""
        self.look()
        self.accounts.spend({} if user is None else {"user": user}, None, tokens, Decimal(usd))
        for unit, truth in enumerate((tokens, usd)):
            self.spent[user][unit] += truth
            self.errors[user][unit] += truth

    @rule(minutes=st.integers(-200, 200))
    def turn(self, minutes: int) -> None:
        """The clock goes on, or back."""
        self.clock.advance(minutes=minutes)

    @rule()
    def travel(self) -> None:
        """A copy has what is spent, and nothing else."""
        self.look()
        twin = copy.deepcopy(self.accounts)
        for user in ("ann", "bob"):
            standing = twin.spent({"user": user})
            assert [standing.tokens, standing.usd] == self.spent[user]
            assert (standing.reserved_tokens, standing.reserved_usd) == (0, 0)

    @invariant()
    def agrees(self) -> None:
        """Nothing is negative, lost or doubled; beyond the limit are only reservations' errors."""
        self.look()
        for user in ("ann", "bob", None):
            standing = self.accounts.spent({} if user is None else {"user": user})
            assert isinstance(standing, Spent)
            assert [standing.tokens, standing.usd] == self.spent[user]
            assert (standing.reserved_tokens, standing.reserved_usd) == self.reserved(user)
            assert min(standing.tokens, standing.reserved_tokens, standing.reserved_usd) >= 0
            assert standing.tokens + standing.reserved_tokens <= 100 + self.errors[user][0]
            assert standing.usd + standing.reserved_usd <= 100 + self.errors[user][1]
            assert standing.until == self.until

    def teardown(self) -> None:
        """When all calls have ended, nothing is reserved."""
        for call in self.open:
            call[0].release()
        for user in ({"user": "ann"}, {"user": "bob"}, {}):
            standing = self.accounts.spent(user)
            assert (standing.reserved_tokens, standing.reserved_usd) == (0, 0)


TestSpending = Spending.TestCase

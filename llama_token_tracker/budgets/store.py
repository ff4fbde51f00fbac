"""`AccountStore`: what keeps a budget's accounts beyond one process, and the memory's own.

A store adds and compares whole numbers; windows, limits and money are told to it as such. What is
spent has no time to live. What is reserved has a lease: unless that's extended, it is free again.
"""

import time
from collections.abc import Iterable
from heapq import nlargest
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from llama_token_tracker._lock import LOCK
from llama_token_tracker._printable import printable
from llama_token_tracker.errors import BudgetError

LEASE_S: Final = 60.0
"""So long a reservation outlives the process that made it."""

WAIT_S: Final = 2.0
"""So long a call waits for its store at the most, before it goes on without."""

FOREVER_US: Final = 2**62
"""The end of a window that has none, and a limit where there is none."""

KEEP_DEAD_US: Final = 7 * 86_400_000_000
"""So long a call may still settle whose lease has ended."""


class Hold(NamedTuple):
    """What one call reserves in one account.

    Attributes:
        id: Of the reservation; no two have the same.
        budget: Which budget's account it is: a digest of its terms.
        key: Which account of it; no key is empty.
        start_us: When the window begins, in microseconds since 1970, by the best guess.
        end_us: When it ends.
        tokens: How many may be used.
        nanodollars: What they may cost.
    """

    id: str
    budget: str
    key: str
    start_us: int
    end_us: int
    tokens: int
    nanodollars: int


class Limits(NamedTuple):
    """A budget's limits; `FOREVER_US` where there is none."""

    tokens: int = FOREVER_US
    nanodollars: int = FOREVER_US


class Used(NamedTuple):
    """What a call has used, and how many calls without a price that makes: 0 or 1."""

    tokens: int = 0
    nanodollars: int = 0
    unpriced: int = 0


NO_LIMITS: Final = Limits()
NOTHING: Final = Used()


class Standing(NamedTuple):
    """The state of an account, as its store sees it.

    Attributes:
        now_us: The time by the store's clock.
        end_us: When the account's window ends; it may be over.
        tokens: What was spent in it.
        nanodollars: The same in money.
        unpriced: How many of its calls had no price.
        reserved_tokens: What calls under way have reserved, wherever they are.
        reserved_nanodollars: The same in money.
        is_held: Whether the call that asked has its reservation now; whether it was settled now.
    """

    now_us: int
    end_us: int
    tokens: int = 0
    nanodollars: int = 0
    unpriced: int = 0
    reserved_tokens: int = 0
    reserved_nanodollars: int = 0
    is_held: bool = False

    def current(self, end_us: int = 0) -> "Standing":
        """The same with nothing spent, if its window is over, or a later one has begun."""
        if self.end_us > self.now_us and self.end_us >= end_us:
            return self
        return self._replace(tokens=0, nanodollars=0, unpriced=0)


@runtime_checkable
class AccountStore(Protocol):
    """Keeps accounts; each of these is one step for all who share it, and may be repeated.

    Whatever it waits for, it waits for a bounded time; it raises what it likes. It survives a fork
    and is pickled as the place where its accounts are.

    A window is decided by the store's clock: where `hold` names one that isn't now, nothing is
    done, and the answer's `now_us` says so. An account's own window never goes back.
    """

    @property
    def lease_s(self) -> float:
        """How long a reservation is good for, in seconds, unless it's extended."""
        ...

    @property
    def place(self) -> str:
        """Where the accounts are, as people read it."""
        ...

    def reserve(self, hold: Hold, limits: Limits) -> Standing:
        """Reserve, if with it nothing is beyond the limits; twice is once."""
        ...

    def settle(self, hold: Hold, used: Used, limits: Limits) -> Standing:
        """Spend in the place of what is reserved; what isn't, or isn't any more, is left alone.

        What may be spent says nothing but how full that makes the account.
        """
        ...

    def release(self, hold: Hold) -> None:
        """Give back what is reserved, if it is."""
        ...

    def extend(self, holds: Iterable[Hold]) -> None:
        """Begin the leases of these anew, also of those that have ended meanwhile."""
        ...

    def standing(self, budget: str, key: str) -> Standing:
        """The state of an account; of one that nobody has used yet, too."""
        ...

    def fullest(
        self, budget: str, limits: Limits, most: int
    ) -> tuple[list[tuple[str, Standing]], int]:
        """Accounts that have used up most in this window, and how many there are in it."""
        ...

    def reset(self, budget: str) -> None:
        """Have nothing be spent in all accounts of a budget."""
        ...


@runtime_checkable
class StoreOwner(Protocol):
    """What has a store of accounts, as a ledger does."""

    @property
    def account_store(self) -> AccountStore:
        """The store."""
        ...


class _Kept:
    """An account, and the reservations in it by their ids."""

    __slots__ = ("end_us", "held", "spent")

    def __init__(self) -> None:
        self.end_us = 0
        self.spent = NOTHING
        self.held: dict[str, tuple[Hold, int]] = {}

    def roll(self, end_us: int) -> None:
        if end_us > self.end_us:
            self.end_us, self.spent = end_us, NOTHING

    def standing(self, now: int, id: str = "") -> Standing:
        open_ = [hold for hold, until in self.held.values() if until > now]
        reserved = sum(hold.tokens for hold in open_), sum(hold.nanodollars for hold in open_)
        return Standing(now, self.end_us, *self.spent, *reserved, id in self.held)


class MemoryAccounts:
    """Accounts in this process, for several handlers that are to share them.

    Args:
        lease_s: How long a reservation is good for, in seconds, unless it's extended.
    """

    place = "memory"

    def __init__(self, *, lease_s: float = LEASE_S) -> None:
        check_seconds(lease_s=lease_s)
        self.lease_s = lease_s
        self._accounts: dict[tuple[str, str], _Kept] = {}

    def reserve(self, hold: Hold, limits: Limits) -> Standing:
        """Reserve, if with it nothing is beyond the limits."""
        now = _now_us()
        with LOCK:
            kept = self._kept(hold.budget, hold.key)
            found = kept.standing(now, hold.id)
            is_new = hold.start_us <= now < hold.end_us and not found.is_held
            if is_new and fits(found.current(hold.end_us), hold, limits):
                kept.roll(hold.end_us)
                kept.held[hold.id] = (hold, now + int(self.lease_s * 1e6))
            return kept.standing(now, hold.id)

    def settle(self, hold: Hold, used: Used, limits: Limits) -> Standing:
        """Spend in the place of what is reserved."""
        del limits
        now = _now_us()
        with LOCK:
            kept = self._kept(hold.budget, hold.key)
            is_now = hold.start_us <= now < hold.end_us
            is_settled = is_now and kept.held.pop(hold.id, None) is not None
            if is_settled:
                kept.roll(hold.end_us)
                kept.spent = Used(*map(sum, zip(kept.spent, used, strict=True)))
            return kept.standing(now)._replace(is_held=is_settled)

    def release(self, hold: Hold) -> None:
        """Give back what is reserved, if it is."""
        with LOCK:
            self._kept(hold.budget, hold.key).held.pop(hold.id, None)

    def extend(self, holds: Iterable[Hold]) -> None:
        """Begin the leases of these anew."""
        until = _now_us() + int(self.lease_s * 1e6)
        with LOCK:
            for hold in holds:
                kept = self._kept(hold.budget, hold.key)
                if hold.id in kept.held:
                    kept.held[hold.id] = (kept.held[hold.id][0], until)

    def standing(self, budget: str, key: str) -> Standing:
        """The state of an account."""
        now = _now_us()
        with LOCK:
            return self._kept(budget, key).standing(now).current()

    def fullest(
        self, budget: str, limits: Limits, most: int
    ) -> tuple[list[tuple[str, Standing]], int]:
        """Accounts that have used up most in this window, and how many there are in it."""
        now = _now_us()
        with LOCK:
            all_ = [
                (key, kept.standing(now))
                for (owner, key), kept in self._accounts.items()
                if owner == budget and kept.end_us > now
            ]
        return nlargest(most, all_, key=lambda item: share_of(item[1], limits)), len(all_)

    def reset(self, budget: str) -> None:
        """Have nothing be spent in all accounts of a budget."""
        with LOCK:
            for (owner, _), kept in self._accounts.items():
                if owner == budget:
                    kept.spent = NOTHING

    def _kept(self, budget: str, key: str) -> _Kept:
        return self._accounts.setdefault((budget, key), _Kept())

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process begins with nothing."""
        return {"lease_s": self.lease_s, "_accounts": {}}


def standing_of(now_us: int, figures: Iterable[int], *, is_held: bool = False) -> Standing:
    """The state of an account from its figures, in the order in which `Standing` has them."""
    return Standing._make((now_us, *figures, is_held))


def fits(found: Standing, hold: Hold, limits: Limits) -> bool:
    """Whether a reservation is within the limits, beside all that is spent and reserved."""
    return (
        found.tokens + found.reserved_tokens + hold.tokens <= limits.tokens
        and found.nanodollars + found.reserved_nanodollars + hold.nanodollars <= limits.nanodollars
    )


def share_of(found: Standing, limits: Limits) -> float:
    """How much of its limits an account has used up."""
    return max(found.tokens / max(limits.tokens, 1), found.nanodollars / max(limits.nanodollars, 1))


def check_seconds(**times: float) -> None:
    """Refuse what is no time in seconds.

    Raises:
        BudgetError: It's too short or none.
    """
    for name, value in times.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)  # pyright: ignore[reportUnnecessaryIsInstance]
        if not (is_number and value >= _SHORTEST_S):
            msg = f"{name} is {printable(value)}; give seconds, from {_SHORTEST_S} on."
            raise BudgetError(msg)


_SHORTEST_S: Final = 0.1


def _now_us() -> int:
    return time.time_ns() // 1_000

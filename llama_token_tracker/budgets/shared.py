"""A budget's accounts in a store that others share: which they are, and what is asked of it.

The store may be away. Nobody's call fails or waits for long because of that: it is asked once, then
by the background thread alone until it answers; what is settled meanwhile is handed in later.
"""

import atexit
import json
import os
import time
import uuid
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from typing import Final, TypeVar

from llama_token_tracker._background import Worker, run_late
from llama_token_tracker._lock import LOCK, pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.budgets.amounts import attodollars_of, usd_of
from llama_token_tracker.budgets.budget import Budget, Spent
from llama_token_tracker.budgets.store import (
    FOREVER_US,
    NO_LIMITS,
    AccountStore,
    Hold,
    Limits,
    Standing,
    StoreOwner,
    Used,
)
from llama_token_tracker.budgets.thresholds import announce, crossed, levels_of
from llama_token_tracker.budgets.windows import bounds_us, length_of, time_of

ATTO_A_NANO: Final = 10**9
"""Stores keep money in nanodollars, as 64 bits hold no more than nine dollars of attodollars."""

_LONGEST_KEY: Final = 300
_MOST: Final = 10**17
"""So much of one call is charged at the most, in nanodollars: sums must stay within 64 bits."""

_GUESSES: Final = 5
"""So often a window is guessed: it may end just then, or the store's clock be another one."""

_TICK_S: Final = 0.5
_IDLE_TICKS: Final = 20

_Answer = TypeVar("_Answer")


class _Debt:
    """What a call has used, and its store doesn't know yet."""

    __slots__ = ("account", "hold", "is_reserved", "used")

    def __init__(
        self, account: "SharedBudget", hold: Hold, used: Used, *, is_reserved: bool
    ) -> None:
        self.account = account
        self.hold = hold
        self.used = used
        self.is_reserved = is_reserved

    def settle(self) -> Standing:
        """Hand it in; after an error this may be repeated, and counts once."""
        if not self.is_reserved:
            self.account.ask_reserve(self.hold, NO_LIMITS)
            self.is_reserved = True
        return self.account.ask_settle(self.hold, self.used)


class StoreClient:
    """One store as this process uses it: open reservations, debts, and whether it answers.

    Args:
        store: The store.
    """

    def __init__(self, store: AccountStore) -> None:
        self.store = store
        self._worker = Worker("llama-token-tracker accounts")
        self.begin()
        _clients.add(self)

    def begin(self) -> None:
        """Begin anew, in a forked child, too: what is open or owed is the parent's."""
        self._open: dict[str, tuple[Hold, float]] = {}
        self._debts: dict[str, _Debt] = {}
        self._is_tended = False
        self.is_away = False
        self.pid = os.getpid()

    # --- what is asked in a call's own thread ------------------------------------------------

    def ask(self, question: Callable[[], _Answer]) -> _Answer | None:
        """What the store answers, or `None` while it's away."""
        if self.is_away:
            return None
        try:
            return question()
        except Exception as error:  # noqa: BLE001 - a store may raise anything
            self._lose(error)
            return None

    def reserve(self, account: "SharedBudget", hold: Hold, limits: Limits) -> Standing | None:
        """Reserve, and have the lease be extended from then on."""
        self._tend()
        # Before: so that no moment is left in which nobody would extend it.
        self._open[hold.id] = (hold, time.monotonic())
        found: Standing | None = None
        try:
            found = self.ask(partial(account.ask_reserve, hold, limits))
        finally:
            if found is None or not found.is_held:
                self._open.pop(hold.id, None)
        return found

    def settle(
        self, account: "SharedBudget", hold: Hold, used: Used, *, is_reserved: bool
    ) -> Standing | None:
        """Spend what a call has used; what can't be handed in now is owed."""
        self._open.pop(hold.id, None)
        debt = _Debt(account, hold, used, is_reserved=is_reserved)
        found = self.ask(debt.settle)
        if found is None:
            self._owe(debt)
            self._tend()
        elif not found.is_held:
            asked = f"{used.tokens:,} tokens of a call that it doesn't know any more"
            notice("the shared accounts in {} forget", asked, "they aren't spent", self.store.place)
        return found

    def release(self, hold: Hold) -> None:
        """Give back what is reserved; if the store is away, its lease will."""
        self._open.pop(hold.id, None)
        self.ask(partial(self.store.release, hold))

    def _owe(self, debt: _Debt) -> None:
        hold = debt.hold
        # One debt an account, unless the store may know of it already: so there are few.
        name = hold.id if debt.is_reserved or not self.is_away else f"{hold.budget} {hold.key}"
        with LOCK:
            known = self._debts.setdefault(name, debt)
            if known is not debt and known.hold.id != hold.id:
                known.used = Used(*map(sum, zip(known.used, debt.used, strict=True)))
        _indebted.add(self)

    def _lose(self, error: Exception) -> None:
        pass_on(error)  # what only happened to be raised there says nothing of the store
        self.is_away = True
        consequence = "calls are held to what this process knows, and charged when it answers"
        notice("the shared accounts in {} can't be reached", error, consequence, self.store.place)
        self._tend()

    # --- what the background thread does -----------------------------------------------------

    def _tend(self) -> None:
        if not self._is_tended:
            self._is_tended = True
            self._worker.ask(partial(_run, weakref.ref(self)))

    @property
    def is_busy(self) -> bool:
        """Whether there is anything to do in the background."""
        return bool(self._open or self._debts or self.is_away)

    def end_tending(self) -> None:
        """Let the thread go, unless there is something to do just now."""
        self._is_tended = False
        if self.is_busy:
            self._tend()

    def tend(self) -> None:
        """Extend the leases of calls that take long, and hand in what is owed."""
        was_away = self.is_away
        try:
            self._extend()
            if was_away:
                self.store.standing("", "-")  # whether it answers
            self._hand_in()
            if was_away:
                self.is_away = False
        except Exception as error:  # noqa: BLE001 - a store may raise anything
            self._lose(error)

    def _extend(self) -> None:
        now = time.monotonic()
        since = now - self.store.lease_s / 3
        due = [hold for hold, begun in list(self._open.values()) if begun <= since]
        if due:
            self.store.extend(due)
        for hold in due:
            if hold.id in self._open:
                self._open[hold.id] = (hold, now)

    def _hand_in(self) -> None:
        for name in list(self._debts):
            with LOCK:
                debt = self._debts.pop(name, None)
            if debt is None:
                continue
            try:
                found = debt.settle()
            except BaseException:
                # By its own id: nothing is added to one that the store may know of.
                self._debts[debt.hold.id] = debt
                raise
            debt.account.look_at_thresholds(debt.hold.key, debt.used, found)
        if not self._debts:
            _indebted.discard(self)

    def hand_in_at_exit(self) -> None:
        """Hand in what is owed, or say what is lost."""
        if self._debts and self.pid == os.getpid():
            self.tend()
        if self._debts:
            tokens = sum(debt.used.tokens for debt in list(self._debts.values()))
            found = f"{tokens:,} tokens that it wasn't told of"
            notice(
                "the shared accounts in {} can't be reached at exit",
                found,
                "they stay unspent there",
                self.store.place,
            )


def _run(reference: "weakref.ref[StoreClient]") -> None:
    """Tend a client for as long as somebody has it."""
    idle = 0
    while idle < _IDLE_TICKS:
        time.sleep(_TICK_S)
        run_late()  # others wait for what calls held here that nobody has any more
        client = reference()
        if client is None:
            return
        idle = 0 if client.is_busy else idle + 1
        client.tend()
        # Not kept while sleeping: it may be all that holds it.
        del client
    client = reference()
    if client is not None:
        client.end_tending()


class SharedBudget:
    """The accounts of one budget in a store.

    Args:
        budget: The budget.
        client: Its store.
    """

    def __init__(self, budget: Budget, client: StoreClient) -> None:
        self.budget = budget
        self.client = client
        self._id = _digest(budget)
        self._length = None if budget.window is None else length_of(budget.window)
        money = None if budget.usd is None else attodollars_of(budget.usd) // ATTO_A_NANO
        self._limits = Limits(
            FOREVER_US if budget.tokens is None else budget.tokens,
            FOREVER_US if money is None else min(money, FOREVER_US),
        )
        # Who refuses nothing reserves beyond the limit, too.
        refuses = not callable(budget.on_exceed) and budget.on_exceed == "raise"
        self._held_to = self._limits if refuses else NO_LIMITS
        self._levels = levels_of(budget)
        self._ahead_us = 0

    # --- calls --------------------------------------------------------------------------------

    def hold(self, key: str | None, tokens: int, attodollars: int) -> Hold:
        """What a call is to reserve."""
        id_, name = uuid.uuid4().hex, _name_of(key)
        return Hold(id_, self._id, name, 0, FOREVER_US, tokens, _nano(attodollars))

    def reserve(self, hold: Hold) -> Standing | None:
        """Reserve; `None` if the store is away."""
        return self.client.reserve(self, hold, self._held_to)

    def settle(
        self, hold: Hold, tokens: int, attodollars: int, unpriced: int, *, is_reserved: bool
    ) -> Standing | None:
        """Spend; `None` if the store is away, which is told of it later."""
        used = Used(tokens, _nano(attodollars), unpriced)
        found = self.client.settle(self, hold, used, is_reserved=is_reserved)
        if found is not None:
            self.look_at_thresholds(hold.key, used, found)
        return found

    def look_at_thresholds(self, name: str, used: Used, found: Standing) -> None:
        """Tell the user which thresholds this call's spending has reached, if it's spent now."""
        if not (self._levels and found.is_held):
            return
        after = found.tokens, found.nanodollars * ATTO_A_NANO
        before = after[0] - used.tokens, after[1] - used.nanodollars * ATTO_A_NANO
        levels = crossed(self._levels, before, after)
        if levels:
            announce(self.budget, _key_of(name), levels, self._spent(found))

    # --- what is read ------------------------------------------------------------------------

    def spent(self, key: str | None) -> Spent | None:
        """The state of an account; `None` if the store is away."""
        ask = partial(self.client.store.standing, self._id, _name_of(key))
        found = self.client.ask(ask)
        return None if found is None else self._spent(found)

    def fullest(self, most: int) -> tuple[list[tuple[str | None, Spent]], int] | None:
        """Accounts that have used up most, and how many there are; `None` if it's away."""
        ask = partial(self.client.store.fullest, self._id, self._limits, most)
        found = self.client.ask(ask)
        if found is None:
            return None
        return [(_key_of(name), self._spent(one)) for name, one in found[0]], found[1]

    def reset(self) -> None:
        """Have nothing be spent, for all who share it."""
        self.client.ask(partial(self.client.store.reset, self._id))

    def _spent(self, found: Standing) -> Spent:
        found = found.current()
        until = None
        if self._length is not None:
            until = time_of(bounds_us(self._length, found.now_us)[1])
            if found.end_us > found.now_us:
                until = time_of(found.end_us)
        return Spent(
            tokens=found.tokens,
            usd=usd_of(found.nanodollars * ATTO_A_NANO),
            reserved_tokens=found.reserved_tokens,
            reserved_usd=usd_of(found.reserved_nanodollars * ATTO_A_NANO),
            unpriced_calls=found.unpriced,
            assumed_tokens=0,
            assumed_usd=usd_of(0),
            until=until,
        )

    # --- windows by the store's clock ----------------------------------------------------------

    def ask_reserve(self, hold: Hold, limits: Limits) -> Standing:
        """Reserve in the window that is now by the store's clock."""
        return self._in_window(hold, lambda one: self.client.store.reserve(one, limits))

    def ask_settle(self, hold: Hold, used: Used) -> Standing:
        """Settle in it."""
        return self._in_window(hold, lambda one: self.client.store.settle(one, used, self._limits))

    def _in_window(self, hold: Hold, ask: Callable[[Hold], Standing]) -> Standing:
        if self._length is None:
            return ask(hold)
        now = time.time_ns() // 1_000
        for _ in range(_GUESSES):
            start, end = bounds_us(self._length, now + self._ahead_us)
            found = ask(hold._replace(start_us=start, end_us=end))
            if start <= found.now_us < end:
                return found
            now = time.time_ns() // 1_000
            self._ahead_us = found.now_us - now
        msg = "the store's clock shows another window whenever it's asked"
        raise TimeoutError(msg)


_clients: "Final[weakref.WeakSet[StoreClient]]" = weakref.WeakSet()
_indebted: Final[set[StoreClient]] = set()
"""Those that owe their store something: they're kept until they don't."""
_by_store: "weakref.WeakValueDictionary[int, StoreClient]" = weakref.WeakValueDictionary()
"""By the identity of their store, which lives as long as they do."""


def shared_by(budget: Budget) -> SharedBudget | None:
    """The accounts of a budget that has them in a store."""
    shared = budget.shared
    if shared is None:
        return None
    store = shared.account_store if isinstance(shared, StoreOwner) else shared
    client = _by_store.get(id(store)) or _by_store.setdefault(id(store), StoreClient(store))
    return SharedBudget(budget, client)


def _digest(budget: Budget) -> str:
    """What tells a budget from others in the same store, equal in all processes."""
    length = None if budget.window is None else str(length_of(budget.window))
    usd = None if budget.usd is None else attodollars_of(budget.usd)
    limits = [budget.name] if budget.name else [usd, budget.tokens]
    terms = json.dumps([*limits, budget.per, length])
    return blake2b(terms.encode(), digest_size=12).hexdigest()


def _nano(attodollars: int) -> int:
    # Up, so that no limit is passed by rounding.
    return min(-(-attodollars // ATTO_A_NANO), _MOST)


def _name_of(key: str | None) -> str:
    """An account's key as stores take it: text that every database takes, of a bounded length."""
    if key is None:
        return "-"
    raw = key.encode("utf-8", "surrogatepass")
    with suppress(UnicodeEncodeError):
        if len(raw) <= _LONGEST_KEY and "\0" not in key and key.encode() == raw:
            return f"={key}"
    return f"#{blake2b(raw, digest_size=16).hexdigest()}"


def _key_of(name: str) -> str | None:
    if name == "-":
        return None
    return name[1:] if name.startswith("=") else name


def _after_fork() -> None:
    for client in list(_clients):
        client.begin()


def _hand_in_at_exit() -> None:
    clients: Sequence[StoreClient] = list(_clients)
    for client in clients:
        client.hand_in_at_exit()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_hand_in_at_exit)

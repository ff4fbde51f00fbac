"""Reservations: what a call may use, set aside before it's sent, in one budget or in several."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Self

from llama_token_tracker._background import run_late, soon
from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import logger
from llama_token_tracker.budgets.amounts import attodollars_of, count_of
from llama_token_tracker.budgets.budget import Price
from llama_token_tracker.budgets.parts import Part, Reached, SharedPart, part_of
from llama_token_tracker.budgets.table import AccountTable
from llama_token_tracker.budgets.thresholds import announce
from llama_token_tracker.budgets.violations import Violation, error_of


class Reservation:
    """What a call under way has reserved in each of the accounts that it was checked against.

    The first `settle()` or `release()` counts, and whatever comes after it does nothing. Once
    a reservation is garbage, nobody can settle it, and it's released.
    """

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[Part] = ()) -> None:
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
        parts = self._parts
        # Outside the lock: clocks are users', and a store may take its time.
        times = [part.table.time() for part in parts]
        for part in parts:
            if isinstance(part, SharedPart):
                part.hand_in(count, cost)
        settled: list[tuple[Part, Reached | None]] = []
        with LOCK:
            for part, now in zip(parts, times, strict=True):
                settled.append((part, part.settle(count, cost, now)))
            # Last: if this is interrupted, the rest is settled when it's charged again.
            self._parts = ()
        for part, reached in settled:
            if reached is not None:
                announce(part.table.budget, part.key, *reached)

    def release(self) -> None:
        """Give back what was reserved: the call has used nothing."""
        parts = self._parts
        with LOCK:
            for part in parts:
                part.release()
            self._parts = ()
        for part in parts:
            if isinstance(part, SharedPart):
                part.give_back()

    def __del__(self, is_exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        # A finalizer takes no lock: whoever reserves or asks next gives it back.
        if self._parts and not is_exiting():
            soon(self.release)

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        """A copy is closed: the call and its reservation stay with the original."""
        return type(self), ()


def reserve_in(
    tables: Iterable[AccountTable],
    tags: Mapping[str, str],
    scope: str | None,
    input_tokens: int,
    output_tokens: int | None,
    usd: Decimal | Price | None,
) -> Reservation:
    """Reserve what a call may use in several tables: see `reserve_all`."""
    run_late()  # what nobody holds any more
    count = count_of("input_tokens", input_tokens)
    expected = None if output_tokens is None else count_of("output_tokens", output_tokens)
    parts = [
        # Everything that may run users' code comes before the lock.
        part_of(table, table.key(tags, scope), table.time(), count, expected, usd)
        for table in tables
    ]
    reservation = Reservation(parts)
    try:
        for part in parts:
            if isinstance(part, SharedPart):
                part.ask()
        for violation in _reserved(parts):
            _notify(violation)
    except BaseException:
        reservation.release()
        raise
    return reservation


def spend_in(table: AccountTable, key: str | None, tokens: int, usd: Decimal | None) -> None:
    """Spend what a call has used that reserved nothing."""
    part = part_of(table, key, table.time(), 0, 0, None)
    with LOCK:
        part.reserve()
    Reservation([part]).settle(tokens, usd)


def _reserved(parts: Sequence[Part]) -> Sequence[Violation]:
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
        for part in parts:
            part.release()
    raise error_of(refused[0])


def _notify(violation: Violation) -> None:
    """Notify the user that a call is sent although it passes a limit."""
    error, on_exceed = error_of(violation), violation.budget.on_exceed
    if callable(on_exceed):
        on_exceed(error)
    else:
        logger.warning("%s The call is sent all the same.", error)

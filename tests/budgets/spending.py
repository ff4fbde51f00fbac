"""What these tests share: a clock set by hand, and calls as short as they can be written."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from llama_token_tracker import BudgetExceededError
from llama_token_tracker.budgets import Accounts, Reservation

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class Clock:
    """A clock that is set by hand."""

    def __init__(self, now: Any = NOON) -> None:
        self.now = now

    def __call__(self) -> Any:
        """Tell the time."""
        if isinstance(self.now, Exception):
            raise self.now
        return self.now

    def advance(self, **time: float) -> None:
        """Go on, or back."""
        self.now += timedelta(**time)


def reserve(
    accounts: Accounts,
    tokens: int = 10,
    output: int | None = 0,
    usd: Any = None,
    scope: str | None = None,
    **tags: str,
) -> Reservation:
    """Reserve this many input tokens, and output tokens."""
    return accounts.reserve(tags, scope, input_tokens=tokens, output_tokens=output, usd=usd)


def refusal(accounts: Accounts, *args: Any, **tags: Any) -> BudgetExceededError:
    """Have a call refused."""
    with pytest.raises(BudgetExceededError) as caught:
        reserve(accounts, *args, **tags)
    return caught.value


def attempt(accounts: Accounts, user: str, tokens: int, usd: Decimal) -> BudgetExceededError | None:
    """Make a call that uses just what it reserves, if it may be made."""
    try:
        reserved = reserve(accounts, tokens, usd=usd, user=user)
    except BudgetExceededError as error:
        return error
    reserved.settle(tokens, usd)
    return None


def spent(accounts: Accounts, scope: str | None = None, **tags: str) -> tuple[int, int]:
    """Tokens that are spent, and tokens that are reserved."""
    standing = accounts.spent(tags, scope)
    return standing.tokens, standing.reserved_tokens


def run(*targets: Callable[[], None]) -> None:
    """Run all of these at once, each in a thread of its own, and wait."""
    barrier = threading.Barrier(len(targets))
    errors: list[BaseException] = []

    def start(target: Callable[[], None]) -> None:
        barrier.wait()
        try:
            target()
        except BaseException as error:  # noqa: BLE001 - told below, in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=start, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def held_by(accounts: Accounts) -> int:
    """How many accounts take up memory."""
    return len(accounts._table)

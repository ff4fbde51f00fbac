"""What a call that is under way holds in the budgets it's subject to, until it's settled.

Where events meet budgets: a call reserves at its start, and what its events say is spent.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice, printable
from llama_token_tracker.budgets import Accounts, Budget, BudgetError, Reservation, reserve_all
from llama_token_tracker.events.event import Operation, TokenCountingEvent
from llama_token_tracker.pricing import Prices
from llama_token_tracker.usage import Usage


class Hold:
    """A reservation, which the events of one call settle together.

    Args:
        reservation: What the call holds.
        needs_price: Whether one of the budgets limits money.
        events: How many events the call will become: one, or one for each embedded text.
    """

    __slots__ = ("_left", "_needs_price", "_reservation", "_tokens", "_usd")

    def __init__(self, reservation: Reservation, *, needs_price: bool, events: int = 1) -> None:
        self._reservation = reservation
        self._needs_price = needs_price
        self._left = events
        self._tokens = 0
        self._usd: Decimal | None = Decimal(0)

    def expect(self, events: int) -> None:
        """Wait for so many events; with none to wait for, nothing was used."""
        self._left = events
        if not events:
            self._reservation.release()

    def settle(self, event: TokenCountingEvent) -> None:
        """Spend what an event says; after the last one, give back what's left."""
        usd = _cost(event) if self._needs_price else None
        with LOCK:
            self._tokens += event.total_token_count
            self._usd = None if self._usd is None or usd is None else self._usd + usd
            self._left -= 1
            is_last = self._left <= 0
        if is_last:
            self._reservation.settle(self._tokens, self._usd)


def _cost(event: TokenCountingEvent) -> Decimal | None:
    return event.cost_usd if event.total_token_count else Decimal(0)


def accounts_of(budget: Budget | Iterable[Budget] | None) -> tuple[Accounts, ...]:
    """An account for each budget that was given.

    Raises:
        BudgetError: Something else than budgets was given.
    """
    given = (budget,) if budget is None or isinstance(budget, Budget) else budget
    budgets = tuple(given) if isinstance(given, Iterable) else (given,)  # pyright: ignore[reportUnnecessaryIsInstance]
    for one in budgets:
        if budget is not None and not isinstance(one, Budget):
            msg = f"budget= holds {printable(one)}; give a Budget(...) or a list of them."
            raise BudgetError(msg)
    return tuple(Accounts(one) for one in budgets if one is not None)


def hold(
    accounts: Sequence[Accounts],
    tags: dict[str, str],
    scope: str | None,
    prices: Prices,
    *,
    input_tokens: int,
    output_tokens: int | None,
    provider: str | None,
    model: str | None,
    operation: Operation,
) -> Hold:
    """Reserve what a call may use, before it's sent.

    Args:
        accounts: Those of all budgets that it's subject to.
        tags: Its tags.
        scope: The path of its scope.
        prices: What tokens cost.
        input_tokens: How many will be sent, roughly.
        output_tokens: How many may come back, or `None` if it doesn't say.
        provider: Its provider, for the price.
        model: Its model.
        operation: What is asked for.

    Raises:
        BudgetExceededError: It would pass a limit.
    """

    def price(sent: int, back: int) -> Decimal | None:
        usage = Usage(input_tokens=sent, output_tokens=back)
        now = datetime.now(UTC)
        cost = prices.cost(usage, provider=provider, model=model, at=now, operation=operation)
        return None if cost is None else cost.usd

    reservation = reserve_all(
        accounts, tags, scope, input_tokens=input_tokens, output_tokens=output_tokens, usd=price
    )
    return Hold(reservation, needs_price=any(one.budget.usd is not None for one in accounts))


def spend(accounts: Sequence[Accounts], event: TokenCountingEvent) -> None:
    """Take in a call that reserved nothing, as its start wasn't heard."""
    if event.total_token_count:
        for one in accounts:
            usd = event.cost_usd if one.budget.usd is not None else None
            try:
                one.spend(event.tags, event.scope, event.total_token_count, usd)
            except Exception as error:  # noqa: BLE001 - called when the answer is there already
                notice("a call could not be charged to its budget", error, "it is left out")

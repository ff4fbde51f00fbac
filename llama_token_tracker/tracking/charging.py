"""What a call holds in the budgets it's subject to: reserved before it's sent, spent after.

Where calls and events meet budgets.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple, TypeAlias

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker._printable import printable
from llama_token_tracker.budgets import Accounts, Budget, BudgetError, Reservation, reserve_all
from llama_token_tracker.events.call import Call
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.pricing import Prices
from llama_token_tracker.tracking.correlation import RequestOwner
from llama_token_tracker.usage import Usage

Reserve: TypeAlias = Callable[[Call], None]


class CallReservation(NamedTuple):
    """What a call under way holds.

    Attributes:
        reservation: Its part in each budget.
        needs_price: Whether one of the budgets limits money.
    """

    reservation: Reservation
    needs_price: bool

    def settle(self, events: Sequence[TokenCountingEvent]) -> None:
        """Spend what the call's events say, and give back what's left; none: nothing was used."""
        tokens, usd = 0, Decimal(0)
        is_priced = self.needs_price
        if any(map(_is_unseen, events)):
            # What came back nobody knows, so what was reserved counts.
            self.reservation.settle(None, None)
            return
        for event in events:
            tokens += event.total_token_count
            if is_priced and not event.is_free:
                cost = event.cost_usd
                is_priced = cost is not None
                usd += cost or 0
        if events:
            self.reservation.settle(tokens, usd if is_priced else None)
        else:
            self.reservation.release()

    def settle_uncounted(self, tokens: int) -> None:
        """Spend these tokens of a call that can't be read, whose price is unknown; 0: none."""
        if tokens:
            self.reservation.settle(tokens, None)
        else:
            self.reservation.release()


def _is_unseen(event: TokenCountingEvent) -> bool:
    """Whether an answer may have come back, of which neither text nor figures were seen."""
    if event.status in ("complete", "failed") and event.operation in ("chat", "completion"):
        is_unknown = event.completion_source == "estimated" and not event.completion_token_count
        return is_unknown and not event.is_free
    return event.status == "unanswered"


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


def is_covered(call: Call) -> bool:
    """Whether the call, or one around it, has reserved already."""
    holder: Call | None = call
    while holder is not None:
        if holder.reservation is not None:
            return True
        holder = holder.parent
    return False


def take_reservation(call: Call) -> CallReservation | None:
    """Take what the call, or one around it, has reserved; whoever takes it settles it.

    Another call within the same one must reserve for itself.
    """
    holder: Call | None = call
    while holder is not None:
        if holder.reservation is not None and (found := _taken(holder)) is not None:
            return found
        holder = holder.parent
    return None


def release(call: Call) -> None:
    """Give back what a call has reserved that was never sent, or that another call made."""
    found = _taken(call)
    if found is not None:
        found.settle(())


def _taken(call: Call) -> CallReservation | None:
    """Take what this very call has reserved: one step, so that of two threads one has it."""
    found: CallReservation | None = vars(call).pop("reservation", None)
    return found


def reserve(call: Call, accounts: Sequence[Accounts], prices: Prices) -> None:
    """Reserve what a call may use, before it's sent.

    Args:
        call: The call, which holds it from then on.
        accounts: Those of all budgets that it's subject to.
        prices: What tokens cost.

    Raises:
        BudgetExceededError: It would pass a limit. Nothing is reserved. A user's `on_exceed` may
            raise anything; nothing else does.
    """
    sent, back = _expected(call)
    context = call.context
    provider, model, operation = call.provider, call.model, call.operation

    def price(input_tokens: int, output_tokens: int) -> Decimal | None:
        usage = Usage.of({"input_tokens": input_tokens, "output_tokens": output_tokens})
        now = datetime.now(UTC)
        cost = prices.cost(usage, provider=provider, model=model, at=now, operation=operation)
        return None if cost is None else cost.usd

    try:
        reservation = reserve_all(
            accounts,
            {} if context is None else dict(context.tags),
            None if context is None else context.path,
            input_tokens=sent,
            output_tokens=back,
            usd=price,
        )
    except BudgetError as error:
        notice("what a call may use could not be reserved", error, "it is charged at its end")
        return
    needs_price = any(one.budget.usd is not None for one in accounts)
    call.reservation = CallReservation(reservation, needs_price)


def reserve_for(owner: RequestOwner | None, request: Call, reserve: Reserve) -> None:
    """Reserve what a request may use, before it's sent.

    What a framework sends, its own call holds: from its start, if that was told of and wasn't
    refused, or from now on.

    Args:
        owner: The framework's call that sends it, if one does.
        request: The request.
        reserve: Reserves what a call may use.

    Raises:
        BudgetExceededError: It would pass a limit. A user's `on_exceed` may raise anything.
    """
    call = owner if isinstance(owner, Call) else None
    if call is not None:
        call.is_stopped = True
    if owner is not None and owner.refusal is not None:
        raise owner.refusal
    if call is None:
        reserve(request)
        return
    if not is_covered(call):
        request.context = call.context
        reserve(request)
        with LOCK:
            # Of two that leave at once, one holds for the call.
            if not is_covered(call):
                call.reservation, request.reservation = request.reservation, None
        release(request)
    call.is_stopped = False


def _expected(call: Call) -> tuple[int, int | None]:
    """What a call may use; of one that can't be read, what it doesn't state is assumed."""
    try:
        call.identify()
        return call.expected_tokens()
    except Exception as error:  # noqa: BLE001 - counting must not stop the call
        notice("what a call may use could not be read", error, "default_max_tokens is reserved")
        return 0, None


def spend(accounts: Sequence[Accounts], event: TokenCountingEvent) -> None:
    """Take in a call that reserved nothing, as its start was never told of."""
    if not event.is_free:
        for one in accounts:
            usd = event.cost_usd if one.budget.usd is not None else None
            try:
                one.spend(event.tags, event.scope, event.total_token_count, usd)
            except Exception as error:  # noqa: BLE001 - called when the answer is there already
                notice("a call could not be charged to its budget", error, "it is left out")

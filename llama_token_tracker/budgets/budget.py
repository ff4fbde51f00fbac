"""`Budget`: a limit on tokens or money as users declare it, checked when it's made."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, Self, TypeAlias

from llama_token_tracker._printable import printable
from llama_token_tracker.budgets.amounts import count_of, dollars_of
from llama_token_tracker.budgets.windows import length_of, time_by, utc_now
from llama_token_tracker.errors import BudgetError, BudgetExceededError

DEFAULT_MAX_TOKENS: Final = 1_024
"""What a call's output is assumed to be at the most if the call doesn't state it."""

OnExceed: TypeAlias = Literal["raise", "warn"] | Callable[[BudgetExceededError], object]
"""What happens to a call that would pass the limit."""

Unpriced: TypeAlias = Literal["refuse", "allow"]
"""What happens to a call without a price where money is limited."""

Price: TypeAlias = Callable[[int, int], Decimal | None]
"""Input and output tokens to US dollars, or to `None` if the price is not known."""


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Budget:
    """A limit on what calls may use, checked before each of them is sent.

    A call reserves its input and its `max_tokens` when it starts. When what is spent and what
    is reserved together would pass the limit, it is not sent. At its end it gives the
    reservation back and what it really used is spent.

    Args:
        usd: The limit in US dollars, or `None`. A float is taken as it prints.
        tokens: The limit in tokens, input and output together, embeddings included; or `None`.
            One of the two limits must be given.
        per: Whose calls share the limit: `None` for all, `"scope"` for those of each scope, or
            the name of a tag for those of each of its values. Calls without the tag share one
            account, whose name is `None`.
        window: How long the limit is for: `None` for good; a `timedelta`; or a number and a
            unit, such as "30 minutes", "1 day", "1 week" or "1 month". Windows are aligned in
            UTC: days start at midnight, weeks on Monday, months on the first; those of any
            other length are counted from Monday, 2001-01-01.
        on_exceed: `"raise"` refuses the call with `BudgetExceededError`. `"warn"` logs the
            error, once for each account, window and limit, and sends the call. A function is
            called with the error each time, in the thread that starts the call, and the call is
            sent unless the function raises. It should not call a model under the same budget.
        unpriced: Whether a call whose price isn't known is refused where money is limited, or
            allowed and counted in tokens alone. A refusal is subject to `on_exceed`.
        default_max_tokens: What to reserve for the output of a call that states no limit.
        clock: What tells the time. It is asked at each start and each end, from any thread.

    Raises:
        BudgetError: An argument makes no sense.
    """

    usd: Decimal | None
    tokens: int | None
    per: str | None
    window: str | timedelta | None
    on_exceed: OnExceed
    unpriced: Unpriced
    default_max_tokens: int
    clock: Callable[[], datetime]

    # By hand, as a limit may be given in more types than it's kept in.
    def __init__(
        self,
        *,
        usd: Decimal | float | str | None = None,
        tokens: int | None = None,
        per: str | None = None,
        window: str | timedelta | None = None,
        on_exceed: OnExceed = "raise",
        unpriced: Unpriced = "refuse",
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        if usd is None and tokens is None:
            msg = "this budget limits nothing; give usd=, tokens= or both."
            raise BudgetError(msg)
        _check_per(per)
        _check_on_exceed(on_exceed)
        _check_unpriced(unpriced)
        if window is not None:
            length_of(window)
        time_by(clock)
        fields = {
            "usd": None if usd is None else dollars_of("usd", usd),
            "tokens": None if tokens is None else count_of("tokens", tokens),
            "per": per,
            "window": window,
            "on_exceed": on_exceed,
            "unpriced": unpriced,
            "default_max_tokens": count_of("default_max_tokens", default_max_tokens),
            "clock": clock,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def __copy__(self) -> Self:
        """It can't change, so it is its own copy."""
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        """Nor is its clock copied, which must tell all copies the same time."""
        return self


def _check_per(per: object) -> None:
    if per is not None and not (isinstance(per, str) and per):
        msg = f'per is {printable(per)}; give None, "scope", or the name of a tag.'
        raise BudgetError(msg)


def _check_on_exceed(on_exceed: object) -> None:
    if inspect.iscoroutinefunction(on_exceed):
        msg = (
            f"on_exceed is {printable(on_exceed)}, which would have to be awaited; a call's start "
            "can't wait, so give a plain function."
        )
        raise BudgetError(msg)
    if on_exceed not in ("raise", "warn") and not callable(on_exceed):
        msg = (
            f'on_exceed is {printable(on_exceed)}; give "raise", "warn", or a function that takes '
            "the error."
        )
        raise BudgetError(msg)


def _check_unpriced(unpriced: object) -> None:
    if unpriced not in ("refuse", "allow"):
        msg = f'unpriced is {printable(unpriced)}; give "refuse" or "allow".'
        raise BudgetError(msg)

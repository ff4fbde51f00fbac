"""`Budget`: a limit on tokens or money as users declare it, checked when it's made.

And what is told of it: `Spent`, the state of an account, and `Reached`, a threshold in it.
"""

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias, cast

from llama_token_tracker._printable import printable
from llama_token_tracker.budgets.amounts import count_of, dollars_of
from llama_token_tracker.budgets.store import AccountStore, StoreOwner
from llama_token_tracker.budgets.windows import length_of, time_by, utc_now
from llama_token_tracker.errors import BudgetError, BudgetExceededError

DEFAULT_MAX_TOKENS: Final = 1_024
"""What a call's output is assumed to be at the most if the call doesn't state it."""

OnExceed: TypeAlias = Literal["raise", "warn"] | Callable[[BudgetExceededError], object]
"""What happens to a call that would pass the limit."""

Unpriced: TypeAlias = Literal["refuse", "allow"]
"""What happens to a call without a price where money is limited."""

Away: TypeAlias = Literal["allow", "refuse"]
"""What happens to a call while the store of shared accounts can't be reached."""

Price: TypeAlias = Callable[[int, int], Decimal | None]
"""Input and output tokens to US dollars, or to `None` if the price is not known."""


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


class Reached(NamedTuple):
    """A threshold that an account has reached, as the function for it is told.

    Attributes:
        budget: The budget.
        key: Whose account: the value of what the budget is `per`.
        threshold: The part of the limit, as it was given: 0.8.
        spent: The state of the account.
    """

    budget: "Budget"
    key: str | None
    threshold: float
    spent: Spent


OnReach: TypeAlias = Callable[[Reached], object]
"""Is called when an account reaches a threshold."""


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
        clock: What tells the time. It is asked at each start and each end, from any thread. Shared
            accounts go by their store's clock instead.
        at: Functions by the part of the limit at which they're called, `{0.8: notify}`: once for
            each account, window and threshold, with a `Reached`, in the thread that ends the call
            whose spending reaches it. What they raise is logged.
        shared: Where accounts are kept that outlive the process and that others share: a `Ledger`,
            `SqlAccounts` or `RedisAccounts`. `None` keeps them in the handler alone. Budgets with
            the same limits, `per` and `window` are one there.
        name: Tells budgets apart that are the same otherwise; and those of one name are one,
            whatever their limits, so that a limit can be changed.
        away: Whether calls are refused while the store of shared accounts can't be reached, or
            allowed and held to what this process knows.

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
    at: tuple[tuple[float, OnReach], ...]
    shared: AccountStore | StoreOwner | None
    name: str | None
    away: Away

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
        at: Mapping[float, OnReach] | None = None,
        shared: AccountStore | StoreOwner | None = None,
        name: str | None = None,
        away: Away = "allow",
    ) -> None:
        if usd is None and tokens is None:
            msg = "this budget limits nothing; give usd=, tokens= or both."
            raise BudgetError(msg)
        _check_per(per)
        _check_on_exceed(on_exceed)
        _check_choice("unpriced", unpriced, ("refuse", "allow"))
        _check_choice("away", away, ("allow", "refuse"))
        _check_shared(shared, name, clock)
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
            "at": _thresholds(at),
            "shared": shared,
            "name": name,
            "away": away,
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


def _check_choice(name: str, value: object, choices: tuple[str, str]) -> None:
    if value not in choices:
        msg = f'{name} is {printable(value)}; give "{choices[0]}" or "{choices[1]}".'
        raise BudgetError(msg)


def _check_shared(shared: object, name: object, clock: object) -> None:
    if not (shared is None or isinstance(shared, AccountStore | StoreOwner)):
        msg = (
            f"shared is {printable(shared)}; give a Ledger, SqlAccounts(...), RedisAccounts(...) "
            "or an AccountStore of your own."
        )
        raise BudgetError(msg)
    if name is not None and not (isinstance(name, str) and name):
        msg = f"name is {printable(name)}; give None or a text."
        raise BudgetError(msg)
    if shared is not None and clock is not utc_now:
        msg = "shared accounts go by their store's clock; leave clock= out."
        raise BudgetError(msg)


def _thresholds(at: object) -> tuple[tuple[float, OnReach], ...]:
    if at is None:
        return ()
    if not isinstance(at, Mapping):
        msg = (
            f"at is {printable(at)}; give functions by parts of the limit, such as {{0.8: print}}."
        )
        raise BudgetError(msg)
    given = cast("Mapping[object, object]", at)
    found = {_part(threshold): _function(value) for threshold, value in given.items()}
    return tuple(sorted(found.items(), key=operator.itemgetter(0)))


def _part(threshold: object) -> float:
    if isinstance(threshold, int | float) and 0 < threshold <= _LARGEST_PART:
        return threshold
    msg = f"at holds {printable(threshold)}; give parts of the limit, such as 0.8 for 80 %."
    raise BudgetError(msg)


_LARGEST_PART: Final = 1_000


def _function(value: object) -> OnReach:
    if callable(value) and not inspect.iscoroutinefunction(value):
        return value
    msg = f"at holds {printable(value)}; give plain functions that take a Reached."
    raise BudgetError(msg)

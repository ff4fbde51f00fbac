"""The error for a call that would exceed a budget: its message and its attributes."""

from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from llama_token_tracker._printable import plain, printable
from llama_token_tracker.budgets.amounts import attodollars_of, usd_of
from llama_token_tracker.budgets.budget import Budget
from llama_token_tracker.errors import Amount, BudgetExceededError, Over

_LONGEST_NAME: Final = 80


class Violation(NamedTuple):
    """A call that would exceed a budget, and the state of the account it belongs to.

    Its fields become the attributes of the error, in dollars.
    """

    budget: Budget
    key: str | None
    over: tuple[Over, ...]
    input_tokens: int
    output_tokens: int
    states_output: bool
    attodollars: int | None
    spent_tokens: int
    spent_attodollars: int
    reserved_tokens: int
    reserved_attodollars: int
    assumed_tokens: int
    assumed_attodollars: int
    until: datetime | None

    @property
    def tokens(self) -> int:
        """How many tokens the call may use."""
        return self.input_tokens + self.output_tokens


def error_of(violation: Violation) -> BudgetExceededError:
    """Make the error that says all this in words, and carries it as attributes."""
    budget = violation.budget
    problems = "; ".join(_PROBLEMS[over](violation) for over in violation.over)
    error = BudgetExceededError(
        " ".join(
            [
                f"Budget exceeded for {_whom(budget.per, violation.key)}: {problems}.",
                *_circumstances(violation),
                # Two limits may have the same way out.
                *dict.fromkeys(_WAYS_OUT[over](violation) for over in violation.over),
            ]
        )
    )
    error.budget = budget
    error.over = violation.over
    error.limit = Amount(budget.tokens, budget.usd)
    error.spent = Amount(violation.spent_tokens, usd_of(violation.spent_attodollars))
    error.reserved = Amount(violation.reserved_tokens, usd_of(violation.reserved_attodollars))
    attodollars = violation.attodollars
    error.asked = Amount(violation.tokens, None if attodollars is None else usd_of(attodollars))
    error.account = (budget.per, violation.key)
    error.until = violation.until
    return error


def _whom(per: str | None, key: str | None) -> str:
    if per is None:
        return "all calls"
    if key is None:
        missing = "outside every scope" if per == "scope" else f"without a tag {printable(per)}"
        return f"calls {missing} (their account is None)"
    return f"{plain(per, _LONGEST_NAME)} {printable(key)}"


# --- the problem -----------------------------------------------------------------------------


def _too_many_tokens(violation: Violation) -> str:
    return (
        f"the call may use {violation.tokens:,} tokens ({violation.input_tokens:,} in, up to "
        f"{violation.output_tokens:,} out), but of {violation.budget.tokens:,} tokens "
        f"{violation.spent_tokens:,} are spent and {violation.reserved_tokens:,} are reserved by "
        "calls under way"
    )


def _too_much_money(violation: Violation) -> str:
    return f"the call may cost ${usd_of(violation.attodollars or 0):f}, but {_money(violation)}"


def _no_price(violation: Violation) -> str:
    return f"the price of the call is not known, and {_money(violation)}"


def _money(violation: Violation) -> str:
    return (
        f"of ${violation.budget.usd:f} ${usd_of(violation.spent_attodollars):f} is spent and "
        f"${usd_of(violation.reserved_attodollars):f} is reserved by calls under way"
    )


def _no_store(_violation: Violation) -> str:
    return "the store of its shared accounts can't be reached"


_PROBLEMS: Final[dict[Over, Callable[[Violation], str]]] = {
    "tokens": _too_many_tokens,
    "usd": _too_much_money,
    "unpriced": _no_price,
    "away": _no_store,
}


def _circumstances(violation: Violation) -> list[str]:
    until = violation.until
    facts = [
        "The limit has no window: it is for good."
        if until is None
        else f"The window ends at {until:%Y-%m-%d %H:%M:%S} UTC."
    ]
    if not violation.states_output:
        facts.append(
            f"The call states no max_tokens, so default_max_tokens ({violation.output_tokens:,}) "
            "is assumed."
        )
    if violation.assumed_tokens or violation.assumed_attodollars:
        facts.append(
            f"Of what is spent, {violation.assumed_tokens:,} tokens and "
            f"${usd_of(violation.assumed_attodollars):f} are assumed: there are too many accounts "
            "to tell all apart, and those that spent least were dropped."
        )
    return facts


# --- the ways out of it ---------------------------------------------------------------------


def _fewer_tokens(violation: Violation) -> str:
    limit = violation.budget.tokens or 0
    if violation.input_tokens > limit:
        return "Its input alone is larger than the whole limit: shorten it, or raise the limit."
    if violation.tokens > limit:
        return (
            "It is larger than the whole limit: lower max_tokens to at most "
            f"{limit - violation.input_tokens:,}, or raise the limit."
        )
    return _wait(violation, fits=violation.spent_tokens + violation.tokens <= limit)


def _less_money(violation: Violation) -> str:
    limit, asked = attodollars_of(violation.budget.usd or 0), violation.attodollars or 0
    if asked > limit:
        return "It is larger than the whole limit: lower max_tokens, or raise the limit."
    return _wait(violation, fits=violation.spent_attodollars + asked <= limit)


def _wait(violation: Violation, *, fits: bool) -> str:
    wait = ""
    if fits:
        wait = "wait for calls under way to end, "
    elif violation.until is not None:
        wait = "wait for the next window, "
    return f"Lower max_tokens, {wait}or raise the limit."


def _a_price(_violation: Violation) -> str:
    return 'Give its model a price, or let such calls pass with Budget(..., unpriced="allow").'


def _a_store(_violation: Violation) -> str:
    return 'Try again once it answers, or let such calls pass with Budget(..., away="allow").'


_WAYS_OUT: Final[dict[Over, Callable[[Violation], str]]] = {
    "tokens": _fewer_tokens,
    "usd": _less_money,
    "unpriced": _a_price,
    "away": _a_store,
}

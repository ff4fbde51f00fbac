"""What is said of a call that would pass a limit."""

from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple

from llama_token_tracker._log_once import printable
from llama_token_tracker.budgets.amounts import parts_of, usd_of
from llama_token_tracker.budgets.budget import Budget
from llama_token_tracker.errors import Amount, BudgetExceededError, Over


class Standing(NamedTuple):
    """What a call asked for, and how the account stood that it would have been taken from.

    Money is in the parts that it's added up in.
    """

    budget: Budget
    key: str | None
    over: tuple[Over, ...]
    input_tokens: int
    output_tokens: int
    states_output: bool
    usd: int | None
    spent_tokens: int
    spent_usd: int
    reserved_tokens: int
    reserved_usd: int
    assumed_tokens: int
    assumed_usd: int
    until: datetime | None

    @property
    def tokens(self) -> int:
        """How many tokens the call may use."""
        return self.input_tokens + self.output_tokens


def error_of(standing: Standing) -> BudgetExceededError:
    """The error that says all this, and holds it."""
    budget = standing.budget
    problems = "; ".join(_PROBLEMS[over](standing) for over in standing.over)
    error = BudgetExceededError(
        " ".join(
            [
                f"Budget exceeded for {_whom(budget.per, standing.key)}: {problems}.",
                *_circumstances(standing),
                # Two limits may have the same way out.
                *dict.fromkeys(_WAYS_OUT[over](standing) for over in standing.over),
            ]
        )
    )
    error.budget = budget
    error.over = standing.over
    error.limit = Amount(budget.tokens, budget.usd)
    error.spent = Amount(standing.spent_tokens, usd_of(standing.spent_usd))
    error.reserved = Amount(standing.reserved_tokens, usd_of(standing.reserved_usd))
    error.asked = Amount(standing.tokens, None if standing.usd is None else usd_of(standing.usd))
    error.account = (budget.per, standing.key)
    error.until = standing.until
    return error


def _whom(per: str | None, key: str | None) -> str:
    if per is None:
        return "all calls"
    if key is None:
        missing = "outside every scope" if per == "scope" else f"without a tag {printable(per)}"
        return f"calls {missing} (their account is None)"
    return f"{per} {printable(key)}"


# --- what is wrong ---------------------------------------------------------------------------


def _too_many_tokens(standing: Standing) -> str:
    return (
        f"the call may use {standing.tokens:,} tokens ({standing.input_tokens:,} in, up to "
        f"{standing.output_tokens:,} out), but of {standing.budget.tokens:,} tokens "
        f"{standing.spent_tokens:,} are spent and {standing.reserved_tokens:,} are reserved by "
        "calls under way"
    )


def _too_much_money(standing: Standing) -> str:
    return f"the call may cost ${usd_of(standing.usd or 0):f}, but {_money(standing)}"


def _no_price(standing: Standing) -> str:
    return f"the price of the call is not known, and {_money(standing)}"


def _money(standing: Standing) -> str:
    return (
        f"of ${standing.budget.usd:f} ${usd_of(standing.spent_usd):f} is spent and "
        f"${usd_of(standing.reserved_usd):f} is reserved by calls under way"
    )


_PROBLEMS: Final[dict[Over, Callable[[Standing], str]]] = {
    "tokens": _too_many_tokens,
    "usd": _too_much_money,
    "unpriced": _no_price,
}


def _circumstances(standing: Standing) -> list[str]:
    until = standing.until
    said = [
        "The limit has no window: it is for good."
        if until is None
        else f"The window ends at {until:%Y-%m-%d %H:%M:%S} UTC."
    ]
    if not standing.states_output:
        said.append(
            f"The call states no max_tokens, so default_max_tokens ({standing.output_tokens:,}) "
            "is assumed."
        )
    if standing.assumed_tokens or standing.assumed_usd:
        said.append(
            f"Of what is spent, {standing.assumed_tokens:,} tokens and "
            f"${usd_of(standing.assumed_usd):f} are assumed: there are too many accounts to tell "
            "all apart, and those that spent least were dropped."
        )
    return said


# --- what to do about it ---------------------------------------------------------------------


def _fewer_tokens(standing: Standing) -> str:
    limit = standing.budget.tokens or 0
    if standing.input_tokens > limit:
        return "Its input alone is larger than the whole limit: shorten it, or raise the limit."
    if standing.tokens > limit:
        return (
            "It is larger than the whole limit: lower max_tokens to at most "
            f"{limit - standing.input_tokens:,}, or raise the limit."
        )
    return _wait(standing, fits=standing.spent_tokens + standing.tokens <= limit)


def _less_money(standing: Standing) -> str:
    limit, asked = parts_of(standing.budget.usd or 0), standing.usd or 0
    if asked > limit:
        return "It is larger than the whole limit: lower max_tokens, or raise the limit."
    return _wait(standing, fits=standing.spent_usd + asked <= limit)


def _wait(standing: Standing, *, fits: bool) -> str:
    wait = ""
    if fits:
        wait = "wait for calls under way to end, "
    elif standing.until is not None:
        wait = "wait for the next window, "
    return f"Lower max_tokens, {wait}or raise the limit."


def _a_price(_standing: Standing) -> str:
    return 'Give its model a price, or let such calls pass with Budget(..., unpriced="allow").'


_WAYS_OUT: Final[dict[Over, Callable[[Standing], str]]] = {
    "tokens": _fewer_tokens,
    "usd": _less_money,
    "unpriced": _a_price,
}

"""Parts of a limit at which a user's function is called, once an account has reached them."""

from collections.abc import Iterable
from fractions import Fraction
from math import ceil
from typing import NamedTuple

from llama_token_tracker._log_once import notice
from llama_token_tracker.budgets.amounts import attodollars_of
from llama_token_tracker.budgets.budget import Budget, OnReach, Reached, Spent

_Sums = tuple[int, int]
"""Tokens, and attodollars."""


class Level(NamedTuple):
    """A threshold in whole numbers: what must be spent to reach it, in either unit.

    Attributes:
        threshold: The part of the limit, as it was given.
        function: What is called.
        tokens: So many tokens reach it; `None` if they aren't limited.
        attodollars: So much money does.
    """

    threshold: float
    function: OnReach
    tokens: int | None
    attodollars: int | None

    def is_reached(self, sums: _Sums) -> bool:
        """Whether so much reaches it."""
        return (self.tokens is not None and sums[0] >= self.tokens) or (
            self.attodollars is not None and sums[1] >= self.attodollars
        )


def levels_of(budget: Budget) -> tuple[Level, ...]:
    """All thresholds of a budget."""
    money = None if budget.usd is None else attodollars_of(budget.usd)
    return tuple(
        Level(at, function, _part_of(budget.tokens, at), _part_of(money, at))
        for at, function in budget.at
    )


def _part_of(limit: int | None, threshold: float) -> int | None:
    if limit is None:
        return None
    # A float means what it prints: four fifths of 1,000 are 800.
    return ceil(Fraction(str(threshold)) * limit)


def crossed(levels: Iterable[Level], before: _Sums, after: _Sums) -> list[Level]:
    """Which thresholds were reached between two states of an account."""
    return [one for one in levels if one.is_reached(after) and not one.is_reached(before)]


def announce(budget: Budget, key: str | None, levels: Iterable[Level], spent: Spent) -> None:
    """Call the functions of thresholds that were reached. No lock is held."""
    for level in levels:
        try:
            level.function(Reached(budget, key, level.threshold, spent))
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            notice("the function of a budget's threshold raised", error, "the call goes on")

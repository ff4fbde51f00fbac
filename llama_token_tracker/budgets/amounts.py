"""Checks of amounts of tokens and money, and money as whole attodollars.

Money is added up as a whole number of attodollars, of 10^-18 dollars. So sums are exact, and need
neither the precision nor the traps that a thread may have set for decimals of its own.
"""

import operator
from contextlib import suppress
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from typing import Final

from llama_token_tracker._printable import printable
from llama_token_tracker.errors import BudgetError

# Far beyond any bill, and still a float when it's divided.
_MOST_TOKENS: Final = 10**15
_MOST_USD: Final = Decimal(10**15)

_NOTHING: Final = Decimal(0)
_ATTO: Final = Decimal(10**18)
_MONEY: Final = Context(prec=80, rounding=ROUND_HALF_EVEN, traps=[])


def count_of(name: str, value: object) -> int:
    """A number of tokens that may be added up, checked.

    Args:
        name: What the error calls it.
        value: The number, as the user gave it.

    Raises:
        BudgetError: It's no whole number from 0 on.
    """
    if type(value) is int and 0 <= value <= _MOST_TOKENS:
        return value
    try:
        count = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = -1
    if not 0 <= count <= _MOST_TOKENS:
        msg = f"{name} is {printable(value)}; give a whole number from 0 to {_MOST_TOKENS:,}."
        raise BudgetError(msg)
    return count


def dollars_of(name: str, value: object) -> Decimal:
    """An amount of US dollars that may be added up, checked.

    Args:
        name: What the error calls it.
        value: The amount, as the user gave it.

    Raises:
        BudgetError: It's no number from 0 on.
    """
    if type(value) is Decimal and value.is_finite() and _NOTHING <= value <= _MOST_USD:
        return value
    usd = _decimal(value)
    if not (usd.is_finite() and _NOTHING <= usd <= _MOST_USD):
        msg = (
            f"{name} is {printable(value)}; give a number from 0 to {_MOST_USD:,}, such as 2, "
            '0.5, "0.5" or Decimal("0.5").'
        )
        raise BudgetError(msg)
    return usd


def _decimal(value: object) -> Decimal:
    if isinstance(value, float):
        # A float means what it prints: 0.1 is a tenth of a dollar.
        value = str(value)
    if isinstance(value, int | str | Decimal) and not isinstance(value, bool):
        with suppress(InvalidOperation):
            return Decimal(value)
    return Decimal("NaN")


def attodollars_of(usd: object) -> int:
    """Money as it's added up; what is smaller than an attodollar is rounded.

    Raises:
        BudgetError: It's no amount of money.
    """
    return int(_MONEY.to_integral_value(_MONEY.multiply(dollars_of("usd", usd), _ATTO)))


def usd_of(attodollars: int) -> Decimal:
    """Money as it's shown."""
    usd = _MONEY.normalize(_MONEY.divide(Decimal(attodollars), _ATTO))
    whole = int(usd)
    # Or else ten dollars would be `Decimal("1E+1")`.
    return Decimal(whole) if usd == whole else usd

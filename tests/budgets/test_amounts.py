"""Tokens and money that are added up."""

from decimal import Context, Decimal, Inexact, Rounded, localcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import Budget
from llama_token_tracker.budgets import Accounts

from .spending import refusal, reserve, spent


def test_a_float_is_what_it_prints():
    """Ten calls of ten cents fit a dollar that was given as a float, and an eleventh doesn't."""
    assert Budget(usd=0.1).usd == Decimal("0.1")
    accounts = Accounts(Budget(usd=1.0))
    for _ in range(10):
        reserve(accounts, usd=Decimal("0.1")).settle(10, Decimal("0.1"))
    assert accounts.spent().usd == 1
    refusal(accounts, usd=Decimal("0.000001"))
    assert reserve(accounts, usd=Decimal(0)).is_open


@given(st.lists(st.decimals(0, 1_000, places=15), max_size=20))
def test_money_adds_up_exactly_whatever_the_caller_does_with_decimals(costs: list[Decimal]):
    """A thread's own precision and traps change nothing, and raise nothing."""
    accounts = Accounts(Budget(usd=100_000))
    with localcontext(Context(prec=2, traps=[Inexact, Rounded])):
        for cost in costs:
            reserve(accounts, usd=cost).settle(1, cost)
        total = accounts.spent().usd
    with localcontext(Context(prec=60)):
        assert total == sum(costs, Decimal(0))


@pytest.mark.parametrize(
    ("cost", "shown"),
    [
        ("1E+1", "10"),
        ("0.10", "0.1"),
        ("0.000000000000000001", "1E-18"),
        ("0.3333333333333333333333333", "0.333333333333333333"),
        ("1E-999999", "0"),
        ("-0", "0"),
    ],
)
def test_money_is_shown_plainly(cost: str, shown: str):
    """No exponents for whole dollars, no zeros at the end, nothing below 10⁻¹⁸."""
    accounts = Accounts(Budget(usd=100))
    accounts.spend({}, None, 1, Decimal(cost))
    assert str(accounts.spent().usd) == shown


def test_numbers_of_other_kinds_are_numbers():
    """What says that it is a whole number is taken as one."""

    class Whole:
        def __index__(self) -> int:
            return 60

    accounts = Accounts(Budget(tokens=Whole()))
    assert accounts.budget.tokens == 60
    reserve(accounts, Whole()).settle(Whole(), None)
    assert spent(accounts) == (60, 0)

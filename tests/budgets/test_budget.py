"""A limit as users write it: what makes sense, and what is refused."""

import copy
import pickle
import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from llama_token_tracker import Budget, BudgetError, BudgetExceededError, LlamaTokenTrackerError

from .spending import NOON


@pytest.mark.parametrize("limit", [2, 2.0, "2", "2.00", Decimal(2)], ids=repr)
def test_a_limit_of_money_may_be_given_in_any_type(limit: Any):
    """Whatever the type, it's a decimal from then on."""
    budget = Budget(usd=limit)
    assert type(budget.usd) is Decimal
    assert budget == Budget(usd=2)


def test_a_budget_travels():
    """With a clock and a function that can be pickled, a budget can."""
    budget = Budget(usd=0.5, tokens=3, per="user", window="1 week", on_exceed="warn")
    assert pickle.loads(pickle.dumps(budget)) == budget
    assert copy.deepcopy(budget) is copy.copy(budget) is budget
    assert len({budget, pickle.loads(pickle.dumps(budget))}) == 1
    with pytest.raises(AttributeError):
        budget.tokens = 4


async def _alert(_error: BudgetExceededError) -> None:
    """Would have to be awaited."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "this budget limits nothing; give usd=, tokens= or both."),
        ({"tokens": -1}, "tokens is -1; give a whole number from 0 to 1,000,000,000,000,000."),
        ({"tokens": 1e6}, "tokens is 1000000.0; give a whole number"),
        ({"tokens": "10"}, "tokens is '10'; give a whole number"),
        ({"tokens": True}, "tokens is True; give a whole number"),
        ({"tokens": 10**16}, "tokens is 10000000000000000; give a whole number"),
        ({"tokens": 10**5000}, "tokens is an unprintable int; give a whole number"),
        ({"usd": -0.01}, "usd is -0.01; give a number from 0 to 1,000,000,000,000,000, such as 2,"),
        ({"usd": "$2"}, "usd is '$2'; give a number from 0"),
        ({"usd": float("nan")}, "usd is nan; give a number from 0"),
        ({"usd": Decimal("sNaN")}, "usd is Decimal('sNaN'); give a number from 0"),
        ({"usd": Decimal("inf")}, "usd is Decimal('Infinity'); give a number from 0"),
        ({"usd": "1e999999"}, "usd is '1e999999'; give a number from 0"),
        ({"usd": True}, "usd is True; give a number from 0"),
        ({"usd": [2]}, "usd is [2]; give a number from 0"),
        ({"per": ""}, "per is ''; give None, \"scope\", or the name of a tag."),
        ({"per": ["user"]}, "per is ['user']; give None, \"scope\", or the name of a tag."),
        ({"window": "day"}, "window is 'day'; give None, a timedelta, or text such as \"30 min"),
        ({"window": "1 fortnight"}, "window is '1 fortnight'; give None, a timedelta, or text"),
        ({"window": "1.5 days"}, "window is '1.5 days'; give None, a timedelta, or text such as"),
        ({"window": 3600}, "window is 3600; give None, a timedelta, or text such as"),
        ({"window": "0 days"}, "window is '0 days'; give a time longer than none and no longer"),
        ({"window": timedelta(0)}, "give a time longer than none and no longer than 100 years"),
        ({"window": timedelta(days=-1)}, "give a time longer than none and no longer than 100"),
        ({"window": timedelta.max}, "give a time longer than none and no longer than 100 years"),
        ({"window": "999999999 weeks"}, "give a time longer than none and no longer than 100"),
        ({"window": "101 years"}, "no longer than 100 years, or None for good."),
        ({"on_exceed": "stop"}, 'on_exceed is \'stop\'; give "raise", "warn", or a function that'),
        ({"on_exceed": None}, 'on_exceed is None; give "raise", "warn", or a function'),
        ({"on_exceed": _alert}, "which would have to be awaited; a call's start can't wait"),
        ({"unpriced": "ignore"}, 'unpriced is \'ignore\'; give "refuse" or "allow".'),
        ({"unpriced": True}, 'unpriced is True; give "refuse" or "allow".'),
        ({"default_max_tokens": -1}, "default_max_tokens is -1; give a whole number from 0"),
        ({"default_max_tokens": None}, "default_max_tokens is None; give a whole number from 0"),
        (
            {"clock": NOON},
            "tzinfo=datetime.timezone.utc); give a function that returns an aware datetime.",
        ),
        (
            {"clock": datetime.now},
            "; return an aware datetime, such as datetime.now(timezone.utc).",
        ),
        ({"clock": lambda: 1.7e9}, "the clock returned 1700000000.0; return an aware datetime"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(arguments: dict[str, Any], message: str):
    """Each says what it found, and the way out."""
    if arguments and not arguments.keys() & {"tokens", "usd"}:
        arguments = {"tokens": 10, **arguments}
    with pytest.raises(BudgetError, match=re.escape(message)) as caught:
        Budget(**arguments)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, LlamaTokenTrackerError)

"""Whose calls share a limit, and what becomes of accounts when there are too many."""

import copy
from collections import defaultdict
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import Budget, BudgetError
from llama_token_tracker.budgets import Accounts

from .spending import Clock, attempt, held_by, refusal, reserve, spent


def test_each_value_of_a_tag_has_an_account():
    """What one user spends leaves the others' limits alone."""
    accounts = Accounts(Budget(tokens=100, per="user"))
    reserve(accounts, 100, user="ann", team="red").settle(100, None)
    refusal(accounts, 1, user="ann", team="blue")
    reserve(accounts, 100, user="bob", team="red").settle(100, None)
    reserve(accounts, 60, team="red").settle(60, None)
    assert refusal(accounts, 41, scope="elsewhere").account == ("user", None)
    assert spent(accounts, user="ann") == (100, 0)
    assert spent(accounts) == (60, 0)


def test_each_scope_has_an_account():
    """`per="scope"` means the scope, even if a tag has that name."""
    accounts = Accounts(Budget(tokens=100, per="scope"))
    tags = {"scope": "a tag"}
    accounts.reserve(tags, "one", input_tokens=100, output_tokens=0, usd=None).settle(100, None)
    assert refusal(accounts, 1, scope="one").account == ("scope", "one")
    reserve(accounts, 100, scope="two").settle(100, None)
    assert spent(accounts) == (0, 0)


def test_all_calls_share_an_account_by_default():
    """Tags and scopes make no difference to a limit for all."""
    accounts = Accounts(Budget(tokens=100))
    reserve(accounts, 60, user="ann", scope="one").settle(60, None)
    assert refusal(accounts, 41, user="bob", scope="two").account == (None, None)


def test_a_value_is_the_same_in_every_type():
    """A number that was given for a tag is the account of its text."""

    class Name(str):
        """A string of another class."""

    accounts = Accounts(Budget(tokens=100, per="user"))
    for value in (42, Name("42"), "42"):
        accounts.spend({"user": value}, None, 10, None)
    assert spent(accounts, user="42") == (30, 0)


def test_the_fullest_accounts_are_named():
    """Those that have used up most of a limit in this window, and how many there are of all."""
    clock = Clock()
    accounts = Accounts(Budget(tokens=100, per="user", window="1 hour", clock=clock))
    for user, tokens in (("ann", 10), ("bob", 90), ("cy", 50)):
        accounts.spend({"user": user}, None, tokens, None)
    fullest, count = accounts.fullest(2)
    assert [(name, state.tokens) for name, state in fullest] == [("bob", 90), ("cy", 50)]
    assert count == 3
    assert fullest[0][1] == accounts.spent({"user": "bob"})
    clock.advance(hours=1)
    accounts.spend({"user": "ann"}, None, 1, None)
    fullest, _ = accounts.fullest(2)
    assert (fullest[0][0], fullest[0][1].tokens) == ("ann", 1)
    assert fullest[1][1].tokens == 0


def test_accounts_need_room():
    """A table for nobody makes no sense."""
    with pytest.raises(BudgetError, match=r"max_accounts is 0; give a number from 1 on\."):
        Accounts(Budget(tokens=1), max_accounts=0)


def test_the_number_of_accounts_is_bounded():
    """Thirty thousand users of one day fill no memory."""
    accounts = Accounts(Budget(tokens=100, per="user", window="1 day"))
    for number in range(30_000):
        accounts.spend({"user": str(number)}, None, 1, None)
    assert held_by(accounts) <= 10_000


def test_accounts_of_windows_before_are_dropped_first():
    """What was spent yesterday is assumed of nobody."""
    clock = Clock()
    budget = Budget(tokens=100, per="user", window="1 hour", clock=clock)
    accounts = Accounts(budget, max_accounts=10)
    for number in range(10):
        accounts.spend({"user": f"old {number}"}, None, 90, None)
    clock.advance(hours=1)
    for number in range(9):
        accounts.spend({"user": f"new {number}"}, None, 50, None)
        assert accounts.spent({"user": "nobody"}).tokens == 0
    assert held_by(accounts) == 10


def test_whoever_is_dropped_keeps_what_it_spent():
    """An account that is no longer told apart can't be filled a second time."""
    accounts = Accounts(Budget(tokens=100, usd=1, per="user"), max_accounts=3)
    spends = {"ann": 90, "bob": 30, "cleo": 60, "dan": 1, "eve": 1}
    for user, tokens in spends.items():
        accounts.spend({"user": user}, None, tokens, Decimal(0))
    assert held_by(accounts) == 3
    # Bob went for Dan, so Dan was assumed to have spent 30 too, and went for Eve.
    standing = accounts.spent({"user": "bob"})
    assert (standing.tokens, standing.assumed_tokens) == (31, 31)
    assert accounts.spent({"user": "eve"}).tokens == 32
    assert spent(accounts, user="ann") == (90, 0)
    # To be refused Bob had to be told apart again, so Eve went.
    error = refusal(accounts, 70, usd=Decimal(0), user="bob")
    assert "32 tokens and $0 are assumed: there are too many accounts" in str(error)
    reserve(accounts, 68, usd=Decimal(0), user="bob").settle(68, Decimal(0))
    refusal(accounts, 1, usd=Decimal(0), user="bob")


def test_an_account_with_a_call_under_way_is_not_dropped():
    """There may be more accounts than planned while as many are in use; then they shrink."""
    accounts = Accounts(Budget(tokens=100, per="user"), max_accounts=3)
    held = [reserve(accounts, 40, user=str(number)) for number in range(8)]
    assert held_by(accounts) == 8
    for number, reserved in enumerate(held):
        assert spent(accounts, user=str(number)) == (0, 40)
        reserved.settle(number, None)
    accounts.spend({"user": "new"}, None, 1, None)
    assert held_by(accounts) <= 3
    # Those that spent least went: what they had spent is what everybody else is assumed to have.
    assert spent(accounts, user="7") == (7, 0)
    assert accounts.spent({"user": "nobody"}).assumed_tokens == 5


@pytest.mark.parametrize("fresh", ["window", "reset"])
def test_what_is_assumed_ends_with_the_window(fresh: str):
    """In a new window, or after a reset, everybody's limit is whole."""
    clock = Clock()
    budget = Budget(tokens=100, per="user", window="1 hour", clock=clock)
    accounts = Accounts(budget, max_accounts=2)
    for user in ("ann", "bob", "cleo"):
        accounts.spend({"user": user}, None, 50, None)
    assert accounts.spent({"user": "nobody"}).assumed_tokens == 50
    assert copy.copy(accounts).spent({"user": "nobody"}).assumed_tokens == 50
    if fresh == "reset":
        accounts.reset()
    else:
        clock.advance(hours=1)
    assert accounts.spent({"user": "nobody"}).assumed_tokens == 0
    reserve(accounts, 100, user="dan").release()


CALLS = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 60), st.integers(0, 60)), max_size=60
)


@given(calls=CALLS, room=st.integers(1, 4))
def test_no_account_is_overspent_by_being_forgotten(calls: list[tuple[str, int, int]], room: int):
    """However few accounts are told apart, nobody gets past the limit, in tokens or money."""
    accounts = Accounts(Budget(tokens=100, usd=100, per="user"), max_accounts=room)
    truth: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for user, tokens, usd in calls:
        before = accounts.spent({"user": user})
        refused = attempt(accounts, user, tokens, Decimal(usd))
        if refused is None:
            assert max(before.tokens + tokens, before.usd + usd) <= 100
            truth[user][0] += tokens
            truth[user][1] += usd
        else:
            # For what it had spent, or for what it's assumed to have since room was made for it.
            assert max((refused.spent.tokens or 0) + tokens, (refused.spent.usd or 0) + usd) > 100
        assert held_by(accounts) <= room
        standing = accounts.spent({"user": user})
        # No less than the truth; and no more, but for what is said to be assumed.
        assert 0 <= standing.tokens - truth[user][0] <= standing.assumed_tokens
        assert 0 <= standing.usd - truth[user][1] <= standing.assumed_usd
        assert max(truth[user]) <= 100

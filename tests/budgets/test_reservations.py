"""What calls under way hold: until when, in which budgets, and what happens beyond a limit."""

import copy
import gc
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llama_token_tracker import Budget, BudgetError, BudgetExceededError
from llama_token_tracker._lock import LOCK
from llama_token_tracker.budgets import Accounts, reserve_all

from .spending import NOON, Clock, refusal, reserve, spent


def test_a_call_that_would_pass_the_limit_is_refused_before_it_is_sent():
    """What is spent, what is reserved and what is asked for may reach the limit, not pass it."""
    accounts = Accounts(Budget(tokens=100))
    reserve(accounts, 30, 20).settle(40, None)
    held = reserve(accounts, 10, 30)
    assert spent(accounts) == (40, 40)
    refusal(accounts, 20, 1)
    assert spent(accounts) == (40, 40)
    last = reserve(accounts, 20, 0)
    held.settle(35, None)
    last.settle(20, None)
    assert spent(accounts) == (95, 0)


def test_a_call_that_used_more_than_it_reserved_stops_the_next():
    """A paid answer is kept, and whatever comes after it is refused."""
    accounts = Accounts(Budget(tokens=100))
    reserve(accounts, 50).settle(120, None)
    assert spent(accounts) == (120, 0)
    refusal(accounts, 1)


def test_a_failed_call_gives_its_reservation_back():
    """What is released was never spent."""
    accounts = Accounts(Budget(tokens=100, usd=1))
    reserve(accounts, 90, usd=Decimal("0.9")).release()
    standing = accounts.spent()
    assert (standing.tokens, standing.usd, standing.reserved_tokens, standing.reserved_usd) == (
        0,
        0,
        0,
        0,
    )
    assert reserve(accounts, 100, usd=Decimal(1)).is_open


@pytest.mark.parametrize("first", ["settle", "release"])
@pytest.mark.parametrize("second", ["settle", "release"])
def test_a_reservation_ends_once(first: str, second: str):
    """The first word counts, and whatever is said after it changes nothing."""
    accounts = Accounts(Budget(tokens=100))
    other, one = reserve(accounts, 7), reserve(accounts, 50)
    for word in (first, second):
        if word == "settle":
            one.settle(20 if word is first else 99, None)
        else:
            one.release()
        assert not one.is_open
        assert spent(accounts) == (20 if first == "settle" else 0, 7)
    assert other.is_open


def test_a_reservation_that_nobody_holds_gives_itself_back():
    """A call that is lost without a word blocks nobody for good."""
    accounts = Accounts(Budget(tokens=100))
    reserve(accounts, 100)
    gc.collect()
    assert spent(accounts) == (0, 0)


def test_a_call_whose_figures_nobody_knows_counts_as_reserved():
    """Unknown is not zero."""
    accounts = Accounts(Budget(tokens=100, usd=1))
    reserve(accounts, 10, 20, Decimal("0.3")).settle(None, None)
    standing = accounts.spent()
    assert (standing.tokens, standing.usd, standing.unpriced_calls) == (30, Decimal("0.3"), 1)


def test_a_call_that_reserved_nothing_is_spent():
    """A call whose start was not heard counts all the same, and may pass the limit."""
    accounts = Accounts(Budget(tokens=100, usd=1, per="user"))
    accounts.spend({"user": "ann"}, None, 90, Decimal("1.5"))
    standing = accounts.spent({"user": "ann"})
    assert (standing.tokens, standing.usd, standing.unpriced_calls) == (90, Decimal("1.5"), 0)
    accounts.spend({"user": "ann"}, None, 30, None)
    assert accounts.spent({"user": "ann"}).unpriced_calls == 1
    assert refusal(accounts, 1, usd=Decimal(0), user="ann").over == ("tokens", "usd")
    reserve(accounts, 1, usd=Decimal(0), user="bob")


def test_a_limit_of_nothing_lets_nothing_through():
    """A limit of zero refuses whatever uses anything, and nothing else."""
    accounts = Accounts(Budget(tokens=0))
    refusal(accounts, 1)
    assert reserve(accounts, 0).is_open


def test_a_call_without_max_tokens_is_assumed_to_use_the_default():
    """What a call doesn't state, its budget states."""
    assert Budget(tokens=1).default_max_tokens == 1_024
    accounts = Accounts(Budget(tokens=5_000))
    reserved = reserve(accounts, 100, None)
    assert spent(accounts) == (0, 1_124)
    reserved.release()
    own = Accounts(Budget(tokens=5_000, default_max_tokens=50))
    held = reserve(own, 100, None)
    assert spent(own) == (0, 150)
    held.release()


def test_a_reset_forgets_what_is_spent_and_keeps_what_is_reserved():
    """A call under way at a reset counts when it ends."""
    accounts = Accounts(Budget(tokens=100, per="user"))
    accounts.spend({"user": "ann"}, None, 80, None)
    held = reserve(accounts, 20, user="ann")
    accounts.reset()
    assert spent(accounts, user="ann") == (0, 20)
    refusal(accounts, 81, user="ann")
    held.settle(15, None)
    assert spent(accounts, user="ann") == (15, 0)


@pytest.mark.parametrize("tight", [0, 1, 2])
def test_a_call_is_reserved_in_all_budgets_or_in_none(tight: int):
    """Whichever budget refuses, the others give back what they had."""
    budgets = [Budget(tokens=10 if one == tight else 100) for one in range(3)]
    accounts = [Accounts(budget) for budget in budgets]
    with pytest.raises(BudgetExceededError) as caught:
        reserve_all(accounts, {}, None, input_tokens=20, output_tokens=0, usd=None)
    assert caught.value.budget is budgets[tight]
    assert [spent(one) for one in accounts] == [(0, 0)] * 3
    reserved = reserve_all(accounts, {}, None, input_tokens=10, output_tokens=0, usd=None)
    assert [spent(one) for one in accounts] == [(0, 10)] * 3
    reserved.settle(8, None)
    assert [spent(one) for one in accounts] == [(8, 0)] * 3


def test_a_budget_that_is_named_twice_counts_once():
    """A call is one call, however often its budget is named."""
    accounts = Accounts(Budget(tokens=10))
    reserved = reserve_all(
        [accounts, accounts], {}, None, input_tokens=10, output_tokens=0, usd=None
    )
    assert spent(accounts) == (0, 10)
    reserved.settle(10, None)
    assert spent(accounts) == (10, 0)


def test_no_budget_refuses_nothing():
    """Without budgets there's nothing to reserve, and nothing to settle."""
    reserved = reserve_all([], {}, None, input_tokens=10**9, output_tokens=None, usd=None)
    reserved.settle(1, None)
    reserved.release()


def test_one_that_warns_is_silent_of_a_call_that_another_refuses(
    caplog: pytest.LogCaptureFixture,
):
    """What isn't sent passes no limit."""
    told: list[BudgetExceededError] = []
    accounts = [
        Accounts(Budget(tokens=1, on_exceed="warn")),
        Accounts(Budget(tokens=1, on_exceed=told.append)),
        Accounts(Budget(tokens=10)),
    ]
    with pytest.raises(BudgetExceededError):
        reserve_all(accounts, {}, None, input_tokens=11, output_tokens=0, usd=None)
    assert (told, caplog.records) == ([], [])
    reserve_all(accounts, {}, None, input_tokens=10, output_tokens=0, usd=None).release()
    assert len(told) == len(caplog.records) == 1


def test_a_warning_is_logged_once_a_window_and_account(caplog: pytest.LogCaptureFixture):
    """A loop beyond the limit doesn't flood the log, and each new fact is logged."""
    clock = Clock()
    budget = Budget(tokens=10, per="user", window="1 hour", on_exceed="warn", clock=clock)
    accounts = Accounts(budget)

    def ask(user: str) -> int:
        for _ in range(3):
            reserve(accounts, 11, user=user).settle(11, None)
        return len(caplog.records)

    assert ask("ann") == 1
    assert ask("bob") == 2
    clock.advance(hours=1)
    assert ask("ann") == 3
    accounts.reset()
    assert ask("ann") == 4
    assert spent(accounts, user="ann") == (33, 0)
    first = caplog.records[0]
    assert (first.name, first.levelname) == ("llama_token_tracker", "WARNING")
    assert first.getMessage().startswith("Budget exceeded for user 'ann': the call may use 11")
    assert first.getMessage().endswith("The call is sent all the same.")


def test_a_second_limit_is_not_passed_silently(caplog: pytest.LogCaptureFixture):
    """A warning about tokens doesn't stand for one about money, or about a missing price."""
    accounts = Accounts(Budget(tokens=10, usd=1, on_exceed="warn"))
    for usd in (Decimal(0), Decimal(2), None, Decimal(2), None):
        reserve(accounts, 11, usd=usd).release()
    assert len(caplog.records) == 3


def test_a_function_hears_of_each_call_and_the_call_goes_on():
    """It gets the error that others would get raised."""
    told: list[BudgetExceededError] = []
    accounts = Accounts(Budget(tokens=10, on_exceed=told.append))
    reserve(accounts, 10).settle(10, None)
    for _ in range(2):
        reserve(accounts, 5).settle(5, None)
    assert [error.spent.tokens for error in told] == [10, 15]
    assert spent(accounts) == (20, 0)


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt, BudgetExceededError])
def test_what_a_function_raises_stops_the_call(kind: type[BaseException]):
    """It's the user's own, and the call's reservations are given back, in all budgets."""

    def stop(error: BudgetExceededError) -> None:
        raise kind(error)

    accounts = [Accounts(Budget(tokens=100)), Accounts(Budget(tokens=10, on_exceed=stop))]
    with pytest.raises(kind) as caught:
        reserve_all(accounts, {}, None, input_tokens=11, output_tokens=0, usd=None)
    # While the error is held, so is all that its traceback leads to.
    assert caught.value.__traceback__ is not None
    assert [spent(one) for one in accounts] == [(0, 0)] * 2


def test_what_a_price_raises_reserves_nothing():
    """A price that can't be told is the caller's own error."""

    def price(_given: int, _output: int) -> Decimal:
        raise LookupError

    accounts = [Accounts(Budget(tokens=100)), Accounts(Budget(usd=1))]
    with pytest.raises(LookupError):
        reserve_all(accounts, {}, None, input_tokens=11, output_tokens=0, usd=price)
    assert [spent(one) for one in accounts] == [(0, 0)] * 2


def test_users_functions_run_without_the_lock():
    """A slow clock, price or reaction holds nobody up, and can wait for other threads."""
    called: list[str] = []

    def noted(name: str, result: Any) -> Any:
        assert not LOCK._is_owned()
        called.append(name)
        return result

    accounts = Accounts(
        Budget(
            usd=1,
            window="1 hour",
            on_exceed=lambda _error: noted("on_exceed", None),
            clock=lambda: noted("clock", NOON),
        )
    )
    called.clear()
    held = reserve(accounts, 1, 1, usd=lambda *_: noted("price", Decimal(2)))
    held.settle(1, Decimal(2))
    assert sorted(called) == ["clock", "clock", "on_exceed", "price"]


def test_nothing_of_users_is_compared_or_added_under_the_lock():
    """Neither a function for `on_exceed`, nor a tag's text, nor a window of a class of its own."""

    class Watched:
        """Users' code that runs while a call is checked."""

        def __eq__(self, _other: object) -> bool:
            assert not LOCK._is_owned()
            return False

        def __hash__(self) -> int:
            assert not LOCK._is_owned()
            return 1

    class OnExceed(Watched):
        def __call__(self, _error: BudgetExceededError) -> None:
            assert not LOCK._is_owned()

    class Name(Watched, str):
        def __str__(self) -> str:
            return self

    class Window(timedelta):
        def __rmod__(self, other: Any) -> Any:
            assert not LOCK._is_owned()
            return super().__rmod__(other)

    budget = Budget(tokens=1, per="user", window=Window(hours=1), on_exceed=OnExceed())
    accounts = Accounts(budget)
    for _ in range(2):
        held = accounts.reserve(
            {"user": Name("ann")}, None, input_tokens=9, output_tokens=0, usd=None
        )
        held.settle(9, None)
    assert spent(accounts, user="ann") == (18, 0)


def test_a_price_is_asked_for_only_where_money_is_limited():
    """A function that knows prices is asked once for each such budget, with what it assumes."""
    asked: list[tuple[int, int]] = []

    def price(given: int, output: int) -> Decimal:
        asked.append((given, output))
        return Decimal(given + output) / 1_000

    budgets = [
        Budget(tokens=10_000),
        Budget(usd=10, default_max_tokens=100),
        Budget(usd=10, default_max_tokens=200),
    ]
    accounts = [Accounts(budget) for budget in budgets]
    reserved = reserve_all(accounts, {}, None, input_tokens=50, output_tokens=None, usd=price)
    assert asked == [(50, 100), (50, 200)]
    assert [one.spent().reserved_usd for one in accounts] == [0, Decimal("0.15"), Decimal("0.25")]
    reserved.settle(60, price(50, 10))
    assert [one.spent().usd for one in accounts] == [Decimal("0.06")] * 3


def test_a_call_without_a_price_is_refused_where_money_is_limited():
    """A limit that can't be checked is no limit: by default such a call isn't sent."""
    error = refusal(Accounts(Budget(usd=2)), usd=None)
    assert error.over == ("unpriced",)
    assert error.asked == (10, None)
    assert 'unpriced="allow"' in str(error)
    assert reserve(Accounts(Budget(tokens=100)), usd=None).is_open


def test_a_call_without_a_price_may_be_allowed():
    """Its tokens count, and what is known of its money; how many there were is told."""
    accounts = Accounts(Budget(usd=1, tokens=100, unpriced="allow"))
    reserve(accounts, 40, usd=None).settle(30, None)
    reserve(accounts, 10, usd=Decimal("0.5")).settle(10, None)
    reserve(accounts, 10, usd=None).settle(10, Decimal("0.2"))
    standing = accounts.spent()
    assert (standing.tokens, standing.usd, standing.unpriced_calls) == (50, Decimal("0.7"), 2)
    assert refusal(accounts, 51, usd=None).over == ("tokens",)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"tokens": -1}, "input_tokens is -1; give a whole number from 0"),
        ({"tokens": 1.5}, "input_tokens is 1.5; give a whole number from 0"),
        ({"output": -1}, "output_tokens is -1; give a whole number from 0"),
        ({"usd": Decimal(-1)}, "usd is Decimal('-1'); give a number from 0"),
        ({"usd": "many"}, "usd is 'many'; give a number from 0"),
        ({"usd": lambda *_: float("nan")}, "usd is nan; give a number from 0"),
    ],
)
def test_what_is_no_figure_is_not_reserved(call: dict[str, Any], message: str):
    """A figure that is none is refused, and nothing is reserved."""
    accounts = Accounts(Budget(tokens=100, usd=1))
    with pytest.raises(BudgetError, match=re.escape(message)):
        reserve(accounts, **call)
    assert spent(accounts) == (0, 0)


@pytest.mark.parametrize(
    "figures",
    [(-1, None), (1.0, None), (1, Decimal(-1)), (1, Decimal("NaN")), (1, object())],
    ids=str,
)
def test_what_is_no_figure_is_not_settled(figures: tuple[Any, Any]):
    """The reservation stays open, so that it can be settled with figures or given back."""
    accounts = Accounts(Budget(tokens=100))
    held = reserve(accounts, 30)
    with pytest.raises(BudgetError, match=r"give a (whole )?number from 0"):
        held.settle(*figures)
    with pytest.raises(BudgetError, match=r"give a (whole )?number from 0"):
        accounts.spend({}, None, *figures)
    assert (held.is_open, spent(accounts)) == (True, (0, 30))
    held.settle(20, None)
    assert spent(accounts) == (20, 0)


@pytest.mark.parametrize(
    "twin", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_a_copy_knows_what_is_spent_and_nothing_of_open_calls(twin: Callable[[Any], Any]):
    """Spend travels; reservations belong to calls of the process that made them."""
    budget = Budget(tokens=100, usd=3, per="user", window="1 week", unpriced="allow")
    accounts = Accounts(budget, max_accounts=5)
    accounts.spend({"user": "ann"}, None, 60, Decimal("1.5"))
    accounts.spend({"user": "bob"}, None, 10, None)
    held = reserve(accounts, 40, usd=Decimal(1), user="ann")
    other = twin(accounts)
    assert other.budget == budget
    standing = other.spent({"user": "ann"})
    original = accounts.spent({"user": "ann"})
    assert (standing.tokens, standing.usd, standing.until) == (60, Decimal("1.5"), original.until)
    assert (standing.reserved_tokens, standing.reserved_usd) == (0, 0)
    assert other.spent({"user": "bob"}).unpriced_calls == 1
    held.settle(30, Decimal("0.5"))
    assert (spent(accounts, user="ann"), spent(other, user="ann")) == ((90, 0), (60, 0))
    refusal(other, 41, usd=Decimal(0), user="ann")


def test_a_copy_of_a_reservation_is_closed():
    """A call gives back once what it reserved once."""
    accounts = Accounts(Budget(tokens=100))
    held = reserve(accounts, 50)
    for twin in (copy.copy(held), copy.deepcopy(held), pickle.loads(pickle.dumps(held))):
        assert not twin.is_open
        twin.settle(50, None)
        twin.release()
    assert spent(accounts) == (0, 50)
    held.release()


def test_a_reservation_at_the_interpreter_s_end_says_nothing():
    """A process that ends amid a call ends quietly."""
    code = """
from llama_token_tracker.budgets import Accounts, Budget
accounts = Accounts(Budget(tokens=100))
held = accounts.reserve({}, None, input_tokens=1, output_tokens=1, usd=None)
cycle = [held]
cycle.append(cycle)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


_EXIT = """
import threading, time
from llama_token_tracker import Budget
from llama_token_tracker._lock import LOCK
from llama_token_tracker.budgets import Accounts

def hold():
    with LOCK:
        held.set()
        time.sleep(3600)

held = threading.Event()
accounts = Accounts(Budget(tokens=100))
reservation = accounts.reserve({}, None, input_tokens=1, output_tokens=1, usd=None)
threading.Thread(target=hold, daemon=True).start()
held.wait()
"""


def test_an_open_reservation_does_not_hold_up_the_interpreter_s_end():
    """Though a thread that will never go on holds the lock: a finalizer takes none."""
    done = subprocess.run(
        [sys.executable, "-c", _EXIT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_nobody_holds_is_given_back_by_whoever_asks_next():
    """The collector takes no lock; who reserves or reads next does it."""
    accounts = Accounts(Budget(tokens=10))
    accounts.reserve({}, None, input_tokens=8, output_tokens=1, usd=None)
    accounts.reserve({}, None, input_tokens=8, output_tokens=1, usd=None)
    assert accounts.spent().reserved_tokens == 0

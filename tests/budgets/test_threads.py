"""Many threads, one limit."""

import gc
import pickle
import random
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from llama_token_tracker import Budget, BudgetExceededError
from llama_token_tracker._lock import LOCK
from llama_token_tracker.budgets import Accounts, Spent, reserve_all

from .spending import Clock, reserve, run, spent

THREADS = 32


@pytest.mark.usefixtures("_switching")
def test_threads_spend_a_budget_to_its_last_token():
    """Calls of one token each: as many are sent as the limit has tokens, and not one more."""
    accounts = Accounts(Budget(tokens=5_000, window="1 week"))
    sent: list[int] = []

    def ask() -> None:
        while True:
            try:
                held = reserve(accounts, 1)
            except BudgetExceededError as error:
                # A call under way may hold the last token; only spend is for good.
                if error.spent.tokens == 5_000:
                    return
                continue
            sent.append(1)
            held.settle(1, None)

    run(*[ask] * THREADS)
    assert len(sent) == 5_000
    assert spent(accounts) == (5_000, 0)


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("error", [0, 40])
def test_threads_pass_a_limit_by_no_more_than_reservations_err(error: int):
    """With true reservations the limit holds; else each call under way may add its own error."""
    accounts = Accounts(Budget(tokens=20_000, usd=20, per="user"))
    truths: list[int] = []

    def ask(seed: int) -> None:
        dice = random.Random(seed)
        refused = 0
        while refused < 3:
            given, output = dice.randrange(50), dice.randrange(50)
            usd = Decimal(given + output) / 1_000
            try:
                held = reserve(accounts, given, output, usd, user="ann")
            except BudgetExceededError:
                refused += 1
                continue
            truth = dice.randrange(given + output + 1) + error
            if dice.randrange(10) == 0:
                held.release()
            else:
                held.settle(truth, Decimal(truth) / 1_000)
                truths.append(truth)

    run(*[lambda seed=seed: ask(seed) for seed in range(THREADS)])
    standing = accounts.spent({"user": "ann"})
    assert standing.tokens == sum(truths)
    assert standing.usd == Decimal(sum(truths)) / 1_000
    assert (standing.reserved_tokens, standing.reserved_usd) == (0, 0)
    assert 20_000 - 100 <= standing.tokens <= 20_000 + THREADS * error


@pytest.mark.usefixtures("_switching")
def test_threads_reserve_in_all_budgets_or_in_none():
    """Whatever order they're named in, budgets that share their calls stay equal."""
    first, second = Accounts(Budget(tokens=3_000)), Accounts(Budget(usd=3))
    narrow = [Accounts(Budget(tokens=300)) for _ in range(4)]
    sent: list[int] = []

    def ask(number: int) -> None:
        mine = [first, second, narrow[number % 4]]
        random.Random(number).shuffle(mine)
        for _ in range(200):
            try:
                held = reserve_all(
                    mine, {}, None, input_tokens=1, output_tokens=1, usd=Decimal("0.002")
                )
            except BudgetExceededError:
                continue
            sent.append(number % 4)
            held.settle(2, Decimal("0.002"))

    run(*[lambda number=number: ask(number) for number in range(THREADS)])
    assert [spent(one) for one in narrow] == [(300, 0)] * 4
    assert len(sent) == 600
    assert spent(first) == (1_200, 0)
    assert (second.spent().usd, second.spent().reserved_usd) == (Decimal("1.2"), 0)


@pytest.mark.usefixtures("_switching")
def test_a_refused_call_is_in_nobody_s_way():
    """While a call is found to be too much for one budget, another doesn't see it as reserved."""
    shared, tight = Accounts(Budget(tokens=10)), Accounts(Budget(tokens=5))
    done = threading.Event()

    def refused() -> None:
        while not done.is_set():
            with pytest.raises(BudgetExceededError):
                reserve_all([shared, tight], {}, None, input_tokens=10, output_tokens=0, usd=None)

    def fits() -> None:
        try:
            for _ in range(3_000):
                reserve(shared, 10).release()
        finally:
            done.set()

    run(refused, refused, fits)
    assert spent(shared) == spent(tight) == (0, 0)


@pytest.mark.parametrize(
    "change",
    [
        lambda accounts, _held: reserve(accounts, 1).release(),
        lambda _accounts, held: held.settle(1, None),
        lambda _accounts, held: held.release(),
        lambda accounts, _held: accounts.spend({}, None, 1, None),
        lambda accounts, _held: accounts.spent(),
        lambda accounts, _held: accounts.reset(),
        lambda accounts, _held: pickle.dumps(accounts),
    ],
    ids=["reserve", "settle", "release", "spend", "spent", "reset", "pickle"],
)
def test_whoever_reads_or_changes_waits_for_the_lock(change: Callable[[Any, Any], Any]):
    """While a thread holds the lock, nobody else gets in between."""
    accounts = Accounts(Budget(tokens=100))
    held = reserve(accounts, 10)
    thread = threading.Thread(target=change, args=(accounts, held))
    with LOCK:
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()
        assert held.is_open
    thread.join()
    held.release()


@pytest.mark.usefixtures("_switching")
def test_a_reader_sees_no_call_twice_or_half():
    """What is read while others spend is how things stood at one moment."""
    accounts = Accounts(Budget(tokens=10**9, usd=10**6, unpriced="allow"))
    started, ended = [0], [0]
    done = threading.Event()

    def ask() -> None:
        try:
            for number in range(6_000):
                started[0] += 1
                held = reserve(accounts, 1, usd=Decimal(1))
                if number % 2:
                    held.settle(1, Decimal(1))
                    ended[0] += 1
                else:
                    held.release()
                    started[0] -= 1
        finally:
            done.set()

    def read() -> None:
        while not done.is_set():
            least = ended[0]
            standing = accounts.spent()
            assert (standing.usd, standing.reserved_usd) == (
                standing.tokens,
                standing.reserved_tokens,
            )
            assert standing.reserved_tokens in (0, 1)
            assert least <= standing.tokens + standing.reserved_tokens <= ended[0] + 1

    run(ask, read, read)
    assert spent(accounts) == (started[0], 0) == (3_000, 0)


@pytest.mark.usefixtures("_switching")
def test_threads_log_one_warning(caplog: pytest.LogCaptureFixture):
    """Of many threads that pass a limit at once, one says so."""
    accounts = Accounts(Budget(tokens=1, on_exceed="warn"))
    run(*[lambda: reserve(accounts, 2).settle(2, None)] * THREADS)
    assert len(caplog.records) == 1
    assert spent(accounts) == (2 * THREADS, 0)


@pytest.mark.usefixtures("_switching")
def test_threads_agree_when_a_window_ends():
    """However many see it first, a window starts once: nothing is lost or counted in both."""
    clock = Clock()
    accounts = Accounts(Budget(tokens=10**9, window="1 hour", clock=clock))
    seen: list[Spent] = []

    def ask() -> None:
        for _ in range(300):
            reserve(accounts, 1).settle(1, None)

    for _ in range(5):
        run(*[ask] * 8)
        seen.append(accounts.spent())
        clock.advance(hours=1)
    assert [standing.tokens for standing in seen] == [2_400] * 5

    def turn() -> None:
        for _ in range(50):
            clock.advance(hours=1)

    run(*[ask] * 8, turn)
    assert accounts.spent().reserved_tokens == 0
    assert 0 <= accounts.spent().tokens <= 2_400


def test_a_collector_that_settles_in_the_middle_loses_nothing():
    """Calls that the collector ends while this thread changes the same account are all counted."""
    accounts = Accounts(Budget(tokens=10**9, usd=10**6, per="user"), max_accounts=3)

    class Dropped:
        """A stream that is counted when it's collected."""

        def __init__(self) -> None:
            self.itself = self
            self.held = reserve(accounts, 3, 4, Decimal("0.01"), user="ann")

        def __del__(self) -> None:
            self.held.settle(5, Decimal("0.02"))

    before, dice = gc.get_threshold(), random.Random(1)
    try:
        for number in range(5_000):
            Dropped()
            # So that it comes anywhere in what follows.
            gc.set_threshold(dice.randrange(1, 100), 1, 1)
            held = reserve(accounts, 1, usd=Decimal("0.01"), user="ann")
            Dropped()
            held.settle(2, Decimal("0.03"))
            accounts.spend({"user": str(number % 7)}, None, 1, Decimal(0))
    finally:
        gc.set_threshold(*before)
    gc.collect()
    standing = accounts.spent({"user": "ann"})
    assert (standing.tokens, standing.usd) == (5_000 * 12, 5_000 * Decimal("0.07"))
    assert (standing.reserved_tokens, standing.reserved_usd) == (0, 0)

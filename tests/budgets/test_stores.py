"""Stores of accounts, alike: memory, SQLite, PostgreSQL and Redis."""

import pickle
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_token_tracker import SqlAccounts
from llama_token_tracker.budgets import (
    AccountStore,
    Hold,
    Limits,
    MemoryAccounts,
    RedisAccounts,
    Standing,
    Used,
)

from .spending import run

FOREVER = 2**62
SOON = 0.4
STORES = ("memory", "sqlite", "postgresql", "redis")


@pytest.fixture(params=STORES)
def kind(request: pytest.FixtureRequest) -> str:
    """The name of each store."""
    return str(request.param)


@pytest.fixture
def store(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Each store, whose leases are short."""
    made = store_of(kind, request, tmp_path, lease_s=SOON)
    yield made
    close(made)


def store_of(
    kind: str, request: pytest.FixtureRequest, folder: Path, **options: Any
) -> AccountStore:
    """Make a store of this name."""
    if kind == "memory":
        return MemoryAccounts(**options)
    if kind == "redis":
        return RedisAccounts(request.getfixturevalue("redis_url"), **options)
    url = folder / "usage.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    return SqlAccounts(url, **options)


def close(store: Any) -> None:
    """Close a store's connections, if it has any."""
    getattr(store, "close", int)()


def hold(
    id: str,
    tokens: int = 10,
    money: int = 0,
    key: str = "=ann",
    *,
    start: int = 0,
    end: int = FOREVER,
) -> Hold:
    """A reservation, for good unless it says otherwise."""
    return Hold(id, "budget", key, start, end, tokens, money)


def figures(standing: Standing) -> tuple[int, ...]:
    """What is spent and what is reserved, of an account whose window isn't over."""
    return standing.current()[2:7]


def test_a_reservation_is_made_once_and_settled_once(store: AccountStore):
    """Whatever is asked twice is done once, and a settled call is neither spent nor given back."""
    limits = Limits(25, 900)
    for _ in range(2):
        assert store.reserve(hold("a", 10, 500), limits).is_held
    assert figures(store.standing("budget", "=ann")) == (0, 0, 0, 10, 500)
    assert [store.settle(hold("a", 10, 500), Used(7, 300, 1), limits).is_held for _ in "12"] == [
        True,
        False,
    ]
    store.release(hold("a", 10, 500))
    store.extend([hold("a", 10, 500)])
    assert figures(store.standing("budget", "=ann")) == (7, 300, 1, 0, 0)


def test_a_reservation_stays_within_both_limits(store: AccountStore):
    """What is spent and what is reserved count alike, to the last unit."""
    limits = Limits(25, 900)
    assert store.reserve(hold("a", 10, 500), limits).is_held
    assert not store.reserve(hold("b", 16, 0), limits).is_held
    refused = store.reserve(hold("c", 1, 401), limits)
    assert not refused.is_held
    assert figures(refused) == (0, 0, 0, 10, 500)
    assert store.reserve(hold("d", 15, 400), limits).is_held
    store.settle(hold("a"), Used(25, 0, 0), limits)
    store.release(hold("d"))
    assert not store.reserve(hold("e", 1), limits).is_held
    assert store.reserve(hold("f", 0), limits).is_held
    assert store.reserve(hold("g", 1), Limits()).is_held
    assert not store.reserve(hold("h", 26, 0, "=bob"), limits).is_held
    assert store.reserve(hold("h", 25, 0, "=bob"), limits).is_held


def test_a_lease_that_is_over_frees_what_it_held(store: AccountStore):
    """Others may reserve it then; the call may settle all the same, once."""
    limits = Limits(10)
    assert store.reserve(hold("dead"), limits).is_held
    assert store.reserve(hold("long", 0), limits).is_held
    assert not store.reserve(hold("next"), limits).is_held
    time.sleep(SOON + 0.05)
    assert store.reserve(hold("next"), limits).is_held
    assert figures(store.settle(hold("dead"), Used(3, 2, 0), limits)) == (3, 2, 0, 10, 0)
    assert figures(store.settle(hold("dead"), Used(3, 2, 0), limits)) == (3, 2, 0, 10, 0)


@pytest.mark.slow
def test_a_lease_that_is_extended_holds(store: AccountStore):
    """One that is over comes back, even if there is no room for it any more."""
    limits = Limits(10)
    store.reserve(hold("a"), limits)
    for _ in range(3):
        time.sleep(SOON / 2)
        store.extend([hold("a")])
    assert not store.reserve(hold("b"), limits).is_held
    time.sleep(SOON + 0.05)
    assert store.reserve(hold("b"), limits).is_held
    store.extend([hold("a")])
    assert figures(store.standing("budget", "=ann")) == (0, 0, 0, 20, 0)
    store.release(hold("a"))
    store.release(hold("b"))
    assert figures(store.standing("budget", "=ann")) == (0, 0, 0, 0, 0)


def test_a_window_is_the_stores_own(store: AccountStore):
    """In a window that isn't now nothing is done, and an account's never goes back."""
    limits = Limits(10)
    now = store.standing("budget", "=ann").now_us
    assert abs(now - time.time_ns() // 1_000) < 60_000_000
    hour = 3_600_000_000
    past = hold("a", start=now - 2 * hour, end=now - hour)
    assert not store.reserve(past, limits).is_held
    short = hold("a", end=now + hour)
    assert store.reserve(short, limits).is_held
    assert not store.settle(past, Used(9), limits).is_held
    assert figures(store.settle(short, Used(9), limits)) == (9, 0, 0, 0, 0)
    longer = hold("b", end=now + 2 * hour)
    assert figures(store.reserve(longer, limits)) == (0, 0, 0, 10, 0)
    late = store.settle(hold("b", end=now + hour), Used(4), limits)
    assert (late.end_us, *figures(late)) == (now + 2 * hour, 4, 0, 0, 0, 0)


def test_what_is_spent_is_forgotten_when_its_window_ends(store: AccountStore):
    """What is reserved is carried over."""
    limits = Limits(10)
    now = store.standing("budget", "=ann").now_us
    first = hold("a", 4, end=now + 200_000)
    assert store.reserve(first, limits).is_held
    assert store.reserve(hold("b", 6, end=now + 200_000), limits).is_held
    assert figures(store.settle(first, Used(4), limits)) == (4, 0, 0, 6, 0)
    assert store.fullest("budget", limits, 5)[1] == 1
    time.sleep(0.25)
    assert figures(store.standing("budget", "=ann"))[0] == 0
    assert store.fullest("budget", limits, 5) == ([], 0)
    found = store.reserve(hold("c", 4), limits)
    assert found.is_held
    assert figures(found) == (0, 0, 0, 10, 0)


def test_the_fullest_accounts_come_first(store: AccountStore):
    """By the greater part of the two limits; the others are counted."""
    limits = Limits(100, 1_000)
    for name, tokens, money in (("=a", 10, 0), ("=b", 0, 500), ("-", 40, 0), ("=é", 1, 1)):
        store.reserve(hold(name, 0, 0, name), limits)
        store.settle(hold(name, 0, 0, name), Used(tokens, money), limits)
    found, count = store.fullest("budget", limits, 2)
    assert [(name, *figures(one)[:2]) for name, one in found] == [("=b", 0, 500), ("-", 40, 0)]
    assert count == 4
    assert store.fullest("another", limits, 2) == ([], 0)
    store.reset("budget")
    assert figures(store.standing("budget", "-")) == (0, 0, 0, 0, 0)


def test_sums_are_exact_beyond_what_a_float_holds(store: AccountStore):
    """Nine thousand million dollars and a nanodollar."""
    great = 2**53 * 100
    store.reserve(hold("a", 1, great), Limits())
    assert figures(store.settle(hold("a"), Used(2**53, great + 1), Limits()))[:2] == (
        2**53,
        great + 1,
    )
    store.reserve(hold("b"), Limits())
    assert figures(store.settle(hold("b"), Used(1, 1), Limits()))[:2] == (2**53 + 1, great + 2)


def test_a_pickled_store_connects_by_itself(store: AccountStore, kind: str):
    """What one has spent, its copy finds; but for memory, which stays in its process."""
    store.reserve(hold("a"), Limits())
    store.settle(hold("a"), Used(5), Limits())
    copy = pickle.loads(pickle.dumps(store))
    assert figures(copy.standing("budget", "=ann"))[0] == (0 if kind == "memory" else 5)
    assert (copy.lease_s, copy.place) == (store.lease_s, store.place)
    close(copy)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_all_stores_do_the_same(seed: int, request: pytest.FixtureRequest, tmp_path: Path):
    """Whatever calls do, in whatever order, every store gives the answers that memory gives."""
    stores = [store_of(kind, request, tmp_path, lease_s=60) for kind in STORES]
    dice = random.Random(seed)
    limits = Limits(100, 100)
    now = stores[0].standing("budget", "=a").now_us
    ids = [str(number) for number in range(12)]
    for step in range(150):
        id = dice.choice(ids)
        # An id belongs to one account, and all accounts of a budget have the same window.
        owner, key = ("one", "two")[int(id) % 2], f"={int(id) % 3}"
        end = now - 1 if dice.random() < 0.1 else now + 10**9
        one = Hold(id, owner, key, now - 10**9, end, dice.randrange(60), dice.randrange(60))
        used = Used(dice.randrange(60), dice.randrange(60), dice.randrange(2))
        do = dice.choice(("reserve", "reserve", "settle", "settle", "release", "extend", "reset"))
        answers = [_do(store, do, one, used, limits) for store in stores]
        assert answers == answers[:1] * len(stores), (step, do, one)
        states = [figures(store.standing(one.budget, one.key)) for store in stores]
        assert states == states[:1] * len(stores), (step, do, one)
    counts = [store.fullest("one", limits, 9)[1] for store in stores]
    assert counts == counts[:1] * len(stores)
    for store in stores:
        close(store)


def test_threads_keep_all_sums_exact(kind: str, request: pytest.FixtureRequest, tmp_path: Path):
    """While leases end, and come back, under their hands: nobody waits for nobody in a circle."""
    store = store_of(kind, request, tmp_path, lease_s=0.1)
    settled: list[int] = []

    def work(seed: int) -> Callable[[], None]:
        def calls() -> None:
            dice = random.Random(seed)
            for _ in range(60):
                one = hold(f"{seed} {dice.randrange(6)}", 10, 5)
                store.reserve(one, Limits())
                if dice.random() < 0.5:
                    store.extend([hold(f"{seed} {number}") for number in range(6)])
                if dice.random() < 0.5 and store.settle(one, Used(3, 2), Limits()).is_held:
                    settled.append(3)
                if dice.random() < 0.2:
                    store.release(one)
                store.standing("budget", "=ann")

        return calls

    run(*map(work, range(4)))
    for seed in range(4):
        for number in range(6):
            store.release(hold(f"{seed} {number}"))
    standing = store.standing("budget", "=ann")
    assert figures(standing) == (sum(settled), sum(settled) // 3 * 2, 0, 0, 0)
    close(store)


def _do(store: AccountStore, do: str, one: Hold, used: Used, limits: Limits) -> object:
    if do == "reserve":
        return store.reserve(one, limits)[1:]
    if do == "settle":
        return store.settle(one, used, limits).is_held
    if do == "release":
        return store.release(one)
    return store.extend([one]) if do == "extend" else store.reset(one.budget)

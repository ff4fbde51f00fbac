"""Budgets whose accounts are in a store: who shares them, and what happens while it's away."""

import logging
import pickle
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llama_token_tracker import (
    Budget,
    BudgetError,
    BudgetExceededError,
    SqlAccounts,
    TokenCountingHandler,
)
from llama_token_tracker.budgets import (
    Accounts,
    MemoryAccounts,
    Reached,
    RedisAccounts,
    reserve_all,
)
from llama_token_tracker.errors import LedgerError
from tests.locking import watched
from tests.servers import RedisServer

from .spending import refusal, reserve, run, spent
from .test_stores import STORES, close, store_of

WATCHDOG_S = 20.0


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Each store."""
    made = store_of(str(request.param), request, tmp_path)
    yield made
    close(made)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SqlAccounts]:
    """A store in a file."""
    made = SqlAccounts(tmp_path / "usage.db", lease_s=1.0)
    yield made
    made.close()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis server that a test may stop."""
    pytest.importorskip("redis")
    server = RedisServer()
    yield server
    server.stop()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + WATCHDOG_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_handlers_share_what_is_spent_and_reserved(store: Any):
    """A budget of the same terms is the same account, whoever has it; another one is another."""
    ours, theirs = (Accounts(Budget(tokens=100, per="user", shared=store)) for _ in "12")
    other = Accounts(Budget(tokens=101, per="user", shared=store))
    first, second = reserve(ours, 40, user="ann"), reserve(theirs, 50, user="ann")
    error = refusal(ours, 11, user="ann")
    assert (error.spent.tokens, error.reserved.tokens, error.over) == (0, 90, ("tokens",))
    reserve(ours, 11, user="bob").release()
    first.settle(20, None)
    second.release()
    second.settle(50, None)
    for accounts in (ours, theirs):
        assert spent(accounts, user="ann") == (20, 0)
    assert refusal(theirs, 81, user="ann").spent.tokens == 20
    ours.spend({"user": "ann"}, None, 7, None)
    assert spent(theirs, user="ann") == (27, 0)
    assert spent(other, user="ann") == (0, 0)
    (found, count) = theirs.fullest(1)
    assert (found[0][0], found[0][1].tokens, count) == ("ann", 27, 2)
    theirs.reset()
    assert spent(ours, user="ann") == (0, 0)


def test_money_is_shared_to_the_nanodollar(store: Any):
    """It's rounded up, so that no limit is passed by rounding; an unknown price counts as such."""
    accounts = Accounts(Budget(usd="0.000000010", unpriced="allow", shared=store, window="1 month"))
    reserve(accounts, usd=Decimal("0.0000000085")).settle(3, Decimal("0.0000000001"))
    standing = accounts.spent()
    assert (standing.tokens, standing.usd) == (3, Decimal("0.000000001"))
    assert standing.until is not None
    assert refusal(accounts, usd=Decimal("0.0000000091")).over == ("usd",)
    reserve(accounts, usd=None).settle(1, None)
    assert accounts.spent().unpriced_calls == 1


def test_a_named_budget_keeps_its_account_when_its_limit_changes(file: SqlAccounts):
    """And two of different names are two."""
    Accounts(Budget(tokens=10, name="team", shared=file)).spend({}, None, 9, None)
    raised = Accounts(Budget(tokens=20, name="team", shared=file))
    assert refusal(raised, 12).spent.tokens == 9
    assert spent(Accounts(Budget(tokens=20, name="other", shared=file))) == (0, 0)


def test_any_text_names_an_account(store: Any):
    """What no database takes is told apart all the same."""
    accounts = Accounts(Budget(tokens=100, per="user", shared=store))
    names = ["", "-", "=", "é", "a\0b", "\ud800", "x" * 5_000, "x" * 5_001]
    for number, name in enumerate(names):
        accounts.spend({"user": name}, None, number + 1, None)
    assert [spent(accounts, user=name)[0] for name in names] == [*range(1, 9)]
    accounts.spend({}, None, 50, None)
    assert accounts.spent().tokens == 50


def test_a_call_is_reserved_in_all_accounts_or_in_none(file: SqlAccounts):
    """What a shared budget holds is given back when another one refuses the call."""
    handler = TokenCountingHandler(
        budget=[Budget(tokens=100, shared=file), Budget(tokens=10), Budget(tokens=90, shared=file)]
    )
    with pytest.raises(BudgetExceededError):
        reserve_all(handler.accounts, {}, None, input_tokens=11, output_tokens=0, usd=None)
    assert [spent(one) for one in handler.accounts] == [(0, 0)] * 3


def test_what_happens_beyond_the_limit_is_the_budgets_own(store: Any, caplog: Any):
    """A warning or a function instead of an error: the call is reserved and charged."""
    told: list[BudgetExceededError] = []
    warning = Accounts(Budget(tokens=10, on_exceed="warn", shared=store))
    calling = Accounts(Budget(tokens=10, on_exceed=told.append, shared=store))
    reserve(warning, 8).settle(8, None)
    reserve(calling, 3).settle(3, None)
    reserve(warning, 4).settle(4, None)
    assert spent(calling) == (15, 0)
    assert [error.spent.tokens for error in told] == [8]
    assert len(caplog.records) == 1


def test_a_threshold_is_told_once_wherever_it_is_reached(store: Any):
    """Whoever's call reaches it is told, with the state of the account; the others aren't."""
    told: list[Reached] = []
    at = {0.5: told.append, 1.0: told.append, 2: told.append}
    budget = Budget(tokens=100, at=at, per="user", shared=store, on_exceed=lambda _: None)

    def work() -> None:
        accounts = Accounts(budget)
        for _ in range(40):
            reserve(accounts, 0, user="ann").settle(1, None)

    run(work, work, work)
    assert [(one.threshold, one.key, one.spent.tokens) for one in told] == [
        (0.5, "ann", 50),
        (1.0, "ann", 100),
    ]


def test_a_threshold_in_memory_is_told_once_a_window():
    """Outside of the lock, and what its function raises is logged, not raised."""
    told: list[tuple[float, int]] = []

    def note(reached: Reached) -> None:
        told.append((reached.threshold, reached.spent.tokens))
        reserve(accounts, 1).release()  # no lock is held
        msg = "the pager is out"
        raise RuntimeError(msg)

    accounts = Accounts(Budget(tokens=100, usd=1, at={0.8: note, 0.1: note}, unpriced="allow"))
    for _ in range(9):
        reserve(accounts, 10).settle(10, None)
    assert told == [(0.1, 10), (0.8, 80)]
    accounts.reset()
    accounts.spend({}, None, 1, Decimal("0.9"))
    assert told[2:] == [(0.1, 1), (0.8, 1)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": {0: print}},
        {"at": {0.5: "mail"}},
        {"at": 0.5},
        {"at": {True: 3}},
        {"shared": "usage.db"},
        {"shared": MemoryAccounts(), "clock": time.time},
        {"name": ""},
        {"away": "maybe"},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, Any]):
    """With an error that says what to give."""
    with pytest.raises(BudgetError):
        Budget(tokens=1, **wrong)


def test_a_call_that_nobody_has_any_more_gives_back_what_it_held(tmp_path: Path):
    """Even if its process makes no other call, for other processes may wait for it."""
    store = SqlAccounts(tmp_path / "usage.db")
    held = reserve(Accounts(Budget(tokens=100, name="ours", shared=store)), 100)
    connection = sqlite3.connect(tmp_path / "usage.db")

    def reserved() -> int:
        query = "SELECT reserved_tokens FROM ledger_accounts"
        return int(connection.execute(query).fetchone()[0])

    assert reserved() == 100
    del held
    until(lambda: reserved() == 0)
    connection.close()
    store.close()


class Ledgerlike:
    """What has a store of accounts."""

    def __init__(self, store: Any) -> None:
        self.account_store = store


def test_what_has_a_store_is_as_good_as_one(file: SqlAccounts):
    """As a ledger does."""
    Accounts(Budget(tokens=100, shared=Ledgerlike(file))).spend({}, None, 7, None)
    assert spent(Accounts(Budget(tokens=100, shared=file))) == (7, 0)


@pytest.mark.slow
def test_a_long_call_keeps_what_it_holds(file: SqlAccounts):
    """Its lease is extended while it's open, by one thread however many calls there are."""
    accounts = Accounts(Budget(tokens=100, shared=file))
    held = [reserve(accounts, 10) for _ in range(10)]
    threads = threading.active_count()
    time.sleep(2.5)
    assert refusal(accounts, 1).reserved.tokens == 100
    assert threading.active_count() <= threads
    for one in held:
        one.settle(1, None)
    assert spent(accounts) == (10, 0)


def test_calls_go_on_without_their_store_and_are_charged_when_its_back(
    redis: RedisServer, caplog: Any
):
    """Until then each process is held to what it knows; that is said once."""
    store = RedisAccounts(redis.url, wait_s=0.5)
    told: list[Reached] = []
    accounts = Accounts(Budget(tokens=100, per="user", shared=store, at={0.5: told.append}))
    reserve(accounts, 30, user="ann").settle(30, None)
    open_then = reserve(accounts, 5, user="ann")
    redis.stop()
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            reserve(accounts, 10, user="ann").settle(10, None)
        assert refusal(accounts, 30, user="ann").spent.tokens == 70
        assert spent(accounts, user="ann") == (70, 5)
        assert accounts.fullest(1)[0][0][0] == "ann"
    assert [record.message.split(": found")[0] for record in caplog.records] == [
        f"the shared accounts in {store.place} can't be reached"
    ]
    assert not told
    redis.start()  # it has forgotten all it knew, so what's there is what was settled meanwhile
    other = Accounts(Budget(tokens=100, per="user", shared=RedisAccounts(redis.url)))
    until(lambda: spent(other, user="ann")[0] == 40)
    open_then.settle(5, None)
    accounts.spend({"user": "ann"}, None, 10, None)
    assert spent(other, user="ann") == (50, 0)
    assert [one.spent.tokens for one in told] == [50]


def test_calls_may_be_refused_while_their_store_is_away(redis: RedisServer):
    """If the budget says so; the error says why, and what would let them pass."""
    accounts = Accounts(
        Budget(tokens=100, away="refuse", shared=RedisAccounts(redis.url, wait_s=0.5))
    )
    reserve(accounts, 10).settle(1, None)
    redis.stop()
    error = refusal(accounts, 10)
    assert error.over == ("away",)
    assert "can't be reached" in str(error)
    redis.start()
    until(lambda: accounts.spent().tokens == 0)
    reserve(accounts, 10).release()


def test_a_store_that_forgets_is_said(redis: RedisServer, caplog: Any):
    """As a Redis does that keeps nothing on disk, or that throws out what is old."""
    accounts = Accounts(Budget(tokens=100, shared=RedisAccounts(redis.url)))
    held = reserve(accounts, 10)
    redis.flush()
    held.settle(10, None)
    assert "10 tokens of a call that it doesn't know any more" in caplog.text
    assert spent(accounts) == (0, 0)


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
def test_windows_go_by_the_servers_clock(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Whatever the clock of a process shows, all are in the same window."""
    store = store_of(kind, request, tmp_path)
    true = time.time_ns
    until_ = set()
    for ahead_s in (0, 5_000, -90_000, 40 * 86_400):
        monkeypatch.setattr(time, "time_ns", lambda ahead_s=ahead_s: true() + ahead_s * 10**9)
        accounts = Accounts(Budget(tokens=100, window="1 month", shared=store))
        reserve(accounts, 10).settle(10, None)
        until_.add(accounts.spent().until)
    assert spent(accounts) == (40, 0)
    assert len(until_) == 1
    close(store)


class Relay:
    """Stands before a server, and can stop handing anything on without closing a connection."""

    def __init__(self, address: Any, family: socket.AddressFamily) -> None:
        self._address, self._family = address, family
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.is_frozen = False
        self._sockets = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(self._family)
            server.connect(self._address)
            self._sockets += [client, server]
            for one, other in ((client, server), (server, client)):
                threading.Thread(target=self._hand_on, args=(one, other), daemon=True).start()

    def _hand_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                while self.is_frozen:
                    time.sleep(0.02)
                target.sendall(data)
        except OSError:
            pass
        finally:
            for one in (source, target):
                one.close()

    def close(self) -> None:
        """Close all."""
        self.is_frozen = False
        for one in self._sockets:
            one.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "redis"])
def test_a_store_that_hangs_holds_nobody_up(kind: str, request: pytest.FixtureRequest):
    """The wait is bounded, and only the first call waits."""
    if kind == "redis":
        port = int(request.getfixturevalue("redis_url").split(":")[-1].split("/")[0])
        relay = Relay(("127.0.0.1", port), socket.AF_INET)
        store: Any = RedisAccounts(f"redis://127.0.0.1:{relay.port}/0", wait_s=0.5)
    else:
        url = request.getfixturevalue("postgres_url")
        database, folder = url.split("@/")[1].split("?host=")
        relay = Relay(f"{folder}/.s.PGSQL.5432", socket.AF_UNIX)
        store = SqlAccounts(
            f"postgresql+psycopg://postgres@127.0.0.1:{relay.port}/{database}", wait_s=0.5
        )
    accounts = Accounts(Budget(tokens=100, shared=store))
    reserve(accounts, 10).settle(10, None)
    relay.is_frozen = True

    def work() -> None:
        for _ in range(8):
            reserve(accounts, 10).settle(10, None)
        assert refusal(accounts, 11).spent.tokens == 90

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(WATCHDOG_S)
    assert not thread.is_alive()
    relay.is_frozen = False
    until(lambda: not accounts.spent().reserved_tokens and accounts.spent().tokens == 90)
    until(lambda: spent(Accounts(accounts.budget)) == (90, 0))
    close(store)
    relay.close()


def test_a_database_that_another_writes_to_for_long_is_away(file: SqlAccounts, tmp_path: Path):
    """As every store that doesn't answer in time."""
    impatient = SqlAccounts(tmp_path / "usage.db", wait_s=0.1)
    accounts = Accounts(Budget(tokens=100, shared=impatient))
    other = sqlite3.connect(tmp_path / "usage.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    reserve(accounts, 10).settle(10, None)
    other.execute("ROLLBACK")
    other.close()
    until(lambda: spent(Accounts(Budget(tokens=100, shared=file))) == (10, 0))
    impatient.close()


FORKED = """
import gc, os, sys
from llama_token_tracker.budgets import Accounts, Budget, RedisAccounts
from llama_token_tracker import SqlAccounts

url = sys.argv[1]
store = (RedisAccounts if url.startswith("redis") else SqlAccounts)(url)
accounts = Accounts(Budget(tokens=100, shared=store))

def reserve():
    return accounts.reserve({}, None, input_tokens=30, output_tokens=0, usd=None)

held = reserve()
for _ in range(3):
    if not (child := os.fork()):
        del held  # garbage here, and a call there
        gc.collect()
        reserve().settle(10, None)
        os._exit(0)
    os.waitpid(child, 0)
standing = accounts.spent()
print(standing.tokens, standing.reserved_tokens)
held.settle(5, None)
print(accounts.spent().tokens)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "redis"])
def test_a_forked_process_shares_and_its_parents_calls_stay_open(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
):
    """A child connects by itself; what its copy of a call holds isn't its own to give back."""
    url = str(tmp_path / "usage.db")
    if kind != "sqlite":
        url = request.getfixturevalue("redis_url" if kind == "redis" else "postgres_url")
    done = subprocess.run(
        [sys.executable, "-c", FORKED, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["30", "30", "35"], done.stderr


def test_a_pickled_handler_rejoins_its_accounts(file: SqlAccounts):
    """In whatever process it wakes up."""
    handler = TokenCountingHandler(budget=Budget(tokens=100, per="user", shared=file))
    handler.accounts[0].spend({"user": "ann"}, None, 9, None)
    twin = pickle.loads(pickle.dumps(handler))
    twin.accounts[0].spend({"user": "ann"}, None, 1, None)
    assert spent(handler.accounts[0], user="ann") == (10, 0)
    twin.accounts[0].budget.shared.close()


def test_the_card_shows_how_shared_accounts_stand(redis: RedisServer):
    """What others have spent, too; and what this process knows while the store is away."""
    budget = Budget(tokens=100, per="user", shared=RedisAccounts(redis.url, wait_s=0.5))
    handler = TokenCountingHandler(budget=budget)
    others = Budget(tokens=100, per="user", shared=RedisAccounts(redis.url))
    Accounts(others).spend({"user": "ben"}, None, 77, None)
    handler.accounts[0].spend({"user": "ann"}, None, 12, None)
    for shown in (handler.summary(), handler._repr_html_()):
        assert "77 tokens" in shown
        assert "12 tokens" in shown
    redis.stop()
    for shown in (handler.summary(), handler._repr_html_()):
        assert "12 tokens" in shown


def test_a_lock_is_never_held_while_a_store_is_asked(file: SqlAccounts):
    """Neither at a call's start nor at its end, nor when somebody reads."""
    accounts = Accounts(Budget(tokens=100, per="user", shared=file, at={0.1: lambda _: None}))
    reserve(accounts, 1, user="ann").release()
    with watched() as lock:
        reserve(accounts, 10, user="ann").settle(10, None)
        reserve(accounts, 10, user="ann").release()
        refusal(accounts, 1_000, user="ann")
        accounts.spend({"user": "ann"}, None, 1, None)
        accounts.spent({"user": "ann"})
        accounts.fullest(3)
        accounts.reset()
    assert lock.taken


@pytest.mark.parametrize("url", ["http://localhost", "redis", 7, "redis://127.0.0.1:1/0"])
def test_a_redis_that_cant_be_is_refused_at_once(url: Any):
    """With what was wrong, and no more."""
    pytest.importorskip("redis")
    with pytest.raises(BudgetError, match="Redis"):
        RedisAccounts(url, wait_s=0.5)


@pytest.mark.parametrize("target", ["mysql://x", "", 7, "/nowhere/usage.db"])
def test_a_database_that_cant_be_is_refused_at_once(target: Any):
    """As a ledger is."""
    with pytest.raises(LedgerError):
        SqlAccounts(target)
    with pytest.raises(BudgetError, match="lease_s"):
        SqlAccounts("x.db", lease_s=0)


@pytest.mark.slow
def test_a_missing_redis_names_its_extra():
    """With the command that brings it."""
    script = (
        "import sys; sys.modules['redis'] = None\n"
        "from llama_token_tracker.budgets import RedisAccounts\n"
        "RedisAccounts('redis://127.0.0.1')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert ".[redis]" in done.stderr.splitlines()[-1]


AT_EXIT = """
import sys
from llama_token_tracker.budgets import Accounts, Budget, RedisAccounts

accounts = Accounts(Budget(tokens=100, shared=RedisAccounts(sys.argv[1], wait_s=0.5)))
accounts.spent()
print(flush=True)
sys.stdin.readline()
accounts.spend({}, None, 42, None)
"""


@pytest.mark.slow
def test_what_cant_be_handed_in_by_the_end_is_said(redis: RedisServer):
    """A program ends all the same, and says what its store was never told of."""
    program = subprocess.Popen(
        [sys.executable, "-c", AT_EXIT, redis.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    program.stdout.readline()
    redis.stop()
    _, said = program.communicate("\n", timeout=WATCHDOG_S)
    assert "42 tokens that it wasn't told of" in said
    assert program.returncode == 0

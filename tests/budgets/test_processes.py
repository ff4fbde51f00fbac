"""Processes that share a budget: together they spend no more than one would."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.usage import Usage
from tests.needs import needs

from .spender import LIMIT

pytestmark = [pytest.mark.slow, needs("llama_index.llms.openai")]

BILLED = Usage(input_tokens=20, output_tokens=10)
LARGEST_CALL = 60


@pytest.fixture
def frugal() -> Iterator[LoopbackProvider]:
    """A provider whose answers cost less than what was reserved for them."""
    with LoopbackProvider(Reply("fine", BILLED)) as provider:
        yield provider


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where each shared store is."""
    if request.param == "sqlite":
        return str(tmp_path / "usage.db")
    name = "postgres_url" if request.param == "postgresql" else "redis_url"
    return str(request.getfixturevalue(name))


RESTARTED = """
import sys
from llama_token_tracker.budgets import Accounts, Budget, RedisAccounts
from llama_token_tracker import SqlAccounts

url = sys.argv[1]
store = (RedisAccounts if url.startswith("redis") else SqlAccounts)(url)
accounts = Accounts(Budget(tokens=1_000, per="user", shared=store))
print(accounts.spent({"user": "ann"}).tokens, accounts.spent({"user": "bob"}).tokens)
"""


def run(*arguments: object) -> str:
    """What a program prints that says nothing of a store that's away."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "can't be reached" not in done.stderr, done.stderr
    return done.stdout


def test_a_budget_holds_over_processes_deaths_and_restarts(url: str, frugal: LoopbackProvider):
    """Eight spend it to the last call that fits, what a killed one held included; no more.

    And of the eight one is told that half of it is spent.
    """
    spender = run("-m", "tests.budgets.spender", url, frugal.url("openai"), 8)
    found = json.loads(spender)
    assert found["held"] == 300
    assert found["spent"] == sum(usage.total_tokens or 0 for usage in frugal.billed)
    assert LIMIT - LARGEST_CALL < found["spent"] <= LIMIT
    assert found["reserved"] == 0
    assert found["alerts"] == 1
    assert run("-c", RESTARTED, url) == f"{found['spent']} 0\n"

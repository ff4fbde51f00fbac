"""What is no ledger, or can't be one: a clear error when it's opened, and nothing is touched."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import create_engine, text

from llama_token_tracker import Ledger, LedgerError, TokenCountingEvent, TokenCountingHandler
from llama_token_tracker.sinks.ledger import schema
from llama_token_tracker.sinks.ledger.engine import connect, url_of
from llama_token_tracker.sinks.ledger.existing import existing
from llama_token_tracker.sinks.ledger.pruning import prune
from llama_token_tracker.sinks.ledger.query import Query
from tests.needs import left_out_if
from tests.sinks.ledger.filled import START, calls, fill


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
        connection.commit()


def _newer(path: Path) -> None:
    Ledger(path).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE ledger_meta SET value = '99' WHERE name = 'schema'")
        connection.commit()


def _truncated(path: Path) -> None:
    Ledger(path).close()
    path.write_bytes(path.read_bytes()[:5_000])


def _text(path: Path) -> None:
    path.write_text("day,cost\n" * 1_000, encoding="utf-8")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_foreign, "is no ledger: it holds customers"),
        (_newer, "has schema 99, which is newer"),
        (_truncated, "can't be opened"),
        (_text, "can't be opened: 'file is not a database'"),
        (Path.mkdir, "is a folder"),
    ],
)
def test_a_file_that_is_no_ledger_is_refused_as_it_is(
    make: object, said: str, tmp_path: Path
) -> None:
    """Byte for byte what it was, with no file beside it."""
    path = tmp_path / "usage.db"
    assert callable(make)
    make(path)
    before = None if path.is_dir() else path.read_bytes()
    with pytest.raises(LedgerError, match=said) as caught:
        TokenCountingHandler(ledger=path)
    assert str(path) in str(caught.value)
    assert before is None or path.read_bytes() == before


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mysql://root:geheim@localhost/db", "can't be kept in 'mysql'"),
        ("postgresql://ada@[::1/db", "can't be read"),
        ("sqlite://", "a ledger in memory"),
        ("", "give a file's path"),
        (5, "ledger is 5; give a file's path"),
        ("nowhere/usage.db", "there is no .*nowhere; name a file in a folder that is there"),
        ("postgresql+psycopg://ada:geheim@127.0.0.1:1/db", "can't be opened"),
        ("postgresql+psycopg://127.0.0.1:1/db?password=geheim", "can't be opened"),
    ],
)
def test_what_names_no_ledger_is_refused_without_its_password(
    target: object, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what was found and the way out; a password is in none of it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LedgerError, match=said) as caught:
        Ledger(target)  # type: ignore[arg-type]
    assert "geheim" not in str(caught.value)


def test_a_driver_that_is_not_installed_is_named_with_the_way_to_it() -> None:
    """In a process that can't import psycopg."""
    code = """
import sys
sys.modules["psycopg"] = None
from llama_token_tracker import Ledger, LedgerError
try:
    Ledger("postgresql+psycopg://ada@127.0.0.1:1/db")
except LedgerError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert 'pip install ".[postgres]"' in done.stdout, done.stderr


@left_out_if(not hasattr(os, "geteuid") or os.geteuid() == 0, "root may write")
def test_a_folder_that_may_not_be_written_to_is_refused(tmp_path: Path) -> None:
    """Before any call is made."""
    tmp_path.chmod(0o500)
    with pytest.raises(LedgerError, match="can't be opened"):
        Ledger(tmp_path / "usage.db")


def test_an_older_ledger_is_brought_forward_with_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the statements that lead from its version to this release's."""
    path = tmp_path / "usage.db"
    with Ledger(path) as ledger:
        ledger(TokenCountingEvent("", "", 5, 7))
    newer = schema.VERSION + 1
    monkeypatch.setattr(schema, "VERSION", newer)
    step = "ALTER TABLE ledger_meta ADD COLUMN note TEXT"
    monkeypatch.setattr(schema, "UPGRADES", {newer - 1: [step]})
    for _ in range(2):
        Ledger(path).close()
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT value, note FROM ledger_meta").fetchall()
        calls = connection.execute("SELECT count(*) FROM ledger_calls").fetchone()
    assert (found, calls) == ([(str(newer), None)], (1,))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_ledger_of_the_first_schema_gets_sums_by_the_quarter_of_an_hour(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Of the calls that are there, and by the hour of those that were pruned."""
    path = str(tmp_path / "usage.db")
    if kind == "postgresql":
        path = request.getfixturevalue("postgres_url")
    fill(path, calls(400))
    engine = existing(path, writes=True)
    day_us = 86_400_000_000
    prune(engine, int(START.timestamp() * 1e6) // day_us * day_us + 2 * day_us)
    asked = [(UTC, "hour", "model"), (ZoneInfo("Europe/Berlin"), "day", "status")]
    before = [Query(engine, zone=zone).sums(*by) for zone, *by in asked]
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE ledger_quarters"))
        connection.execute(text("UPDATE ledger_meta SET value = '1' WHERE name = 'schema'"))
    with pytest.raises(LedgerError, match="has schema 1"):
        existing(path)
    Ledger(path).close()
    assert [Query(engine, zone=zone).sums(*by) for zone, *by in asked] == before
    fill(path, calls(10, seed=2))
    with engine.connect() as connection:
        names = [rollup.table.name for rollup in schema.ROLLUPS.values()]
        told = [connection.scalar(text(f"SELECT sum(calls) FROM {name}")) for name in names]
    engine.dispose()
    assert told == [410] * len(names)


def test_what_is_in_use_when_a_ledger_is_closed_is_closed_once_given_back(tmp_path: Path) -> None:
    """A thread reads or writes while another one closes the ledger, or forks."""
    engine = connect(url_of(tmp_path / "usage.db"))
    connection = engine.connect()
    driver: Any = connection.connection.driver_connection
    engine.dispose()
    assert connection.exec_driver_sql("SELECT 5").scalar() == 5
    connection.close()
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        driver.execute("SELECT 5")
    # What is opened afterwards is kept, as before.
    for _ in range(2):
        with engine.connect() as connection:
            used: Any = connection.connection.driver_connection
    assert used.execute("SELECT 6").fetchone() == (6,)
    engine.dispose()


def test_tables_of_somebody_else_are_refused_on_postgresql(postgres_url: str) -> None:
    """Where they have a name of ours; beside others a ledger may be."""
    engine = create_engine(postgres_url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (name TEXT)"))
    Ledger(postgres_url).close()
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE ledger_meta"))
    with pytest.raises(LedgerError, match="is no ledger: it holds ledger_"):
        Ledger(postgres_url)
    engine.dispose()

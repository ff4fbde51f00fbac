"""A ledger whose database is away, locked, removed, full or slow; nobody waits, nothing is lost."""

import ctypes
import logging
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from llama_token_tracker import Ledger, TokenCountingEvent, Tracker
from llama_token_tracker.sinks.ledger import batches, unwritten
from llama_token_tracker.sinks.ledger import engine as opening
from llama_token_tracker.sinks.ledger.ledger import Durability
from llama_token_tracker.sinks.ledger.spill import SpillFile
from tests.servers import postgres_server
from tests.sinks.ledger.faults import outages, rows, wrong_sums

WATCHDOG_S = 20.0


def _event(**fields: Any) -> TokenCountingEvent:
    return TokenCountingEvent("", "", 5, 7, **fields)


def _until(is_so: Callable[[], object]) -> None:
    until = time.monotonic() + WATCHDOG_S
    while not is_so():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.02)


def _count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM ledger_calls").fetchone()[0])
        except sqlite3.OperationalError:
            return 0  # its tables are being made


def _aside(folder: Path) -> list[Path]:
    return list(folder.glob("*.spill.jsonl"))


def _lines(folder: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in _aside(folder))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files of this test's own."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path) -> Path:
    """Where a ledger is that soon gives up waiting for a lock."""
    assert temporary.is_dir()
    monkeypatch.setattr(opening, "BUSY_S", 0.1)
    folder = tmp_path / "data"
    folder.mkdir()
    return folder / "usage.db"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_calls_are_put_aside_while_a_file_is_locked(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once; and without any further call they're written when it's free."""
    ledger = Ledger(path, flush_every_s=0.05)
    with _locked(path):
        for _ in range(5):
            ledger(_event())
            assert ledger.flush(WATCHDOG_S)
        assert len(_aside(path.parent)) == 1
    _until(lambda: _count(path) == 5)
    _until(lambda: not _aside(path.parent))
    assert wrong_sums(str(path)) is None
    assert caplog.text.count("can't be written") == 1
    assert ledger.lost == 0


@pytest.mark.slow
def test_a_caller_does_not_wait_for_a_file_that_is_locked(path: Path) -> None:
    """A call's end takes no part in it: 2,000 calls under a lock that lasts on."""
    tracker = Tracker(ledger=Ledger(path, flush_every_s=0.05))
    with _locked(path):
        began = time.monotonic()
        for _ in range(2_000):
            tracker.record(_event())
        assert time.monotonic() - began < WATCHDOG_S / 2
        time.sleep(0.5)
    assert tracker.flush(WATCHDOG_S)
    _until(lambda: _count(path) == 2_000)
    assert wrong_sums(str(path)) is None
    assert tracker.close(WATCHDOG_S)


@pytest.mark.parametrize("remains", ["nothing", "journal", "folder"])
def test_a_file_that_is_removed_is_made_anew(path: Path, remains: str) -> None:
    """What comes after its end is written to a new one, or aside until its folder is back."""
    ledger = Ledger(path, flush_every_s=0.05)
    ledger(_event())
    assert ledger.flush(WATCHDOG_S)
    if remains == "folder":
        shutil.rmtree(path.parent)
    else:
        for file in [path] if remains == "journal" else path.parent.iterdir():
            file.unlink()
    ledger(_event())
    assert ledger.flush(WATCHDOG_S)
    path.parent.mkdir(exist_ok=True)
    _until(path.exists)
    _until(lambda: _count(path) == 1)
    assert wrong_sums(str(path)) is None


def test_a_file_that_is_replaced_by_another_ledger_is_written_to(path: Path) -> None:
    """As by a backup that is put in its place."""
    Ledger(path.with_name("other.db")).close()
    ledger = Ledger(path, flush_every_s=0.05)
    ledger(_event())
    assert ledger.flush(WATCHDOG_S)
    ledger.engine.dispose()
    path.with_name("other.db").replace(path)
    ledger(_event())
    assert ledger.flush(WATCHDOG_S)
    assert len(rows(str(path))) == 1


def test_what_is_put_in_a_ledgers_place_is_left_as_it_is(path: Path) -> None:
    """Somebody else's database: calls wait aside until a ledger is there again."""
    ledger = Ledger(path, flush_every_s=0.05)
    ledger.engine.dispose()
    other = path.with_name("other.db")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    content = other.read_bytes()
    other.replace(path)
    ledger(_event())
    assert ledger.flush(WATCHDOG_S)
    assert path.read_bytes() == content
    path.unlink()
    _until(lambda: path.exists() and not _aside(path.parent))
    assert _count(path) == 1


# --- full disks ------------------------------------------------------------------------------


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A disk of two megabytes; whoever may mount none skips."""
    folder.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if sys.platform != "linux" or libc.mount(
        b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=2m"
    ):
        pytest.skip("no small disk can be mounted here: it takes root on Linux")
    try:
        yield folder
    finally:
        libc.umount2(str(folder).encode(), 2)


def _fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 512, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return filler


def test_a_full_disk_loses_nothing_while_another_takes_it(tmp_path: Path, temporary: Path) -> None:
    """Aside goes to the folder for temporary files, and back once there's space."""
    with _small_disk(tmp_path / "small") as disk:
        path = disk / "usage.db"
        ledger = Ledger(path, flush_every_s=0.05)
        filler = _fill(disk)
        for _ in range(3):
            for _ in range(400):
                ledger(_event())
            assert ledger.flush(WATCHDOG_S)
        assert list(temporary.glob("*/*.spill.jsonl"))
        filler.unlink()
        _until(lambda: _count(path) == 1_200)
        _until(lambda: not list(temporary.glob("*/*")))
        assert ledger.lost == 0
        assert wrong_sums(str(path)) is None
        assert ledger.close(WATCHDOG_S)


def test_with_all_disks_full_calls_wait_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there's room for: `flush` says that they aren't kept, and then they are."""
    with _small_disk(tmp_path / "small") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        path = disk / "usage.db"
        ledger = Ledger(path, flush_every_s=0.05)
        filler = _fill(disk)
        for _ in range(2_000):
            ledger(_event())
        assert not ledger.flush(WATCHDOG_S)
        filler.unlink()
        _until(lambda: _count(path) == 2_000)
        assert ledger.flush(WATCHDOG_S)
        assert ledger.lost == 0
        assert wrong_sums(str(path)) is None
        assert ledger.close(WATCHDOG_S)


def test_what_no_place_takes_and_memory_neither_is_counted_as_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And said; all others are written."""
    monkeypatch.setattr(unwritten, "MAX_WAITING_BYTES", 600 * 3_000)
    with _small_disk(tmp_path / "small") as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        path = disk / "usage.db"
        ledger = Ledger(path, flush_every_s=0.05)
        filler = _fill(disk)
        for _ in range(8_000):
            ledger(_event())
        assert not ledger.flush(WATCHDOG_S)
        assert ledger.lost > 0
        assert "calls can be written nowhere" in caplog.text
        filler.unlink()
        _until(lambda: _count(path) + ledger.lost == 8_000)
        assert ledger.close(WATCHDOG_S)


# --- a slow database ----------------------------------------------------------------------------


def test_memory_is_bounded_while_whoever_writes_hangs(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes beyond goes into a file, by whoever brings it; who flushes isn't forgotten."""
    monkeypatch.setattr(opening, "BUSY_S", 3.0)
    monkeypatch.setattr(unwritten, "MAX_WAITING_BYTES", 600 * 100)
    ledger = Ledger(path, flush_every_s=60)
    told: list[bool] = []
    with _locked(path):
        ledger(_event())
        flushing = threading.Thread(target=lambda: told.append(ledger.flush(WATCHDOG_S)))
        flushing.start()
        time.sleep(0.1)
        for _ in range(350):
            ledger(_event())
        assert _lines(path.parent) >= 200
    flushing.join(WATCHDOG_S)
    assert told == [True]
    assert ledger.flush(WATCHDOG_S)
    assert _count(path) == 351


@pytest.fixture
def patient(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a ledger is that waits for a lock as long as it does elsewhere."""
    monkeypatch.setattr(opening, "BUSY_S", 10.0)
    return path


def test_a_write_that_takes_long_has_its_calls_in_a_file_meanwhile(
    patient: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A kill would find them there; it isn't said, as the database isn't away; each once."""
    ledger = Ledger(patient, flush_every_s=0.1)
    told: list[bool] = []
    with _locked(patient):
        for number in range(3):
            ledger(_event())
            _until(lambda expected=number + 1: _lines(patient.parent) == expected)
        flushing = threading.Thread(target=lambda: told.append(ledger.flush(WATCHDOG_S)))
        flushing.start()
        time.sleep(0.5)
        assert told == []  # it's the database that is waited for
    flushing.join(WATCHDOG_S)
    assert told == [True]
    assert _count(patient) == 3
    assert not _aside(patient.parent)
    assert wrong_sums(str(patient)) is None
    assert "put aside" not in caplog.text
    assert ledger.lost == 0


def test_on_sync_a_call_does_not_wait_for_a_lock_that_lasts(patient: Path) -> None:
    """It's on disk once it's in a file, as soon as `flush_every_s` says."""
    tracker = Tracker(ledger=Ledger(patient, durability="sync", flush_every_s=0.1))
    with _locked(patient):
        for number in range(5):
            tracker.record(_event())
            assert _lines(patient.parent) == number + 1
    _until(lambda: not _aside(patient.parent))
    assert _count(patient) == 5
    assert tracker.close(WATCHDOG_S)


def test_a_copy_that_no_place_takes_leaves_its_calls_to_be_written(
    patient: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They wait in memory as they would without it."""
    ledger = Ledger(patient, flush_every_s=0.1)
    monkeypatch.setattr(SpillFile, "add", lambda *_, **__: False)
    with _locked(patient):
        for _ in range(5):
            ledger(_event())
            time.sleep(0.1)
        assert not _aside(patient.parent)
    assert ledger.flush(WATCHDOG_S)
    assert _count(patient) == 5
    assert ledger.lost == 0


def test_threads_may_record_while_others_flush(path: Path) -> None:
    """32 of them; each call once."""
    ledger = Ledger(path, flush_every_s=0.01)

    def record() -> None:
        for number in range(100):
            ledger(_event())
            if not number % 20:
                ledger.flush(WATCHDOG_S)

    threads = [threading.Thread(target=record) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WATCHDOG_S)
    assert ledger.flush(WATCHDOG_S)
    assert _count(path) == 3_200
    assert wrong_sums(str(path)) is None


# --- the end ------------------------------------------------------------------------------------


def test_a_ledger_may_be_closed_twice_and_used_again(path: Path) -> None:
    """Also by two handlers, one of which has it among its sinks."""
    with Ledger(path) as ledger:
        for tracker in (Tracker(ledger=ledger), Tracker(sinks=[ledger])):
            tracker.record(_event())
            assert tracker.flush(WATCHDOG_S)
    assert ledger.close(WATCHDOG_S)
    ledger(_event())
    assert ledger.close(WATCHDOG_S)
    assert _count(path) == 3


def test_who_closes_leaves_what_is_aside_to_the_next(path: Path) -> None:
    """Within the same process, too."""
    ledger = Ledger(path)
    with _locked(path):
        ledger(_event())
        assert ledger.close(WATCHDOG_S)
        _until(lambda: _aside(path.parent))
    with Ledger(path) as after:
        assert after.flush(WATCHDOG_S)
    assert _count(path) == 1
    assert not _aside(path.parent)


def test_a_handler_that_is_dropped_has_its_calls_written(path: Path) -> None:
    """And those of a ledger that only it held."""
    tracker = Tracker(ledger=Ledger(path, flush_every_s=0.05))
    tracker.record(_event())
    del tracker
    _until(lambda: _count(path) == 1)


_ENDS = """
import sqlite3, sys, time
from llama_token_tracker import Ledger, TokenCountingEvent, Tracker
ledger = Ledger(sys.argv[1], flush_every_s=60)
tracker = Tracker(ledger=ledger)
tracker.record(TokenCountingEvent("", "", 5, 7))
if sys.argv[2] == "idle":
    tracker.flush(10)
    time.sleep(1.5)  # its thread ends
if sys.argv[2] == "locked":
    other = sqlite3.connect(sys.argv[1], isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    tracker.flush(0.2)
tracker.record(TokenCountingEvent("", "", 5, 7))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["at once", "idle", "locked"])
def test_a_program_that_ends_leaves_no_call_out(path: Path, how: str) -> None:
    """Written at its end; or put aside, if the database is away, within seconds."""
    done = subprocess.run(
        [sys.executable, "-c", _ENDS, str(path), how],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if how == "locked":
        assert _aside(path.parent)
    assert len(rows(str(path))) == 2


# --- PostgreSQL ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("by", [signal.SIGQUIT, signal.SIGKILL])
def test_a_server_that_is_killed_and_comes_back_has_each_call_once(
    by: signal.Signals, temporary: Path
) -> None:
    """Callers go on meanwhile; what was put aside is gone afterwards."""
    with postgres_server() as server:
        ledger = Ledger(server.url, durability="sync", flush_every_s=0.05)
        expected = 0
        for step in ("up", "down", "up"):
            if step == "down":
                server.kill(by)
            elif expected:
                server.start()
            for _ in range(200):
                ledger(_event())
                expected += 1
                if not expected % 50:
                    assert ledger.flush(WATCHDOG_S)
            if step == "down":
                assert list(temporary.glob("*/*.spill.jsonl"))
        _until(lambda: not list(temporary.glob("*/*.spill.jsonl")))
        assert len(rows(server.url)) == expected
        assert wrong_sums(server.url) is None
        assert ledger.lost == 0
        assert ledger.close(WATCHDOG_S)


@pytest.mark.slow
def test_callers_go_on_while_a_database_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is locked and a server that is killed, for a while, under load."""
    monkeypatch.setattr(opening, "BUSY_S", 0.2)
    assert [problem for problem in outages(1.0) if problem] == []


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["batched", "sync"])
def test_a_server_that_says_nothing_holds_no_call_up(
    durability: Durability,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its connections stay open, so that no driver would ever give up: calls are in files."""
    monkeypatch.setattr(batches, "SILENT_S", 0.5)
    with postgres_server() as server:
        ledger = Ledger(server.url, durability=durability, flush_every_s=0.1)
        tracker = Tracker(ledger=ledger)
        tracker.record(_event())
        assert tracker.flush(WATCHDOG_S)
        with server.stopped():
            for _ in range(50):
                tracker.record(_event())
                time.sleep(0.02)
            files = list(temporary.glob("*/*.spill.jsonl"))
            assert sum(len(file.read_bytes().splitlines()) for file in files) >= 40
            assert caplog.text.count("can't be written") == 1
            assert "no answer for" in caplog.text
        assert tracker.flush(WATCHDOG_S)
        _until(lambda: not list(temporary.glob("*/*.spill.jsonl")))
        assert len(rows(server.url)) == 51
        assert wrong_sums(server.url) is None
        assert ledger.lost == 0
        assert ledger.close(WATCHDOG_S)


def test_a_lock_that_lasts_has_calls_put_aside_on_postgresql(
    postgres_url: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an administrator's `ALTER TABLE` holds one."""
    monkeypatch.setattr(opening, "BUSY_S", 0.1)
    ledger = Ledger(postgres_url, flush_every_s=0.05)
    with ledger.engine.connect() as other, other.begin():
        other.execute(text("LOCK TABLE ledger_kinds IN ACCESS EXCLUSIVE MODE"))
        ledger(_event())
        assert ledger.flush(WATCHDOG_S)
        assert list(temporary.glob("*/*.spill.jsonl"))
    _until(lambda: not list(temporary.glob("*/*.spill.jsonl")))
    assert len(rows(postgres_url)) == 1
    ledger.close()


class _Flushing(logging.Handler):
    """Has a ledger flushed when something is logged, as one that writes logs down might."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.told: list[bool] = []
        self._ledger = ledger

    def emit(self, record: logging.LogRecord) -> None:
        if not self.told:
            self.told.append(self._ledger.flush(WATCHDOG_S / 4))


def test_what_listens_to_the_log_may_use_the_ledger(
    postgres_url: str, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is logged while a lock is held that it needs."""
    monkeypatch.setattr(unwritten, "MAX_WAITING_BYTES", 600 * 2)
    (temporary / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "file"))
    ledger = Ledger(postgres_url, flush_every_s=60)
    listening = _Flushing(ledger)
    logging.getLogger("llama_token_tracker").addHandler(listening)
    try:
        for _ in range(3):
            ledger(_event())  # the last is too much, and there's no place for it
    finally:
        logging.getLogger("llama_token_tracker").removeHandler(listening)
    assert listening.told == [True]
    assert ledger.close(WATCHDOG_S)


def test_a_month_that_is_detached_is_made_anew(postgres_url: str) -> None:
    """While a process goes on that had made it."""
    ledger = Ledger(postgres_url)
    ledger(_event(started_s=1_750_000_000.0))
    assert ledger.flush(WATCHDOG_S)
    with ledger.engine.begin() as connection:
        connection.execute(text("ALTER TABLE ledger_calls DETACH PARTITION ledger_calls_2025_06"))
        connection.execute(text("DROP TABLE ledger_calls_2025_06"))
    ledger(_event(started_s=1_750_000_001.0))
    assert ledger.flush(WATCHDOG_S)
    assert len(rows(postgres_url)) == 1
    ledger.close()


# --- what a database won't have ------------------------------------------------------------------

HUGE = 10**30
ODD: list[dict[str, Any]] = [
    {"model": "a\0b\ud800", "scope": "\udfff/\0", "request_id": "\0"},
    {"tags": {"user\0": "\ud800" * 3, "big": "x" * (1 << 20)}},
    {"started_s": float("nan"), "duration_s": float("inf")},
    {"started_s": -1e300, "duration_s": -5.0},
    {"started_s": 1e300, "duration_s": float("nan")},
    {"started_s": 253_402_300_800.0},
]


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_odd_calls_hold_nobody_up(
    database: str, path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    """Each is kept as far as it can be, or put aside and said; those beside it are written."""
    url = str(path) if database == "sqlite" else request.getfixturevalue("postgres_url")
    ledger = Ledger(url, keep_text=True)
    tracker = Tracker(ledger=ledger)
    with caplog.at_level(logging.WARNING):
        for odd in ODD:
            tracker.record(_event(**odd))
            tracker.record(TokenCountingEvent("a\0\ud800", "\udfff", 5, 7))
        tracker.record(TokenCountingEvent("", "", HUGE, 7))
        tracker.record(TokenCountingEvent("", "", 2 * 10**17, 7))
        assert tracker.flush(WATCHDOG_S)
    said = [record.getMessage() for record in caplog.records]
    assert len(rows(url)) == 2 * len(ODD), said
    assert any("won't have a call" in one for one in said)
    assert wrong_sums(url) is None
    assert tracker.close(WATCHDOG_S)
    ledger.close()

"""Records that wait to be written, and the thread that does it: to the database, or aside."""

import threading
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from llama_token_tracker._background import Worker, soon
from llama_token_tracker._lock import fresh_in_children
from llama_token_tracker._log_once import notice
from llama_token_tracker.sinks.ledger.engine import connect, place_of
from llama_token_tracker.sinks.ledger.records import Record
from llama_token_tracker.sinks.ledger.spill import (
    REJECTED,
    SpillFile,
    leftovers,
    places_of,
    write_back,
)
from llama_token_tracker.sinks.ledger.writing import writer_of

BATCH: Final = 5_000
"""Records that are written at once; so many don't wait for the time to come."""

MAX_WAITING_BYTES: Final = 64 << 20
"""More don't wait in memory; then they're put aside in a file."""

_GRACE_S: Final = 0.002
"""So long other processes have a turn between two batches."""

_AWAY_S: Final = (0.25, 5.0)
"""So soon, and later so seldom, it's tried again whether a database is back, in seconds."""


class Database:
    """A ledger's database, which may be removed, or be away for a while.

    Args:
        url: Where it is.
        is_durable: Whether what is committed survives the machine's end.

    Raises:
        LedgerError: It can't be opened.
    """

    def __init__(self, url: URL, *, is_durable: bool) -> None:
        self._url = url
        self._is_durable = is_durable
        self._open()

    def _open(self) -> None:
        self.engine: Engine = connect(self._url, is_durable=self._is_durable)
        self._writer = writer_of(self.engine)
        self._file = self._file_id()
        driver: Any = self.engine.dialect.dbapi
        self._refusals: tuple[type[Exception], ...] = (
            *(DataError, IntegrityError, ValueError, OverflowError),
            *(driver.DataError, driver.IntegrityError),
        )
        # By whoever counts next, as it takes locks, and this a finalizer.
        weakref.finalize(self, soon, self.engine.dispose).atexit = False

    def write(self, records: Sequence[Record], reject: Callable[[Record], None]) -> None:
        """Write records, each once.

        Args:
            records: What is to be written.
            reject: Takes one that the database won't have, whatever is done.

        Raises:
            Exception: It's away. Of the records some may have been written, or none.
        """
        if self._file_id() != self._file:
            # Removed or replaced, and nobody reads the file that is open.
            self.engine.dispose()
            self._open()
        try:
            self._writer.write(records)
        except self._refusals as error:
            self._write_apart(records, reject, error)
        else:
            if self._file_id() != self._file:
                self.write(records, reject)  # it was removed meanwhile

    def _write_apart(
        self, records: Sequence[Record], reject: Callable[[Record], None], error: Exception
    ) -> None:
        """Write one half and the other: they shall not suffer for one of them."""
        half = len(records) // 2
        if half:
            self.write(records[:half], reject)
            self.write(records[half:], reject)
            return
        notice("the ledger {} won't have a call", error, "it is put aside", place_of(self._url))
        reject(records[0])

    def _file_id(self) -> tuple[int, int] | None:
        if self._url.get_backend_name() != "sqlite":
            return None
        try:
            found = Path(str(self._url.database)).stat()
        except OSError:
            return (0, 0)
        return found.st_dev, found.st_ino


class Batches:
    """The records that wait for one database.

    Args:
        database: Where they go.
        url: Where that is.
        every_s: How long they wait for others to be written with, in seconds.
        is_sync: Whether they don't, as somebody waits for them.

    Attributes:
        lost: How many could be written nowhere.
    """

    def __init__(self, database: Database, url: URL, every_s: float, *, is_sync: bool) -> None:
        self._database = database
        self._place = place_of(url)
        self._every_s = every_s
        self._is_sync = is_sync
        self.lost = 0
        self._waiting: list[Record] = []
        self._bytes = 0
        self._in_hand: Sequence[Record] = ()
        self._flushers: list[threading.Event] = []
        self._is_working = self._is_closing = self._is_ending = self._is_hanging = False
        # Whether anything is aside that is to be written back; whether nothing takes what waits.
        self._is_behind = self._is_full = False
        self._due = threading.Event()
        self._lock = fresh_in_children(threading.Lock())
        self._files = fresh_in_children(threading.Lock())
        self._worker = Worker("llama-token-tracker ledger")
        self._folders, self._stem = places_of(url)
        self._spill = SpillFile(self._folders, self._stem)
        self._rejected = SpillFile(self._folders, self._stem, REJECTED)
        self._retry_at, self._retry_s = 0.0, _AWAY_S[0]
        self._look_at = time.monotonic() + _AWAY_S[1]

    def put(self, record: Record) -> None:
        """Have a record written soon."""
        with self._lock:
            self._waiting.append(record)
            self._bytes += record.size
            is_much = len(self._waiting) >= BATCH
            is_too_much = self._bytes > MAX_WAITING_BYTES
        if is_much or self._is_sync:
            self._due.set()
        if is_too_much:
            # Whoever writes hangs: what waits goes into a file, by this thread.
            self._put_aside(self._take())
        self._work_soon()

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until all that waits is written, or put aside.

        Returns:
            Whether that was done in time, and there was a place for all.
        """
        done = threading.Event()
        with self._lock:
            self._flushers.append(done)
        self._due.set()
        self._work_soon()
        is_done = done.wait(0 if self._is_hanging else timeout_s) and not self._is_full
        if not is_done and self._is_ending:
            self._is_hanging = True
            self._leave()
        return is_done

    def close(self, timeout_s: float | None) -> bool:
        """The same, and then wait for a database that is away no longer."""
        self._is_closing = True
        return self.flush(timeout_s)

    def end(self, timeout_s: float) -> bool:
        """The same at the interpreter's end: what isn't written in time is put aside, or lost."""
        self._is_ending = True
        return self.close(timeout_s)

    def _leave(self) -> None:
        in_hand, self._in_hand = self._in_hand, ()
        records = [*in_hand, *self._take()]
        if records and not self._is_aside(records):
            self._lose(records)

    def take_over(self) -> None:
        """Have what processes that have ended put aside be written, if there is any."""
        if leftovers(self._folders, self._stem):
            self._is_behind = True
            self._work_soon()

    def leave_to_parent(self) -> None:
        """Let go, in a forked child, of what is the parent's."""
        self._spill.close()
        self._rejected.close()

    # --- the thread --------------------------------------------------------------------------

    def _work_soon(self) -> None:
        with self._lock:
            is_working, self._is_working = self._is_working, True
        if not is_working:
            self._worker.ask(self._work)

    def _work(self) -> None:
        """Write what comes until nothing waits, neither here nor in a file."""
        try:
            while self._is_more_to_do():
                self._due.wait(self._pause())
                self._due.clear()
                with self._lock:
                    flushers, self._flushers = self._flushers, []
                try:
                    self._write_all(self._take())
                    self._write_back()
                finally:
                    for flusher in flushers:
                        flusher.set()
        except BaseException:
            self._is_working = False
            raise

    def _is_more_to_do(self) -> bool:
        with self._lock:
            is_awaited = bool(self._waiting or self._flushers)
            self._is_working = is_awaited or (self._is_behind and not self._is_closing)
            self._is_closing = self._is_closing and is_awaited
            is_working = self._is_working
        if not is_working:
            with self._files:
                self._spill.close()  # for whoever opens the ledger next
        return is_working

    def _pause(self) -> float:
        if not self._is_behind and not self._is_full:
            return self._every_s
        return min(self._every_s or _AWAY_S[0], max(0.0, self._retry_at - time.monotonic()))

    def _take(self) -> list[Record]:
        with self._lock:
            records, self._waiting, self._bytes = self._waiting, [], 0
        return records

    def _write_all(self, records: Sequence[Record]) -> None:
        for start in range(0, len(records), BATCH):
            if start:
                time.sleep(_GRACE_S)
            self._in_hand = records[start:]
            batch = records[start : start + BATCH]
            if time.monotonic() < self._retry_at or not self._is_written(batch):
                self._put_aside(batch)
        self._in_hand = ()

    def _is_written(self, records: Sequence[Record]) -> bool:
        """Write records; `False` if the database is away."""
        try:
            self._database.write(records, self._reject)
        except Exception as error:  # noqa: BLE001 - whatever a database or its driver raises
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _AWAY_S[1])
            found = error.orig if isinstance(error, DBAPIError) else error
            consequence = "calls are put aside in a file until it can"
            notice("the ledger {} can't be written", found, consequence, self._place)
            return False
        self._retry_at, self._retry_s = 0.0, _AWAY_S[0]
        self._is_full = False
        return True

    def _reject(self, record: Record) -> None:
        with self._files:
            is_kept = self._rejected.add([record], is_durable=self._is_sync)
        if not is_kept:
            self._lose([record])

    def _put_aside(self, records: Sequence[Record]) -> None:
        """Put records into a file, or else have them wait on while there's room in memory."""
        if not records or self._is_aside(records):
            return
        size = sum(record.size for record in records)
        with self._lock:
            self._is_full = size + self._bytes <= MAX_WAITING_BYTES
            if self._is_full:
                self._waiting[:0] = records
                self._bytes += size
        if not self._is_full:
            self._lose(records)

    def _is_aside(self, records: Sequence[Record]) -> bool:
        with self._files:
            is_kept = self._spill.add(records, is_durable=self._is_sync)
            if is_kept:
                self._is_behind, self._is_full = True, False
        return is_kept

    def _lose(self, records: Sequence[Record]) -> None:
        self.lost += len(records)
        notice(
            "calls can be written nowhere, for the ledger {}",
            f"{len(records)} of them",
            "they are lost there; totals in memory have them",
            self._place,
        )

    def _write_back(self) -> None:
        """Write to the database what was put aside, by this process or by one that has ended."""
        now = time.monotonic()
        if now < self._retry_at or not (self._is_behind or now >= self._look_at):
            return
        self._look_at = now + _AWAY_S[1]
        with self._files:
            self._spill.close()
            self._is_behind = False
        for path in leftovers(self._folders, self._stem):
            try:
                write_back(path, self._write_again)
            except _AwayError:
                self._is_behind = True
                return
            except OSError as error:
                notice("what is in {} can't be written back", error, "it stays", path.name)

    def _write_again(self, records: Sequence[Record]) -> None:
        if not self._is_written(records):
            raise _AwayError


class _AwayError(Exception):
    """The database is away."""

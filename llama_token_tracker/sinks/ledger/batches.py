"""Records that wait to be written, and the threads that do it: to the database, or aside."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError

from llama_token_tracker._background import Worker
from llama_token_tracker._lock import fresh_in_children
from llama_token_tracker._log_once import notice
from llama_token_tracker.sinks.ledger.aside import AwayError
from llama_token_tracker.sinks.ledger.database import Database
from llama_token_tracker.sinks.ledger.engine import place_of
from llama_token_tracker.sinks.ledger.records import Record
from llama_token_tracker.sinks.ledger.unwritten import Unwritten

BATCH: Final = 5_000
"""Records that are written at once; so many don't wait for the time to come."""

_GRACE_S: Final = 0.002
"""So long other processes have a turn between two batches."""

_TURN, _TURN_S = 25, 2e-5
"""After so many of a burst whoever brings them lets the thread that writes have Python's lock. Else
that waits for it for milliseconds, each time that it comes back from the database."""

_AWAY_S: Final = (0.25, 5.0)
"""So soon, and later so seldom, it's tried again whether a database is back, in seconds."""

_LATE: Final = 0.75
"""At this part of the time within which a record shall be on disk it's copied, if it isn't."""

_LOOKS: Final = 8
"""So often it's looked within that time."""

_SHORTEST_S: Final = 0.08
"""That time at least; somebody may have asked for none."""

_HURRY_S: Final = 0.025
"""So soon a call that waits for the disk has its copy, when others had to be copied already."""

SILENT_S: Final = 30.0
"""After so long a database that says nothing is said to be away."""


class Batches:
    """Writes to one database what comes, some at a time.

    Half of the time within which a record shall be on disk it waits for others to be written with.
    What isn't written when most of the other half is over is copied by a second thread, into a file
    that is removed when all of that is written. So no record is in memory alone for longer, though
    a database is locked, slow or mute.

    Args:
        database: Where they go.
        url: Where that is.
        within_s: How soon each is on disk, in seconds: there, or in a file.
        is_sync: Whether they wait for no others, as somebody waits for them.
    """

    def __init__(self, database: Database, url: URL, within_s: float, *, is_sync: bool) -> None:
        self._database = database
        self._place = place_of(url)
        self._wait_s = within_s / 2
        self._look_s = max(within_s, _SHORTEST_S) / _LOOKS
        self._late_s = max(within_s, _SHORTEST_S) * _LATE
        self._is_sync = is_sync
        self._unwritten = Unwritten(url, is_durable=is_sync)
        # Those who wait for the next write, and for the one that is under way.
        self._flushers: list[threading.Event] = []
        self._attended: list[threading.Event] = []
        self._is_working = self._is_closing = self._is_ending = self._is_hanging = False
        self._due = threading.Event()
        self._rested = threading.Event()
        self._lock = fresh_in_children(threading.Lock())
        self._worker = Worker("llama-token-tracker ledger")
        self._keeper = Worker("llama-token-tracker ledger's files")
        self._tried_at: float | None = None
        self._retry_at, self._retry_s = 0.0, _AWAY_S[0]
        self._look_at = time.monotonic() + _AWAY_S[1]

    @property
    def lost(self) -> int:
        """How many could be written nowhere."""
        return self._unwritten.lost

    def put(self, record: Record) -> None:
        """Have a record written soon."""
        self._unwritten.put(record)
        waiting = self._unwritten.waiting
        if (self._is_sync or waiting >= BATCH) and not self._due.is_set():
            self._due.set()
        self._work_soon()
        if waiting >= BATCH and not waiting % _TURN:
            time.sleep(_TURN_S)

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
        is_done = done.wait(0 if self._is_hanging else timeout_s) and not self._unwritten.is_full
        if not is_done and self._is_ending:
            self._is_hanging = True
            self._unwritten.leave()
        return is_done

    def close(self, timeout_s: float | None) -> bool:
        """The same, and then wait for a database that is away no longer."""
        self._is_closing = True
        return self.flush(timeout_s)

    def end(self, timeout_s: float) -> bool:
        """The same at the interpreter's end: what isn't written in time is put aside, or lost."""
        self._is_ending = True
        return self.close(timeout_s)

    def take_over(self) -> bool:
        """Have what processes that have ended put aside be written: whether there is any."""
        is_any = self._unwritten.aside.find()
        if is_any:
            self._work_soon()
        return is_any

    def leave_to_parent(self) -> None:
        """Let go, in a forked child, of what is the parent's."""
        self._unwritten.aside.leave_to_parent()

    # --- the thread that writes ------------------------------------------------------------------

    def _work_soon(self) -> None:
        with self._lock:
            is_working, self._is_working = self._is_working, True
            if not is_working:
                self._rested.clear()
        if not is_working:
            self._worker.ask(self._work)
            self._keeper.ask(self._keep)

    def _work(self) -> None:
        """Write what comes until nothing waits, neither here nor in a file."""
        try:
            while self._is_more_to_do():
                self._due.wait(self._pause())
                self._due.clear()
                try:
                    self._begin()
                    self._write_all()
                    self._write_back()
                finally:
                    self._end()
        except BaseException:
            self._is_working = False
            self._rested.set()
            raise

    def _is_more_to_do(self) -> bool:
        is_behind = self._unwritten.is_behind
        with self._lock:
            is_awaited = bool(self._unwritten.waiting or self._flushers)
            self._is_working = is_awaited or (is_behind and not self._is_closing)
            self._is_closing = self._is_closing and is_awaited
            is_working = self._is_working
            if not is_working:
                self._rested.set()
        if not is_working:
            self._unwritten.aside.release()
        return is_working

    def _pause(self) -> float:
        now = time.monotonic()
        if self._unwritten.is_full or self._unwritten.is_behind:
            return min(self._wait_s or _AWAY_S[0], max(0.0, self._retry_at - now))
        return max(0.0, self._unwritten.first_at + self._wait_s - now)

    def _begin(self) -> None:
        """Take in hand what waits, and before that those who wait for it."""
        with self._lock:
            self._attended, self._flushers = self._flushers, []
        self._unwritten.take_in_hand()

    def _end(self) -> None:
        with self._lock:
            attended, self._attended = self._attended, []
        for flusher in attended:
            flusher.set()

    def _write_all(self) -> None:
        while batch := self._unwritten.in_hand[:BATCH]:
            if time.monotonic() < self._retry_at or not self._is_written(batch):
                self._unwritten.move_in_hand()
                return
            self._unwritten.let_go(len(batch))
            if self._unwritten.in_hand:
                time.sleep(_GRACE_S)

    def _is_written(self, records: Sequence[Record]) -> bool:
        """Write records; `False` if the database is away."""
        self._tried_at = time.monotonic()
        try:
            self._database.write(records, self._unwritten.reject)
        except Exception as error:  # noqa: BLE001 - whatever a database or its driver raises
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _AWAY_S[1])
            self._say_away(error.orig if isinstance(error, DBAPIError) else error)
            return False
        finally:
            self._tried_at = None
        self._retry_at, self._retry_s = 0.0, _AWAY_S[0]
        self._unwritten.is_full = False
        return True

    def _say_away(self, found: object) -> None:
        consequence = "calls are put aside in a file until it can"
        notice("the ledger {} can't be written", found, consequence, self._place)

    def _write_back(self) -> None:
        """Write to the database what was put aside, by this process or by one that has ended."""
        now = time.monotonic()
        if now >= self._retry_at and (now >= self._look_at or self._unwritten.is_behind):
            self._look_at = now + _AWAY_S[1]
            self._unwritten.aside.write_back(self._write_again)

    def _write_again(self, records: Sequence[Record]) -> None:
        if not self._is_written(records):
            raise AwayError

    # --- the thread that copies ------------------------------------------------------------------

    def _keep(self) -> None:
        """Copy what would be in memory alone for too long, as long as anything is written.

        On a thread of its own; without it, as where none can be started any more, that waits.
        """
        seen: deque[tuple[float, int]] = deque()
        while self._is_working:
            now = time.monotonic()
            seen.append((now, self._unwritten.came))
            while len(seen) > 1 and seen[1][0] <= now - self._late_s:
                seen.popleft()
            if seen[0][0] <= now - self._late_s:
                self._keep_now(seen[0][1])
            is_hurried = self._is_sync and self._unwritten.is_copied
            self._rested.wait(min(_HURRY_S, self._look_s) if is_hurried else self._look_s)

    def _keep_now(self, came: int) -> None:
        """Copy those that came that long ago; where calls wait for it, what came since, too."""
        self._unwritten.copy(came)
        if self._is_sync and self._unwritten.is_copied:
            with self._lock:
                flushers = [*self._attended, *self._flushers]
            if self._unwritten.copy(self._unwritten.came):
                for flusher in flushers:
                    flusher.set()
        tried_at = self._tried_at
        if tried_at is not None and time.monotonic() - tried_at > SILENT_S:
            self._say_away(f"no answer for {SILENT_S:g} s")

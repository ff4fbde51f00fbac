"""Records that aren't in the database yet: in memory, and those that wait long in files, too."""

import threading
import time
from collections.abc import Sequence
from itertools import chain, islice
from typing import Final

from sqlalchemy import URL

from llama_token_tracker._lock import fresh_in_children
from llama_token_tracker._log_once import notice
from llama_token_tracker.sinks.ledger.aside import Aside
from llama_token_tracker.sinks.ledger.engine import place_of
from llama_token_tracker.sinks.ledger.records import Record, size_of

MAX_WAITING_BYTES: Final = 64 << 20
"""More don't wait in memory; then they're put aside in a file."""

_TOGETHER: Final = 1_000
"""So many are copied before whoever writes may let go of some."""

_TURN_S: Final = 0.0005
"""So long it has for that."""


class Unwritten:
    """What is in hand, being written, and what waits behind it.

    Args:
        url: The ledger that it's for.
        is_durable: Whether the disk has what is put aside, rather than the system, when that is
            done.

    Attributes:
        aside: Its files.
        in_hand: What is being written; only whoever writes changes it.
        came: How many were ever added.
        first_at: When the first one came that waits, by `time.monotonic`.
        is_full: Whether no place takes what waits.
        lost: How many could be written nowhere.
    """

    def __init__(self, url: URL, *, is_durable: bool) -> None:
        self.aside = Aside(url, is_durable=is_durable)
        self.in_hand: Sequence[Record] = ()
        self.came = 0
        self.first_at = 0.0
        self.is_full = False
        self.lost = 0
        self._place = place_of(url)
        self._waiting: list[Record] = []
        self._bytes = 0
        # So many, of what is in hand and then of what waits, have a copy in a file. That number,
        # and what is in hand, change under the files' lock, which is taken before this one.
        self._copied = 0
        self._lock = fresh_in_children(threading.Lock())

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def is_behind(self) -> bool:
        """Whether anything is to be written back; what is just being put aside included."""
        with self.aside.held():
            return self.aside.is_behind

    def put(self, record: Record) -> None:
        """Add one at the end."""
        size = size_of(record)
        with self._lock:
            if not self._waiting:
                self.first_at = time.monotonic()
            self._waiting.append(record)
            self.came += 1
            self._bytes += size
            is_too_much = self._bytes > MAX_WAITING_BYTES
        if is_too_much:
            # Whoever writes hangs: what waits goes into a file, by this thread.
            self.move_waiting()

    def take_in_hand(self) -> None:
        """Take in hand what waits; nothing is."""
        with self.aside.held():
            self.in_hand = self._taken()

    def _taken(self) -> Sequence[Record]:
        with self._lock:
            records, self._waiting, self._bytes = self._waiting, [], 0
        return records

    def let_go(self, number: int) -> None:
        """The first so many in hand are written."""
        with self.aside.held():
            self.in_hand = self.in_hand[number:]
            self._copied = max(0, self._copied - number)
            if not self._copied:
                self.aside.drop_copies()

    @property
    def is_copied(self) -> bool:
        """Whether any has a copy in a file."""
        return bool(self._copied)

    def copy(self, came: int) -> bool:
        """Have a copy of each of the first that came in a file, until it's written.

        Args:
            came: Up to which one, as `came` counts them.

        Returns:
            Whether a place took them.
        """
        while True:
            with self.aside.held():
                some = self._uncopied(came)
                if not some:
                    return True
                if not self.aside.copy(some):
                    return False
                self._copied += len(some)
            time.sleep(_TURN_S)

    def _uncopied(self, came: int) -> Sequence[Record]:
        """Some of them that have no copy yet, the oldest first."""
        with self._lock:
            end = len(self.in_hand) + len(self._waiting) - (self.came - came)
            end = max(self._copied, min(end, self._copied + _TOGETHER))
            return list(islice(chain(self.in_hand, self._waiting), self._copied, end))

    def move_in_hand(self) -> None:
        """Put aside what is in hand, as its write came to nothing."""
        with self.aside.held():
            records, self.in_hand = self.in_hand, ()
            copied, self._copied = self._copied, 0
            rest = records[copied:]
            if copied:
                with self._lock:
                    # Those of them that wait are aside, too.
                    del self._waiting[: max(0, copied - len(records))]
                    self._bytes = sum(map(size_of, self._waiting))
                is_kept = not rest or self.aside.copy(rest)
                self.aside.use_copies()
            else:
                is_kept = not rest or self.aside.move(rest)
            lost = self._held(() if is_kept else rest)
        self._lose(lost)

    def move_waiting(self) -> None:
        """Put aside what waits."""
        with self.aside.held():
            records = self._taken()
            is_kept = not records or self.aside.move(records)
            self._copied = min(self._copied, len(self.in_hand))
            if not self._copied:
                self.aside.drop_copies()
            lost = self._held(() if is_kept else records)
        self._lose(lost)

    def _held(self, records: Sequence[Record]) -> Sequence[Record]:
        """Have what no place took, if anything, wait on: that for which there's no room."""
        if not records:
            self.is_full = False
            return ()
        size = sum(map(size_of, records))
        with self._lock:
            self.is_full = size + self._bytes <= MAX_WAITING_BYTES
            if not self.is_full:
                return records
            self._waiting[:0] = records
            self._bytes += size
        return ()

    def leave(self) -> None:
        """Put all aside, as the interpreter ends; what no place takes is lost."""
        self.move_in_hand()
        self.move_waiting()
        self._lose(self._taken())

    def reject(self, record: Record) -> None:
        """Keep, for somebody to look at, what the database won't have."""
        with self.aside.held():
            is_kept = self.aside.reject(record)
        if not is_kept:
            self._lose([record])

    def _lose(self, records: Sequence[Record]) -> None:
        if not records:
            return
        self.lost += len(records)
        notice(
            "calls can be written nowhere, for the ledger {}",
            f"{len(records)} of them",
            "they are lost there; totals in memory have them",
            self._place,
        )

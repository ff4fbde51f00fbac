"""Calls that are put aside in files, since the database is away or takes long, and brought back."""

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from sqlalchemy import URL

from llama_token_tracker._lock import fresh_in_children
from llama_token_tracker._log_once import notice, put_off, say_late
from llama_token_tracker.sinks.ledger.records import Record
from llama_token_tracker.sinks.ledger.spill import (
    REJECTED,
    SpillFile,
    leftovers,
    places_of,
    write_back,
)


class AwayError(Exception):
    """The database is away."""


class Aside:
    """The files into which one process puts what its ledger's database doesn't take, or not yet.

    Args:
        url: Where the ledger is.
        is_durable: Whether the disk has what is put aside, rather than the system, when that is
            done.

    Attributes:
        is_behind: Whether anything is there that is to be written back.
    """

    def __init__(self, url: URL, *, is_durable: bool) -> None:
        self._lock = fresh_in_children(threading.Lock())
        self.is_behind = False
        self._is_durable = is_durable
        self._folders, self._stem = places_of(url)
        self._moved = SpillFile(self._folders, self._stem)
        self._copied = SpillFile(self._folders, self._stem)
        self._rejected = SpillFile(self._folders, self._stem, REJECTED)

    @contextmanager
    def held(self) -> Generator[None]:
        """What adds to the files, or asks about them, is within such a block.

        Nothing is logged in it: what listens to the log may use the ledger.
        """
        with self._lock, put_off():
            yield
        say_late()

    def move(self, records: Sequence[Record]) -> bool:
        """Keep records that are to be written back; `False` if no place takes them."""
        is_kept = self._moved.add(records, is_durable=self._is_durable)
        self.is_behind |= is_kept
        return is_kept

    def copy(self, records: Sequence[Record]) -> bool:
        """Keep a copy of records that are yet to be written; `False` if no place takes it."""
        return self._copied.add(records, is_durable=self._is_durable)

    def drop_copies(self) -> None:
        """Forget the copies, as what they're of is written."""
        self._copied.remove()

    def use_copies(self) -> None:
        """Have the copies written back, as what they're of isn't."""
        self.is_behind = True
        if not self._moved.is_open:
            # It's added to from now on, rather than that each time there is one file more.
            self._moved, self._copied = self._copied, self._moved
        self._copied.close()

    def reject(self, record: Record) -> bool:
        """Keep, for somebody to look at, what the database won't have; `False` if nothing can."""
        return self._rejected.add([record], is_durable=self._is_durable)

    def find(self) -> bool:
        """Look for what processes that have ended put aside: whether there is any."""
        is_any = bool(leftovers(self._folders, self._stem))
        with self._lock:
            self.is_behind |= is_any
        return is_any

    def write_back(self, write: Callable[[Sequence[Record]], None]) -> None:
        """Write to the database what this process put aside, or one that has ended.

        Args:
            write: Writes a batch; it raises `AwayError` if the database is away.
        """
        with self._lock:
            self._moved.close()
            self.is_behind = False
        for path in leftovers(self._folders, self._stem):
            try:
                write_back(path, write)
            except AwayError:
                with self._lock:
                    self.is_behind = True
                return
            except OSError as error:
                notice("what is in {} can't be written back", error, "it stays", path.name)

    def release(self) -> None:
        """Let whoever opens the ledger next have what was put aside."""
        with self._lock:
            self._moved.close()

    def leave_to_parent(self) -> None:
        """Let go, in a forked child, of what is the parent's."""
        for file in (self._moved, self._copied, self._rejected):
            file.close()

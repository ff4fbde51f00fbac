"""`Ledger`: a sink that writes each call down, in batches, on a thread of its own."""

import atexit
import os
import socket
import sys
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from itertools import count
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias
from uuid import uuid4

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError

from llama_token_tracker._background import after_start_of_worker, is_worker
from llama_token_tracker._printable import printable
from llama_token_tracker.budgets.store import AccountStore
from llama_token_tracker.errors import LedgerError
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.pricing import Prices
from llama_token_tracker.sinks.delivery import BatchingSink
from llama_token_tracker.sinks.ledger.accounts import SqlAccounts
from llama_token_tracker.sinks.ledger.batches import Batches
from llama_token_tracker.sinks.ledger.database import Database
from llama_token_tracker.sinks.ledger.engine import place_of, reason_of, url_of
from llama_token_tracker.sinks.ledger.news import News
from llama_token_tracker.sinks.ledger.query import Query
from llama_token_tracker.sinks.ledger.records import identified, record_of

Durability: TypeAlias = Literal["batched", "sync"]
"""When a call is on disk: soon after its end, or before its end returns."""

_EXIT_S: Final = 5.0

_TAKE_OVER_S: Final = 10.0
"""So long a look at other processes' calls waits for those that they put aside."""


class Ledger(BatchingSink):
    """Calls written to a database, each once, whatever happens to it or to this process.

    Give it to what counts (`TokenCountingHandler(ledger=Ledger("usage.db"))`, or just
    `ledger="usage.db"`), or to several of them. Nothing waits for the disk: threads of its own
    write what has come within `flush_every_s`. While the database is away, locked, slow or full,
    records are in a file beside it, or in the folder for temporary files, and are written to it
    when it's back, by whichever process finds them. Thread-safe; goes on in forked children,
    and pickled it rejoins the same ledger and run.

    Args:
        target: A file's path, for SQLite; or an SQLAlchemy URL:
            `"postgresql+psycopg://user@host/database"`.
        durability: `"batched"`: a process that is killed loses at most the calls that ended within
            the last `flush_every_s`. `"sync"`: a call's end waits until it's on disk. So it does in
            any case in a process that `multiprocessing` started, which may be ended at any time,
            without notice.
        flush_every_s: How soon after its end a call is on disk, in seconds. Half of that it waits
            to be written with others; if it isn't when three quarters are over, or 0.06 s, a copy
            is put into a file beside, until it's written.
        keep_text: Whether prompts and completions are written, too.
        run: What ties together what several processes write; by default the environment's
            `LLAMA_TOKEN_TRACKER_RUN`, or else an id of its own, which forked and unpickled copies
            share.

    Raises:
        LedgerError: It can't be opened, is none, or is newer than this release.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | URL,
        *,
        durability: Durability = "batched",
        flush_every_s: float = 1.0,
        keep_text: bool = False,
        run: str | None = None,
    ) -> None:
        if durability not in ("batched", "sync"):
            msg = f'durability is {printable(durability)}; give "batched" or "sync".'
            raise LedgerError(msg)
        if not (isinstance(flush_every_s, int | float) and 0 <= flush_every_s <= 3_600):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"flush_every_s is {printable(flush_every_s)}; give seconds, from 0 to 3,600."
            raise LedgerError(msg)
        self.url = url_of(target)
        self.durability = durability
        self.flush_every_s = flush_every_s
        self.keep_text = keep_text
        self.run = run or os.environ.get("LLAMA_TOKEN_TRACKER_RUN") or uuid4().hex
        self._database = Database(self.url, is_durable=durability == "sync")
        self._begin()
        self._batches.take_over()
        _ledgers.add(self)

    def _begin(self) -> None:
        """Begin as the process that this is."""
        self._process = identified(
            self.run, socket.gethostname(), os.getpid(), time.time_ns() // 1_000, _version()
        )
        self.is_sync = self.durability == "sync" or is_worker()
        self._numbers = count(1)
        self._batches = Batches(self._database, self.url, self.flush_every_s, is_sync=self.is_sync)
        self._news = News(self.run, self._process[0])

    def __call__(self, event: TokenCountingEvent) -> None:
        """Take one call, to be written soon."""
        number = next(self._numbers)
        self._batches.put(record_of(event, self._process, number, texts=self.keep_text))

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was taken is written: to the database, or aside while it's away.

        Args:
            timeout_s: How long to wait at the most, in seconds; `None` for as long as it takes.

        Returns:
            Whether that was done in time.
        """
        return self._batches.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """The same, and let go of the database. A call that comes later opens it again.

        Returns:
            Whether that was done in time.
        """
        is_done = self._batches.close(timeout_s)
        self.engine.dispose()
        return is_done

    def end(self, timeout_s: float) -> bool:
        """The same at the interpreter's end: what isn't written in time is put aside.

        Returns:
            Whether it was written in time.
        """
        return self._batches.end(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine of its database."""
        return self._database.engine

    @cached_property
    def account_store(self) -> AccountStore:
        """Where budgets that are shared by way of it have their accounts: in its database."""
        return SqlAccounts(self.url)

    @property
    def place(self) -> str:
        """Where it is: a path, or a URL without its password."""
        return place_of(self.url)

    @property
    def lost(self) -> int:
        """How many calls of this process could be written nowhere: neither there nor aside."""
        return self._batches.lost

    def query(
        self,
        *,
        since: datetime | str | None = None,
        until: datetime | str | None = None,
        where: Mapping[str, str | Sequence[str]] | None = None,
        zone: tzinfo = UTC,
    ) -> Query:
        """Calls that it holds, of all processes and runs: sums, dicts, frames of pandas and polars.

        Example::

            ledger.query(since="7d", where={"user": "ada"}).sums("day", "model")
            ledger.query(since="today").to_pandas()

        What waits is written first, and what processes that have ended put aside.

        Args:
            since: The first moment: an aware `datetime`, or text such as "7d", "today" or
                "2026-11-29".
            until: The first one that is meant no more.
            where: What calls must have: `{"model": "gpt-4o", "user": ["ada", "bob"]}`.
            zone: Whose calendar is meant.

        Raises:
            LedgerError: A time can't be read.
        """
        self._batches.take_over()
        self.flush()
        return Query(self.engine, since=since, until=until, where=where, zone=zone)

    def news(self, prices: Prices) -> Sequence[TokenCountingEvent]:
        """Events that other processes of this run have written since this was asked last.

        Args:
            prices: What says how a cost is split between input and output.

        Raises:
            LedgerError: The ledger can't be read.
        """
        if self._batches.take_over():
            self.flush(_TAKE_OVER_S)
        try:
            return self._news.read(self.engine, prices)
        except DBAPIError as error:
            msg = f"the ledger {self.place} can't be read: {reason_of(error)}"
            raise LedgerError(msg) from error

    def after_fork(self) -> None:
        """Go on as a child: what waits is the parent's to write."""
        self._batches.leave_to_parent()
        self._begin()
        after_start_of_worker(self, Ledger._begin)

    def __repr__(self) -> str:
        return f"Ledger({self.place!r})"

    def __reduce__(self) -> tuple[Callable[..., "Ledger"], tuple[Any, ...]]:
        """A copy in another process rejoins the same ledger and run."""
        url = self.url.render_as_string(hide_password=False)
        return _rejoin, (url, self.durability, self.flush_every_s, self.keep_text, self.run)


def _rejoin(
    url: str, durability: Durability, flush_every_s: float, keep_text: bool, run: str
) -> Ledger:
    """The ledger of a run within this process: one, however many copies arrive."""
    for ledger in list(_ledgers):
        known = ledger.url.render_as_string(hide_password=False)
        if (known, ledger.run) == (url, run):
            return ledger
    return Ledger(
        url, durability=durability, flush_every_s=flush_every_s, keep_text=keep_text, run=run
    )


def _version() -> str:
    """This package's; from the module that is loaded, as what is below imports nothing above."""
    return str(sys.modules[__name__.partition(".")[0]].__version__)


_ledgers: "Final[weakref.WeakSet[Ledger]]" = weakref.WeakSet()


def _after_fork() -> None:
    for ledger in list(_ledgers):
        ledger.after_fork()


def _close_at_exit() -> None:
    until = time.monotonic() + _EXIT_S
    for ledger in list(_ledgers):
        ledger.end(max(0.0, until - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_close_at_exit)

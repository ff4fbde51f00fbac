"""From what a user names, a path or an SQLAlchemy URL, to a connected database."""

import os
import random
import sqlite3
import time
import weakref
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, QueuePool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from llama_token_tracker._log_once import notice
from llama_token_tracker._printable import plain, printable
from llama_token_tracker.errors import LedgerError
from llama_token_tracker.sinks.ledger.schema import META, ensure, is_current

DRIVERS: Final = {"sqlite": "pysqlite", "postgresql": "psycopg"}
"""Which databases hold a ledger, and by which driver."""

BUSY_S: Final = 10.0
"""So long a statement waits for another process's lock, in seconds."""

_TURNS: Final = 3
"""So many times as long a write to a file waits for its turn, before it's put aside."""

_NAP_MS: Final = 4
"""So long SQLite itself waits for another process's write, in milliseconds."""

_CONNECT_S: Final = 5
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "afs"})


def url_of(target: object) -> URL:
    """Where a ledger is.

    Args:
        target: A file's path, or an SQLAlchemy URL as text or as such.

    Raises:
        LedgerError: It's neither, or of a database that can't hold one.
    """
    if isinstance(target, URL):
        url = target
    elif isinstance(target, str) and "://" in target:
        try:
            url = make_url(target)
        except (ArgumentError, ValueError):
            # What was found may be a part of a password.
            msg = f"the ledger's URL can't be read; {_EXAMPLES}."
            raise LedgerError(msg) from None
    elif isinstance(target, str | Path) and str(target):
        url = URL.create("sqlite", database=str(target))
    else:
        msg = f"ledger is {printable(target)}; {_EXAMPLES}."
        raise LedgerError(msg)
    return _checked(url)


_EXAMPLES: Final = (
    'give a file\'s path, such as "usage.db", or a URL, such as '
    '"postgresql+psycopg://user@host/database"'
)


def _checked(url: URL) -> URL:
    backend = url.get_backend_name()
    if backend not in DRIVERS:
        msg = f"a ledger can't be kept in {printable(backend)}; {_EXAMPLES}."
        raise LedgerError(msg)
    if backend == "sqlite":
        if url.database in (None, "", ":memory:") or "mode" in url.query:
            msg = f"a ledger in memory would outlive nothing; {_EXAMPLES}."
            raise LedgerError(msg)
        # Absolute, as a program may change its folder.
        url = url.set(database=str(Path(str(url.database)).expanduser().absolute()))
    return url.set(drivername=f"{backend}+{DRIVERS[backend]}")


def place_of(url: URL) -> str:
    """A ledger as people read it: a path, or a URL without its password."""
    if url.get_backend_name() == "sqlite":
        return plain(str(url.database), 300)
    hidden = {name: "***" for name in url.query if "pass" in name.lower()}
    return plain(url.update_query_dict(hidden).render_as_string(hide_password=True), 300)


def connect(url: URL, *, is_durable: bool = False) -> Engine:
    """Open a ledger, and make its tables if there are none.

    Args:
        url: What `url_of` gave.
        is_durable: Whether what is committed survives the machine's end, not the process's alone;
            a server's always does.

    Raises:
        LedgerError: It can't be opened, or is none.
    """
    place = place_of(url)
    try:
        engine = engine_of(url, is_durable=is_durable)
        try:
            # Nobody is waited for who is writing, if there's nothing to be made.
            with engine.connect() as connection:
                is_ready = is_current(connection)
            if not is_ready:
                with writing(engine) as connection:
                    ensure(connection, place)
        except BaseException:
            engine.dispose()
            raise
    except (NoSuchModuleError, ImportError) as error:
        msg = (
            f"the ledger {place} needs a driver that isn't installed ({error}); "
            'pip install ".[postgres]" in a clone of llama-token-tracker.'
        )
        raise LedgerError(msg) from None
    except DBAPIError as error:
        msg = f"the ledger {place} can't be opened: {reason_of(error)}"
        raise LedgerError(msg) from error
    return engine


def engine_of(url: URL, *, is_durable: bool = False) -> Engine:
    """An engine for a ledger, which connects when it's first used."""
    if url.get_backend_name() == "sqlite":
        engine = _sqlite(url, is_durable=is_durable)
    else:
        engine = _postgresql(url)
    _engines.add(engine)
    return engine


class _Pool(QueuePool):
    """Closes what is in use at its disposal once it's given back.

    SQLAlchemy leaves that to the collector. A thread writes while another one forks, or closes.
    """

    _is_over = False

    def dispose(self) -> None:
        self._is_over = True
        super().dispose()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        if self._is_over:
            self.dispose()


def _postgresql(url: URL) -> Engine:
    engine = create_engine(
        url,
        poolclass=_Pool,
        pool_pre_ping=True,
        pool_size=2,
        connect_args={
            "connect_timeout": _CONNECT_S,
            # A server that is gone without a word is noticed, too.
            "tcp_user_timeout": int(BUSY_S * 1_000),
            "application_name": "llama-token-tracker",
        },
    )

    def prepare(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = '{BUSY_S:g}s'")
        connection.commit()

    event.listen(engine, "connect", prepare)
    return engine


def _sqlite(url: URL, *, is_durable: bool) -> Engine:
    path = Path(str(url.database))
    if path.is_dir() or not path.parent.is_dir():
        found = "is a folder" if path.is_dir() else f"is in no folder: there is no {path.parent}"
        msg = f"the ledger {place_of(url)} {found}; name a file in a folder that is there."
        raise LedgerError(msg)
    _warn_of_network(path)
    engine = create_engine(
        url,
        poolclass=_Pool,
        connect_args={"timeout": BUSY_S, "check_same_thread": False},
    )
    synchronous = "FULL" if is_durable else "NORMAL"

    def prepare(connection: Any, _record: object) -> None:
        # Transactions begin when `_begin` says so, not when the driver thinks they should.
        connection.isolation_level = None
        if _is_free_or_ours(connection):
            _use_wal(connection)
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("PRAGMA cache_size=-16384")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _is_free_or_ours(connection: Any) -> bool:
    """Whether a file may be changed: one that is somebody else's is refused as it is."""
    names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    return not names or META.name in names


def _use_wal(connection: Any) -> None:
    """Have readers and a writer not wait for each other; another process may be doing the same."""
    until = time.monotonic() + BUSY_S
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except Exception as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)


def _begin(connection: Connection) -> None:
    # One that means to write says so at once: to be told only at its first write that another
    # process has written meanwhile, would be to begin again.
    options = connection.get_execution_options()
    if not options.get("writes"):
        connection.exec_driver_sql("BEGIN")
        return
    until = time.monotonic() + options.get("patience_s", _TURNS * BUSY_S)
    # SQLite's own naps become so long that some wait for ever while others write.
    connection.exec_driver_sql(f"PRAGMA busy_timeout={_NAP_MS}")
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        except DBAPIError as error:
            if not _is_busy(error) or time.monotonic() >= until:
                raise
            # By chance, so that none of many that want to write is always the last.
            time.sleep(random.uniform(0, _NAP_MS / 1_000))
        else:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={int(BUSY_S * 1_000)}")
            return


def _is_busy(error: DBAPIError) -> bool:
    """Whether another process is writing to the file."""
    return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


@contextmanager
def writing(engine: Engine) -> Generator[Connection]:
    """A connection within a transaction that writes, and is committed at the end."""
    with engine.execution_options(writes=True).begin() as connection:
        yield connection


def reason_of(error: DBAPIError) -> str:
    """What the driver says, in one line."""
    return printable(" ".join(str(error.orig).split()), 300)


def _warn_of_network(path: Path) -> None:
    """Say once that SQLite's locks don't hold over a network."""
    kind = _file_system(path)
    if kind in _NETWORK or str(path).startswith("\\\\"):
        notice(
            "the ledger {} is on a network drive",
            f"{kind}, on which SQLite's locks may not hold",
            "keep it on a local disk, or in PostgreSQL",
            str(path),
        )


def _file_system(path: Path) -> str:
    """The kind of the file system that a path is on, as Linux names it; else nothing."""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = ("", "")
    for _, folder, kind, *_ in (line.split(" ") for line in mounts):
        if path.resolve().is_relative_to(folder) and len(folder) >= len(found[0]):
            found = (folder, kind)
    return found[1]


# --- forks -------------------------------------------------------------------------------------

_engines: "Final[weakref.WeakSet[Engine]]" = weakref.WeakSet()


def _before_fork() -> None:
    """Close what is open and idle: a child may neither use a parent's connection, nor close it."""
    for engine in list(_engines):
        engine.dispose()


def _after_fork() -> None:
    for engine in list(_engines):
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)

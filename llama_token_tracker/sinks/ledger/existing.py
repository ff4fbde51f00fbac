"""Ledgers that are there already: opened to be read, without changing or making anything."""

import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, select
from sqlalchemy.exc import DBAPIError, NoSuchModuleError
from sqlalchemy.pool import NullPool

from llama_token_tracker._names import install_line
from llama_token_tracker.errors import LedgerError
from llama_token_tracker.sinks.ledger.engine import (
    BUSY_S,
    connect,
    engine_of,
    place_of,
    reason_of,
    url_of,
)
from llama_token_tracker.sinks.ledger.schema import META, VERSION


def existing(target: object, *, writes: bool = False) -> Engine:
    """Open a ledger that is there.

    Args:
        target: A file's path, or an SQLAlchemy URL as text or as such.
        writes: Whether it is to be changed; else it can't be.

    Raises:
        LedgerError: There is none, it can't be opened, or it's of another release.
    """
    url = url_of(target)
    place = place_of(url)
    try:
        engine = _READERS[url.get_backend_name()](url)
        try:
            with reading(engine) as connection:
                _check(connection, place)
        except BaseException:
            engine.dispose()
            raise
    except (NoSuchModuleError, ImportError) as error:
        msg = f"the ledger {place} needs a driver ({error}); {install_line('postgres')}."
        raise LedgerError(msg) from None
    if writes:
        engine.dispose()
        return connect(url)
    return engine


@contextmanager
def reading(engine: Engine) -> Generator[Connection]:
    """A connection whose errors say which ledger can't be read.

    Raises:
        LedgerError: The database or its driver has raised.
    """
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        msg = f"the ledger {place_of(engine.url)} can't be read: {reason_of(error)}"
        raise LedgerError(msg) from error


def _postgresql(url: URL) -> Engine:
    return engine_of(url).execution_options(postgresql_readonly=True)


def _sqlite(url: URL) -> Engine:
    path = Path(str(url.database))
    if not path.is_file():
        found = "it is a folder" if path.is_dir() else "there is no such file"
        msg = (
            f"there is no ledger at {place_of(url)}: {found}; name one that something has written."
        )
        raise LedgerError(msg)
    address = f"{path.as_uri()}?{_mode(path)}"

    def open_it() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=BUSY_S, check_same_thread=False)

    engine = create_engine(url, creator=open_it, poolclass=NullPool)
    event.listen(engine, "connect", _read_only)
    return engine


def _mode(path: Path) -> str:
    """How SQLite is to open it: it keeps two files beside one that is written, if it may."""
    if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        return "mode=rw"
    has_log = path.with_name(path.name + "-wal").exists()
    return "mode=ro" if has_log else "mode=ro&immutable=1"


def _read_only(connection: Any, _record: object) -> None:
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA cache_size=-2048")


_READERS: dict[str, Callable[[URL], Engine]] = {"sqlite": _sqlite, "postgresql": _postgresql}


def _check(connection: Connection, place: str) -> None:
    if not inspect(connection).has_table(META.name):
        msg = f"{place} is no ledger; name one that something has written."
        raise LedgerError(msg)
    found = connection.scalar(select(META.c.value).where(META.c.name == "schema"))
    if found != str(VERSION):
        msg = (
            f"the ledger {place} has schema {found}, and this release reads {VERSION}; upgrade "
            "llama-token-tracker, or open an older ledger with Ledger(…) once, which upgrades it."
        )
        raise LedgerError(msg)

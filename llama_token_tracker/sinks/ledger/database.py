"""A ledger's database as what writes to it sees it: calls go in, each once, or it is away."""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DataError, IntegrityError

from llama_token_tracker._background import soon
from llama_token_tracker._log_once import notice
from llama_token_tracker.sinks.ledger.engine import connect, place_of
from llama_token_tracker.sinks.ledger.records import Record
from llama_token_tracker.sinks.ledger.writing import writer_of


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

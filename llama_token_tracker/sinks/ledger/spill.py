"""Where records go while the database is away: files that are only ever added to.

A file belongs to the process that writes it, which holds a lock on it. Whoever opens the same
ledger later, and finds one that nobody holds, writes what is in it to the database: since each
record is written once whoever writes it how often, nothing is doubled if two do, or one half.
"""

import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import URL

from llama_token_tracker._log_once import notice
from llama_token_tracker.sinks.ledger.records import Record, from_json, to_json

try:
    import fcntl
except ImportError:  # Windows, where a file that is open can't be removed
    fcntl = None  # type: ignore[assignment]

BATCH: Final = 5_000
"""Records that are written back at once."""

_ENDING: Final = ".spill.jsonl"
REJECTED: Final = ".rejected.jsonl"
"""Files of what a database won't have; nobody writes them back."""


def places_of(url: URL) -> tuple[list[Path], str]:
    """Where a ledger's spill files may be, the best first, and how their names begin."""
    key = blake2b(url.set(password=None).render_as_string().encode(), digest_size=8).hexdigest()
    owner = getattr(os, "getuid", lambda: 0)()
    temporary = Path(tempfile.gettempdir()) / f"llama-token-tracker-{owner}"
    if url.get_backend_name() == "sqlite":
        path = Path(str(url.database))
        return [path.parent, temporary], f"{path.name[:60]}-{key}"
    return [temporary], f"{url.get_backend_name()}-{key}"


class SpillFile:
    """A file of this process's, made when there is something to write.

    Args:
        folders: Where it may be, the best first.
        stem: How its name begins.
        ending: How it ends.
    """

    def __init__(self, folders: Sequence[Path], stem: str, ending: str = _ENDING) -> None:
        self._folders = list(folders)
        self._stem = stem
        self._ending = ending
        self._file: int | None = None
        self.path: Path | None = None

    @property
    def is_open(self) -> bool:
        """Whether anything was written."""
        return self._file is not None

    def add(self, records: Iterable[Record], *, is_durable: bool) -> bool:
        """Add records at its end.

        Args:
            records: What is to be kept.
            is_durable: Whether the disk has it when this returns, rather than the system.

        Returns:
            Whether they're kept; `False` if no folder takes them.
        """
        data = b"".join(to_json(record).encode() + b"\n" for record in records)
        # The one that is open first; and then all, as one that was full may have space again.
        opened = [] if self.path is None or self._file is None else [self.path.parent]
        return any(
            self._is_added(folder, data, is_durable=is_durable)
            for folder in (*opened, *self._folders)
        )

    def _is_added(self, folder: Path, data: bytes, *, is_durable: bool) -> bool:
        try:
            if self._file is None:
                self._open(folder)
            self._add(data, is_durable=is_durable)
        except OSError as error:
            # What is in it already is found by whoever looks for leftovers.
            self.close()
            notice("records can't be put aside in {}", error, "another is tried", str(folder))
            return False
        return True

    def _add(self, data: bytes, *, is_durable: bool) -> None:
        file: Any = self._file
        end = os.fstat(file).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(file, data[written:])
            if is_durable:
                os.fsync(file)
        except OSError:
            os.ftruncate(file, end)  # no half of a record stays
            if not end and self.path is not None:
                self.path.unlink(missing_ok=True)
            raise

    def _open(self, folder: Path) -> None:
        _make(folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
        while self._file is None:
            host, number = socket.gethostname()[:40], uuid4().hex[:8]
            path = folder / f"{self._stem}-{host}-{os.getpid()}-{number}{self._ending}"
            self._file, self.path = os.open(path, flags, 0o600), path
            if not (_lock(self._file) and path.exists()):
                # Another process has found it before it was locked, and removed it, being empty.
                self.close()

    def close(self) -> None:
        """Let others have it."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def remove(self) -> None:
        """Have nobody write back what is in it, as it's in the database."""
        if self._file is None or self.path is None:
            return
        # If that fails, it is written once more, and each call is there once all the same.
        with suppress(OSError):
            os.ftruncate(self._file, 0)
            self.path.unlink(missing_ok=True)
        self.close()

    def __del__(self) -> None:
        self.close()


def _make(folder: Path) -> None:
    """Make the folder of one's own among temporary ones, which nobody else may read."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not _is_ours(folder):
        msg = f"{folder} is somebody else's"
        raise PermissionError(msg)


def _is_ours(folder: Path) -> bool:
    """Whether nobody else has made it: among temporary ones anyone may, or a link to elsewhere."""
    if os.name == "nt" or folder.parent != Path(tempfile.gettempdir()):
        return True
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def _lock(file: int) -> bool:
    """Whether it's this process's from now on; `False` if it's another's.

    Raises:
        OSError: There are no locks there.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def leftovers(folders: Iterable[Path], stem: str) -> list[Path]:
    """The spill files of a ledger, those that their processes are writing included."""
    found: list[Path] = []
    for folder in folders:
        with suppress(OSError):  # not made yet
            found += [
                path
                for path in sorted(folder.iterdir())
                if path.name.startswith(stem) and path.name.endswith(_ENDING) and _is_ours(folder)
            ]
    return found


def write_back(path: Path, write: Callable[[Sequence[Record]], None]) -> int:
    """Write what is in a file to the database, and remove it; nothing if its process is alive.

    Args:
        path: The file.
        write: What writes a batch, or raises; the file stays then.

    Returns:
        How many records there were.
    """
    try:
        file = os.open(path, _READ)
    except FileNotFoundError:
        return 0  # another process was quicker
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or not _is_own(found) or not _lock(file):
            return 0
        number = 0
        for batch in _batches(path, file):
            write(batch)
            number += len(batch)
        # Whoever has opened it meanwhile, or can't remove it, finds nothing in it.
        os.ftruncate(file, 0)
        path.unlink(missing_ok=True)
    finally:
        os.close(file)
    return number


_READ: Final = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


def _is_own(found: os.stat_result) -> bool:
    return os.name == "nt" or found.st_uid == os.getuid()


def _batches(path: Path, file: int) -> Iterator[list[Record]]:
    batch: list[Record] = []
    with os.fdopen(os.dup(file), "rb") as lines:
        for line in lines:
            try:
                batch.append(from_json(line))
            except (ValueError, RecursionError) as error:
                notice("a line put aside in {} can't be read", error, "it is left out", path.name)
                continue
            if len(batch) >= BATCH:
                yield batch
                batch = []
    if batch:
        yield batch

"""The files that `count` is given, found and counted.

What isn't text is skipped and named, never guessed at; and nothing is read for ever.
"""

import glob
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from llama_token_tracker._printable import plain
from llama_token_tracker.errors import LlamaTokenTrackerError
from llama_token_tracker.tokenizers import Tokenizer

STDIN: Final = "-"

MOST_BYTES: Final = 32 * 1024 * 1024
"""A longer file is skipped: a text that long is a prompt to no model."""

_LONGEST_PATH: Final = 300
_READ_AT_ONCE: Final = 1024 * 1024
# Where there is no such flag, there are no pipes that have a name among the files.
_WITHOUT_WAITING: Final = getattr(os, "O_NONBLOCK", 0)


class PathError(LlamaTokenTrackerError):
    """A path leads to nothing that could be counted."""


class UnreadableError(LlamaTokenTrackerError):
    """A file is none whose text could be counted; says why."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A file that was looked at.

    Attributes:
        path: The file, or `-` for standard input.
        tokens: Its tokens; `None` if it was skipped.
        skipped: Why it was skipped; empty if it was counted.
    """

    path: str
    tokens: int | None
    skipped: str = ""


def find(paths: Iterable[str]) -> list[str]:
    """Find the files that these paths stand for, each once.

    Args:
        paths: Files; folders, which are searched for everything but hidden files; globs; or
            `-` for standard input.

    Raises:
        PathError: A path leads to no file.
    """
    return list(dict.fromkeys(file for path in paths for file in _files(path)))


def _files(given: str) -> Sequence[str]:
    try:
        return [given] if given == STDIN else _found(given)
    except OSError as error:
        msg = f"{plain(given, _LONGEST_PATH)} can't be read: {error.strerror or error}"
        raise PathError(msg) from error


def _found(given: str) -> Sequence[str]:
    path = Path(given)
    if path.is_dir():
        files = _within(path)
        if not files:
            msg = f"{given} holds no file that isn't hidden; name the files themselves."
            raise PathError(msg)
        return files
    if path.exists():
        return [given]
    if not glob.has_magic(given):
        msg = f"{given} does not exist; name a file, a folder, a glob, or - for standard input."
        raise PathError(msg)
    matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - a Path takes no absolute glob
    files = [file for match in matches for file in _matched(Path(match))]
    if not files:
        msg = f"{given} matches no file; quote it if the shell shouldn't expand it."
        raise PathError(msg)
    return files


def _matched(path: Path) -> list[str]:
    return _within(path) if path.is_dir() else [str(path)]


def _within(folder: Path) -> list[str]:
    return [
        str(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def count(files: Iterable[str], tokenizer: Tokenizer) -> Iterator[Counted]:
    """Count one file after the other.

    Args:
        files: Files, as `find` gives them.
        tokenizer: What counts.
    """
    for file in files:
        try:
            text = read(file)
        except UnreadableError as error:
            yield Counted(file, None, str(error))
        else:
            yield Counted(file, tokenizer.count(text))


def size(file: str) -> int:
    """How many bytes a file holds; 0 if it can't be told."""
    try:
        return 0 if file == STDIN else Path(file).stat().st_size
    except OSError:
        return 0


def read(file: str) -> str:
    """Read the text of a file, or of standard input.

    Raises:
        UnreadableError: It can't be read, is no text, or is too long.
    """
    try:
        content = _of_stdin() if file == STDIN else _of_file(file)
        # A byte order mark is the file's, not the text's; line ends stay as they would be sent.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        msg = f"no UTF-8 text: byte {error.start} can't be decoded"
        raise UnreadableError(msg) from error
    except OSError as error:
        msg = f"can't be read: {error.strerror or error}"
        raise UnreadableError(msg) from error


def _of_stdin() -> bytes:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        msg = "can't be read: it is closed"
        raise UnreadableError(msg)
    return _content(sys.stdin.buffer)


def _of_file(file: str) -> bytes:
    # Else the opening of a pipe would wait for somebody who writes to it.
    with open(file, "rb", opener=_open) as opened:
        content = _content(opened)
        if not content and stat.S_ISFIFO(os.fstat(opened.fileno()).st_mode):
            msg = "an empty pipe: nobody writes to it"
            raise UnreadableError(msg)
    return content


def _open(file: str, flags: int) -> int:
    descriptor = os.open(file, flags | _WITHOUT_WAITING)
    if _WITHOUT_WAITING:
        os.set_blocking(descriptor, True)
    return descriptor


def _content(opened: BinaryIO) -> bytes:
    """Read a file, but no further than to where it's seen that it can't be counted."""
    content = bytearray()
    while piece := opened.read(_READ_AT_ONCE):
        if b"\0" in piece:
            msg = "binary: it holds NUL bytes"
            raise UnreadableError(msg)
        content += piece
        if len(content) > MOST_BYTES:
            msg = f"longer than {MOST_BYTES >> 20} MiB; split it, and count its parts"
            raise UnreadableError(msg)
    return bytes(content)

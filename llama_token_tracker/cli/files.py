"""The files that `count` is given, found and counted.

What isn't text is skipped and named, never guessed at; and nothing is read for ever.
"""

import codecs
import glob
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

from llama_token_tracker._printable import plain
from llama_token_tracker.errors import LlamaTokenTrackerError
from llama_token_tracker.tokenizers import Tokenizer

STDIN: Final = "-"

MOST_BYTES: Final = 256 * 1024 * 1024
"""A longer file is skipped, as is what never ends."""

LONGEST_PIECE: Final = 1024 * 1024
"""Characters that are counted at once, if there is no place to cut a text before."""

_LONGEST_PATH: Final = 300
_READ_AT_ONCE: Final = 256 * 1024

_CUT: Final = re.compile(r"(?<=\S)(?=[ \t])|(?<=\S\n)(?=[^\W_])")
"""Where tokenizers split a text whatever stands around: before the spaces after a word, and after
one line end, before a word. So the pieces have the tokens of the whole."""

_LAST_PART: Final = 4_096
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
    """Find the files that these paths stand for, each once, by the first of its names.

    Args:
        paths: Files; folders, which are searched for everything but hidden files; globs; or
            `-` for standard input.

    Raises:
        PathError: A path leads to no file.
    """
    found: dict[object, str] = {}
    for path in paths:
        for file in _files(path):
            found.setdefault(_identity(file), file)
    return list(found.values())


def _identity(file: str) -> object:
    """What is the same for all names of a file, links among them."""
    try:
        status = None if file == STDIN else os.stat(file)  # noqa: PTH116 - a text, as it was given
    except OSError:
        status = None  # a link that leads nowhere is named as such when it's read
    return (status.st_dev, status.st_ino) if status and status.st_ino else file


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
        what = "is a link that leads nowhere" if path.is_symlink() else "does not exist"
        msg = f"{given} {what}; name a file, a folder, a glob, or - for standard input."
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
        # A link to nowhere, or to a folder, isn't left out in silence.
        if (file.is_file() or file.is_symlink())
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
            tokens = sum(map(tokenizer.count, _pieces(file)))
        except UnreadableError as error:
            yield Counted(file, None, str(error))
        else:
            yield Counted(file, tokens)


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
    return "".join(_pieces(file))


def _pieces(file: str) -> Iterator[str]:
    """Read a text piece by piece, cut so that the tokens of the pieces are those of the whole."""
    waiting = ""
    for part in _parts(file):
        end = _last_cut(waiting) if part else 0
        if end:
            yield waiting[:end]
        waiting = waiting[end:] + part
    yield waiting


def _last_cut(text: str) -> int:
    """Where a text may be cut, as late as possible; 0 if it may not be."""
    for start in (max(0, len(text) - _LAST_PART), 0):
        cuts = [cut.start() for cut in _CUT.finditer(text, start)]
        if cuts:
            return cuts[-1]
    return len(text) if len(text) > LONGEST_PIECE else 0


def _parts(file: str) -> Iterator[str]:
    """Read a text as it comes."""
    # A byte order mark is the file's, not the text's; line ends stay as they would be sent.
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    count = 0
    for content in chain(_contents(file), [b""]):
        begun = len(decoder.getstate()[0])
        try:
            text = decoder.decode(content, final=not content)
        except UnicodeDecodeError as error:
            msg = f"no UTF-8 text: byte {count - begun + error.start} can't be decoded"
            raise UnreadableError(msg) from error
        yield text
        count += len(content)


def _contents(file: str) -> Iterator[bytes]:
    try:
        yield from _of_stdin() if file == STDIN else _of_file(file)
    except OSError as error:
        msg = f"can't be read: {error.strerror or error}"
        raise UnreadableError(msg) from error


def _of_stdin() -> Iterator[bytes]:
    if sys.stdin is None:  # pyright: ignore[reportUnnecessaryComparison]
        msg = "can't be read: it is closed"
        raise UnreadableError(msg)
    return _read(sys.stdin.buffer)


def _of_file(file: str) -> Iterator[bytes]:
    # Else the opening of a pipe would wait for somebody who writes to it.
    with open(file, "rb", opener=_open) as opened:
        is_empty = True
        for content in _read(opened):
            is_empty = False
            yield content
        if is_empty and stat.S_ISFIFO(os.fstat(opened.fileno()).st_mode):
            msg = "an empty pipe: nobody writes to it"
            raise UnreadableError(msg)


def _open(file: str, flags: int) -> int:
    descriptor = os.open(file, flags | _WITHOUT_WAITING)
    if _WITHOUT_WAITING:
        os.set_blocking(descriptor, True)
    return descriptor


def _read(opened: BinaryIO) -> Iterator[bytes]:
    """Read a file, but no further than to where it's seen that it can't be counted."""
    count = 0
    while content := opened.read(_READ_AT_ONCE):
        count += len(content)
        if b"\0" in content:
            msg = "binary: it holds NUL bytes"
            raise UnreadableError(msg)
        if count > MOST_BYTES:
            msg = f"longer than {MOST_BYTES >> 20} MiB; split it, and count its parts"
            raise UnreadableError(msg)
        yield content

"""The files that `count` is given, found and counted.

What isn't text is skipped and named, never guessed at.
"""

import glob
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llama_token_tracker.errors import LlamaTokenTrackerError
from llama_token_tracker.tokenizers import Tokenizer

STDIN: Final = "-"


class PathError(LlamaTokenTrackerError):
    """A path leads to nothing that could be counted."""


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
    path = Path(given)
    if given == STDIN:
        return [given]
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
            text = _read(file)
        except UnicodeDecodeError as error:
            yield Counted(file, None, f"no UTF-8 text: byte {error.start} can't be decoded")
        except OSError as error:
            yield Counted(file, None, f"can't be read: {error.strerror or error}")
        else:
            if "\0" in text:
                yield Counted(file, None, "binary: it holds NUL bytes")
            else:
                yield Counted(file, tokenizer.count(text))


def size(file: str) -> int:
    """How many bytes a file holds; 0 if it can't be told."""
    try:
        return 0 if file == STDIN else Path(file).stat().st_size
    except OSError:
        return 0


def _read(file: str) -> str:
    content = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    # A byte order mark is the file's, not the text's; line ends stay as they would be sent.
    return content.decode("utf-8-sig")

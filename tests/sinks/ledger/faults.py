"""Processes that are killed while they write to a ledger, and many that write at once.

`python -m tests.faults kills` and `fleet` run them; `--url` names another database than a file.
"""

import os
import random
import signal
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from llama_index.core.callbacks import CallbackManager
from sqlalchemy import Engine, text

from llama_token_tracker import Ledger, TokenCountingHandler
from llama_token_tracker.sinks.ledger import engine as opening
from llama_token_tracker.sinks.ledger.engine import engine_of, url_of
from llama_token_tracker.sinks.ledger.ledger import Durability
from tests.scripted import Scripted, reported

PROMPT, COMPLETION = 7_013, 211
EVERY_S = 0.1
"""So long a call waits here to be written with others."""

WRITE_S = 1.0
"""So long a batch may take on a machine that is busy."""


def _call(url: str, durability: Durability, acknowledged: int) -> None:
    """Call a model for ever, and say of each call which event it is, and when it ended."""
    opening.BUSY_S = 0.2
    ledger = Ledger(url, durability=durability, flush_every_s=EVERY_S)
    handler = TokenCountingHandler(ledger=ledger, max_events=10)
    model = Scripted(raw=reported(PROMPT, COMPLETION), callback_manager=CallbackManager([handler]))
    while True:
        model.complete("hello")
        event = handler.llm_token_counts[-1]
        os.write(acknowledged, f"{event.id} {time.monotonic()}\n".encode())


@contextmanager
def _away(engine: Engine, seconds: float) -> Iterator[None]:
    """Have nobody else write for a while at the block's start."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.execution_options(writes=True)
        connection.begin()
        if engine.dialect.name == "postgresql":
            connection.execute(text("LOCK TABLE ledger_hours IN ACCESS EXCLUSIVE MODE"))
        time.sleep(seconds)
    yield


def _killed(
    url: str, durability: Durability, dice: random.Random
) -> tuple[dict[str, float], float]:
    """Kill a process that calls at a random moment: what it said by then, and when that was."""
    receiver, sender = os.pipe()
    child = os.fork()
    if not child:
        try:
            _call(url, durability, sender)
        finally:
            os._exit(1)
    os.close(sender)
    engine = engine_of(url_of(url))
    time.sleep(dice.uniform(0.05, 0.4))
    if dice.random() < 0.5:
        with _away(engine, dice.uniform(0.1, 1.0)):
            time.sleep(dice.choice([0, dice.uniform(0, 0.6)]))
    os.kill(child, signal.SIGKILL)
    at = time.monotonic()
    os.waitpid(child, 0)
    engine.dispose()
    with os.fdopen(receiver) as lines:
        said = dict(line.split() for line in lines if line.endswith("\n"))
    return {event: float(ended) for event, ended in said.items()}, at


def rows(url: str) -> set[str]:
    """The ids in a ledger, once what was put aside is written back."""
    with Ledger(url) as ledger:
        ledger.flush(60)
        with ledger.engine.connect() as connection:
            found = connection.exec_driver_sql("SELECT id FROM ledger_calls").scalars().all()
    ids = [one.hex() if isinstance(one, bytes) else str(one).replace("-", "") for one in found]
    if len(ids) != len(set(ids)):
        msg = "doubled"
        raise AssertionError(msg)
    return set(ids)


def wrong_sums(url: str) -> str | None:
    """What is wrong with a ledger's sums, or with its file; nothing if all is well."""
    names = "sum(input_tokens), sum(output_tokens), sum(cost_nanodollars), sum(unpriced_calls)"
    calls = names.replace("sum(unpriced_calls)", "count(*) - count(cost_nanodollars)")
    engine = engine_of(url_of(url))
    with closing(engine.connect()) as connection:
        told = [
            tuple(connection.exec_driver_sql(sql).one())
            for sql in (
                f"SELECT count(*), {calls} FROM ledger_calls",
                f"SELECT sum(calls), {names} FROM ledger_hours",
                f"SELECT sum(calls), {names} FROM ledger_days",
            )
        ]
    engine.dispose()
    if not told[0] == told[1] == told[2]:
        return f"sums differ: {told}"
    if "://" in url:
        return None
    with closing(sqlite3.connect(url)) as file:
        ((state,),) = file.execute("PRAGMA integrity_check").fetchall()
    return None if state == "ok" else f"the file says {state}"


def kills(times: int, url: str | None) -> Iterator[str | None]:
    """Kill -9 at random moments, also while calls are put aside and written back."""
    dice = random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        place = url or str(Path(folder) / "usage.db")
        Ledger(place).close()
        latest = 0.0
        for number in range(times):
            durability: Durability = "sync" if number % 2 else "batched"
            said, at = _killed(place, durability, dice)
            lost = [at - said[event] for event in said.keys() - rows(place)]
            latest = max([latest, *lost])
            bound = 0.0 if durability == "sync" else EVERY_S + WRITE_S
            problem = f"{len(lost)} of {len(said)} lost" if any(x > bound for x in lost) else None
            if durability == "sync" and lost:
                problem = f"{len(lost)} acknowledged calls lost"
            yield problem or wrong_sums(place)
        left = list(Path(folder).glob("*.spill.jsonl"))
        yield f"left behind: {left}" if left else None
        print(f"the oldest call that was lost ended {latest:.2f} s before its process was killed")


def _record(url: str, calls: int) -> None:
    handler = TokenCountingHandler(ledger=url, max_events=10)
    model = Scripted(raw=reported(PROMPT, COMPLETION), callback_manager=CallbackManager([handler]))
    for _ in range(calls):
        model.complete("hello")
    if not handler.close(300):
        os._exit(3)


def fleet(processes: int, calls: int, url: str | None) -> Iterator[str | None]:
    """Many processes that write to one ledger as fast as they can."""
    with tempfile.TemporaryDirectory() as folder:
        place = url or str(Path(folder) / "usage.db")
        children: list[int] = []
        for _ in range(processes):
            child = os.fork()
            if not child:
                try:
                    _record(place, calls)
                    os._exit(0)
                finally:
                    os._exit(2)
            children.append(child)
        for child in children:
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            yield f"a process ended with {code}" if code else None
        found = len(rows(place))
        yield None if found == processes * calls else f"{found} rows"
        yield wrong_sums(place)

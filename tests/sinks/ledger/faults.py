"""A ledger's processes killed, or many at once; a ledger's database gone while threads call.

`python -m tests.faults kills`, `fleet` and `outages` run them; `--url` names another database than
a file for the first two.
"""

import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path

from llama_index.core.callbacks import CallbackManager
from sqlalchemy import Engine, text

from llama_token_tracker import Ledger, TokenCountingHandler
from llama_token_tracker.sinks.ledger.engine import engine_of, url_of
from llama_token_tracker.sinks.ledger.ledger import Durability
from llama_token_tracker.sinks.ledger.schema import ROLLUPS
from llama_token_tracker.sinks.ledger.spill import leftovers, places_of
from tests.scripted import Scripted, reported
from tests.servers import PostgreSQLServer, postgres_server

PROMPT, COMPLETION = 7_013, 211
EVERY_S = 0.1
"""So long a call waits here to be written with others."""

LATE_S = 0.4
"""So much later than it should be it may be in a file, on a machine that is busy."""


def _call(url: str, durability: Durability, acknowledged: int) -> None:
    """Call a model for ever, and say of each call which event it is, and when it ended."""
    ledger = Ledger(url, durability=durability, flush_every_s=EVERY_S)
    handler = TokenCountingHandler(ledger=ledger, max_events=10)
    model = Scripted(raw=reported(PROMPT, COMPLETION), callback_manager=CallbackManager([handler]))
    while True:
        # As a provider is waited for. Who never waits has threads wait that write, too.
        time.sleep(0.001)
        model.complete("hello")
        event = handler.llm_token_counts[-1]
        os.write(acknowledged, f"{event.id} {time.monotonic()}\n".encode())


@contextmanager
def _away(engine: Engine, seconds: float) -> Iterator[None]:
    """Have nobody else write: for so long before the block, and during it."""
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
    case = dice.choice(["free", "away", "back", "busy again"])
    with nullcontext() if case == "free" else _away(engine, dice.uniform(0.1, 1.0)):
        if case == "away":
            os.kill(child, signal.SIGKILL)
            at = time.monotonic()
    if case == "busy again":
        time.sleep(dice.uniform(0, 0.6))
    if case != "away":
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
    tokens = "sum(input_tokens), sum(output_tokens), sum(cost_nanodollars)"
    calls = f"count(*), {tokens}, count(*) - count(cost_nanodollars)"
    sums = f"coalesce(sum(calls), 0), {tokens}, coalesce(sum(unpriced_calls), 0)"
    engine = engine_of(url_of(url))
    with closing(engine.connect()) as connection:
        told = [
            tuple(connection.exec_driver_sql(sql).one())
            for sql in (
                f"SELECT {calls} FROM ledger_calls",
                *(f"SELECT {sums} FROM {rollup.table.name}" for rollup in ROLLUPS.values()),
            )
        ]
    engine.dispose()
    if any(one != told[0] for one in told):
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
            bound = 0.0 if durability == "sync" else EVERY_S + LATE_S
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


# --- outages ---------------------------------------------------------------------------------

_CALLERS = 4
_LONGEST_CALL_S = 2.0
"""So long no call may take on a machine that is busy; a file is waited for longer than that."""


class Callers:
    """Threads that call a model until they're told to stop.

    Attributes:
        ledger: Where their calls are written.
        calls: How many calls each has made.
        longest_s: How long the longest call of each took, in seconds.
    """

    def __init__(self, url: str) -> None:
        self.ledger = Ledger(url)
        self._handler = TokenCountingHandler(ledger=self.ledger, max_events=10)
        manager = CallbackManager([self._handler])
        self._model = Scripted(raw=reported(PROMPT, COMPLETION), callback_manager=manager)
        self.calls, self.longest_s = [0] * _CALLERS, [0.0] * _CALLERS
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(number,), daemon=True)
            for number in range(_CALLERS)
        ]
        for thread in self._threads:
            thread.start()

    def _call(self, number: int) -> None:
        while not self._is_over.wait(0.001):
            began = time.monotonic()
            self._model.complete("hello")
            self.longest_s[number] = max(self.longest_s[number], time.monotonic() - began)
            self.calls[number] += 1

    def end(self) -> bool:
        """Stop them, and close the ledger; whether all that waits was kept."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        return self._handler.close(60) and self.ledger.close(60)


def outages(seconds: float) -> Iterator[str | None]:
    """A file that is locked, and a server that is killed (-9): gone for so long, under load."""
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "usage.db")
        yield from _outage(place, lambda: _lock_file(place, seconds))
    with postgres_server() as server:
        yield from _outage(server.url, lambda: _kill_server(server, seconds))


def _outage(url: str, be_away: Callable[[], None]) -> Iterator[str | None]:
    callers = Callers(url)
    time.sleep(1)
    be_away()
    back = time.monotonic()
    while leftovers(*places_of(callers.ledger.url)) and time.monotonic() - back < 30:
        time.sleep(0.01)
    late_s = time.monotonic() - back
    is_kept = callers.end()
    calls, longest_s, lost = sum(callers.calls), max(callers.longest_s), callers.ledger.lost
    found = len(rows(url))
    print(
        f"{callers.ledger.url.get_backend_name()}: {calls:,} calls, the longest took "
        f"{longest_s * 1_000:.0f} ms; what was put aside was written {late_s:.1f} s after"
    )
    yield None if is_kept and not lost else f"{lost} lost"
    yield None if found == calls else f"{found:,} rows of {calls:,} calls"
    yield None if longest_s < _LONGEST_CALL_S else f"a call took {longest_s:.1f} s"
    yield wrong_sums(url)


def _lock_file(path: str, seconds: float) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as other:
        other.execute("BEGIN EXCLUSIVE")
        time.sleep(seconds)
        other.execute("ROLLBACK")


def _kill_server(server: PostgreSQLServer, seconds: float) -> None:
    server.kill()
    time.sleep(seconds)
    server.start()

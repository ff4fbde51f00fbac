"""Forks, exits, stress, kills: does anything hang, and are the figures exact?

    python -m tests.faults forks --times 200
    python -m tests.faults exits --times 200
    python -m tests.faults stress --times 10 --seconds 60
    python -m tests.faults kills --times 100
    python -m tests.faults fleet --times 8 --calls 20000
    python -m tests.faults outages --seconds 10

The last three are of a ledger: processes killed while they write to it, so many that write at
once, and its file locked and its server killed for so long while threads call. For `kills` and
`fleet` `--url` names a new database, such as PostgreSQL's, instead of a file.

It ends with status 1 if anything hung or a figure was wrong. The tests run a few of each.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Final

from llama_index.core.callbacks import CallbackManager, EventPayload
from rich.console import Console
from rich.progress import track

from llama_token_tracker import Budget, TokenCountingHandler
from tests.scripted import HELLO, LLM, Scripted, answer, by_hand, reported
from tests.sinks.ledger.faults import fleet, kills, outages

WATCHDOG_S: Final = 30.0
"""After so long without an end a process hangs."""

PROMPT, COMPLETION = 7_013, 211
"""What each reported call used."""


class Load:
    """Threads that use a handler in every way, until they are told to stop.

    Args:
        threads: How many threads make calls; two more read.
        sink: What is given each event.
    """

    def __init__(self, threads: int, sink: Callable[[Any], object] | None = None) -> None:
        self.handler = TokenCountingHandler(
            budget=Budget(tokens=10**12, per="user"),
            sinks=[] if sink is None else [sink],
            models={"scripted-1": "gpt-4o"},
            max_events=1_000,
        )
        self.model = Scripted(
            raw=reported(PROMPT, COMPLETION),
            raws=[reported(PROMPT, 1), reported(PROMPT, COMPLETION)],
            callback_manager=CallbackManager([self.handler]),
        )
        self.calls = [0] * threads
        self.silent = [0] * threads
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(number,), daemon=True)
            for number in range(threads)
        ]
        self._threads += [threading.Thread(target=self._read, daemon=True) for _ in range(2)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> bool:
        """Have the threads end; `False` if one doesn't."""
        self._is_over.set()
        for thread in self._threads:
            thread.join(WATCHDOG_S)
        return not any(thread.is_alive() for thread in self._threads)

    def _call(self, number: int) -> None:
        dice = random.Random(number)
        while not self._is_over.is_set():
            with self.handler.scope(f"scope {number % 3}", user=f"user {number % 5}"):
                self.model.complete("hello")
                self.calls[number] += 1
                # A stream that is dropped in the middle counts what it had said by then.
                stream = self.model.stream_complete("hello")
                next(stream)
                next(stream)
                del stream
                self.calls[number] += 1
                if not dice.randrange(4):
                    event_id = f"{number} {self.silent[number]}"
                    by_hand(self.handler, answer("one two"), HELLO, event_id=event_id)
                    self.silent[number] += 1
            if not dice.randrange(20):
                time.sleep(0.001)

    def _read(self) -> None:
        while not self._is_over.is_set():
            _ = self.handler.by("model"), self.handler.by("user"), self.handler.total_cost_usd
            _ = self.handler.total_llm_token_count

    def problem(self, *, more: int = 0) -> str | None:
        """What is wrong with the figures of all calls so far, if anything.

        Args:
            more: So many calls were made beside those of the threads.
        """
        rows = self.handler.by("source")
        found = rows["reported"]
        calls = sum(self.calls) + more
        wanted = (calls, calls * PROMPT, calls * COMPLETION)
        told = (found.calls, found.usage.input_tokens, found.usage.output_tokens)
        if told != wanted:
            return f"reported {told}, but {wanted} were"
        counted = sum(row.calls for source, row in rows.items() if source != "reported")
        if counted != sum(self.silent):
            return f"{counted} silent calls, but {sum(self.silent)} were"
        if (
            sum(row.usage.total_tokens or 0 for row in rows.values())
            != self.handler.total_llm_token_count
        ):
            return "rows and total differ"
        return None


@contextmanager
def eager_collector() -> Iterator[None]:
    """Have the collector and the other threads come as often as they can."""
    before, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(50)
    sys.setswitchinterval(1e-4)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        sys.setswitchinterval(interval)


# --- forks -----------------------------------------------------------------------------------


def _in_child(load: Load) -> str | None:
    """Use the inherited handler in a forked child; say what is wrong, if anything."""
    handler = load.handler
    before = handler.total_llm_token_count
    load.model.complete("hello")
    with handler.scope("child", user="child") as scope:
        list(load.model.stream_complete("hello"))
    by_hand(handler, answer("one two"), HELLO, event_id="child")
    counted = handler.llm_token_counts[-1].total_token_count
    handler.tracker.flush(timeout_s=10)
    if scope.total_llm_token_count != PROMPT + COMPLETION:
        return f"the child's scope has {scope.total_llm_token_count}"
    gained = handler.total_llm_token_count - before
    if gained != 2 * (PROMPT + COMPLETION) + counted:
        return f"the child gained {gained}"
    if sum(row.usage.total_tokens or 0 for row in handler.by("user").values()) != before + gained:
        return "the child's rows and total differ"
    return None


def _spawned(sender: Connection) -> None:
    """Use a handler of its own in a process that multiprocessing has started."""
    handler = TokenCountingHandler()
    manager = CallbackManager([handler])
    Scripted(raw=reported(PROMPT, COMPLETION), callback_manager=manager).complete("hello")
    sender.send(handler.total_llm_token_count)
    sender.close()


def _forked(load: Load) -> str | None:
    receiver, sender = os.pipe()
    process = os.fork()
    if not process:
        problem = ""
        try:
            faulthandler.dump_traceback_later(WATCHDOG_S - 5)
            problem = _in_child(load) or ""
        except BaseException as error:  # noqa: BLE001 - told to the parent
            problem = f"the child raised {error!r}"
        finally:
            os.write(sender, problem.encode())
            os._exit(0)
    os.close(sender)
    try:
        if ended(process) is None:
            return "a child hung"
        return os.read(receiver, 1_000).decode() or None
    finally:
        os.close(receiver)


def _started(method: str) -> str | None:
    context: Any = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_spawned, args=(sender,), daemon=True)
    process.start()
    sender.close()
    total = receiver.recv() if receiver.poll(WATCHDOG_S) else None
    process.join(WATCHDOG_S)
    if process.exitcode is None:
        process.kill()
        return f"a child by {method} hung"
    return None if total == PROMPT + COMPLETION else f"a child by {method} says {total}"


def ended(process: int) -> int | None:
    """Wait for a child, and tell its exit code; one that hangs is killed, and has none."""
    until = time.monotonic() + WATCHDOG_S
    while time.monotonic() < until:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return None


def forks(times: int, _seconds: float) -> Iterator[str | None]:
    """Fork under load, now and then by multiprocessing; parent and child stay exact."""
    delivered: list[int] = []
    load = Load(4, lambda event: delivered.append(event.total_token_count))
    load.start()
    for number in range(times):
        time.sleep(random.uniform(0, 0.02))
        # Those that start an interpreter anew take seconds.
        method = {3: "fork", 13: "forkserver", 23: "spawn"}.get(number % 50)
        yield _started(method) if method else _forked(load)
    if not load.stop():
        yield "a thread of the parent hung"
    yield load.problem()
    load.handler.tracker.flush(timeout_s=WATCHDOG_S)
    total = load.handler.total_llm_token_count
    yield None if sum(delivered) == total else f"sinks got {sum(delivered)} of {total}"


# --- exits -----------------------------------------------------------------------------------


def _leaves(seed: int) -> None:
    """Be a program that ends while threads call, hold reservations and wait to be counted."""
    dice = random.Random(seed)
    load = Load(3, (lambda _: None) if dice.randrange(2) else None)

    def hold() -> None:
        started = 0
        while True:
            # Its end never comes, and so its reservation stays.
            load.handler.on_event_start(LLM, {EventPayload.PROMPT: "hello"}, f"open {started}")
            started += 1
            time.sleep(0.001)

    threading.Thread(target=hold, daemon=True).start()
    load.start()
    while not sum(load.calls):
        time.sleep(0.001)
    time.sleep(dice.uniform(0, 0.05))


ENDINGS: Final = {0, -signal.SIGABRT, -signal.SIGSEGV}
"""Up to 3.13 an interpreter that ends while daemon threads are inside pydantic aborts mostly, with
nobody counting as well; a program that failed has 1."""


def exits(times: int, _seconds: float) -> Iterator[str | None]:
    """End the interpreter at random moments."""
    for seed in range(times):
        process = os.fork()
        if not process:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            faulthandler.dump_traceback_later(WATCHDOG_S - 5)
            _leaves(seed)
            # Out of all frames, and through the interpreter's own end.
            raise SystemExit(0)
        code = ended(process)
        if code is None:
            yield f"exit {seed} hung"
        else:
            yield None if code in ENDINGS else f"exit {seed} failed: {code}"


# --- stress ----------------------------------------------------------------------------------


def stress(times: int, seconds: float) -> Iterator[str | None]:
    """32 threads with budgets, scopes, streams that are dropped, and the collector at work."""
    for _ in range(times):
        with eager_collector():
            load = Load(32)
            load.start()
            time.sleep(seconds)
            if not load.stop():
                faulthandler.dump_traceback()
                yield "a thread hung"
                return
        gc.collect()
        yield load.problem()


KINDS: Final[dict[str, Callable[[argparse.Namespace], Iterator[str | None]]]] = {
    "forks": lambda options: forks(options.times, options.seconds),
    "exits": lambda options: exits(options.times, options.seconds),
    "stress": lambda options: stress(options.times, options.seconds),
    "kills": lambda options: kills(options.times, options.url),
    "fleet": lambda options: fleet(options.times, options.calls, options.url),
    "outages": lambda options: outages(options.seconds),
}


def main() -> int:
    """Run one kind, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long a stress or an outage takes"
    )
    parser.add_argument("--calls", type=int, default=20_000, help="of each process of a fleet")
    parser.add_argument("--url", default=None, help="of a ledger that isn't a file, and is new")
    options = parser.parse_args()
    console = Console()
    began, problems = time.monotonic(), list[str]()
    runs = KINDS[options.kind](options)
    # Without a thread that draws: a child would wait for what that held when it was forked.
    shown = track(runs, options.kind, total=options.times, console=console, auto_refresh=False)
    for problem in shown:
        if problem is not None:
            problems.append(problem)
            console.print(problem)
    took = time.monotonic() - began
    console.print(f"{options.kind}: {options.times}, problems: {len(problems)} ({took:.0f} s)")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

"""What scopes cost: entering and leaving one, and a reported call within none, one and three.

    python -m tests.bench.scopes

Prints CPU microseconds, the best of many rounds in which the cases take turns, with nothing
recorded before and after 100,000 events. Asserts nothing: compare figures of one run only.
"""

import gc
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

from rich.console import Console
from rich.table import Table

from llama_token_tracker import TokenCountingHandler
from tests.bench.bench_handler import one_after_the_other, responses

EMPTY = "0 events"
EVENTS = 100_000
CALLS = 400
ROUNDS = 30

Case = Callable[[TokenCountingHandler], Any]


def block(_handler: TokenCountingHandler) -> None:
    """Enter and leave a block that does nothing: what the loop itself costs."""
    for _ in range(CALLS):
        with nullcontext():
            pass


def scope(handler: TokenCountingHandler) -> None:
    """Make, enter and leave a scope with a tag."""
    for _ in range(CALLS):
        with handler.scope("request", user="ada"):
            pass


def scope_in_generator(handler: TokenCountingHandler) -> None:
    """The same in a generator, as a streamed answer does."""

    def scopes() -> Any:
        for _ in range(CALLS):
            with handler.scope("request", user="ada"):
                yield

    for _ in scopes():
        pass


def within(depth: int, *, read: bool) -> Case:
    """Start and end calls within so many nested scopes; read the events too, if asked to."""
    work = one_after_the_other(responses()["plain dict"], CALLS)

    def calls(handler: TokenCountingHandler) -> None:
        with ExitStack() as stack:
            for level in range(depth):
                stack.enter_context(handler.scope(f"level {level}", user="ada"))
            work(handler)
        if read:
            handler.tracker.catch_up()

    return calls


CASES: dict[str, Case] = {
    "an empty block": block,
    "a scope, entered and left": scope,
    "the same in a generator": scope_in_generator,
    "a call in no scope": within(0, read=False),
    "a call in one scope": within(1, read=False),
    "a call in three nested scopes": within(3, read=False),
    "a call in no scope, and its event": within(0, read=True),
    "a call in one scope, and its event": within(1, read=True),
    "a call in three nested scopes, and its event": within(3, read=True),
}


def measured(handlers: dict[str, TokenCountingHandler]) -> dict[tuple[str, str], float]:
    """CPU time of one in microseconds, by case and handler, best of all rounds."""
    best = {(case, name): float("inf") for case in CASES for name in handlers}
    for _ in range(ROUNDS):
        for case, name in best:
            handler = handlers[name]
            if name == EMPTY:
                handler.reset_counts()
            handler.tracker.catch_up()
            began = time.process_time()
            CASES[case](handler)
            spent = (time.process_time() - began) / CALLS * 1e6
            best[case, name] = min(best[case, name], spent)
    return best


def filled() -> TokenCountingHandler:
    """A handler that has counted many calls, all of them in a scope."""
    handler = TokenCountingHandler()
    work = one_after_the_other(responses()["plain dict"], EVENTS)
    with handler.scope("before", user="bob"):
        work(handler)
    handler.tracker.catch_up()
    return handler


def main() -> None:
    """Measure and print."""
    handlers = {EMPTY: TokenCountingHandler(), f"{EVENTS:,} events": filled()}
    gc.collect()
    gc.freeze()
    gc.disable()
    figures = measured(handlers)
    table = Table(title="CPU time, µs")
    table.add_column("what")
    for name in handlers:
        table.add_column(name, justify="right")
    for case in CASES:
        table.add_row(case, *[f"{figures[case, name]:,.2f}" for name in handlers])
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

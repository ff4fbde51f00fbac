"""What a budget costs a call: in memory, and in the stores that processes share.

    python -m tests.bench.budgets

Prints microseconds of a reported call, start and end through a `CallbackManager`, best of many
rounds, with nothing and with many events counted before: of the processor for memory, of the clock
for stores, whose answers are waited for. Asserts nothing.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.llms import ChatMessage, ChatResponse
from rich.console import Console
from rich.table import Table

from llama_token_tracker import Budget, RedisAccounts, SqlAccounts, TokenCountingHandler
from llama_token_tracker.budgets import AccountStore
from tests.servers import RedisServer, postgres_server

_CALLS = 200
_ROUNDS = 30
_MANY = 100_000
_MANY_SHARED = 2_000

MESSAGES = [ChatMessage("tell me " * 25, role="user")]
ANSWER = ChatResponse(
    message=ChatMessage("hello there", role="assistant"),
    raw={"usage": {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}},
)
ABOUT = {"class_name": "openai_llm", "model": "gpt-4o"}
START = {EventPayload.MESSAGES: MESSAGES, EventPayload.SERIALIZED: ABOUT}
END = {EventPayload.MESSAGES: MESSAGES, EventPayload.RESPONSE: ANSWER}

KINDS: dict[str, Callable[[], TokenCountingHandler]] = {
    "no budget": TokenCountingHandler,
    "tokens": lambda: TokenCountingHandler(budget=Budget(tokens=10**12)),
    "tokens, per user and day": lambda: TokenCountingHandler(
        budget=Budget(tokens=10**12, per="user", window="1 day")
    ),
    "money": lambda: TokenCountingHandler(budget=Budget(usd=10**9)),
}


@contextmanager
def stores() -> Iterator[dict[str, AccountStore]]:
    """All stores whose servers are there."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found: dict[str, AccountStore] = {"SQLite": SqlAccounts(folder / "usage.db")}
        try:
            postgres = stack.enter_context(postgres_server())
            found["PostgreSQL"] = SqlAccounts(postgres.url)
            server = RedisServer()
            stack.callback(server.stop)
            found["Redis"] = RedisAccounts(server.url)
        except pytest.skip.Exception as error:
            Console().print(error)
        yield found


def _work(manager: CallbackManager, calls: int) -> None:
    for _ in range(calls):
        event_id = manager.on_event_start(CBEventType.LLM, START)
        manager.on_event_end(CBEventType.LLM, END, event_id=event_id)


def working(calls: int) -> Callable[[Any], None]:
    """Start and end so many calls through a callback manager."""
    return lambda handler: _work(CallbackManager([handler]), calls)


def _spent(handler: TokenCountingHandler, clock: Callable[[], float]) -> float:
    manager = CallbackManager([handler])
    best = float("inf")
    for _ in range(_ROUNDS):
        began = clock()
        _work(manager, _CALLS)
        best = min(best, (clock() - began) / _CALLS * 1e6)
    return best


def _row(
    handler: TokenCountingHandler, clock: Callable[[], float], many: int
) -> tuple[str, str, str]:
    _work(CallbackManager([handler]), 1)  # loads the prices
    first = _spent(handler, clock)
    _work(CallbackManager([handler]), many)
    return f"{first:.1f}", f"{many:,}", f"{_spent(handler, clock):.1f}"


def main() -> None:
    """Print the table."""
    table = Table(title="A reported call, µs")
    for column in ("budget", "first calls", "after events", ""):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for name, kind in KINDS.items():
        table.add_row(name, *_row(kind(), time.process_time, _MANY))
    with stores() as found:
        for name, store in found.items():
            handler = TokenCountingHandler(
                budget=Budget(tokens=10**12, per="user", window="1 day", shared=store)
            )
            row = _row(handler, time.perf_counter, _MANY_SHARED)
            table.add_row(f"the same, shared in {name}", *row)
    Console(width=90).print(table)


if __name__ == "__main__":
    main()

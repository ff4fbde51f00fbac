"""What a budget costs a call, with nothing and with a hundred thousand events counted before.

    python -m tests.bench.budgets

Prints CPU microseconds of a reported call, start and end through a `CallbackManager`, best of
many rounds. Asserts nothing.
"""

import time
from collections.abc import Callable

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.llms import ChatMessage, ChatResponse
from rich.console import Console
from rich.table import Table

from llama_token_tracker import Budget, TokenCountingHandler

_CALLS = 200
_ROUNDS = 30
_MANY = 100_000

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


def _work(manager: CallbackManager, calls: int) -> None:
    for _ in range(calls):
        event_id = manager.on_event_start(CBEventType.LLM, START)
        manager.on_event_end(CBEventType.LLM, END, event_id=event_id)


def _spent(handler: TokenCountingHandler) -> float:
    manager = CallbackManager([handler])
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.process_time()
        _work(manager, _CALLS)
        best = min(best, (time.process_time() - began) / _CALLS * 1e6)
    return best


def main() -> None:
    """Print the table."""
    table = Table(title="A reported call, CPU µs")
    for column in ("budget", "first calls", f"after {_MANY:,} events"):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for name, kind in KINDS.items():
        handler = kind()
        _work(CallbackManager([handler]), 1)  # loads the prices
        first = _spent(handler)
        _work(CallbackManager([handler]), _MANY)
        table.add_row(name, f"{first:.1f}", f"{_spent(handler):.1f}")
    Console(width=80).print(table)


if __name__ == "__main__":
    main()

"""What an edit of a list of events costs: in ours, in a plain list and in LlamaIndex's handler.

    python -m tests.bench.lists

Prints CPU microseconds an edit. LlamaIndex's totals are added up when they are read, so a second
figure of both handlers includes reading the total after the edit. Asserts nothing.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

from llama_index.core.callbacks import TokenCountingHandler as Theirs

from llama_token_tracker import TokenCountingEvent, Usage
from llama_token_tracker import TokenCountingHandler as Ours

_SIZES = (1_000, 20_000, 100_000)
_ROUNDS = 15


def _event() -> TokenCountingEvent:
    return TokenCountingEvent("", "", 5, 50, usage=Usage(input_tokens=50, output_tokens=5))


def _delete(events: list[Any]) -> None:
    del events[300:310]


_EDITS: dict[str, Callable[[list[Any]], Any]] = {
    "pop()": lambda events: events.pop(),
    "pop(0)": lambda events: events.pop(0),
    "del [300:310]": _delete,
    "append(event)": lambda events: events.append(_event()),
}


class _Plain:
    """A list, and nothing that adds up."""

    total_llm_token_count = 0

    def __init__(self) -> None:
        self.llm_token_counts: list[Any] = []


def _spent(handler: Any, edit: Callable[[list[Any]], Any], *, reads: bool) -> float:
    """The median of some edits of a handler's list."""
    spent: list[float] = []
    for _ in range(_ROUNDS):
        began = time.process_time_ns()
        edit(handler.llm_token_counts)
        if reads:
            _ = handler.total_llm_token_count
        spent.append((time.process_time_ns() - began) / 1e3)
    return statistics.median(spent)


def main() -> None:
    """Print the table."""
    heads = ("plain list", "ours", "LlamaIndex's", "ours + total", "LlamaIndex's + total")
    print(f"{'events':>8}  {'edit':14}" + "".join(f"{head:>21}" for head in heads))
    for size in _SIZES:
        plain, ours, theirs = _Plain(), Ours(), Theirs()
        for handler in (plain, ours, theirs):
            handler.llm_token_counts.extend([_event() for _ in range(size)])
        for name, edit in _EDITS.items():
            figures = [_spent(one, edit, reads=False) for one in (plain, ours, theirs)]
            figures += [_spent(one, edit, reads=True) for one in (ours, theirs)]
            print(f"{size:8,}  {name:14}" + "".join(f"{figure:21,.1f}" for figure in figures))


if __name__ == "__main__":
    main()

"""What watching a Bedrock client costs: the same calls with and without it, in one run.

Run it with `python -m tests.bench.watching`. Three clients take turns, call by call: one that is
watched, and two that nobody watches, the second as a control. Clients differ by more than what
is looked for, as their memory lies differently; so the three change their parts, block by
block, until each has had each part equally often. What the control costs more than the first
is then noise, and should be about nothing.

Figures are CPU time of one call until its answer is read, in microseconds: the mean of the blocks,
each the mean of the middle half of its calls, with the standard error over the blocks. They are
those of the whole process, with the provider's threads and all that runs in the background.
The calling thread's own are shown beside them: all that a watch does in a call is done there, and
the other threads only add noise. Last comes what waits until somebody asks for a figure, per call.
The garbage collector is off. Nothing here passes or fails.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from itertools import permutations
from statistics import fmean, stdev
from typing import Any, Final, NamedTuple, TypeAlias

import boto3
from rich.console import Console
from rich.table import Table

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.testing import LoopbackProvider
from llama_token_tracker.wire import watch

MODEL = "anthropic.claude-3-5-sonnet-20241022-v2:0"
MESSAGES = [{"role": "user", "content": [{"text": "tell me " * 250}]}]
BODY = json.dumps(
    {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "tell me " * 250}],
    }
)

CALLS: dict[str, Callable[[Any], object]] = {
    "Converse": lambda client: client.converse(modelId=MODEL, messages=MESSAGES),
    "ConverseStream": lambda client: list(
        client.converse_stream(modelId=MODEL, messages=MESSAGES)["stream"]
    ),
    "InvokeModel": lambda client: client.invoke_model(modelId=MODEL, body=BODY)["body"].read(),
    "InvokeModelWithResponseStream": lambda client: list(
        client.invoke_model_with_response_stream(modelId=MODEL, body=BODY)["body"]
    ),
    "an embedding": lambda client: client.invoke_model(
        modelId="amazon.titan-embed-text-v2:0", body=json.dumps({"inputText": "tell me " * 250})
    )["body"].read(),
}

PARTS: Final = 3
"""So many clients take turns."""

ORDERS: Final = tuple(permutations(range(PARTS)))
_SETTLING: Final = 4


class Cost(NamedTuple):
    """CPU time in microseconds.

    Attributes:
        process: Of the whole process.
        thread: Of the thread that calls.
    """

    process: float
    thread: float


Watch: TypeAlias = Callable[..., AbstractContextManager[object]]
"""Watches a client in a block, for a `token_counter`."""
Measure: TypeAlias = Callable[
    [Callable[[Any], object], Sequence[Any], TokenCountingHandler, int], list[list[Cost]]
]
"""Measures a call by some clients, in so many rounds."""


def cost_of(call: Callable[[Any], object], client: Any) -> Cost:
    """What one call costs, until what it returned is dropped."""
    began, began_here = time.process_time_ns(), time.thread_time_ns()
    call(client)
    ended_here, ended = time.thread_time_ns(), time.process_time_ns()
    return Cost((ended - began) / 1e3, (ended_here - began_here) / 1e3)


def typical(values: Sequence[float]) -> float:
    """The mean of the middle half: whatever else runs on the machine is in the rest."""
    rest = len(values) // 4
    return fmean(sorted(values)[rest : len(values) - rest])


def block(call: Callable[[Any], object], clients: Sequence[Any], rounds: int) -> list[Cost]:
    """What a call typically costs by each client, when they take turns."""
    costs: list[list[Cost]] = [[] for _ in clients]
    for number in range(-_SETTLING, rounds):
        for which in ORDERS[number % len(ORDERS)]:
            costs[which].append(cost_of(call, clients[which]))
    return [Cost(*map(typical, zip(*one[_SETTLING:], strict=True))) for one in costs]


def by_client(
    watch: Watch,
    call: Callable[[Any], object],
    clients: Sequence[Any],
    token_counter: TokenCountingHandler,
    rounds: int,
) -> list[list[Cost]]:
    """The typical costs of each block: plain, as a control, and by a client that is watched."""
    costs: list[list[Cost]] = []
    for parts in ORDERS * 3:
        plain, control, third = (clients[part] for part in parts)
        with watch(third, token_counter=token_counter):
            costs.append(block(call, (plain, control, third), rounds))
    return costs


def later(token_counter: TokenCountingHandler) -> float:
    """CPU time of a call that waits until somebody asks for its figures, in microseconds."""
    began = time.thread_time_ns()
    calls = len(token_counter.llm_token_counts) + len(token_counter.embedding_token_counts)
    return (time.thread_time_ns() - began) / 1e3 / calls


@dataclass
class Row:
    """What was measured of an operation.

    Attributes:
        costs: The typical costs of each block: plain, as a control, and watched.
        waits_us: CPU time of what waited of a call until somebody asked, in microseconds.
    """

    costs: list[list[Cost]] = field(default_factory=list[list[Cost]])
    waits_us: list[float] = field(default_factory=list[float])

    def cells(self) -> list[str]:
        """What is printed of it."""
        plain = fmean([(one[0].process + one[1].process) / 2 for one in self.costs])
        cells = [f"{plain:.0f}"]
        for part in (0, 1):
            noise = [one[1][part] - one[0][part] for one in self.costs]
            more = [one[2][part] - (one[0][part] + one[1][part]) / 2 for one in self.costs]
            percent = fmean(more) / plain * 100
            cells += [_with_error(noise), _with_error(more), f"{percent:.1f}"]
        return [*cells, f"{fmean(self.waits_us):.0f}"]


def _with_error(values: Sequence[float]) -> str:
    return f"{fmean(values):+.0f} ±{stdev(values) / len(values) ** 0.5:.0f}"


def show(
    calls: Mapping[str, tuple[Callable[[Any], object], Sequence[Any]]],
    measure: Measure,
    rounds: int,
) -> None:
    """Measure calls and print what watching them costs.

    Args:
        calls: By name, what to call, and by which clients.
        measure: Measures one of them.
        rounds: How many calls of each client a block has.
    """
    rows: dict[str, Row] = {}
    for name, (call, clients) in calls.items():
        token_counter = TokenCountingHandler()
        block(call, clients, rounds)
        gc.collect()
        gc.disable()
        costs = measure(call, clients, token_counter, rounds)
        gc.enable()
        rows[name] = Row(costs, [later(token_counter)])
    Console(width=130).print(table_of(rows))


def table_of(rows: Mapping[str, Row]) -> Table:
    """What was measured, by the names of the operations."""
    table = Table("call", "plain", "control", "watched", "%", title="CPU time, microseconds")
    for column in ("control, own thread", "watched, own thread", "%", "later"):
        table.add_column(column)
    for name, row in rows.items():
        table.add_row(name, *row.cells())
    return table


def watch_client(
    client: Any, token_counter: TokenCountingHandler
) -> AbstractContextManager[object]:
    """Watch a client, and no other."""
    return watch(token_counter, client)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="calls of each client a block")
    parser.add_argument("--operation", choices=CALLS, help="this one alone")
    options = parser.parse_args()
    with LoopbackProvider() as provider:
        arguments = provider.arguments("bedrock")
        clients = [boto3.client("bedrock-runtime", **arguments) for _ in range(PARTS)]
        names = [options.operation] if options.operation else [*CALLS]
        calls = {name: (CALLS[name], clients) for name in names}
        show(calls, partial(by_client, watch_client), options.rounds)


if __name__ == "__main__":
    main()

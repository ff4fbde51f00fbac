"""What watching a Bedrock client costs: the same calls with and without it, in one run.

Run it with `python -m tests.bench.watching`. Three clients take turns, call by call: two that
nobody watches, and one that is watched. What the second costs more than the first is the noise
of this machine; only what the third costs beyond that is ours. Figures are CPU time of this
process, the provider's threads included. Of each call the client's own thread is shown, too,
where all that watching does is done: the provider's threads add only noise. Nothing here passes
or fails.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import boto3
from rich.console import Console
from rich.table import Table

from llama_token_tracker import Tracker
from llama_token_tracker.bedrock import watch
from llama_token_tracker.testing import LoopbackProvider

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

# In every order, so that each client follows each other equally often.
_ORDERS: Final = ((0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1), (0, 2, 1), (1, 2, 0))
_SETTLING: Final = 60


class Cost(NamedTuple):
    """CPU time of one call, in microseconds.

    Attributes:
        process: Of the whole process.
        thread: Of the thread that calls.
    """

    process: float
    thread: float


def cost_of(call: Callable[[Any], object], client: Any) -> Cost:
    """What one call costs, until what it returned is dropped."""
    began, began_here = time.process_time_ns(), time.thread_time_ns()
    call(client)
    ended_here, ended = time.thread_time_ns(), time.process_time_ns()
    return Cost((ended - began) / 1e3, (ended_here - began_here) / 1e3)


def measured(
    call: Callable[[Any], object], clients: Sequence[Any], rounds: int
) -> list[list[Cost]]:
    """What a call costs by each client, round by round."""
    costs: list[list[Cost]] = [[] for _ in clients]
    for number in range(rounds):
        for which in _ORDERS[number % len(_ORDERS)]:
            costs[which].append(cost_of(call, clients[which]))
    return costs


def typical(values: Sequence[float]) -> float:
    """The mean of the middle half: whatever else runs on the machine is in the rest."""
    inner = sorted(values)[len(values) // 4 : -(len(values) // 4) or None]
    return sum(inner) / len(inner)


def row(name: str, costs: list[list[Cost]]) -> list[str]:
    """What is printed of an operation."""
    plain, control, watched = [typical([cost.process for cost in one]) for one in costs]
    here = [typical([cost.thread for cost in one]) for one in costs]
    more, noise = watched - (plain + control) / 2, control - plain
    more_here, noise_here = here[2] - (here[0] + here[1]) / 2, here[1] - here[0]
    return [
        name,
        f"{plain:.0f}",
        f"{noise:+.0f}",
        f"{more:+.0f}",
        f"{more / plain * 100:+.1f}",
        f"{noise_here:+.0f}",
        f"{more_here:+.0f}",
        f"{more_here / plain * 100:+.1f}",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=600)
    rounds = parser.parse_args().rounds
    table = Table(
        "operation",
        "plain, us",
        "control, us",
        "watched, us",
        "watched, %",
        "control here, us",
        "watched here, us",
        "watched here, % of plain",
    )
    with LoopbackProvider() as provider:
        # What is registered on a client empties all that botocore remembers for it.
        clients = [
            boto3.client("bedrock-runtime", **provider.arguments("bedrock")) for _ in range(3)
        ]
        watch(clients[2], Tracker())
        for name, call in CALLS.items():
            measured(call, clients, _SETTLING)
            gc.collect()
            gc.disable()
            costs = measured(call, clients, rounds)
            gc.enable()
            table.add_row(*row(name, costs))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

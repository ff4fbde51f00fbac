"""What watching a Bedrock client costs: the same calls with and without it, in one run.

Run it with `python -m tests.bench.watching`. Figures are CPU time of this process, the provider's
threads included, and the median of many rounds in which both take turns. Nothing here passes or
fails.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from typing import Any

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


def cpu_of(call: Callable[[Any], object], client: Any) -> float:
    """CPU time of one call, in microseconds."""
    began = time.process_time()
    call(client)
    return (time.process_time() - began) * 1e6


def measured(
    call: Callable[[Any], object], plain: Any, watched: Any, rounds: int
) -> tuple[float, float]:
    """CPU time of a call by each client, in microseconds: the median of all rounds."""
    times: tuple[list[float], list[float]] = [], []
    for number in range(rounds):
        # Whoever is second finds warmer caches.
        for which in (0, 1) if number % 2 else (1, 0):
            times[which].append(cpu_of(call, (plain, watched)[which]))
    return sorted(times[0])[rounds // 2], sorted(times[1])[rounds // 2]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    with LoopbackProvider() as provider:
        # Two clients: whatever is registered on one empties all that botocore remembers for it.
        plain, watched = (
            boto3.client("bedrock-runtime", **provider.arguments("bedrock")) for _ in range(2)
        )
        watch(watched, Tracker())
        show({name: (call, plain, watched) for name, call in CALLS.items()}, rounds)


def show(calls: dict[str, tuple[Callable[[Any], object], Any, Any]], rounds: int) -> None:
    """Measure calls by a plain and by a watched client, and print what that costs."""
    table = Table("operation", "plain, us", "watched, us", "more, us", "more, %")
    for name, (call, plain, watched) in calls.items():
        measured(call, plain, watched, 20)
        gc.collect()
        gc.disable()
        without, with_it = measured(call, plain, watched, rounds)
        gc.enable()
        more = with_it - without
        table.add_row(
            name,
            f"{without:.0f}",
            f"{with_it:.0f}",
            f"{more:.0f}",
            f"{more / without * 100:.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()

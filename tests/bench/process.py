"""What watching the whole process costs: the same calls with and without it, in one run.

Run it with `python -m tests.bench.process`. Figures are as in `tests.bench.watching`, but for one
client by which all three take turns, a few calls each: while one does, the process is watched.
"""

import argparse
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Final

import anthropic
import boto3
import openai

from llama_token_tracker import TokenCountingHandler, watch
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.bench import transports, watching
from tests.bench.watching import ORDERS, PARTS, Cost, cost_of, show, typical

_A_TURN: Final = 5
_SETTLING: Final = 2
_BLOCKS: Final = 18


def by_turns(
    call: Callable[[Any], object],
    clients: Sequence[Any],
    token_counter: TokenCountingHandler,
    rounds: int,
) -> list[list[Cost]]:
    """The typical costs of each block: plain, as a control, and in a watched process."""
    return [_block(call, clients[0], token_counter, rounds) for _ in range(_BLOCKS)]


def _block(
    call: Callable[[Any], object], client: Any, token_counter: TokenCountingHandler, rounds: int
) -> list[Cost]:
    costs: list[list[Cost]] = [[], [], []]
    for number in range(rounds):
        for which in ORDERS[number % len(ORDERS)]:
            with watch(token_counter) if which == 2 else nullcontext():
                for _ in range(_SETTLING):
                    call(client)
                costs[which] += [cost_of(call, client) for _ in range(_A_TURN)]
    return [Cost(*map(typical, zip(*one, strict=True))) for one in costs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="turns of each client a block")
    rounds = parser.parse_args().rounds
    reply = Reply("tell me " * 200, chunks=200, embedding=(0.25,) * 1_536)
    with LoopbackProvider(reply) as provider:
        clients: dict[str, Any] = {
            "openai": openai.OpenAI(**provider.arguments("openai")),
            "anthropic": anthropic.Anthropic(**provider.arguments("anthropic")),
        }
        calls = {
            title: (call, [clients[name]] * PARTS)
            for title, (name, call) in transports.CALLS.items()
        }
        show(calls, by_turns, rounds)
    with LoopbackProvider() as provider:
        bedrock = [boto3.client("bedrock-runtime", **provider.arguments("bedrock"))] * PARTS
        show({title: (call, bedrock) for title, call in watching.CALLS.items()}, by_turns, rounds)


if __name__ == "__main__":
    main()

"""What watching the whole process costs: the same calls in three processes that take turns.

Run it with `python -m tests.bench.process`. One process is watched, and two aren't, the second as a
control; a few calls each, they take turns, so that whatever else the machine does meets all three.
To watch and to stop in turns in one process would measure something else: Python runs what has
changed slowly at first. Processes differ as their memory lies differently, by more than what is
looked for: so all three are forked from one, which has imported everything, and run on one core.
That one is new for each block, in which another of the three is watched.

Figures are as in `tests.bench.watching`.
"""

import argparse
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from multiprocessing.connection import Connection
from typing import Any, Final

import anthropic
import boto3
import openai
from rich.console import Console
from rich.progress import track

from llama_token_tracker import TokenCountingHandler, watch
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.bench import transports, watching
from tests.bench.watching import ORDERS, PARTS, Cost, Row, cost_of, later, table_of, typical

_TITLES: Final = (*transports.CALLS, *watching.CALLS)
_A_TURN: Final = 5
_SETTLING: Final = 40
_BEGIN: Final = 0
"""Stands for a number of calls: those of this kind begin."""


@contextmanager
def _clients() -> Iterator[dict[str, tuple[Callable[[Any], object], Any]]]:
    """What to call, and by which client."""
    reply = Reply("tell me " * 200, chunks=200, embedding=(0.25,) * 1_536)
    with LoopbackProvider(reply) as provider, LoopbackProvider() as aws:
        clients: dict[str, Any] = {
            "openai": openai.OpenAI(**provider.arguments("openai")),
            "anthropic": anthropic.Anthropic(**provider.arguments("anthropic")),
        }
        bedrock: Any = boto3.client("bedrock-runtime", **aws.arguments("bedrock"))
        yield {
            **{title: (call, clients[name]) for title, (name, call) in transports.CALLS.items()},
            **{title: (call, bedrock) for title, call in watching.CALLS.items()},
        }


def _work(asked: Connection, is_watched: bool) -> None:
    """Make so many calls of a kind as often as that is asked for, and tell what they cost."""
    counter = TokenCountingHandler()
    with _clients() as clients, watch(counter) if is_watched else nullcontext():
        for title, number in iter(asked.recv, None):
            costs = [cost_of(*clients[title]) for _ in range(number or _SETTLING)]
            asked.send((costs, later(counter) if is_watched and not number else 0.0))
            if number == _BEGIN:
                counter.reset_counts()
                gc.collect()
                gc.freeze()
                gc.disable()


@contextmanager
def _process(is_watched: bool) -> Iterator[Connection]:
    """Another process, which makes calls."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, is_watched), daemon=True)
    process.start()
    try:
        yield ours
        ours.send(None)
        process.join()
    finally:
        process.kill()


def _ask(process: Connection, title: str, number: int) -> tuple[list[Cost], float]:
    process.send((title, number))
    answer: tuple[list[Cost], float] = process.recv()
    return answer


def _block(processes: Sequence[Connection], title: str, rounds: int) -> tuple[list[Cost], float]:
    """What a call typically costs in each process, and what waits of it in the one that hears."""
    waits = [_ask(process, title, _BEGIN)[1] for process in processes]
    costs: list[list[Cost]] = [[] for _ in processes]
    for number in range(rounds):
        for which in ORDERS[number % len(ORDERS)]:
            costs[which] += _ask(processes[which], title, _A_TURN)[0]
    return [Cost(*map(typical, zip(*one, strict=True))) for one in costs], max(waits)


def _measure(asked: Connection, titles: Sequence[str], rounds: int, watched: int) -> None:
    """Tell what calls cost in three processes that are forked from this one."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[-1:])
    # What is imported late is there before they part.
    with _clients() as clients, watch(TokenCountingHandler()):
        for title in titles:
            cost_of(*clients[title])
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(which == watched)) for which in range(PARTS)]
        # The one that is watched comes last.
        processes.append(processes.pop(watched))
        os.sched_setaffinity(0, cores[:1])
        asked.send({title: _block(processes, title, rounds) for title in titles})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24, help="turns of each process a block")
    parser.add_argument(
        "--blocks", type=int, default=12, help="so often, at least 2, new ones start"
    )
    parser.add_argument(
        "--call", choices=_TITLES, action="append", help="this one alone; may be repeated"
    )
    options = parser.parse_args()
    rows: dict[str, Row] = {title: Row() for title in options.call or _TITLES}
    context = multiprocessing.get_context("spawn")
    for number in track(range(options.blocks), "measuring"):
        ours, theirs = context.Pipe()
        block = context.Process(
            target=_measure, args=(theirs, [*rows], options.rounds, number % PARTS)
        )
        block.start()
        for title, (costs, waits_us) in ours.recv().items():
            rows[title].costs.append(costs)
            rows[title].waits_us.append(waits_us)
        block.join()
    Console(width=130).print(table_of(rows))


if __name__ == "__main__":
    main()

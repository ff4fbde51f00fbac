"""What counting costs, in Python's instructions: the same however busy a machine is.

    python -m tests.bench.instructions
    python -m tests.bench.instructions "a message" --functions 20

Prints how many bytecode instructions the calling thread runs for a call, and how many of them are
for a handler, or a watch, that counts it. What runs in C isn't among them, nor what the background
does: it's to compare one commit with another, where clocks are too noisy. From Python 3.12 on.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from itertools import chain
from threading import get_ident
from typing import Any, Final, NamedTuple

import anthropic
import boto3
import openai
from rich.console import Console
from rich.table import Table

from llama_token_tracker import TokenCountingHandler, watch
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.bench import budgets, transports, watching
from tests.bench.bench_handler import (
    CHUNKS,
    Empty,
    chatting,
    one_after_the_other,
    responses,
    streaming,
)

_CALLS: Final = 100
_REQUESTS: Final = 20
_STREAMS: Final = 5

Function = tuple[str, str]
"""A function's file and name."""

Work = Callable[[Any], object]
"""Makes calls, through a handler or without one."""


class Case(NamedTuple):
    """What is measured.

    Attributes:
        plain: Makes calls that nobody counts.
        counted: Makes the same, counted.
        calls: How many each makes.
        around: What is open while they are counted.
    """

    plain: Callable[[], object]
    counted: Callable[[], object]
    calls: int
    around: Callable[[], AbstractContextManager[object]] = nullcontext


Cases = Iterator[tuple[str, Case]]
"""Cases with their names, each made when it's asked for: handlers that live hear others' calls."""


def counted(work: Callable[[], object]) -> Counter[Function]:
    """How many instructions this thread runs in each function while it works."""
    monitoring: Any = getattr(sys, "monitoring", None)
    if monitoring is None:
        msg = "instructions are counted from Python 3.12 on; use a newer one."
        raise SystemExit(msg)
    here, found = get_ident(), Counter[Function]()

    def note(code: Any, _offset: int) -> None:
        if get_ident() == here:
            found[code.co_filename, code.co_qualname] += 1

    tool, event = monitoring.PROFILER_ID, monitoring.events.INSTRUCTION
    monitoring.use_tool_id(tool, __name__)
    try:
        monitoring.register_callback(tool, event, note)
        monitoring.set_events(tool, event)
        work()
        monitoring.set_events(tool, 0)
    finally:
        monitoring.free_tool_id(tool)
    return found


def _by_handler(work: Work, kind: Callable[[], Any], calls: int) -> Case:
    """A case of work through a handler, beside the same through one that does nothing."""
    # Not before it's asked for: the plain calls are made without.
    empty, handler = Empty(), cache(kind)
    return Case(lambda: work(empty), lambda: work(handler()), calls)


def _read(work: Work) -> Work:
    """The same work, and then a look at the events."""

    def read(handler: Any) -> None:
        work(handler)
        len(getattr(handler, "llm_token_counts", ()))

    return read


def handler_cases() -> Cases:
    """Calls through a callback manager."""
    for name, answer in responses().items():
        work = one_after_the_other(answer, _CALLS)
        yield name, _by_handler(work, TokenCountingHandler, _CALLS)
        yield f"{name}, event read", _by_handler(_read(work), TokenCountingHandler, _CALLS)
    for name, kind in budgets.KINDS.items():
        yield f"budget: {name}", _by_handler(budgets.working(_CALLS), kind, _CALLS)
    yield "MockLLM.chat", _by_handler(chatting(_CALLS), TokenCountingHandler, _CALLS)
    yield "a chunk", _by_handler(streaming(_STREAMS), TokenCountingHandler, _STREAMS * CHUNKS)


def _by_watch(call: Work, client: Any) -> Case:
    def ask() -> None:
        for _ in range(_REQUESTS):
            call(client)

    return Case(ask, ask, _REQUESTS, partial(watch, TokenCountingHandler()))


def watched_cases(provider: LoopbackProvider) -> Cases:
    """Requests in a process that is watched."""
    clients: dict[str, Any] = {
        "openai": openai.OpenAI(**provider.arguments("openai")),
        "anthropic": anthropic.Anthropic(**provider.arguments("anthropic")),
    }
    bedrock = boto3.client("bedrock-runtime", **provider.arguments("bedrock"))
    for name, (whose, call) in transports.CALLS.items():
        yield name, _by_watch(call, clients[whose])
    for name, call in watching.CALLS.items():
        yield name, _by_watch(call, bedrock)


def measured(case: Case) -> tuple[float, Counter[Function]]:
    """Instructions of a plain call, and those that counting adds, by function."""
    case.plain()
    plain = counted(case.plain)
    with case.around():
        case.counted()
        more = counted(case.counted)
    more.subtract(plain)
    return plain.total() / case.calls, more


def show(cases: Cases, functions: int) -> None:
    """Print a row for each case, and the functions that add most to it."""
    table = Table(title="Instructions a call")
    for column in ("what", "plain", "counting adds", "%"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for name, case in cases:
        plain, more = measured(case)
        adds = more.total() / case.calls
        table.add_row(name, f"{plain:,.0f}", f"{adds:,.0f}", f"{100 * adds / plain:.1f}")
        for (file, function), number in more.most_common(functions):
            place = "/".join(file.split("/")[-2:])
            table.add_row(f"  {function} {place}", "", f"{number / case.calls:,.1f}", "")
    Console(width=110).print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="?", default="", help="how the names of cases begin")
    parser.add_argument("--functions", type=int, default=0, help="name so many of each case")
    options = parser.parse_args()
    with LoopbackProvider(Reply("tell me " * 200, chunks=200)) as provider:
        cases = chain(handler_cases(), watched_cases(provider))
        show((each for each in cases if each[0].startswith(options.only)), options.functions)


if __name__ == "__main__":
    main()

"""Calls of all kinds, mixed, for as long as you like: `python -m tests.soak --minutes 10`.

Threads call the loopback provider through LlamaIndex, LangChain, boto3 and httpx, whole and
streamed, while calls fail, are cancelled, left and refused by budgets, counts are reset, processes
fork, and the collector runs all the time. It goes in rounds. After each of them figures must be
the provider's own and nothing may be open; at the end no memory may have piled up.
"""

import argparse
import asyncio
import gc
import logging
import os
import random
import resource
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from contextlib import ExitStack, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import cached_property, partial
from statistics import median
from typing import Any, Final

import boto3
import httpx
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from llama_token_tracker import Budget, BudgetExceededError, TokenCountingHandler, Usage
from llama_token_tracker.llama_index.span_tree import SPANS
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import AsyncWatchingTransport, WatchingTransport, watch
from tests.matrix.clients import LLMS
from tests.needs import is_installed, release

_THREADS: Final = 4
_ROUND: Final = 25
_MAX_EVENTS: Final = 100
_WARM_ROUNDS: Final = 4
_FREEZES: Final = 2
"""Before so many rounds all objects are set aside: collections would look through all imports."""

_HANGS_S: Final = 90
_FORK_S: Final = 10
_CLOSING_S: Final = 10
_BLOCKS_PER_CALL: Final = 10.0
"""So many memory blocks a call may leave: SDKs' caches fill; a call that is kept has dozens."""

WHOLE: Final = "whole"
"""In prompts of calls whose answers are read to their end, so that their cost is known exactly."""

_SCRIPT: Final = {
    "refused": Reply(status=400),  # no SDK takes its time to try this again
    "cut": Reply(chunks=6, cut_after=2),
    "left": Reply(chunks=20, pause_s=0.002),
    "late": Reply(delay_s=0.2),
}
"""By a word in the prompt, what the provider does to calls that don't end well."""

# Older releases of llama-index-llms-anthropic drop a stream's end, and what it says of the usage.
_MODELS: Final = ("bedrock-converse", "openai") + (
    ("anthropic",) if release("llama-index-llms-anthropic") >= (0, 9) else ()
)
_CLAUDE: Final = "anthropic.claude-3-haiku-20240307-v1:0"


def message(prompt: str) -> list[ChatMessage]:
    """A chat that holds one message."""
    return [ChatMessage(role="user", content=prompt)]


class Clients:
    """One thread's clients, and a loop for those that are asynchronous."""

    def __init__(self, provider: LoopbackProvider, handler: TokenCountingHandler) -> None:
        self._provider, self._handler = provider, handler
        self._runner = asyncio.Runner()
        self._open = ExitStack()
        self._open.enter_context(self._runner)
        manager = CallbackManager([handler])
        self.models = [
            each.llm(provider, manager)
            for each in LLMS
            if each.name in _MODELS and is_installed(each.module)
        ]
        self.http = self._open.enter_context(httpx.Client(transport=WatchingTransport(handler)))
        self.async_http = httpx.AsyncClient(transport=AsyncWatchingTransport(handler))

    @cached_property
    def bedrock(self) -> Any:
        """A boto3 client that is watched."""
        client = boto3.client("bedrock-runtime", **self._provider.arguments("bedrock"))
        self._open.enter_context(watch(self._handler, client))
        return client

    @cached_property
    def chain(self) -> Any:
        """LangChain's model, which the same tracker counts."""
        from langchain_openai import ChatOpenAI

        from llama_token_tracker.langchain import TokenCountingCallbackHandler

        token_counter = TokenCountingCallbackHandler(tracker=self._handler.tracker)
        url = self._provider.url("openai")
        return ChatOpenAI(
            model="gpt-4o-mini",
            api_key="none",
            base_url=url,
            max_retries=0,
            stream_usage=True,
            callbacks=[token_counter],
        )

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run this within the scopes that are open here; a loop of its own has other ones."""
        self._runner.run(work, context=copy_context())

    def close(self) -> None:
        """Close them all."""
        self.run(self.async_http.aclose())
        self._open.close()

    # --- bodies of requests without a framework ----------------------------------------------

    def openai(self, prompt: str, *, stream: bool) -> tuple[str, dict[str, Any]]:
        """Where a chat goes, and what it says."""
        body: dict[str, Any] = {
            "model": "gpt-4o-mini",
            "messages": [{"role": "user", "content": prompt}],
            "stream": stream,
        }
        if stream:
            body["stream_options"] = {"include_usage": True}
        return f"{self._provider.url('openai')}/chat/completions", body

    @staticmethod
    def converse(prompt: str) -> dict[str, Any]:
        """What boto3 is asked."""
        return {"modelId": _CLAUDE, "messages": [{"role": "user", "content": [{"text": prompt}]}]}


Operation = Callable[[Clients, Any, str], object]
"""Calls with a thread's clients and one of its models, with this prompt."""


def _http(clients: Clients, _: Any, prompt: str) -> None:
    url, body = clients.openai(prompt, stream=False)
    clients.http.post(url, json=body).raise_for_status()


def _http_stream(clients: Clients, _: Any, prompt: str) -> None:
    url, body = clients.openai(prompt, stream=True)
    with clients.http.stream("POST", url, json=body) as response:
        for _line in response.iter_lines():
            if "left" in prompt:
                return


def _http_async(clients: Clients, _: Any, prompt: str) -> None:
    url, body = clients.openai(prompt, stream=False)
    clients.run(clients.async_http.post(url, json=body))


def _converse_stream(clients: Clients, _: Any, prompt: str) -> None:
    stream = clients.bedrock.converse_stream(**clients.converse(prompt))["stream"]
    _drain(stream, prompt)
    stream.close()


def _drain(stream: Iterable[Any], prompt: str) -> None:
    for _chunk in stream:
        if "left" in prompt:
            return


async def _drain_async(stream: Any, prompt: str) -> None:
    async for _chunk in await stream:
        if "left" in prompt:
            return


async def _gather(model: Any, prompt: str) -> None:
    await asyncio.gather(*[model.achat(message(prompt)) for _ in range(3)])


async def _cancel(model: Any, prompt: str) -> None:
    task = asyncio.ensure_future(model.achat(message(prompt)))
    await asyncio.sleep(0.02)
    task.cancel()
    await task


ENDING_WELL: Final[dict[str, Operation]] = {
    "LlamaIndex, chat": lambda _, model, prompt: model.chat(message(prompt)),
    "LlamaIndex, complete": lambda _, model, prompt: model.complete(prompt),
    "LlamaIndex, stream": lambda _, model, prompt: _drain(
        model.stream_chat(message(prompt)), prompt
    ),
    "LlamaIndex, gather": lambda clients, model, prompt: clients.run(_gather(model, prompt)),
    "LlamaIndex, async stream": lambda clients, model, prompt: clients.run(
        _drain_async(model.astream_chat(message(prompt)), prompt)
    ),
    "boto3": lambda clients, _, prompt: clients.bedrock.converse(**clients.converse(prompt)),
    "boto3, stream": _converse_stream,
    "httpx": _http,
    "httpx, stream": _http_stream,
    "httpx, async": _http_async,
}
"""What is done with whole answers; each may be refused, too."""

LANGCHAIN: Final[dict[str, Operation]] = {
    "LangChain": lambda clients, _, prompt: clients.chain.invoke(prompt),
    "LangChain, stream": lambda clients, _, prompt: _drain(clients.chain.stream(prompt), prompt),
    "LangChain, batch": lambda clients, _, prompt: clients.chain.batch([prompt, prompt]),
}

_STREAMS: Final = (
    "LlamaIndex, stream",
    "LlamaIndex, async stream",
    "boto3, stream",
    "httpx, stream",
)


def _operations() -> list[tuple[str, str, Operation]]:
    """Each with the word that goes into its prompt."""
    whole = ENDING_WELL | (LANGCHAIN if is_installed("langchain_openai") else {})
    streams = {name: whole[name] for name in (*_STREAMS, "LangChain, stream") if name in whole}
    cancelled: Operation = lambda clients, model, prompt: clients.run(  # noqa: E731
        _cancel(model, prompt)
    )
    return [
        *[(name, WHOLE, operation) for name, operation in whole.items()],
        *[(f"{name}, refused", "refused", operation) for name, operation in whole.items()],
        *[(f"{name}, left", "left", operation) for name, operation in streams.items()],
        *[(f"{name}, cut", "cut", operation) for name, operation in streams.items()],
        ("LlamaIndex, cancelled", "late", cancelled),
    ]


OPERATIONS: Final = _operations()


@dataclass
class Sums:
    """Input and output tokens of calls with whole answers, and how many there were of all."""

    calls: int = 0
    input: int = 0
    output: int = 0

    def add(self, usage: Usage) -> None:
        """Add one call."""
        self.calls += 1
        self.input += usage.input_tokens
        self.output += usage.output_tokens


@dataclass
class Soak:
    """A run of it.

    Attributes:
        provider: Whom all calls go to.
        random: What decides what is done.
        delivered: What the sink was given of whole answers.
        done: How often each thing was done.
        faults: What should not have been.
        blocks: After each round, how many calls there were by then and how many memory blocks.
    """

    provider: LoopbackProvider
    random: random.Random
    delivered: Sums = field(default_factory=Sums)
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the handler, and each thread's clients."""
        self.handler = TokenCountingHandler(
            tokenizer=str.split,
            max_events=_MAX_EVENTS,
            budget=Budget(tokens=10**15, per="kind"),
            sinks=[self._deliver],
        )
        self.clients = [Clients(self.provider, self.handler) for _ in range(_THREADS)]

    def _deliver(self, event: Any) -> None:
        if event.tags.get("kind") == WHOLE:
            self.delivered.add(event.usage)

    @property
    def calls(self) -> int:
        """How many operations were begun."""
        return self.done.total()

    # --- a round -----------------------------------------------------------------------------

    def round(self) -> None:
        """Let all threads call at once, reset and fork meanwhile, and look at what is left."""
        self.provider.reset()
        for word, reply in _SCRIPT.items():
            self.provider.script(reply, prompt=word, repeat=True)
        self.delivered = Sums()
        with self.handler.scope("round") as scope:
            threads = [
                threading.Thread(
                    target=copy_context().run,
                    args=(self._work, clients, self.random.random()),
                    daemon=True,
                )
                for clients in self.clients
            ]
        for thread in threads:
            thread.start()
        self._disturb(threads)
        for thread in threads:
            thread.join(_HANGS_S)
        if any(thread.is_alive() for thread in threads):
            _print_stacks_and_leave()
        self._check(scope)

    def _work(self, clients: Clients, seed: float) -> None:
        draw = random.Random(seed)
        for _ in range(_ROUND):
            name, word, operation = draw.choice(OPERATIONS)
            self.done[name] += 1
            is_broke = word == WHOLE and draw.random() < 0.1
            try:
                with self.handler.scope("call", kind=word), ExitStack() as inner:
                    if is_broke:
                        limit = Budget(tokens=1)
                        inner.enter_context(self.handler.scope("broke", budget=limit))
                    operation(clients, draw.choice(clients.models), f"say it {word} or not")
            except BudgetExceededError:
                if not is_broke:
                    self.faults.append(f"{name}: a budget that nothing had used up refused it")
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - SDKs' own
                if word == WHOLE and not is_broke:
                    self.faults.append(f"{name}: {error!r}")

    def _disturb(self, threads: list[threading.Thread]) -> None:
        while any(thread.is_alive() for thread in threads[:1]):
            deed = self.random.choice([self._fork, self._read, self.handler.reset_counts])
            deed()
            gc.collect()
            self.done[deed.__name__.strip("_")] += 1
            time.sleep(0.02)

    def _read(self) -> None:
        rows = self.handler.by("kind")
        if sum(row.calls for row in rows.values()) < 0 or not str(self.handler):
            self.faults.append("a total that isn't one")

    def _fork(self) -> None:
        if not hasattr(os, "fork"):
            return
        child = os.fork()
        if child == 0:
            with suppress(BaseException):
                signal.alarm(_FORK_S)
                self._read()
                with self.handler.scope("child"):
                    pass
                self.handler.reset_counts()
                os._exit(0 if self.handler.total_llm_token_count == 0 else 1)
            os._exit(2)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            self.faults.append(f"a forked child ended with {status}")

    # --- when all is quiet -------------------------------------------------------------------

    def _check(self, scope: Any) -> None:
        self._close_streams()
        if not self.handler.flush(_HANGS_S):
            self.faults.append("events aren't delivered")
        billed = Sums()
        for call in self.provider.settle(30):
            if call.billed is not None and WHOLE in str(call.body):
                billed.add(call.billed)
        row = scope.by("kind")[WHOLE]
        counted = Sums(row.calls, row.usage.input_tokens, row.usage.output_tokens)
        for name, sums in (("scope", counted), ("sink", self.delivered)):
            if sums != billed:
                self.faults.append(f"provider: {billed}; {name}: {sums}")
        if self.handler.open_calls or len(SPANS):
            self.faults.append(f"open: {self.handler.open_calls} calls, {len(SPANS)} spans")
        for spent in (accounts.spent({"kind": WHOLE}) for accounts in self.handler.accounts):
            if spent.reserved_tokens:
                self.faults.append(f"reserved for nobody: {spent}")
        self.handler.reset_counts()
        gc.collect()
        self.blocks.append((self.calls, sys.getallocatedblocks()))

    def _close_streams(self) -> None:
        """Close those that were left: each is once it's collected and its loop has run a while."""
        until = time.monotonic() + _CLOSING_S
        while True:
            gc.collect()
            for clients in self.clients:
                clients.run(asyncio.sleep(0.01))
            if not (self.handler.open_calls or len(SPANS)) or time.monotonic() > until:
                return

    def close(self) -> None:
        """Close all clients; then no thread may be left, and memory must have stayed flat."""
        for clients in self.clients:
            clients.close()
        if not self.handler.close(_HANGS_S):
            self.faults.append("closing takes for ever")
        names = partial(_ours, threading.enumerate)
        until = time.monotonic() + 10
        while names() and time.monotonic() < until:
            time.sleep(0.05)
        if names():
            self.faults.append(f"threads are left: {names()}")
        if self.growth is not None and self.growth > _BLOCKS_PER_CALL:
            self.faults.append(f"each call leaves {self.growth:.2f} memory blocks")

    @property
    def growth(self) -> float | None:
        """How many memory blocks a call leaves behind, once all is warm."""
        warm = self.blocks[_WARM_ROUNDS:]
        if len(warm) < 2 * _WARM_ROUNDS:
            return None
        half = len(warm) // 2
        (began, before), (ended, after) = (
            [median(figures) for figures in zip(*part, strict=True)]
            for part in (warm[:half], warm[half:])
        )
        return (after - before) / (ended - began)

    def table(self) -> Table:
        """What was done, and what was found."""
        table = Table("what", "", title="soak")
        for name, number in sorted(self.done.items()):
            table.add_row(name, f"{number:,}")
        table.add_section()
        table.add_row("rounds", f"{len(self.blocks):,}")
        growth = self.growth
        table.add_row("memory blocks left by a call", "?" if growth is None else f"{growth:.3f}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        table.add_row("most memory in use", f"{peak / 1024:,.0f} MiB")
        for fault, number in Counter(self.faults).most_common(20):
            table.add_row(f"[red]{fault}[/]".replace("[]", ""), f"{number:,}")
        return table


def _ours(threads: Callable[[], list[threading.Thread]]) -> list[str]:
    names = [thread.name for thread in threads()]
    return [name for name in names if name.startswith("llama-token-tracker")]


def _print_stacks_and_leave() -> None:
    import faulthandler

    faulthandler.dump_traceback()
    os._exit(3)


def run(minutes: float, seed: int, console: Console) -> list[str]:
    """Soak for so long.

    Returns:
        What was found that should not be.
    """
    console.print(f"seed {seed}")
    with LoopbackProvider() as provider:
        soak = Soak(provider, random.Random(seed))
        began = time.monotonic()
        with Progress(console=console) as progress:
            task = progress.add_task("soaking", total=minutes * 60)
            while (passed := time.monotonic() - began) < minutes * 60:
                if len(soak.blocks) < _FREEZES:
                    gc.freeze()
                soak.round()
                words = f"{soak.calls:,} calls, {len(soak.faults)} faults"
                progress.update(task, completed=passed, description=words)
        soak.close()
    console.print(soak.table())
    return soak.faults


def main() -> int:
    """Read the command line, and soak."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    logging.getLogger("langchain_core").setLevel(logging.CRITICAL)
    # Forking beside threads is what this is about.
    warnings.simplefilter("ignore", DeprecationWarning)
    # The main thread collects instead, all the time. Elsewhere the collector may find an SDK's
    # stream while httpcore holds its pool's lock, and closing it waits for that very lock.
    gc.disable()
    try:
        return 1 if run(given.minutes, given.seed, Console()) else 0
    finally:
        gc.enable()


if __name__ == "__main__":
    sys.exit(main())

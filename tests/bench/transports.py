"""What watching an HTTP client costs: the same calls with and without it, in one run.

Run it with `python -m tests.bench.transports`. Figures are as in `tests.bench.watching`.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import anthropic
import httpx
import openai

from llama_token_tracker import Tracker
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import WatchingTransport
from tests.bench.watching import PARTS, by_client, show

MESSAGES: Any = [{"role": "user", "content": "tell me " * 250}]
STREAMED: Any = {"stream": True, "stream_options": {"include_usage": True}}

CALLS: dict[str, tuple[str, Callable[[Any], object]]] = {
    "a chat": (
        "openai",
        lambda client: client.chat.completions.create(model="gpt-4o", messages=MESSAGES),
    ),
    "a stream of 200 chunks": (
        "openai",
        lambda client: list(
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, **STREAMED)
        ),
    ),
    "a message": (
        "anthropic",
        lambda client: client.messages.create(model="claude", max_tokens=9, messages=MESSAGES),
    ),
    "100 embeddings": (
        "openai",
        lambda client: client.embeddings.create(model="e", input=["tell me " * 25] * 100),
    ),
}


class Switch(httpx.BaseTransport):
    """A transport that can be watched for a while."""

    def __init__(self) -> None:
        self.plain: httpx.BaseTransport = httpx.HTTPTransport()
        self.used = self.plain

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Hand a request on."""
        return self.used.handle_request(request)


@contextmanager
def watched(client: Any, token_counter: Tracker) -> Iterator[None]:
    """Watch a client in a block."""
    switch = client.switch
    switch.used = WatchingTransport(token_counter, switch.plain)
    try:
        yield
    finally:
        switch.used = switch.plain


def made(kind: Any, arguments: dict[str, Any]) -> Any:
    """A client that can be watched for a while."""
    switch = Switch()
    client = kind(http_client=httpx.Client(transport=switch), **arguments)
    client.switch = switch
    return client


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="calls of each client a block")
    rounds = parser.parse_args().rounds
    kinds: dict[str, Any] = {"openai": openai.OpenAI, "anthropic": anthropic.Anthropic}
    reply = Reply("tell me " * 200, chunks=200, embedding=(0.25,) * 1_536)
    with LoopbackProvider(reply) as provider:
        clients = {
            name: [made(kind, provider.arguments(name)) for _ in range(PARTS)]
            for name, kind in kinds.items()
        }
        calls = {title: (call, clients[name]) for title, (name, call) in CALLS.items()}
        show(calls, partial(by_client, watched), rounds)


if __name__ == "__main__":
    main()

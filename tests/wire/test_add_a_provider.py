"""The page on adding a provider, followed: Acme's client counts by what Acme reports."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_token_tracker import Tracker, Usage
from llama_token_tracker.extraction.registry import forget_shapes
from llama_token_tracker.wire import WatchingTransport
from llama_token_tracker.wire.operations import forget_operations

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "how-to" / "add-a-provider.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ANSWER: Any = json.loads(re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[0])

REQUEST: Any = {"model": "acme-1", "turns": [{"role": "user", "words": "And of Italy?"}]}
BILLED = Usage(input_tokens=22_734, cache_read_tokens=21_500, output_tokens=56)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Meet nothing that was registered elsewhere, and leave nothing behind."""
    forget_shapes()
    forget_operations()
    yield
    forget_shapes()
    forget_operations()


@pytest.fixture
def _followed(_forgotten: None) -> None:
    """Run the page's blocks that register something."""
    names: dict[str, Any] = {}
    for block in BLOCKS:
        if "register" in block:
            exec(block, names)


class Acme(BaseHTTPRequestHandler):
    """Acme: answers at once, or in three events, of which the last tells of tokens."""

    def do_POST(self) -> None:
        """Answer."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        if asked.get("stream"):
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for document in (
                {"pieces": [{"say": "Can"}]},
                {"pieces": [{"say": "berra."}]},
                {"over": True, "bill": ANSWER["bill"]},
            ):
                self.wfile.write(b"data: " + json.dumps(document).encode() + b"\n\n")
        else:
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(ANSWER).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def served() -> Iterator[str]:
    """Serve Acme on this machine; give the URL of its operation."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Acme)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v9/talk"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.usefixtures("_followed")
@pytest.mark.parametrize("streams", [False, True])
def test_whoever_follows_the_page_sees_what_the_provider_bills(streams: bool):
    """Whole answers and streams alike, without a line of code of Acme's own."""
    tracker = Tracker()
    with served() as url, httpx.Client(transport=WatchingTransport(tracker)) as client:
        client.post(url, json=REQUEST | {"stream": streams})
    (event,) = tracker.llm_token_counts
    assert (event.source, event.usage, event.status) == ("reported", BILLED, "complete")
    assert (event.provider, event.model) == ("acme", "acme-1")
    assert (event.prompt, event.completion) == ("user: And of Italy?", "assistant: Canberra.")


def test_without_the_page_nothing_is_counted():
    """A request that nobody knows passes."""
    tracker = Tracker()
    with served() as url, httpx.Client(transport=WatchingTransport(tracker)) as client:
        assert client.post(url, json=REQUEST).json() == ANSWER
    assert not tracker.llm_token_counts


def test_every_file_that_the_page_names_is_there():
    """And the names in it, too."""
    files = re.findall(r"^\| `([a-z_/.]+)` \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(files) > 8
    for file, what in files:
        assert (ROOT / file).exists(), file
        for name in re.findall(r"`([A-Z_]{4,})`", what):
            assert name in (ROOT / file).read_text(encoding="utf-8"), name

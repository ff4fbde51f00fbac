"""A server on this machine that answers as it's told, under any provider's name."""

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from llama_token_tracker.testing.formats.bedrock.eventstream import STREAM, event
from tests.foreign import collected, tolerate  # noqa: F401 - used by being here

Json = dict[str, Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the SDKs and integrations as they are, unmodified, with the warnings they cause."""
    tolerate(items, Path(__file__).parent)


class Server:
    """Answers every request as it was told last."""

    def __init__(self) -> None:
        self.current: tuple[str, bytes, dict[str, str]] = ("application/json", b"{}", {})
        server = self

        class Handler(BaseHTTPRequestHandler):
            """Answers one request."""

            def do_POST(self) -> None:
                """Answer as the server was told."""
                self.rfile.read(int(self.headers.get("content-length") or 0))
                kind, body, headers = server.current
                self.send_response(200)
                named = {"content-type": kind, "content-length": str(len(body)), **headers}
                for name, value in named.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self.port: int = self._http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def says(self, body: Json | bytes, kind: str = "application/json", **headers: str) -> None:
        """Answer with a document from now on."""
        given = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.current = kind, given, {name.replace("_", "-"): at for name, at in headers.items()}

    def streams(self, *chunks: Json, named: bool = False) -> None:
        """Answer with server-sent events from now on."""
        lines = [
            (f"event: {chunk['type']}\n" if named else "") + f"data: {json.dumps(chunk)}\n\n"
            for chunk in chunks
        ]
        end = [] if named else ["data: [DONE]\n\n"]
        self.says("".join([*lines, *end]).encode(), "text/event-stream")

    def streams_events(self, *events: tuple[str, Json]) -> None:
        """Answer with AWS's event stream from now on."""
        self.says(b"".join(event(name, payload) for name, payload in events), STREAM)

    def close(self) -> None:
        """Answer no more."""
        self._http.shutdown()
        self._http.server_close()


class Loop(httpx.BaseTransport):
    """Sends whatever is meant for some provider to the server."""

    def __init__(self, server: Server) -> None:
        self._port = server.port
        self._transport = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it there."""
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        return self._transport.handle_request(request)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


class AsyncLoop(httpx.AsyncBaseTransport):
    """The same for asynchronous clients."""

    def __init__(self, server: Server) -> None:
        self._port = server.port
        self._transport = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send it there."""
        request.url = request.url.copy_with(scheme="http", host="127.0.0.1", port=self._port)
        return await self._transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()


@pytest.fixture(scope="module")
def canned() -> Iterator[Server]:
    """The server."""
    server = Server()
    yield server
    server.close()


def usd(*parts: tuple[int, str]) -> Decimal:
    """Tokens at dollars per million, by hand."""
    return sum((count * Decimal(price) for count, price in parts), Decimal(0)) / 1_000_000

"""A server that tells a stream's usage only if it's asked, as OpenAI does."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.wire.httpx_clients.relay import STREAMED

SEEN = (
    b": a comment\n\n"
    b'data: {"id":"c","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]%b}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"\\"usage\\":null"}}]%b}\n\n'
    b'data: {"id":"c","choices":[{"index":1,"delta":{"content":"Rome"}}]%b}\r\n\r\n'
    b'data: {"id":"c","choices":[],"prompt_filter_results":[]%b}\n\n'
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]%b}\n\n'
    b'data: {"id":"c","choices":[{"index":1,"delta":{},"finish_reason":"stop"}]%b}\n\n'
    b"%bdata: [DONE]\n\n"
)
"""Two choices, with what tells of usage left open."""

USAGE = (
    b'data: {"id":"c","choices":[],'
    b'"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}\n\n'
)
PLAIN = SEEN % (*[b""] * 6, b"")
"""What comes unasked."""
ASKED = SEEN % (*[b',"usage":null'] * 6, USAGE)
"""What comes if usage is asked for."""


class Asked:
    """Listens while it's entered.

    Args:
        encoding: What answers are encoded with.
        size: How many bytes of an answer are sent at once.
        refuses: Whether to be asked is an error.

    Attributes:
        url: Where it listens.
        bodies: The bodies that were sent, as they came.
        headers: The headers of the last.
    """

    def __init__(self, *, encoding: str = "", size: int = 61, refuses: bool = False) -> None:
        self.bodies: list[bytes] = []
        self.headers: dict[str, str] = {}
        self._encoding, self._size, self._refuses = encoding, size, refuses
        self.url = ""

    @property
    def asks(self) -> list[bool]:
        """Which requests asked for usage."""
        options = [json.loads(body).get("stream_options") for body in self.bodies]
        return [bool(one and one.get("include_usage")) for one in options]

    def answer(self, handler: Any) -> None:
        """Answer a request."""
        self.bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        self.headers = {name.lower(): value for name, value in handler.headers.items()}
        fields = json.loads(self.bodies[-1])
        is_asked = self.asks[-1]
        if self._refuses and is_asked:
            error = {"message": "Unrecognized request argument supplied: stream_options"}
            self._send(handler, 400, "application/json", json.dumps({"error": error}).encode())
        elif fields.get("stream"):
            content = ASKED if is_asked else PLAIN
            self._send(handler, 200, "text/event-stream", content)
        else:
            usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
            answer = json.dumps({"id": "c", "choices": [], "usage": usage}).encode()
            self._send(handler, 200, "application/json", answer)

    def _send(self, handler: Any, status: int, kind: str, content: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        if self._encoding:
            handler.send_header("Content-Encoding", self._encoding)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in self._pieces(content):
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            handler.wfile.flush()
        handler.wfile.write(b"0\r\n\r\n")

    def _pieces(self, content: bytes) -> Iterator[bytes]:
        encoder = STREAMED[self._encoding]()
        for start in range(0, len(content), self._size):
            yield encoder(content[start : start + self._size])
        if last := encoder.end():
            yield last


@contextmanager
def asked(**options: Any) -> Iterator[Asked]:
    """Such a server, listening."""
    server = Asked(**options)
    with _listening(server.answer) as url:
        server.url = f"{url}/v1/chat/completions"
        yield server


@contextmanager
def recorded(
    content: bytes = b"{}", headers: Mapping[str, str] | None = None
) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives one answer to all requests: its URL, and the bodies that it was sent."""
    bodies: list[bytes] = []

    def answer(handler: Any) -> None:
        bodies.append(handler.rfile.read(int(handler.headers["Content-Length"])))
        handler.send_response(200)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    with _listening(answer) as url:
        yield url, bodies


@contextmanager
def _listening(answer: Callable[[Any], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()

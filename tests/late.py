"""A server whose first answers come too late, or never; it has read the requests all the same."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str], tuple[int, dict[str, str], bytes]]
"""Gives status, headers and body, by the path that was asked for."""


class Late:
    """What such a server was asked.

    Attributes:
        url: Where it listens.
        requests: Methods and paths of the requests that came, in order.
        bodies: Their bodies.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[bytes] = []


def as_stream(*chunks: Any, event: str | None = None) -> Answer:
    """Answer with these as server-sent events, named by this key of theirs if they have names."""
    lines = [f"event: {chunk[event]}\n" if event else "" for chunk in chunks]
    parts = zip(lines, map(json.dumps, chunks), strict=True)
    body = "".join(f"{line}data: {text}\n\n" for line, text in parts).encode()
    return lambda _path: (200, {"Content-Type": "text/event-stream"}, body)


def as_json(*bodies: Any, status: int = 200) -> Answer:
    """Answer with these, one after the other, the last of them again and again."""
    left = list(bodies)

    def answer(_path: str) -> tuple[int, dict[str, str], bytes]:
        body = left.pop(0) if len(left) > 1 else left[0]
        return status, {"Content-Type": "application/json"}, json.dumps(body).encode()

    return answer


@contextmanager
def serving(
    answer: Answer, *, late: Sequence[float] = (), lost: int = 0, stops_after: int | None = None
) -> Iterator[Late]:
    """Listen.

    Args:
        answer: What is answered.
        late: By how many seconds, request by request; the others are answered at once.
        lost: At so many of the requests the server hangs up, once it has read them.
        stops_after: After so many bytes of an answer's body nothing more comes.
    """
    delays, lock = iter(late), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with lock:
                server.requests.append((self.command, self.path))
                server.bodies.append(body)
                number, delay = len(server.requests), next(delays, 0.0)
            if number <= lost:
                self.close_connection = True
                return
            time.sleep(delay)
            status, headers, content = answer(self.path)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                # So that clients which nobody closes leave nothing open.
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(content[:stops_after])
                if stops_after is not None:
                    self.rfile.read(1)  # until the client gives up
            except OSError:
                self.close_connection = True

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: Any) -> None:
            pass

    listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener.daemon_threads = True
    server = Late(f"http://127.0.0.1:{listener.server_address[1]}")
    threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()

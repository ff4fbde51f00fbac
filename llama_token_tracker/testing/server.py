"""HTTP on 127.0.0.1, a thread a connection: reads requests, writes answers piece by piece.

No event loop runs in these threads, and that matters: the garbage collector may collect a
client's object in any of them, and an asynchronous OpenAI client closes itself in whichever loop
it then finds running. In a loop of the server's own it would tear up the connections of others.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import unquote, urlsplit

from llama_token_tracker.testing.formats.base import Answer
from llama_token_tracker.testing.replies import Ending, Reply

logger: Final = logging.getLogger(__name__)

_HOST: Final = "127.0.0.1"
_BACKLOG: Final = 1024
_POLL_S: Final = 0.02


class Note(Protocol):
    """Remembers how far an answer has come, as fields of its `Call`."""

    def __call__(self, **changes: object) -> None:
        """Change these fields."""
        ...


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call on its way.

    Attributes:
        answer: What is sent.
        reply: When it's sent, and how far.
        note: Whom to tell.
    """

    answer: Answer
    reply: Reply
    note: Note


Handle: TypeAlias = Callable[[str, bytes], Exchange]
"""Turns the path and the body of a request into what is to be sent."""


class Server:
    """Listens from the moment it's made until it's closed."""

    def __init__(self, handle: Handle) -> None:
        """Listen on a free port.

        Args:
            handle: Called in a connection's thread, for several requests at a time.
        """
        self._listener = _Listener(partial(_Connection, handle))
        self._thread = threading.Thread(
            target=self._listener.serve_forever,
            args=(_POLL_S,),
            name="loopback-provider",
            daemon=True,
        )
        self._thread.start()

    @property
    def root(self) -> str:
        """The URL that all paths follow."""
        return f"http://{_HOST}:{self._listener.server_address[1]}"

    def close(self) -> None:
        """Accept nothing more, and hang up on whoever is connected."""
        self._listener.shutdown()
        self._thread.join()
        self._listener.hang_up()
        self._listener.server_close()


class _Listener(ThreadingTCPServer):
    # Not http.server's own class, which asks the name server who 127.0.0.1 is.
    daemon_threads = True
    request_queue_size = _BACKLOG

    def __init__(self, handler: Callable[[Any, Any, Any], BaseHTTPRequestHandler]) -> None:
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__((_HOST, 0), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def hang_up(self) -> None:
        with self._changed:
            for connection in list(self._connections):
                # One that's closed already is what we want.
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections)


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, handle: Handle, *arguments: Any) -> None:
        self._handle_request = handle
        super().__init__(*arguments)

    def handle(self) -> None:
        # A client may hang up at any time.
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        logger.debug(format, *args)

    def do_POST(self) -> None:
        exchange = self._handle_request(unquote(urlsplit(self.path).path), self._body())
        ending: Ending = "left"
        try:
            if not self._left_within(exchange.reply.delay_s):
                ending = self._send(exchange)
        finally:
            exchange.note(ended=ending)
            if ending != "finished":
                self.close_connection = True

    do_GET = do_PUT = do_PATCH = do_DELETE = do_POST

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return b"".join(self._chunks())
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass  # headers that came late

    def _send(self, exchange: Exchange) -> Ending:
        answer = exchange.answer
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.streamed:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            return self._stream(exchange)
        [frame] = answer.frames
        self.send_header("Content-Length", str(len(frame.data)))
        # Noted first: a client may have read the bytes before the next line is run.
        exchange.note(reported=frame.reports, ended="finished")
        self.end_headers()
        self.wfile.write(frame.data)
        return "finished"

    def _stream(self, exchange: Exchange) -> Ending:
        reply, sent = exchange.reply, 0
        if ending := self._interrupted(reply, sent):
            return ending
        for frame in exchange.answer.frames:
            if frame.content and self._left_within(reply.pause_s if sent else 0):
                return "left"
            if frame.reports is not None:
                exchange.note(reported=frame.reports)
            self.wfile.write(b"%x\r\n%b\r\n" % (len(frame.data), frame.data))
            sent += frame.content
            if frame.content and (ending := self._interrupted(reply, sent)):
                return ending
        exchange.note(ended="finished")
        self.wfile.write(b"0\r\n\r\n")
        return "finished"

    def _interrupted(self, reply: Reply, sent: int) -> Ending | None:
        if sent == reply.cut_after:
            return "cut"
        if sent == reply.stall_after:
            self._left_within(None)
            return "left"
        return None

    def _left_within(self, seconds: float | None) -> bool:
        """Wait, for ever if `None`; say whether the client has left meanwhile."""
        self.connection.settimeout(seconds)
        try:
            # A client that's still there says nothing before it has its answer.
            return not self.connection.recv(1, socket.MSG_PEEK)
        except (TimeoutError, BlockingIOError):
            return False
        except ConnectionError:
            return True
        finally:
            self.connection.settimeout(None)

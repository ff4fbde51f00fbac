"""A server between a client and the loopback provider: it encodes, redirects, and waits."""

import gzip
import http.client
import threading
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import zstandard

from llama_token_tracker.testing import LoopbackProvider


class Encoder:
    """Encodes a body piece by piece, so that each can be read as it comes."""

    def __init__(self, encoder: Any, flush: int) -> None:
        self._encoder = encoder
        self._flush = flush

    def __call__(self, piece: bytes) -> bytes:
        """Encode a piece."""
        encoded: bytes = self._encoder.compress(piece) + self._encoder.flush(self._flush)
        return encoded

    def end(self) -> bytes:
        """What comes after the last."""
        last: bytes = self._encoder.flush()
        return last


class _Plain(Encoder):
    def __init__(self) -> None:
        """Encode nothing."""

    def __call__(self, piece: bytes) -> bytes:
        return piece

    def end(self) -> bytes:
        return b""


STREAMED: dict[str, Callable[[], Encoder]] = {
    "": _Plain,
    "gzip": lambda: Encoder(zlib.compressobj(wbits=zlib.MAX_WBITS | 16), zlib.Z_SYNC_FLUSH),
    "deflate": lambda: Encoder(zlib.compressobj(), zlib.Z_SYNC_FLUSH),
    "zstd": lambda: Encoder(
        zstandard.ZstdCompressor().compressobj(), zstandard.COMPRESSOBJ_FLUSH_BLOCK
    ),
}
WHOLE: dict[str, Callable[[bytes], bytes]] = {
    "": lambda body: body,
    "gzip": gzip.compress,
    "deflate": zlib.compress,
    "zstd": lambda body: zstandard.ZstdCompressor().compress(body),
}


class Relay:
    """Listens while it's entered.

    Args:
        provider: Who answers.
        encoding: What answers are encoded with.
        redirects: Whether a request is sent to another path first.

    Attributes:
        go_on: Once set, streams are sent on past their first event; else they wait.
        requests: The paths that were asked for.
    """

    def __init__(
        self,
        provider: LoopbackProvider,
        *,
        encoding: str = "",
        redirects: bool = False,
        waits: bool = False,
    ) -> None:
        self.encoding, self.redirects = encoding, redirects
        self.go_on = threading.Event()
        if not waits:
            self.go_on.set()
        self.requests: list[str] = []
        self.provider = provider
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    def __enter__(self) -> Self:
        """Listen."""
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Listen no more."""
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def arguments(self, name: Any) -> dict[str, Any]:
        """What a provider's own client is to be made with."""
        given = self.provider.arguments(name)
        return given | {"base_url": given["base_url"].replace(self.provider.url(), self.url)}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        relay = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                relay.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Send a request on, and its answer back."""
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        self.requests.append(handler.path)
        if self.redirects and not handler.path.startswith("/there"):
            handler.send_response(307)
            handler.send_header("Location", "/there" + handler.path)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        host = urlsplit(self.provider.url()).netloc
        connection = http.client.HTTPConnection(host)
        connection.request("POST", handler.path.removeprefix("/there"), body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        handler.send_response(answer.status)
        handler.send_header("Content-Type", answer.headers["Content-Type"])
        if self.encoding:
            handler.send_header("Content-Encoding", self.encoding)
        if answer.headers["Content-Length"] is not None:
            whole = WHOLE[self.encoding](content)
            handler.send_header("Content-Length", str(len(whole)))
            handler.end_headers()
            handler.wfile.write(whole)
            return
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for piece in self.pieces(content):
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            handler.wfile.flush()
            self.go_on.wait(10)
        handler.wfile.write(b"0\r\n\r\n")

    def pieces(self, content: bytes) -> Iterator[bytes]:
        """The pieces that an answer is sent in."""
        encoder = STREAMED[self.encoding]()
        *events, rest = content.split(b"\n\n")
        for event in events:
            yield encoder(event + b"\n\n")
        last = encoder(rest) + encoder.end()
        if last:
            yield last

"""A server that gives the answers that a test writes down, whatever it's asked."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

import boto3
from botocore.config import Config

from llama_token_tracker.testing.formats.bedrock.eventstream import STREAM, event

Canned: TypeAlias = "dict[str, Any] | list[Any]"
"""A JSON document; or a stream's, each an object, or on Bedrock a name with one."""


def _encoded(answer: Canned) -> tuple[str, bytes]:
    if isinstance(answer, dict):
        return "application/json", json.dumps(answer).encode()
    if isinstance(answer[0], tuple):
        return STREAM, b"".join(event(name, payload) for name, payload in answer)
    lines = []
    for document in answer:
        kind = document.get("type")
        named = f"event: {kind}\n" if kind else ""
        lines.append(f"{named}data: {json.dumps(document)}\n\n")
    end = "" if answer[0].get("type") else "data: [DONE]\n\n"
    return "text/event-stream", ("".join(lines) + end).encode()


def bedrock(url: str) -> Any:
    """A client of Bedrock's that asks the server at this URL, each request once."""
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=64),
    )


@contextmanager
def canned(answer: Canned, called: str | None = None) -> Iterator[str]:
    """A server that gives one answer to all requests; its URL.

    Args:
        answer: The answer.
        called: Its media type, if not the right one.
    """
    kind, body = _encoded(answer)
    kind = kind if called is None else called

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

"""A server that answers in the background, as OpenAI's Responses, xAI and Perplexity do."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.late import Late, serving

USAGE: dict[str, Any] = {
    "input_tokens": 7_003,
    "input_tokens_details": {"cached_tokens": 1_001, "cache_write_tokens": 0},
    "output_tokens": 2_017,
    "output_tokens_details": {"reasoning_tokens": 1_900},
    "total_tokens": 9_020,
}
TEXT = "otters in space"
EVENTS = "text/event-stream"


def response(number: int, status: str, *, told: bool = False, **more: Any) -> dict[str, Any]:
    """A response, with its text and its usage if they are told."""
    part = {"type": "output_text", "text": TEXT, "annotations": []}
    message = {"type": "message", "id": "msg_0", "role": "assistant", "status": "completed"}
    return {
        "id": f"resp_{number:04}a1b2c3d4e5f6a7b8c9",
        "object": "response",
        "created_at": 1_760_000_000,
        "status": status,
        "background": True,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "model": "gpt-4o-mini-2024-07-18",
        "output": [{**message, "content": [part]}] if told else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": USAGE if told else None,
        **more,
    }


class Background:
    """What such a server says.

    Attributes:
        looks: What a response that's looked at says, one after the other; the last again and again.
        cancelled: What a response says that is cancelled.
        streams_when_asked: Whether a response is streamed at once.
        begins_anew: Whether each response has the same id.
        lost: Ids that aren't found.
        events: How many of a stream's events come before it's cut; all, if `None`.
    """

    def __init__(self) -> None:
        self.looks: list[dict[str, Any]] = [
            {"status": "in_progress"},
            {"status": "completed", "told": True},
        ]
        self.cancelled: dict[str, Any] = {"status": "cancelled"}
        self.streams_when_asked = self.begins_anew = False
        self.events: int | None = None
        self.lost: set[str] = set()
        self._begun = 0
        self._looked: Counter[str] = Counter()

    def __call__(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Answer a request by its path."""
        place, query = urlsplit(path).path, dict(parse_qsl(urlsplit(path).query))
        *_, before, last = place.split("/")
        if last == "responses":
            self._begun = 1 if self.begins_anew else self._begun + 1
            if self.streams_when_asked:
                return self._stream(self._begun, 0)
            status, headers, content = _json(response(self._begun, "queued"))
            return status, {**headers, "x-request-id": "req_begun"}, content
        if last == "cancel":
            return _json(response(_number(before), **self.cancelled))
        if last in self.lost:
            return _json({"error": {"message": "gone"}}, 404)
        if query.get("stream") == "true":
            return self._stream(_number(last), int(query.get("starting_after", -1)) + 1)
        look = self.looks[min(self._looked[last], len(self.looks) - 1)]
        self._looked[last] += 1
        return _json(response(_number(last), **look))

    def _stream(self, number: int, start: int) -> tuple[int, dict[str, str], bytes]:
        events = list(_events(number))[start : self.events]
        # So long that whoever leaves after the first hasn't had the last.
        pause = f": {'.' * 300_000}\n\n"
        lines = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n{pause}" for e in events]
        return 200, {"Content-Type": EVENTS}, "".join(lines).encode()


def _events(number: int) -> Iterator[dict[str, Any]]:
    place = {"item_id": "msg_0", "output_index": 0, "content_index": 0}
    delta = {**place, "type": "response.output_text.delta", "logprobs": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response(number, "queued")},
        {"type": "response.queued", "response": response(number, "queued")},
        {"type": "response.in_progress", "response": response(number, "in_progress")},
        {**delta, "delta": "otters "},
        {**delta, "delta": "in space"},
        {"type": "response.completed", "response": response(number, "completed", told=True)},
    ]
    yield from ({**event, "sequence_number": n} for n, event in enumerate(events))


def _number(name: str) -> int:
    return int(name.removeprefix("resp_")[:4])


def _json(body: Any, status: int = 200) -> tuple[int, dict[str, str], bytes]:
    headers = {"Content-Type": "application/json", "x-request-id": "req_other"}
    return status, headers, json.dumps(body).encode()


@contextmanager
def background(says: Background) -> Iterator[Late]:
    """Serve it."""
    with serving(says) as server:
        yield server


class Elsewhere(httpx.BaseTransport):
    """Sends what goes to whatever host to such a server."""

    def __init__(self, server: Late) -> None:
        self._url = httpx.URL(server.url)
        self._transport = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send it there."""
        place = {"scheme": "http", "host": self._url.host, "port": self._url.port}
        url = request.url.copy_with(**place)
        return self._transport.handle_request(
            httpx.Request(request.method, url, headers=request.headers, content=request.content)
        )

    def close(self) -> None:
        """Close what sends."""
        self._transport.close()

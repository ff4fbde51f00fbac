"""The middleware by itself: what of a response it keeps back, and which errors it answers.

Under real servers it's tested in tests/matrix/test_web.py.
"""

import asyncio
from collections.abc import Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from llama_token_tracker import Budget, BudgetExceededError, Tracker
from llama_token_tracker.budgets import Accounts
from llama_token_tracker.web import ScopeMiddleware, WSGIScopeMiddleware, too_many_requests

START = {"type": "http.response.start", "status": 200, "headers": []}
EMPTY = {"type": "http.response.body", "body": b"", "more_body": True}
END = {"type": "http.response.body", "body": b"", "more_body": False}
PIECE = {"type": "http.response.body", "body": b"piece", "more_body": True}


def refusal(window: str | None = None) -> BudgetExceededError:
    """What a budget raises."""
    with pytest.raises(BudgetExceededError) as raised:
        Accounts(Budget(tokens=1, window=window)).reserve(
            {}, None, input_tokens=2, output_tokens=0, usd=None
        )
    return raised.value


def from_refusal() -> Exception:
    """An error that a framework has raised in its place."""
    error = RuntimeError("the step failed")
    error.__cause__ = refusal()
    return error


def asked(*messages: dict[str, Any], error: Exception | None = None, kind: str = "http") -> Any:
    """Serve one request: what the server is sent, and the error that comes through."""
    sent: list[Any] = []
    scopes: list[Any] = []
    tracker = Tracker()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope.get("state", {}).get("counts"))
        for message in messages:
            await send(message)
        if error is not None:
            raise error

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    middleware = ScopeMiddleware(app, lambda scope: tracker.scope(scope["type"], user="ada"))
    raised = None
    try:
        asyncio.run(middleware({"type": kind}, receive, send))
    except Exception as problem:  # noqa: BLE001 - whatever comes through
        raised = problem
    return sent, raised, scopes[0]


def asked_wsgi(
    *pieces: bytes, error: Exception | None = None, written: bytes = b""
) -> tuple[list[Any], Exception | None, list[str]]:
    """The same on WSGI, and whether the body was closed."""
    seen: list[Any] = []
    closed: list[str] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield from pieces
            if error is not None:
                raise error

        def close(self) -> None:
            closed.append(environ["llama_token_tracker.counts"].tags["user"])

    def app(environ: Any, start_response: Any) -> Any:
        write = start_response("200 OK", [])
        if written:
            write(written)
        return Body()

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        seen.append(status)
        return seen.append

    tracker = Tracker()
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    middleware = WSGIScopeMiddleware(app, lambda environ: tracker.scope("ask", user="ada"))
    raised = None
    try:
        seen.extend(middleware(environ, start_response))
    except Exception as problem:  # noqa: BLE001 - whatever comes through
        raised = problem
    return seen, raised, closed


@pytest.mark.parametrize("make", [refusal, from_refusal, lambda: ExceptionGroup("", [refusal()])])
@pytest.mark.parametrize("before", [(), (START,), (START, EMPTY), (START, END)])
def test_a_refusal_before_the_first_byte_is_a_429(make: Any, before: Any):
    """However far the app came, and whatever it made of the error."""
    [start, body], raised, _ = asked(*before, error=make())
    assert (start["status"], raised) == (429, None)
    assert body["body"].startswith(b"Budget exceeded for all calls: ")
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()


def test_a_refusal_after_the_first_byte_is_the_servers():
    """The response has begun, so the server breaks it off."""
    error = refusal()
    assert asked(START, EMPTY, PIECE, error=error)[:2] == ([START, PIECE], error)
    assert asked_wsgi(b"piece", error=error)[:2] == (["200 OK", b"piece"], error)


def test_other_errors_are_handed_on():
    """They are answered by the app's server; nothing was sent before."""
    error = KeyError("x")
    error.__cause__ = error
    assert asked(START, error=error)[:2] == ([], error)
    assert asked_wsgi(error=error)[:2] == ([], error)


@pytest.mark.parametrize(
    "last", [{"type": "http.response.body"}, {"type": "http.response.zerocopysend"}]
)
def test_a_response_without_bytes_is_sent(last: Any):
    """Its start comes with its end, or with whatever else it consists of."""
    assert asked(START, last)[0] == [START, last]
    assert asked_wsgi()[:2] == (["200 OK"], None)


@pytest.mark.parametrize(
    "start", [START | {"status": 204}, START | {"headers": [(b"Content-Length", b"0")]}]
)
def test_a_response_that_has_no_body_does_not_wait(start: Any):
    """It's sent before its background tasks, and what fails in these can't change it."""
    error = refusal()
    assert asked(start, END, error=error)[:2] == ([start, END], error)


def test_a_websocket_has_a_scope_and_a_lifespan_none():
    """A refusal on a WebSocket is the app's to answer."""
    error = refusal()
    _, raised, counts = asked(error=error, kind="websocket")
    assert (raised, counts.path, counts.tags) == (error, "websocket", {"user": "ada"})
    assert asked(kind="lifespan")[2] is None


def test_wsgi_refuses_before_the_first_byte():
    """Empty pieces are none, and the app's body is closed in its scope."""
    [status, body], raised, closed = asked_wsgi(b"", error=from_refusal())
    assert (status, raised, closed) == ("429 Too Many Requests", None, ["ada"])
    assert body.startswith(b"Budget exceeded")


def test_what_a_wsgi_app_writes_itself_comes_first():
    """`write` is the old way to send a body."""
    assert asked_wsgi(b"after", written=b"before")[0] == ["200 OK", b"before", b"after"]
    error = refusal()
    assert asked_wsgi(error=error, written=b"before")[:2] == (["200 OK", b"before"], error)


def test_a_wsgi_app_may_replace_its_response():
    """Until the first byte it's replaced; afterwards the server says what it makes of that."""
    seen: list[Any] = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        start_response("500 Error", [], ("kind", "error", "trace"))
        yield b"sorry"
        start_response("500 Again", [], ("kind", "error", "trace"))

    def start_response(*response: Any) -> Any:
        seen.append(response)
        return seen.append

    middleware = WSGIScopeMiddleware(app, lambda environ: Tracker().scope("ask"))
    assert list(middleware({}, start_response)) == [b"sorry"]
    assert seen == [("500 Error", []), ("500 Again", [], ("kind", "error", "trace"))]


def test_a_window_says_when_to_come_again():
    """`Retry-After` is in seconds, and isn't there where the limit is for good."""
    text, status, headers = too_many_requests(refusal("1 hour"))
    assert text.startswith("Budget exceeded")
    assert (status, 0 < int(headers["Retry-After"]) <= 3_600) == (429, True)
    assert list(too_many_requests(refusal())[2]) == ["Content-Type"]

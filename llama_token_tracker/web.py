"""Middleware for web servers: a scope for each request, and 429 where a budget refuses a call.

`ScopeMiddleware` is for ASGI (FastAPI, Starlette, Django), `WSGIScopeMiddleware` for WSGI (Flask,
Django); neither needs a framework. A response's status leaves together with its first bytes, so
that a stream whose call is refused before them is a 429, too.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from math import ceil
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from llama_token_tracker._lock import pass_on
from llama_token_tracker.errors import BudgetExceededError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["ScopeMiddleware", "WSGIScopeMiddleware", "too_many_requests"]

Connection: TypeAlias = MutableMapping[str, Any]
"""What ASGI calls a scope: one request, or one WebSocket."""

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Connection, Receive, Send], Awaitable[None]]

_LONGEST_CHAIN: Final = 16
_BODILESS: Final = (204, 304)


def too_many_requests(error: BudgetExceededError) -> tuple[str, int, dict[str, str]]:
    """Make a budget's refusal a response: its text, status 429 and headers, as Flask takes them.

    Args:
        error: The refusal. If its budget has a window, `Retry-After` says in how many seconds
            that ends.
    """
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    until = getattr(error, "until", None)
    if until is not None:
        left_s = (until - datetime.now(UTC)).total_seconds()
        headers["Retry-After"] = str(max(1, ceil(left_s)))
    return str(error), 429, headers


def _refusal_in(error: BaseException | None) -> BudgetExceededError | None:
    """The budget's refusal that an error is, was raised from, or is a group of."""
    for _ in range(_LONGEST_CHAIN):
        if error is None or isinstance(error, BudgetExceededError):
            return error
        error = _alone_in(error) or error.__cause__
    return None


def _alone_in(error: BaseException) -> BaseException | None:
    """The one error of a group."""
    if not isinstance(error, BaseExceptionGroup):
        return None
    errors = cast("BaseExceptionGroup[BaseException]", error).exceptions
    return errors[0] if len(errors) == 1 else None


def _answer(error: BudgetExceededError) -> tuple[bytes, list[tuple[str, str]]]:
    """The body and the headers of a 429."""
    text, _, headers = too_many_requests(error)
    body = text.encode("utf-8", "backslashreplace")
    return body, [*headers.items(), ("Content-Length", str(len(body)))]


class ScopeMiddleware:
    """ASGI middleware that serves each request in a scope, until its last background task.

    The scope is `request.state.counts` in FastAPI and Starlette, `scope["state"]["counts"]` in any
    ASGI app. WebSockets get a scope as well; a refusal there is the app's to answer.

    Args:
        app: The app that it's put around.
        open_scope: Opens the scope of a request, which it's given as ASGI has it: for example
            `lambda request: token_counter.scope("ask", user=user_of(request))`.
    """

    def __init__(
        self, app: ASGIApp, open_scope: Callable[[Connection], AbstractContextManager[Any]]
    ) -> None:
        self._app = app
        self._open_scope = open_scope

    async def __call__(self, scope: Connection, receive: Receive, send: Send) -> None:
        """Serve one request in its scope."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        start = _HeldStart(send)
        with self._open_scope(scope) as counts:
            scope.setdefault("state", {})["counts"] = counts
            try:
                await self._app(scope, receive, start.send)
                await start.leave()
            except Exception as error:
                pass_on(error)
                refusal = _refusal_in(error)
                if refusal is None or start.has_left or scope["type"] != "http":
                    raise
                await _refuse(refusal, send)


async def _refuse(error: BudgetExceededError, send: Send) -> None:
    body, headers = _answer(error)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": 429, "headers": raw})
    await send({"type": "http.response.body", "body": body})


class _HeldStart:
    """Hands on what an ASGI app sends, but the start of its response together with the first bytes.

    Attributes:
        has_left: Whether the start was handed on.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._kept: list[Message] = []
        self.has_left = False

    async def send(self, message: Message) -> None:
        """Hand on a message of the app's, or keep it."""
        if message["type"] == "http.response.start" and not self.has_left:
            self._kept = [message]
        elif not (self._kept and self._is_nothing_yet(message)):
            await self.leave()
            await self._send(message)
        elif not message.get("more_body"):
            self._kept.append(message)

    async def leave(self) -> None:
        """Hand on what was kept."""
        kept, self._kept = self._kept, []
        for message in kept:
            self.has_left = True
            await self._send(message)

    def _is_nothing_yet(self, message: Message) -> bool:
        """Whether a part of a body has no bytes, and isn't the body of a response that has none."""
        if message["type"] != "http.response.body" or message.get("body"):
            return False
        # Starlette ends a stream that has failed below a middleware of its own, and raises then.
        start = self._kept[0]
        has_length = any(name.lower() == b"content-length" for name, _ in start.get("headers", ()))
        return bool(message.get("more_body")) or not (has_length or start["status"] in _BODILESS)


class WSGIScopeMiddleware:
    """WSGI middleware that serves each request in a scope, until its response has been streamed.

    The scope is `environ["llama_token_tracker.counts"]`: `request.environ` in Flask, `request.META`
    in Django. Both answer what a view raises themselves, so hand them `too_many_requests`.

    Args:
        app: The app that it's put around.
        open_scope: Opens the scope of a request, whose environ it's given: for example
            `lambda environ: token_counter.scope("ask", user=environ.get("REMOTE_USER"))`.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        open_scope: "Callable[[WSGIEnvironment], AbstractContextManager[Any]]",
    ) -> None:
        self._app = app
        self._open_scope = open_scope

    def __call__(
        self, environ: "WSGIEnvironment", start_response: "StartResponse"
    ) -> Iterator[bytes]:
        """Serve one request in its scope."""
        start = _HeldStartResponse(start_response)
        # The body's generator itself enters the scope: a server may run its steps anywhere.
        with self._open_scope(environ) as counts:
            environ["llama_token_tracker.counts"] = counts
            try:
                yield from start.before(self._app(environ, start))
            except Exception as error:
                pass_on(error)
                refusal = _refusal_in(error)
                if refusal is None or start.has_left:
                    raise
                body, headers = _answer(refusal)
                start_response("429 Too Many Requests", headers)
                yield body


class _HeldStartResponse:
    """WSGI's `start_response`, which takes effect together with the first bytes."""

    def __init__(self, start_response: "StartResponse") -> None:
        self._start_response = start_response
        self._held: tuple[Any, ...] | None = None
        self._write: Callable[[bytes], object] | None = None

    @property
    def has_left(self) -> bool:
        """Whether the server's was called."""
        return self._write is not None

    def __call__(self, *response: Any) -> Callable[[bytes], object]:
        if self.has_left:
            # The server says what it makes of a second one.
            return self._start_response(*response)
        self._held = response[:2]
        return self.write

    def write(self, piece: bytes) -> None:
        """Send a piece the old way."""
        self.leave()
        if self._write is not None:
            self._write(piece)

    def leave(self) -> None:
        """Call the server's, unless that has been done."""
        if self._held is not None:
            held, self._held = self._held, None
            self._write = self._start_response(*held)

    def before(self, body: Iterable[bytes]) -> Iterator[bytes]:
        """Give the pieces of a body, with the response's start before the first that has bytes."""
        try:
            for piece in body:
                if piece:
                    self.leave()
                    yield piece
            self.leave()
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

"""Transports for httpx that count what clients built on it use, as providers report it.

They are httpx's own extension point: no library is patched, no request is changed, and no answer
is read before the program reads it. Clients built on httpx2 take the same transports around its
own.
"""

import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import httpx

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import WatchError
from llama_token_tracker.events.call import status_after
from llama_token_tracker.wire.dialects import Dialect
from llama_token_tracker.wire.exchange import Exchange
from llama_token_tracker.wire.httpx.streams import watch_answer
from llama_token_tracker.wire.operations import find, uncounted_provider
from llama_token_tracker.wire.transcript import Recorder
from llama_token_tracker.wire.uncounted import UncountedRequest

__all__ = ["AsyncWatchingTransport", "WatchingTransport"]

_FIRST_ERROR: Final = 300
_IDS: Final = (b"x-request-id", b"request-id", b"apim-request-id", b"mistral-correlation-id")
"""Where answers say what their provider calls the request."""

_MOST_NESTED: Final = 9
_REDIRECTED: Final = "llama_token_tracker.redirected"


class WatchingTransport(httpx.BaseTransport):
    """Counts what passes through a transport, and hands all of it on as it is.

        client = OpenAI(http_client=DefaultHttpxClient(transport=WatchingTransport(token_counter)))

    A call that a framework makes, and that is counted by `token_counter` anyway, is counted once:
    its event takes the provider's figures. Every other request becomes an event of its own.

    Args:
        token_counter: Who counts: a `TokenCountingHandler`, or a `Tracker`.
        transport: What sends; by default an `httpx.HTTPTransport`. Proxies, limits and
            certificates are its business: with any transport of its own a client of httpx leaves
            them to that.

    Raises:
        WatchError: `token_counter` doesn't count, or `transport` sends nothing.
    """

    def __init__(self, token_counter: Any, transport: httpx.BaseTransport | None = None) -> None:
        self._watch = _Watch(token_counter, transport, "handle_request")
        # httpx2's are as welcome; it has classes of its own.
        self._transport: Any = httpx.HTTPTransport() if transport is None else transport

    def __enter__(self) -> Self:
        """Open the transport inside."""
        self._transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close the transport inside."""
        self._transport.__exit__(exc_type, exc_value, traceback)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and read its answer along.

        Raises:
            BudgetExceededError: It would pass the limit of a budget; nothing is sent.
        """
        sent = self._watch.leaves(request)
        with sent.underway():
            response: httpx.Response = self._transport.handle_request(request)
        sent.answered(request, response, is_async=False)
        return response

    def close(self) -> None:
        """Close the transport inside."""
        self._transport.close()


class AsyncWatchingTransport(httpx.AsyncBaseTransport):
    """The same for asynchronous clients.

    Args:
        token_counter: Who counts: a `TokenCountingHandler`, or a `Tracker`.
        transport: What sends; by default an `httpx.AsyncHTTPTransport`.

    Raises:
        WatchError: `token_counter` doesn't count, or `transport` sends nothing.
    """

    def __init__(
        self, token_counter: Any, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._watch = _Watch(token_counter, transport, "handle_async_request")
        self._transport: Any = httpx.AsyncHTTPTransport() if transport is None else transport

    async def __aenter__(self) -> Self:
        """Open the transport inside."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        """Close the transport inside."""
        await self._transport.__aexit__(exc_type, exc_value, traceback)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and read its answer along.

        Raises:
            BudgetExceededError: It would pass the limit of a budget; nothing is sent.
        """
        sent = self._watch.leaves(request)
        with sent.underway():
            response: httpx.Response = await self._transport.handle_async_request(request)
        sent.answered(request, response, is_async=True)
        return response

    async def aclose(self) -> None:
        """Close the transport inside."""
        await self._transport.aclose()


# --- what both do --------------------------------------------------------------------------


class _Watch:
    """What listens to a transport."""

    def __init__(self, token_counter: Any, transport: Any, method: str) -> None:
        if not (transport is None or hasattr(transport, method)):
            msg = (
                f"an {type(transport).__name__} has no {method}() to send with; give "
                "WatchingTransport an httpx.HTTPTransport or the like, and AsyncWatchingTransport "
                "an httpx.AsyncHTTPTransport."
            )
            raise WatchError(msg)
        self.recorder = Recorder(token_counter)
        # A request counts once for a tracker, in the transport that is next to the network.
        self._is_outer = any(
            watching.recorder.tracker is self.recorder.tracker for watching in _within(transport)
        )

    def leaves(self, request: Any) -> "_Sent":
        """Note that a request leaves. Only a budget may stop it.

        Raises:
            BudgetExceededError: It would pass a limit.
        """
        if self._is_outer:
            return _UNCOUNTED
        try:
            redirected: _Redirected | None = request.extensions.pop(_REDIRECTED, None)
            if redirected is not None:
                return redirected.sent(request)
            sent = self._noted(request)
        except Exception as error:  # noqa: BLE001 - counting must not stop the call
            notice("a request could not be noted", error, "it is not counted")
            return _UNCOUNTED
        call = sent.exchange or sent.uncounted
        if call is not None:
            call.reserve()
        return sent

    def _noted(self, request: Any) -> "_Sent":
        found = find(request.url.host, request.method, request.url.path)
        if found is None:
            return self._uncounted(request)
        dialect = found.dialect
        exchange = Exchange(
            self.recorder, found.provider, found.model, found.kind, dialect, _body(request)
        )
        exchange.sent = found.sent
        return _Sent(exchange, dialect)

    def _uncounted(self, request: Any) -> "_Sent":
        url = request.url
        provider = uncounted_provider(url.host, request.method, url.path)
        # What a framework's call sends is counted by that.
        if provider is None or self.recorder.tracker.owners.find(provider) is not None:
            return _UNCOUNTED
        place = f"{url.host}{url.path}"
        call = UncountedRequest(self.recorder, provider, place, _body(request))
        return _Sent(None, None, call)


class _Sent:
    """A request that has left, if it's one that counts."""

    __slots__ = ("_dialect", "exchange", "uncounted")

    def __init__(
        self,
        exchange: Exchange | None,
        dialect: Dialect | None,
        uncounted: UncountedRequest | None = None,
    ) -> None:
        self.exchange = exchange
        self.uncounted = uncounted
        self._dialect = dialect

    @contextmanager
    def underway(self) -> Generator[None]:
        """Settle a request that isn't answered."""
        try:
            yield
        except BaseException as error:
            if self.exchange is not None:
                self.exchange.settle(status_after(error))
            if self.uncounted is not None:
                self.uncounted.settle()
            raise

    def answered(self, request: Any, response: Any, *, is_async: bool) -> None:
        """Note what was answered."""
        exchange, dialect = self.exchange, self._dialect
        if self.uncounted is not None:
            self.uncounted.settle(is_free=response.status_code >= _FIRST_ERROR)
        if exchange is None or dialect is None:
            return
        try:
            # Asked one by one, httpx's headers would cost as much as all the rest.
            headers = {name.lower(): value for name, value in response.headers.raw}
            ids = [headers[name] for name in _IDS if name in headers]
            exchange.event_id = ids[0].decode("latin-1") if ids else ""
            if response.status_code >= _FIRST_ERROR and response.has_redirect_location:
                # The request that follows is made of this one.
                inner = request.extensions.get(_REDIRECTED)
                request.extensions[_REDIRECTED] = _Redirected(self, inner)
            elif response.status_code >= _FIRST_ERROR:
                exchange.settle("failed")
            else:
                exchange.answered()
                watch_answer(exchange, dialect, response, headers, is_async=is_async)
        except Exception as error:  # noqa: BLE001 - a paid answer must not be lost
            notice("an answer could not be read", error, "its figures may be missing")
            exchange.settle("complete")


_UNCOUNTED: Final = _Sent(None, None)


class _Redirected:
    """A request that its server sent elsewhere: not followed, it has come to nothing.

    Args:
        sent: The request.
        inner: What another tracker's transport within this one noted of it.
    """

    def __init__(self, sent: _Sent, inner: "_Redirected | None") -> None:
        self._sent = sent
        self._inner = inner
        self._lost = weakref.finalize(self, _fail, sent)
        # At exit nobody counts any more.
        self._lost.atexit = False

    def sent(self, request: Any) -> _Sent:
        """The request, which goes on."""
        self._lost.detach()
        if self._inner is not None:
            request.extensions[_REDIRECTED] = self._inner
        return self._sent


def _fail(sent: _Sent) -> None:
    if sent.exchange is not None:
        sent.exchange.settle("failed")


def _within(transport: Any) -> Iterator[_Watch]:
    """What listens to a transport and to those that it sends through, as far as they show them."""
    for _ in range(_MOST_NESTED):
        watching = getattr(transport, "_watch", None)
        if isinstance(watching, _Watch):
            yield watching
        transport = getattr(transport, "_transport", None)


def _body(request: Any) -> bytes | None:
    """The body of a request; `None` if it's a stream, which the transport alone may read."""
    try:
        body: bytes = request.content
    except Exception as error:  # noqa: BLE001 - httpx's RequestNotRead, or httpx2's
        pass_on(error)
        return None
    return body

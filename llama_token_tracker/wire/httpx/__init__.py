"""Transports for httpx that count what clients built on it use, as providers report it.

They are httpx's own extension point: no library is patched, no request is changed, and no answer
is read before the program reads it. Clients built on httpx2 take the same transports.
"""

import sys
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from llama_token_tracker._names import from_extra

if TYPE_CHECKING:
    import httpx
else:
    try:
        # Clients of either generation take a transport of the newer one's class.
        import httpx2 as httpx
    except ImportError:
        with from_extra("httpx", "httpx"):
            import httpx

from llama_token_tracker.errors import WatchError
from llama_token_tracker.wire.httpx.requests import answered, leave
from llama_token_tracker.wire.httpx.streams import library_of
from llama_token_tracker.wire.sending import UNCOUNTED, Sent
from llama_token_tracker.wire.transcript import Recorder

__all__ = ["AsyncWatchingTransport", "WatchingTransport"]

_MOST_NESTED: Final = 9


class WatchingTransport(httpx.BaseTransport):
    """Counts what passes through a transport, and hands all of it on as it is.

        client = OpenAI(http_client=DefaultHttpxClient(transport=WatchingTransport(token_counter)))

    A call that a framework makes, and that is counted by `token_counter` anyway, is counted once:
    its event takes the provider's figures. Every other request becomes an event of its own.

    Args:
        token_counter: Who counts: a `TokenCountingHandler`, or a `Tracker`.
        transport: What sends; by default the client's own kind of `HTTPTransport`. Proxies,
            limits and certificates are its business: with any transport of its own a client of
            httpx leaves them to that.

    Raises:
        WatchError: `token_counter` doesn't count, or `transport` sends nothing.
    """

    def __init__(self, token_counter: Any, transport: httpx.BaseTransport | None = None) -> None:
        self._watch = _Watch(token_counter, transport, "handle_request")
        self._transport: Any = _Default("HTTPTransport") if transport is None else transport

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
        try:
            response: httpx.Response = self._transport.handle_request(request)
        except BaseException as error:
            sent.lost(error)
            raise
        answered(sent, request, response, is_async=False)
        return response

    def close(self) -> None:
        """Close the transport inside."""
        self._transport.close()


class AsyncWatchingTransport(httpx.AsyncBaseTransport):
    """The same for asynchronous clients.

    Args:
        token_counter: Who counts: a `TokenCountingHandler`, or a `Tracker`.
        transport: What sends; by default the client's own kind of `AsyncHTTPTransport`.

    Raises:
        WatchError: `token_counter` doesn't count, or `transport` sends nothing.
    """

    def __init__(
        self, token_counter: Any, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._watch = _Watch(token_counter, transport, "handle_async_request")
        self._transport: Any = _Default("AsyncHTTPTransport") if transport is None else transport

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
        try:
            response: httpx.Response = await self._transport.handle_async_request(request)
        except BaseException as error:
            sent.lost(error)
            raise
        answered(sent, request, response, is_async=True)
        return response

    async def aclose(self) -> None:
        """Close the transport inside."""
        await self._transport.aclose()


# --- what both do --------------------------------------------------------------------------


class _Default:
    """A transport of httpx's, or of httpx2's: of the library whose requests it gets.

    Args:
        name: The name of its class, which both have.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._made: Any = None

    def _for(self, request: Any) -> Any:
        if self._made is None:
            library = sys.modules[library_of(request, "Request")]
            self._made = getattr(library, self._name)()
        return self._made

    def handle_request(self, request: Any) -> Any:
        return self._for(request).handle_request(request)

    async def handle_async_request(self, request: Any) -> Any:
        return await self._for(request).handle_async_request(request)

    def __enter__(self) -> None:
        """Nothing is open before the first request."""

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> None:
        """Nothing is open before the first request."""

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.aclose()


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

    def leaves(self, request: Any) -> Sent:
        """Note that a request leaves. Only a budget may stop it.

        Raises:
            BudgetExceededError: It would pass a limit.
        """
        return UNCOUNTED if self._is_outer else leave(self.recorder, request)


def _within(transport: Any) -> Iterator[_Watch]:
    """What listens to a transport and to those that it sends through, as far as they show them."""
    for _ in range(_MOST_NESTED):
        watching = getattr(transport, "_watch", None)
        if isinstance(watching, _Watch):
            yield watching
        transport = getattr(transport, "_transport", None)

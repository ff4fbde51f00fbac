"""Has every client of httpx's and of httpx2's be listened to that this process has or makes."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from llama_token_tracker.wire.httpx.asking import asked
from llama_token_tracker.wire.httpx.requests import NOTED, answered, leave
from llama_token_tracker.wire.sending import Leaving, Sent
from llama_token_tracker.wire.transcript import Recorder


def send(
    wrapped: Callable[..., Any], client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Around `Client.send`, which all that a client sends passes."""
    asking = asked(client, args, kwargs)
    if asking is not None:
        # Not read before what was asked for is taken out.
        response = send(wrapped, client, (asking.request,), {**_options(kwargs), "stream": True})
        asking.take_back(response, is_async=False)
        if not kwargs.get("stream", False):
            try:
                response.read()
            except BaseException:
                response.close()
                raise
        return response
    request: Any = args[0] if args else kwargs.get("request")
    url: Any = getattr(request, "url", None)
    if url is None:
        return wrapped(*args, **kwargs)
    with _Sending(client, request, url, kwargs) as all_sent:
        response = wrapped(*args, **kwargs)
    if all_sent:
        _answered(all_sent, request, response, is_async=False)
    return response


async def async_send(
    wrapped: Callable[..., Awaitable[Any]],
    client: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Around `AsyncClient.send`."""
    asking = asked(client, args, kwargs)
    if asking is not None:
        options = {**_options(kwargs), "stream": True}
        response = await async_send(wrapped, client, (asking.request,), options)
        asking.take_back(response, is_async=True)
        if not kwargs.get("stream", False):
            try:
                await response.aread()
            except BaseException:
                await response.aclose()
                raise
        return response
    request: Any = args[0] if args else kwargs.get("request")
    url: Any = getattr(request, "url", None)
    if url is None:
        return await wrapped(*args, **kwargs)
    with _Sending(client, request, url, kwargs) as all_sent:
        response = await wrapped(*args, **kwargs)
    if all_sent:
        _answered(all_sent, request, response, is_async=True)
    return response


def _options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "request"}


class _Sending(Leaving):
    """A request that leaves a client; the transports that it passes know of that.

    What the client makes of it takes that along.
    """

    __slots__ = ("_before", "_extensions")

    def __init__(self, client: object, request: Any, url: Any, options: Mapping[str, Any]) -> None:
        place: tuple[str, str] = url.host, url.path
        is_streamed: bool = options.get("stream", False)

        def noted(recorder: Recorder) -> Sent:
            return leave(recorder, request, place, is_streamed=is_streamed)

        super().__init__(client, *place, noted)
        self._extensions: dict[str, Any] = request.extensions
        self._before: Any = None

    def __enter__(self) -> list[Sent]:
        all_sent = super().__enter__()
        if all_sent:
            self._before = self._extensions.get(NOTED, ())
            trackers = [recorder.tracker for recorder in self._noted]
            self._extensions[NOTED] = (*self._before, *trackers)
        return all_sent

    def _end(self, error: BaseException | None) -> None:
        if self._before is not None:
            self._extensions[NOTED] = self._before
        super()._end(error)


def _answered(all_sent: list[Sent], request: Any, response: Any, *, is_async: bool) -> None:
    following = getattr(response, "next_request", None)
    if following is not None:
        # Nobody may send it; who does makes a new request.
        following.extensions.pop(NOTED, None)
    for sent in all_sent:
        answered(sent, request, response, is_async=is_async, is_followed=False)

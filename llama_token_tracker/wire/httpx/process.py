"""Has every client of httpx's and of httpx2's be listened to that this process has or makes."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from llama_token_tracker.wire.httpx.asking import asked
from llama_token_tracker.wire.httpx.requests import answered, leave
from llama_token_tracker.wire.sending import NOTED, Leaving, Sent


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
    with _leaving(client, request, url, kwargs) as all_sent:
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
    with _leaving(client, request, url, kwargs) as all_sent:
        response = await wrapped(*args, **kwargs)
    if all_sent:
        _answered(all_sent, request, response, is_async=True)
    return response


def _options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "request"}


def _leaving(client: object, request: Any, url: Any, options: Mapping[str, Any]) -> Leaving:
    """A request that leaves a client; what that makes of it takes the marks along."""
    place: tuple[str, str] = url.host, url.path
    noted = partial(leave, request=request, place=place, is_streamed=options.get("stream", False))
    return Leaving(client, place, noted, request.extensions)


def _answered(all_sent: list[Sent], request: Any, response: Any, *, is_async: bool) -> None:
    following = getattr(response, "next_request", None)
    if following is not None:
        # Nobody may send it; who does makes a new request.
        following.extensions.pop(NOTED, None)
    for sent in all_sent:
        answered(sent, request, response, is_async=is_async, is_followed=False)

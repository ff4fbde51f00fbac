"""Has every client of httpx's and of httpx2's be listened to that this process has or makes."""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from llama_token_tracker.wire.httpx.asking import asked
from llama_token_tracker.wire.httpx.requests import NOTED, answered, leave
from llama_token_tracker.wire.listening import heard
from llama_token_tracker.wire.sending import UNCOUNTED, Sent, all_underway
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
    with _sending(client, request) as all_sent:
        response = wrapped(*args, **kwargs)
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
    with _sending(client, request) as all_sent:
        response = await wrapped(*args, **kwargs)
    _answered(all_sent, request, response, is_async=True)
    return response


def _options(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != "request"}


@contextmanager
def _sending(client: Any, request: Any) -> Generator[list[Sent]]:
    """Note that a request leaves, and settle what isn't answered."""
    all_sent: list[Sent] = []
    listening = heard(client)
    url: Any = getattr(request, "url", None)
    if not listening or url is None:
        yield all_sent
        return
    recorders = [one.recorder for one in listening]
    with all_underway(recorders, f"{url.host}{url.path}") as (free, stack):
        noted: list[Recorder] = []
        for recorder in free:
            sent = leave(recorder, request)
            if sent is not UNCOUNTED:
                stack.enter_context(sent.underway())
                all_sent.append(sent)
                noted.append(recorder)
        stack.enter_context(_marked(request, [recorder.tracker for recorder in noted]))
        yield all_sent


@contextmanager
def _marked(request: Any, trackers: Sequence[object]) -> Generator[None]:
    """Have the transports know that it's counted; what the client makes of it takes that along."""
    before: Any = request.extensions.get(NOTED, ())
    request.extensions[NOTED] = (*before, *trackers)
    try:
        yield
    finally:
        request.extensions[NOTED] = before


def _answered(all_sent: list[Sent], request: Any, response: Any, *, is_async: bool) -> None:
    following = getattr(response, "next_request", None) if all_sent else None
    if following is not None:
        # Nobody may send it; who does makes a new request.
        following.extensions.pop(NOTED, None)
    for sent in all_sent:
        answered(sent, request, response, is_async=is_async, is_followed=False)

"""Has every session of requests' be listened to that this process has or makes."""

import weakref
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from llama_token_tracker.wire.answers.changed_bodies import change_response
from llama_token_tracker.wire.answers.readers import Along, watch_response
from llama_token_tracker.wire.listening import asking
from llama_token_tracker.wire.sending import Sent, as_bytes, by_name, sending
from llama_token_tracker.wire.usage_requests import UsageRequest, unless_it_fails, usage_request

_sending: ContextVar[tuple[int, ...]] = ContextVar("sending", default=())
"""The sessions that send a request, by their ids."""


def send(
    wrapped: Callable[..., Any], session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Around `Session.send`, which all that a session sends passes."""
    if id(session) in _sending.get() and kwargs.get("allow_redirects") is False:
        return wrapped(*args, **kwargs)  # by itself: it follows a redirection
    request: Any = args[0] if args else kwargs.get("request")
    asked = unless_it_fails(partial(_asked, session, request)) if asking(session) else None
    if asked is not None:
        asking_request, usage = asked
        options = {name: value for name, value in kwargs.items() if name != "request"}
        # Not read before what was asked for is taken out.
        response = send(wrapped, session, (asking_request,), {**options, "stream": True})
        unless_it_fails(partial(_take_back, response, asking_request, request, usage))
        if not kwargs.get("stream", session.stream):
            response.content  # noqa: B018 - it reads it
        return response
    place = urlsplit(str(getattr(request, "url", "")))
    given: Any = getattr(request, "body", None)
    body = given if isinstance(given, bytes | str) else None
    method = str(getattr(request, "method", ""))
    is_streamed = bool(kwargs.get("stream", session.stream))
    host = place.hostname or ""
    left = sending(session, host, method, place.path, body, is_streamed=is_streamed)
    with left as all_sent:
        token = _sending.set((*_sending.get(), id(session)))
        try:
            response = wrapped(*args, **kwargs)
        finally:
            _sending.reset(token)
    for sent in all_sent:
        _answered(sent, response, is_read=not is_streamed)
    return response


def _asked(session: Any, request: Any) -> tuple[Any, UsageRequest] | None:
    """The request that asks for its stream's usage, in the place of this one."""
    place, headers = urlsplit(str(request.url)), request.headers.items()
    host = place.hostname or ""
    usage = usage_request(asking(session), host, request.method, place.path, headers, request.body)
    if usage is None:
        return None
    changed = request.copy()
    changed.body, body = usage.body, usage.body
    length = len(body.encode() if isinstance(body, str) else body)
    changed.headers["Content-Length"] = str(length)
    return changed, usage


def _take_back(response: Any, asking_request: Any, given: Any, usage: UsageRequest) -> None:
    """Have an answer be one to the program's request, without what was asked for."""
    passage = usage.passage(response.status_code)
    if passage is not None:
        change_response(response.raw, passage)
    # Another one was redirected.
    if response.request is asking_request:
        response.request = given


def _answered(sent: Sent, response: Any, *, is_read: bool) -> None:
    try:
        headers = by_name(as_bytes(response.headers.items()))
        content = response.content if is_read else None
        answer = sent.answer(response.status_code, headers, content, is_plain=True)
        if answer is None:
            return
        raw = response.raw
        watch_response(raw, Along(answer, lambda: False))
        # At exit nobody counts any more.
        weakref.finalize(raw, answer.leave).atexit = False
    except Exception as error:  # noqa: BLE001 - a paid answer must not be lost
        sent.missed(error)

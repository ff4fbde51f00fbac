"""What is noted of a request of httpx's, or of httpx2's, and of its answer."""

import weakref
from typing import Any, Final

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.wire.httpx.streams import watch_answer
from llama_token_tracker.wire.sending import FIRST_ERROR, NOTED, UNCOUNTED, Sent, by_name, note
from llama_token_tracker.wire.transcript import Recorder

_REDIRECTED: Final = "llama_token_tracker.redirected"


def leave(
    recorder: Recorder,
    request: Any,
    place: tuple[str, str] | None = None,
    *,
    is_streamed: bool = True,
) -> Sent:
    """Note that a request leaves. Only a budget may stop it.

    Args:
        recorder: Where it goes.
        request: The request.
        place: Its host and its path, if they are known.
        is_streamed: Whether its answer may not be there yet when it's told of.

    Raises:
        BudgetExceededError: It would pass a limit.
    """
    try:
        redirected: _Redirected | None = request.extensions.pop(_REDIRECTED, None)
        if redirected is not None:
            return redirected.sent(request)
        if recorder.tracker in request.extensions.get(NOTED, ()):
            return UNCOUNTED
        host, path = place or (request.url.host, request.url.path)
        method, body = request.method, body_of(request)
    except Exception as error:  # noqa: BLE001 - counting must not stop the call
        pass_on(error)
        notice("a request could not be noted", error, "it is not counted")
        return UNCOUNTED
    return note(recorder, host, method, path, body, is_streamed=is_streamed)


def answered(
    sent: Sent, request: Any, response: Any, *, is_async: bool, is_followed: bool = True
) -> None:
    """Note what was answered, and read it along.

    Args:
        sent: The request, as it was noted.
        request: The request.
        response: Its answer.
        is_async: Which kind of client or transport it was.
        is_followed: Whether somebody may follow a redirection, by whose request it goes on.
    """
    if sent is UNCOUNTED:
        return
    try:
        if is_followed and response.status_code >= FIRST_ERROR and response.has_redirect_location:
            # The request that follows is made of this one.
            inner = request.extensions.get(_REDIRECTED)
            request.extensions[_REDIRECTED] = _Redirected(sent, inner)
            return
        # Asked one by one, httpx's headers would cost as much as all the rest.
        headers = by_name(response.headers.raw)
        # A client has read it, or a transport that asks nobody has it whole already.
        content = response.content if response.is_stream_consumed else None
        answer = sent.answer(response.status_code, headers, content)
        if answer is not None:
            watch_answer(answer, response, is_async=is_async)
    except Exception as error:  # noqa: BLE001 - a paid answer must not be lost
        sent.missed(error)


class _Redirected:
    """A request that its server sent elsewhere: not followed, it has come to nothing.

    Args:
        sent: The request.
        inner: What another tracker's transport within this one noted of it.
    """

    def __init__(self, sent: Sent, inner: "_Redirected | None") -> None:
        self._sent = sent
        self._inner = inner
        self._lost = weakref.finalize(self, _fail, sent)
        # At exit nobody counts any more.
        self._lost.atexit = False

    def sent(self, request: Any) -> Sent:
        """The request, which goes on."""
        self._lost.detach()
        if self._inner is not None:
            request.extensions[_REDIRECTED] = self._inner
        return self._sent


def _fail(sent: Sent) -> None:
    sent.settle("failed")


def body_of(request: Any) -> bytes | None:
    """The body of a request; `None` if it's a stream, which the transport alone may read."""
    try:
        body: bytes = request.content
    except Exception as error:  # noqa: BLE001 - httpx's RequestNotRead, or httpx2's
        pass_on(error)
        return None
    return body

"""Has every session of requests' be listened to that this process has or makes."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from llama_token_tracker.wire.answers.readers import Along, watch_response
from llama_token_tracker.wire.sending import Sent, by_name, sending


def send(
    wrapped: Callable[..., Any], session: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Around `Session.send`, which all that a session sends passes."""
    request: Any = args[0] if args else kwargs.get("request")
    place = urlsplit(str(getattr(request, "url", "")))
    given: Any = getattr(request, "body", None)
    body = given if isinstance(given, bytes | str) else None
    method = str(getattr(request, "method", ""))
    with sending(session, place.hostname or "", method, place.path, body) as all_sent:
        response = wrapped(*args, **kwargs)
    for sent in all_sent:
        _answered(sent, response, is_read=not kwargs.get("stream", False))
    return response


def _answered(sent: Sent, response: Any, *, is_read: bool) -> None:
    try:
        headers = by_name(response.headers.items())
        answer = sent.answer(response.status_code, headers, is_plain=True)
        if answer is None:
            return
        if is_read:
            answer.take_in_all(response.content)
            return
        raw = response.raw
        watch_response(raw, Along(answer, lambda: False))
        # At exit nobody counts any more.
        weakref.finalize(raw, answer.leave).atexit = False
    except Exception as error:  # noqa: BLE001 - a paid answer must not be lost
        sent.missed(error)

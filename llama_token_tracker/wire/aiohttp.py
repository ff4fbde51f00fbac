"""Has every session of aiohttp's be listened to that this process has or makes."""

import json
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from llama_token_tracker.wire.answers.readers import Along, watch_content
from llama_token_tracker.wire.sending import Sent, by_name, sending


async def request(
    wrapped: Callable[..., Awaitable[Any]],
    session: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Around `ClientSession._request`, which all that a session sends passes."""
    method, url = [*args, *(kwargs.get(name, "") for name in ("method", "str_or_url")[len(args) :])]
    place = urlsplit(str(url))
    body = _body(kwargs)
    with sending(session, place.hostname or "", str(method).upper(), place.path, body) as all_sent:
        response = await wrapped(*args, **kwargs)
    for sent in all_sent:
        _answered(sent, response)
    return response


def _body(options: Mapping[str, Any]) -> bytes | str | None:
    """A request's body; `None` if it's a stream, or a form."""
    data: Any = options.get("data")
    if data is None and options.get("json") is not None:
        return json.dumps(options["json"], default=str)
    return data if isinstance(data, bytes | str) else None


def _answered(sent: Sent, response: Any) -> None:
    try:
        # It decodes what is compressed, unless it's told not to.
        answer = sent.answer(response.status, by_name(response.raw_headers), is_plain=True)
        if answer is not None:
            content = response.content
            watch_content(response, content, Along(answer, content.at_eof))
            # At exit nobody counts any more.
            weakref.finalize(response.content, answer.leave).atexit = False
    except Exception as error:  # noqa: BLE001 - a paid answer must not be lost
        sent.missed(error)

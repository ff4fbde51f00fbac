"""Has every session of aiohttp's be listened to that this process has or makes."""

import json
import weakref
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlsplit

from llama_token_tracker.wire.answers.changed_bodies import change_content
from llama_token_tracker.wire.answers.readers import Along, watch_content
from llama_token_tracker.wire.listening import Listening, asking
from llama_token_tracker.wire.sending import Sent, by_name, sending
from llama_token_tracker.wire.usage_requests import UsageRequest, unless_it_fails, usage_request


async def request(
    wrapped: Callable[..., Awaitable[Any]],
    session: Any,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    """Around `ClientSession._request`, which all that a session sends passes."""
    method, url = [*args, *(kwargs.get(name, "") for name in ("method", "str_or_url")[len(args) :])]
    place = urlsplit(str(url))
    listening = asking(session)
    if listening:
        asked = unless_it_fails(partial(_asked, listening, session, str(method), place, kwargs))
        if asked is not None:
            options, usage = asked
            response = await request(wrapped, session, args, options)
            unless_it_fails(partial(_take_back, response, usage))
            return response
    body = _body(kwargs)
    with sending(session, place.hostname or "", str(method).upper(), place.path, body) as all_sent:
        response = await wrapped(*args, **kwargs)
    for sent in all_sent:
        _answered(sent, response)
    return response


def _asked(
    listening: list[Listening],
    session: Any,
    method: str,
    place: SplitResult,
    options: Mapping[str, Any],
) -> tuple[Mapping[str, Any], UsageRequest] | None:
    """The options of a request that asks for its stream's usage, in the place of these."""
    given: Any = options.get("headers") or {}
    headers = [*session.headers.items(), *(given.items() if hasattr(given, "items") else given)]
    name = "json" if options.get("data") is None else "data"
    body = options.get(name)
    if any(str(header).lower() == "content-length" for header, _ in headers):
        return None  # aiohttp sends it as it is
    host = place.hostname or ""
    usage = usage_request(listening, host, method.upper(), place.path, headers, body)
    return None if usage is None else ({**options, name: usage.body}, usage)


def _take_back(response: Any, usage: UsageRequest) -> None:
    """Have an answer be without what was asked for."""
    passage = usage.passage(response.status)
    if passage is not None:
        change_content(response, passage)


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

"""Requests of httpx's, or of httpx2's, that also ask for the usage of their stream."""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from llama_token_tracker.wire.answers.stream_usage import Decoded
from llama_token_tracker.wire.httpx.requests import body_of
from llama_token_tracker.wire.httpx.streams import change_answer, library_of
from llama_token_tracker.wire.listening import asking
from llama_token_tracker.wire.usage_requests import UsageRequest, unless_it_fails, usage_request


class Asking(NamedTuple):
    """A request that asks, in the place of the program's.

    Attributes:
        given: The program's request.
        request: The one that asks.
        usage: What is asked, and for whom.
    """

    given: Any
    request: Any
    usage: UsageRequest

    def take_back(self, response: Any, *, is_async: bool) -> None:
        """Have an answer be one to the program's request, without what was asked for."""
        unless_it_fails(partial(self._take_back, response, is_async))

    def _take_back(self, response: Any, is_async: bool) -> None:
        encoding = response.headers.get("content-encoding", "")
        passage = self.usage.passage(response.status_code, encoding)
        if passage is not None:
            change_answer(passage, response, is_async=is_async)
        if isinstance(passage, Decoded):
            del response.headers["content-encoding"]
        # Another one was redirected.
        if response.request is self.request:
            response.request = self.given


def asked(client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Asking | None:
    """The request that a client is to send in the place of the one that it was given, if any."""
    listening = asking(client)
    if not listening:
        return None
    given: Any = args[0] if args else kwargs.get("request")
    return unless_it_fails(partial(_asked, listening, given))


def _asked(listening: Any, given: Any) -> Asking | None:
    url, headers = given.url, given.headers
    usage = usage_request(
        listening, url.host, given.method, url.path, headers.items(), body_of(given)
    )
    if usage is None:
        return None
    library: Any = sys.modules[library_of(given, "Request")]
    headers = headers.copy()
    headers["content-length"] = str(len(usage.body))
    request = library.Request(
        given.method, url, headers=headers, content=usage.body, extensions=given.extensions
    )
    return Asking(given, request, usage)

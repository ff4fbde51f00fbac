"""What an error tells of the call that it ended: whether that was billed, and what it used.

An error is read together with its causes, and with the errors within the same call that it was
raised in place of.
"""

import json
from collections.abc import Iterator
from types import FrameType
from typing import Final

from llama_token_tracker.extraction import extract_usage
from llama_token_tracker.extraction.fields import field_in
from llama_token_tracker.usage import Usage

_MOST: Final = 16

_NEVER_SENT: Final = frozenset(
    {
        # httpx and httpcore
        *("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"),
        "LocalProtocolError",
        # botocore, urllib3, aiohttp
        *("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError"),
        *("NewConnectionError", "NameResolutionError", "ClientConnectorError"),
        # Python
        *("ConnectionRefusedError", "gaierror", "SSLCertVerificationError", "NotImplementedError"),
        "BudgetExceededError",
    }
)
"""Errors after which it's known that no request has left, by the names of their classes."""

_LOST: Final = frozenset(
    {
        *("TimeoutException", "ReadError", "WriteError", "RemoteProtocolError"),
        *("ReadTimeoutError", "ReadTimeout", "ConnectionClosedError", "ServerDisconnectedError"),
        # In the middle of an answer whose status was 200.
        *("EventStreamError", "IncompleteReadError", "ResponseStreamingError"),
    }
)
"""Errors after which a request may have been answered, and its answer was not seen."""

_REFUSED: Final = range(300, 600)
_ANSWERS: Final = ("response", "raw_response", "raw", "body", "completion", "llm_output")
_LOCALS: Final = (*_ANSWERS, "result", "message", "chunk", "data")


def is_free(error: BaseException) -> bool:
    """Whether it's known that nothing was billed: no connection, or an HTTP status of an error."""
    for one in _chain(error):
        names = {kind.__name__ for kind in type(one).__mro__}
        if not names.isdisjoint(_NEVER_SENT):
            return True
        if not names.isdisjoint(_LOST):
            return False
        # What botocore itself finds wrong, as credentials, it finds before it sends.
        if _is_refusal(one) or ("BotoCoreError" in names and "HTTPClientError" not in names):
            return True
    return False


def usage_carried(error: BaseException) -> Usage | None:
    """The usage of an answer that an error carries, or that was in hand where it was raised."""
    for one in _chain(error):
        held = [field_in(one, name) for name in _ANSWERS]
        for frame in reversed(_frames(one)):
            # The newest first: an integration's frames hold what the provider's client gave it.
            held += map(frame.f_locals.get, _LOCALS)
        for value in held:
            usage = _usage_in(value)
            if usage is not None:
                return usage
    return None


def _usage_in(value: object) -> Usage | None:
    if field_in(value, "status_code") is not None:
        # Not `content`: of an answer that wasn't read that raises.
        value = field_in(value, "_content")
    if isinstance(value, bytes | str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return None if value is None else extract_usage(value)


def _is_refusal(error: BaseException) -> bool:
    response = field_in(error, "response")
    statuses = [
        field_in(field_in(response, "ResponseMetadata"), "HTTPStatusCode"),
        field_in(response, "status_code"),
        *(field_in(error, name) for name in ("status_code", "status", "code")),
    ]
    return any(isinstance(status, int) and status in _REFUSED for status in statuses)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(_MOST):
        if error is None:
            return
        yield error
        error = error.__cause__ or _context_of(error)


def _context_of(error: BaseException) -> BaseException | None:
    """The error that this one was raised in place of, unless the call was made because of it."""
    context = error.__context__
    trace = None if context is None else context.__traceback__
    if trace is None or trace.tb_frame not in _frames(error):
        return None
    return context


def _frames(error: BaseException) -> list[FrameType]:
    frames: list[FrameType] = []
    trace = error.__traceback__
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    return frames

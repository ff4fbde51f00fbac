"""Counts what clients of providers send, as the answers report it: boto3's, and those on httpx."""

from typing import TYPE_CHECKING, Any

from llama_token_tracker.wire.dialects import Dialect
from llama_token_tracker.wire.operations import WireOperation, register_operation
from llama_token_tracker.wire.watching import Watch, watch

if TYPE_CHECKING:
    from llama_token_tracker.wire.httpx import AsyncWatchingTransport, WatchingTransport

__all__ = [
    "AsyncWatchingTransport",
    "Dialect",
    "Watch",
    "WatchingTransport",
    "WireOperation",
    "register_operation",
    "watch",
]


def __getattr__(name: str) -> Any:
    # Late: httpx is an extra.
    if name in {"AsyncWatchingTransport", "WatchingTransport"}:
        from llama_token_tracker.wire import httpx

        return getattr(httpx, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)

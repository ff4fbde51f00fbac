"""Has every client be listened to that this process has or makes, before its first request."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llama_token_tracker._names import BEDROCK_SERVICE
from llama_token_tracker.wire.listening import heard

_FIRST: Final = f"provide-client-params.{BEDROCK_SERVICE}."
"""How the first event begins that a call of a client's makes."""


def emit(
    wrapped: Callable[..., Any], events: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Around `EventAliaser.emit`, by which clients tell of what they do.

    OpenTelemetry and Datadog wrap `BaseClient._make_api_call`, which is private, and out of which
    OpenTelemetry takes whatever else wraps it as well; nobody wraps this.
    """
    name: Any = args[0] if args else kwargs.get("event_name", "")
    if name.startswith(_FIRST):
        for listening in heard(events):
            listening.botocore.listen(events)
    return wrapped(*args, **kwargs)

"""Has every client be listened to that this process has or makes, before its first request."""

from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import WeakSet

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import BEDROCK_SERVICE
from llama_token_tracker.wire.listening import Listening, heard, listeners

_FIRST: Final = f"before-call.{BEDROCK_SERVICE}."
"""How the event begins that tells of a request before it leaves."""

_heard_by: tuple[tuple[Listening, ...], WeakSet[Any]] = ((), WeakSet())
"""All who listen, and the event systems to which each of them does so already."""


def emit_until_response(
    wrapped: Callable[..., Any], events: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Around `EventAliaser.emit_until_response`, by which clients tell of what may be stopped.

    OpenTelemetry and Datadog wrap `BaseClient._make_api_call`, which is private, and out of which
    OpenTelemetry takes whatever else wraps it as well; nobody wraps this. `emit` is asked for four
    times as often.
    """
    name: Any = args[0] if args else kwargs.get("event_name", "")
    if name.startswith(_FIRST):
        everybody, known = _heard_by
        if everybody is not listeners() or events not in known:
            try:
                _listen(events, kwargs)
            except Exception as error:  # noqa: BLE001 - counting must not stop the call
                notice("a client of boto3's can't be heard", error, "its calls aren't counted")
    return wrapped(*args, **kwargs)


def _listen(events: Any, about: Mapping[str, Any]) -> None:
    """Have all who hear an event system listen to it, from the request on that leaves now."""
    global _heard_by
    everybody, listening = listeners(), heard(events)
    for one in listening:
        if one.botocore.listen(events):
            one.botocore.asked(**about)
    heard_by, known = _heard_by
    if heard_by is not everybody:
        known = WeakSet[Any]()
        _heard_by = everybody, known
    # Who doesn't hear it now may do so later.
    if len(listening) == len(everybody):
        known.add(events)

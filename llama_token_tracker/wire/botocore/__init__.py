"""Watches a boto3 `bedrock-runtime` client: every call counts as AWS reports it.

It listens to botocore's own events and changes no request. AWS states the tokens of InvokeModel
in headers, which frameworks drop, embeddings' included. Importing this loads no botocore.
"""

import json
import sys
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import BEDROCK, BEDROCK_SERVICE
from llama_token_tracker.errors import WatchError
from llama_token_tracker.wire.exchange import Exchange
from llama_token_tracker.wire.operations import find, served_in_region
from llama_token_tracker.wire.transcript import Recorder
from llama_token_tracker.wire.uncounted import UncountedRequest

if TYPE_CHECKING:
    from llama_token_tracker.wire.botocore.answers import WatchAnswer

_FIRST_ERROR: Final = 300

UNCOUNTED: Final = (
    "ApplyGuardrail",
    "InvokeGuardrailChecks",
    "InvokeModelWithBidirectionalStream",
    "StartAsyncInvoke",
)
"""Operations that are billed and can't be counted."""

_STUBBER: Final = "botocore.stub"
"""Whoever hasn't imported it stubs no answers."""

_WITHIN: Final = ("_client", "_async_client", "_asession", "client", "async_client")
"""Where models of LlamaIndex and of LangChain keep their clients, and sessions to make them."""


class Watch:
    """What listens to a client. Made by `watch`; as a context manager it stops at the end."""

    def __init__(self, token_counter: Any) -> None:
        self._recorder = Recorder(token_counter)
        # Handlers of one tracker that meet on a client, through its session, count a call once.
        self._key = f"llama_token_tracker:{id(self._recorder.tracker)}"
        self._emitters: list[weakref.ref[Any]] = []
        self._asked_key = f"{self._key}:asked"
        self._operations: dict[str, WatchAnswer] = {}
        self._is_on = False

    def start(self, emitters: list[Any]) -> None:
        """Listen to these event systems."""
        from llama_token_tracker.wire.botocore.answers import OPERATIONS

        self._operations = OPERATIONS
        self._is_on = True
        for emitter in emitters:
            self._emitters.append(weakref.ref(emitter))
            for event, listener in self._events():
                emitter.register(event, listener)

    def stop(self) -> None:
        """Listen no more, nor to clients that a session has made meanwhile."""
        self._is_on = False
        for reference in self._emitters:
            emitter = reference()
            if emitter is not None:
                _watches.get(emitter, {}).pop(self._key, None)
                for event, listener in self._events():
                    emitter.unregister(event, listener)
        self._emitters.clear()

    def _events(self) -> list[tuple[str, Callable[..., None]]]:
        listeners: dict[str, Callable[..., None]] = {
            "before-call": self._before,
            "after-call": self._after,
            "after-call-error": self._failed,
        }
        if _STUBBER in sys.modules:
            listeners["before-parameter-build"] = self._asked
        return [
            (f"{event}.{BEDROCK_SERVICE}.{operation}", listener)
            for event, listener in listeners.items()
            for operation in (*self._operations, *UNCOUNTED)
        ]

    def __enter__(self) -> Self:
        """Listen until the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening; streams that were begun are read to their end."""
        self.stop()

    # --- what botocore calls ---------------------------------------------------------------

    def _asked(self, params: Any, context: Any, **_: Any) -> None:
        """Note what is asked for, as far as a stub may answer it: nothing leaves then."""
        context[self._asked_key] = params

    def _before(self, model: Any, params: Any, context: Any, **_: Any) -> None:
        """Note that a request leaves. Only a budget may stop it."""
        if not self._is_on or self._key in context:
            return
        region = context.get("client_region")
        exchange = self._exchange(params["method"], params["url_path"], params.get("body"), region)
        if exchange is None:
            if model.name in UNCOUNTED:
                self._uncounted(model.name, params.get("body"))
            return
        if exchange.is_limited:
            exchange.reserve()
        # Where its answer is never told of, it's lost with this context.
        context[self._key] = exchange

    def _uncounted(self, name: str, body: Any) -> None:
        """Note a request that can't be counted. Only a budget may stop it."""
        place = f"{BEDROCK_SERVICE}.{name}"
        request = UncountedRequest(self._recorder, BEDROCK, place, body)
        request.reserve()
        request.settle()

    def _exchange(self, method: str, path: str, body: Any, region: Any = None) -> Exchange | None:
        try:
            found = find(BEDROCK_SERVICE, method, path)
            if found is None:
                return None
            exchange = Exchange(
                self._recorder, found.provider, found.model, found.kind, found.dialect, body
            )
            exchange.sent = served_in_region(region)
            return exchange  # noqa: TRY300 - making it is what may fail
        except Exception as error:  # noqa: BLE001 - counting must not stop the call
            notice("a request to Bedrock could not be noted", error, "it is not counted")
            return None

    def _after(self, http_response: Any, parsed: Any, model: Any, context: Any, **_: Any) -> None:
        """Note what was answered."""
        exchange = context.pop(self._key, None)
        try:
            if exchange is None and self._is_on and getattr(http_response, "url", None) is None:
                exchange = self._stubbed(model, context.get(self._asked_key, {}))
            if exchange is None:
                return
            exchange.event_id = parsed.get("ResponseMetadata", {}).get("RequestId", "")
            if http_response.status_code >= _FIRST_ERROR:
                exchange.settle("failed")
            else:
                self._operations[model.name](exchange, parsed)
        except Exception as error:  # noqa: BLE001 - a paid answer must not be lost
            notice("an answer of Bedrock's could not be read", error, "its figures may be missing")
            if exchange is not None:
                exchange.settle("complete")

    def _stubbed(self, model: Any, asked: Any) -> Exchange | None:
        """The request that a stub has answered before anybody saw it leave."""
        # Of a stub that nobody could know of when the client was watched, no request is known.
        name = asked.get("modelId", "")
        path = model.http["requestUri"].replace("{modelId}", name or "unknown")
        body = asked["body"] if "body" in asked else json.dumps({**asked}, default=str)
        exchange = self._exchange(model.http["method"], path, body)
        if exchange is not None:
            exchange.model = name
        return exchange

    def _failed(self, context: Any, **_: Any) -> None:
        """Note that there was no answer."""
        exchange = context.pop(self._key, None)
        if exchange is not None:
            exchange.settle("failed")


# --- what users call -----------------------------------------------------------------------

_watches: Final["weakref.WeakKeyDictionary[Any, dict[str, Watch]]"] = weakref.WeakKeyDictionary()


def watch(client: Any, token_counter: Any) -> Watch:
    """Count every call of a Bedrock client as AWS reports it.

        watch(boto3.client("bedrock-runtime"), token_counter)

    InvokeModel, Converse and their streams are counted, embeddings included; no other operation
    is. A call that a framework makes, and that is counted by `token_counter` anyway, is counted
    once: its event takes AWS's figures. Every other call becomes an event of its own.

    Args:
        client: A `bedrock-runtime` client of boto3, aioboto3 or aiobotocore; a session of
            theirs, for the clients it makes from now on; or a LlamaIndex model that has one.
        token_counter: Who counts: a `TokenCountingHandler`, or a `Tracker`.

    Returns:
        The watch, which may be used as a context manager. Whoever watches twice, watches once.

    Raises:
        WatchError: This client can't be watched, or `token_counter` doesn't count.
    """
    watching = Watch(token_counter)
    emitters = _emitters(client)
    known = [_watches.get(emitter, {}).get(watching._key) for emitter in emitters]  # pyright: ignore[reportPrivateUsage]  # within this module
    for already in known:
        if already is not None and all(other is already for other in known):
            return already
    watching.start(
        [emitter for emitter, already in zip(emitters, known, strict=True) if already is None]
    )
    for emitter, already in zip(emitters, known, strict=True):
        if already is None:
            _watches.setdefault(emitter, {})[watching._key] = watching  # pyright: ignore[reportPrivateUsage]
    return watching


def unwatch(client: Any) -> None:
    """Watch a client no more, whoever counted; nothing happens if it isn't watched.

    Args:
        client: What was given to `watch`.

    Raises:
        WatchError: This client can't be watched at all.
    """
    for emitter in _emitters(client):
        for watching in list(_watches.get(emitter, {}).values()):
            watching.stop()


def _emitters(client: Any) -> list[Any]:
    """The event systems of a client, of a session, or of those that a model has."""
    found = _events_of(client)
    if found is None:
        held = [getattr(client, name, None) for name in _WITHIN]
        events = [_events_of(inner) for inner in held if inner is not None]
        unique = {id(emitter): emitter for emitter in events if emitter is not None}
        if unique:
            return list(unique.values())
        kind = f"{type(client).__module__}.{type(client).__qualname__}"
        msg = (
            f"a {kind} can't be watched: it is no bedrock-runtime client and has none; give one "
            "made by boto3.client('bedrock-runtime'), an aioboto3 client within its `async with`, "
            "a session, or a model that holds one of these."
        )
        raise WatchError(msg)
    return [found]


def _events_of(thing: Any) -> Any:
    """The event system of a client or a session; `None` for anything else.

    Raises:
        WatchError: It's a client of another service.
    """
    meta: Any = getattr(thing, "meta", None)
    service = getattr(getattr(meta, "service_model", None), "service_name", None)
    if isinstance(service, str):
        if service != BEDROCK_SERVICE:
            msg = (
                f"a client of {service} can't be watched, for tokens are used by bedrock-runtime "
                "alone; give boto3.client('bedrock-runtime')."
            )
            raise WatchError(msg)
        return meta.events
    if hasattr(thing, "create_client") and hasattr(thing, "get_component"):
        return thing.get_component("event_emitter")
    events = getattr(thing, "events", None)
    return events if callable(getattr(events, "emit_until_response", None)) else None

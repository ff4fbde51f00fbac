"""Listens to boto3's `bedrock-runtime` clients: every call counts as AWS reports it.

It listens to botocore's own events and changes no request. AWS states the tokens of InvokeModel
in headers, which frameworks drop, embeddings' included. Importing this loads no botocore.
"""

import json
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import BEDROCK, BEDROCK_SERVICE
from llama_token_tracker.errors import WatchError
from llama_token_tracker.events.call import status_after
from llama_token_tracker.wire.exchange import Exchange
from llama_token_tracker.wire.operations import find, served_in_region
from llama_token_tracker.wire.plain import PlainRequest, exchange_of, may_be_plain
from llama_token_tracker.wire.transcript import Recorder
from llama_token_tracker.wire.uncounted import UncountedRequest

if TYPE_CHECKING:
    from llama_token_tracker.wire.botocore.answers import KeepAnswer, WatchAnswer

_FIRST_ERROR: Final = 300

UNCOUNTED: Final = (
    "ApplyGuardrail",
    "InvokeGuardrailChecks",
    "InvokeModelWithBidirectionalStream",
    "StartAsyncInvoke",
)
"""Operations that are billed and can't be counted."""

_AGAIN: Final = f"request-created.{BEDROCK_SERVICE}"
"""The event that tells of each attempt."""

_UNSEEN: Final = object()
"""Stands for a request that nobody saw leave."""

_COUNTED: Final = (Exchange, PlainRequest)

_STUBBER: Final = "botocore.stub"
"""Whoever hasn't imported it stubs no answers."""


class Listener:
    """What listens to clients, through their event systems.

    Args:
        recorder: Where their requests go.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._tracker = tracker = recorder.tracker
        # Of one tracker's that meet on a client, through its session, one counts a call.
        self._key = f"llama_token_tracker:{id(tracker)}"
        self._asked_key, self._lost_key = f"{self._key}:asked", f"{self._key}:lost"
        self._heard: weakref.WeakSet[Any] = weakref.WeakSet()
        self._operations: dict[str, WatchAnswer] = {}
        self._plain_operations: dict[str, KeepAnswer] = {}
        self._is_on = True
        # Empty once an attempt was lost: of two threads one takes it out.
        self._none_lost = [True]

    def listen(self, emitter: Any, *, makes_clients: bool = False) -> bool:
        """Listen to an event system.

        Args:
            emitter: The event system.
            makes_clients: Whether it's a session's, whose clients take over what listens to it.

        Returns:
            `False` if it listens already.
        """
        if emitter in self._heard:
            return False
        from llama_token_tracker.wire.botocore.answers import OPERATIONS, PLAIN_OPERATIONS

        self._operations, self._plain_operations = OPERATIONS, PLAIN_OPERATIONS
        self._heard.add(emitter)
        for event, listener in self._events():
            emitter.register(event, listener)
        # Of most clients' calls none is ever tried again; and those of a session aren't known.
        if makes_clients or not self._none_lost:
            emitter.register(_AGAIN, self._again)
        return True

    def stop(self) -> None:
        """Listen no more, nor to clients that a session has made meanwhile."""
        self._is_on = False
        for emitter in list(self._heard):
            for event, listener in [*self._events(), (_AGAIN, self._again)]:
                emitter.unregister(event, listener)
        self._heard.clear()

    def _events(self) -> list[tuple[str, Callable[..., None]]]:
        listeners: dict[str, Callable[..., None]] = {
            "before-call": self._before,
            "after-call": self._after,
            "after-call-error": self._failed,
            "needs-retry": self._attempted,
        }
        if _STUBBER in sys.modules:
            listeners["before-parameter-build"] = self.asked
        return [(f"{event}.{BEDROCK_SERVICE}", listener) for event, listener in listeners.items()]

    # --- what botocore calls ---------------------------------------------------------------

    def asked(self, params: Any, context: Any, **_: Any) -> None:
        """Note what is asked for, as far as a stub may answer it: nothing leaves then."""
        context[self._asked_key] = params

    def _before(self, model: Any, params: Any, context: Any, **_: Any) -> None:
        """Note that a request leaves. Only a budget may stop it."""
        if not self._is_on or self._key in context or not self._recorder.takes():
            return
        body, name = params.get("body"), model.name
        may_wait = name in self._plain_operations
        if may_wait or name not in UNCOUNTED:
            self._leaves(context, params["method"], params["url_path"], body, may_wait)
        else:
            place = f"{BEDROCK_SERVICE}.{name}"
            request = UncountedRequest(self._recorder, BEDROCK, place, body)
            request.reserve()
            context[self._key] = request

    def _leaves(self, context: Any, method: str, path: str, body: Any, may_wait: bool) -> None:
        recorder, tracker = self._recorder, self._tracker
        try:
            found = find(BEDROCK_SERVICE, method, path)
            if found is None:
                return
            sent = served_in_region(context.get("client_region"))
            owned = tracker.owners.around(found.provider)
            if may_wait and may_be_plain(owned, tracker):
                context[self._key] = PlainRequest(recorder, found, body, sent)
                return
            exchange = exchange_of(recorder, found, body, sent, owned)
        except Exception as error:  # noqa: BLE001 - counting must not stop the call
            notice("a request to Bedrock could not be noted", error, "it is not counted")
            return
        if exchange.is_limited:
            exchange.reserve()
        # Where its answer is never told of, it's lost with this context.
        context[self._key] = exchange

    def _attempted(
        self, caught_exception: BaseException | None, request_dict: Any, **_: Any
    ) -> None:
        """Note that an attempt of a call that may be retried was lost, if it was."""
        if caught_exception is None or status_after(caught_exception) != "unanswered":
            return
        context = request_dict["context"]
        request = context.get(self._key)
        if isinstance(request, _COUNTED):
            del context[self._key]
            request.settle("unanswered")
            context[self._lost_key] = True
            self._hear_again()

    def _hear_again(self) -> None:
        """From the first attempt on that's lost, hear of those that follow."""
        try:
            self._none_lost.pop()
        except IndexError:
            return
        for emitter in list(self._heard):
            # Twice on one that is a session's doesn't matter: a lost attempt is taken out.
            emitter.register(_AGAIN, self._again)

    def _again(self, request: Any, **_: Any) -> None:
        """Note that botocore tries again what was lost. Only a budget may stop it."""
        if request.context.pop(self._lost_key, False):
            path: str = urlsplit(str(request.url)).path
            self._leaves(request.context, request.method, path, request.data, False)

    def _after(self, http_response: Any, parsed: Any, model: Any, context: Any, **_: Any) -> None:
        """Note what was answered."""
        request = context.get(self._key, _UNSEEN)
        # Of two listeners of one tracker the other one finds that it's noted.
        context[self._key] = None
        if request is None:
            return
        try:
            # By its own name, `content`, what hasn't been read yet would be read here.
            content: bytes = getattr(http_response, "_content", None) or b""
            is_good, name = http_response.status_code < _FIRST_ERROR, model.name
            provider_id: str = parsed.get("ResponseMetadata", {}).get("RequestId", "")
            if request.__class__ is PlainRequest:
                request.provider_id = provider_id
                if is_good and self._plain_operations[name](request, parsed, content):
                    return
                request = request.exchange()
            else:
                if request.__class__ is not Exchange:
                    request = self._unusual(request, http_response, model, context)
                    if request is None:
                        return
                request.told_id(provider_id)
            if is_good:
                self._operations[name](request, parsed, content)
            else:
                request.settle("failed")
        except Exception as error:  # noqa: BLE001 - a paid answer must not be lost
            notice("an answer of Bedrock's could not be read", error, "its figures may be missing")
            if isinstance(request, _COUNTED):
                request.settle("complete")

    def _unusual(
        self, request: Any, http_response: Any, model: Any, context: Any
    ) -> Exchange | None:
        """The request that a stub has answered before anybody saw it leave, if it's that.

        What can't be counted is settled.
        """
        if isinstance(request, UncountedRequest):
            request.settle(is_free=http_response.status_code >= _FIRST_ERROR)
            return None
        is_stubbed = getattr(http_response, "url", None) is None
        if not (is_stubbed and self._is_on and self._recorder.takes()):
            return None
        # Of a stub that nobody could know of when the client was watched, no request is known.
        asked = context.get(self._asked_key)
        method, path, body = _request(model, asked or {})
        found = find(BEDROCK_SERVICE, method, path)
        if found is None:
            return None
        sent = served_in_region(context.get("client_region"))
        exchange = exchange_of(self._recorder, found, body, sent)
        if asked is None:
            exchange.model = ""
        return exchange

    def _failed(self, exception: BaseException, context: Any, **_: Any) -> None:
        """Note that there was no answer."""
        status = status_after(exception)
        request = context.pop(self._key, None)
        if isinstance(request, UncountedRequest):
            request.settle(is_free=status == "failed")
        elif request is not None:
            request.settle(status)


def _request(model: Any, asked: Any) -> tuple[str, str, Any]:
    """Method, path and body of what is asked for, whether a request was made of it or not yet."""
    if "url_path" in asked:
        return asked["method"], asked["url_path"], asked["body"]
    name = quote(str(asked.get("modelId", ""))) or "unknown"
    body = asked["body"] if "body" in asked else json.dumps({**asked}, default=str)
    return model.http["method"], model.http["requestUri"].replace("{modelId}", name), body


def emitter_of(thing: Any) -> Any:
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

"""Calls of which the dispatcher tells, and no callback that reaches the handler.

They are structured calls that some integrations make, and every other call for who counts
everywhere. The dispatcher swallows what is raised here, so that a budget can't stop them at their
start: it holds what they may use, and refuses their requests as these leave.
"""

import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.span import active_span_id

from llama_token_tracker._background import soon
from llama_token_tracker._lock import is_sent, pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.events.call import MAX_OPEN, Settings
from llama_token_tracker.llama_index.base_classes import CoreHandler, active_instrument_tags
from llama_token_tracker.llama_index.open_calls import OpenCall
from llama_token_tracker.llama_index.payloads import serialized, start_of, users_tags
from llama_token_tracker.llama_index.recorder import Recorder, call_of
from llama_token_tracker.tracking.scopes import has_open_scope
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire.watching import watch_for_budgets

_LLM: Final = CBEventType.LLM
_EMBEDDING: Final = CBEventType.EMBEDDING


class SpanRecorder(Recorder):
    """Records what spans tell of beside what callbacks do; one of the dispatcher's listeners.

    Args:
        hears_all: Whether it counts every call of LlamaIndex, whatever manager its model has.

    Attributes:
        hears_all: Whether it does so now.
        adopts: Whether it ever did, so that a callback may tell of a call that is open already.
    """

    def __init__(
        self,
        handler: CoreHandler,
        tracker: Tracker,
        settings: Settings,
        tell: Callable[[str], object] | None,
        *,
        hears_all: bool,
    ) -> None:
        super().__init__(handler, tracker, settings, tell)
        self.hears_all = self.adopts = hears_all
        self._watches_for_budgets = False
        # By the span of a method that embeds texts, the calls in it that are open, oldest first.
        self._embedding: dict[str, deque[str]] = {}

    # --- what callbacks tell of ------------------------------------------------------------

    def start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any],
        event_id: str,
        ignored: Collection[CBEventType],
    ) -> OpenCall | None:
        """Open the call that starts here, as far as it can be read.

        Args:
            event_type: Its type.
            payload: What the callback manager tells of it.
            event_id: Its id.
            ignored: Types of calls whose ends aren't told of, so that they stay closed.
        """
        call: OpenCall | None = None
        try:
            span_id = active_span_id.get()
            if self.adopts and event_type != _EMBEDDING:
                call = self.calls.adopt(span_id, event_id)
                if call is not None:
                    return call
            call = call_of(payload, event_id, span_id)
            tags = active_instrument_tags.get()
            if tags or has_open_scope():
                call.context = self.tracker.context(users_tags(tags))
            if event_type == _EMBEDDING:
                self.batches.embeds(call)
            if event_type not in ignored:
                self.calls.start(call)
        except BaseException as error:
            if is_sent(error):
                self.calls.retract(call)
                raise
            # Counting must not stop the call.
            notice("a start could not be noted", error, "its end is counted alone")
        return call

    # --- calls to language models ----------------------------------------------------------

    def entered(self, span_id: str, model: object, arguments: Mapping[str, Any]) -> None:
        """Open the call of a method that calls a model; a callback may take it over."""
        handler, is_told = self._handler(), self._is_told(model)
        if handler is None:
            return
        ignored = [*handler.event_ends_to_ignore]
        if is_told:
            ignored += handler.event_starts_to_ignore
        if not isinstance(model, BaseLLM):
            if not is_told and _EMBEDDING not in ignored and len(self._embedding) < MAX_OPEN:
                self._embedding[span_id] = deque()
        elif _LLM not in ignored:
            call = call_of(start_of(model, arguments), span_id, span_id)
            call.has_callback = False
            self._open(call, is_told=is_told)

    def asked_for_structure(self, span_id: str, llm: object, arguments: Mapping[str, Any]) -> None:
        """Open a call, for some integrations ask the provider here without a callback."""
        is_told = self._is_told(llm)
        if not (is_told or (self.hears_all and isinstance(llm, BaseLLM))):
            return
        model = serialized(llm) if isinstance(llm, BaseLLM) else None
        call = OpenCall(span_id, dict(arguments), model, span_id)
        call.has_callback = call.trusts_raw = call.is_plain = False
        call.is_structured = True
        self._open(call, is_told=is_told)
        if self.tracker.limits(call.context):
            self._watch_for_budgets()

    def begun(self, span_id: str) -> None:
        """Note that the dispatcher is told of this call's chunks and end."""
        call = self.calls.by_id.get(span_id)
        if call is not None and not call.is_structured:
            call.has_callback = True

    def left(self, span_id: str, result: object, error: BaseException | None) -> None:
        """Count a call whose method has returned or raised, if it has asked no other."""
        call = self.calls.by_id.get(span_id)
        if call is not None:
            self._end(call, {EventPayload.RESPONSE: result, EventPayload.EXCEPTION: error})

    def ended(self, span_id: str, response: object, error: BaseException | None) -> None:
        """Count a call whose stream is over."""
        call = self.calls.by_id.get(span_id)
        # Of all others their method's end tells.
        if call is not None and call.is_streamed:
            self._end(call, {EventPayload.RESPONSE: response, EventPayload.EXCEPTION: error})

    # --- embeddings ------------------------------------------------------------------------

    def embeds(self, span_id: str, event_id: str, model: dict[str, Any]) -> None:
        """Open a call that embeds texts, if no callback tells of it."""
        embedding = self._embedding.get(span_id)
        if embedding is not None:
            call = call_of({EventPayload.SERIALIZED: model}, event_id, span_id)
            self.batches.embeds(call)
            embedding.append(event_id)
            self._open(call, is_told=False)

    def embedded(self, span_id: str, chunks: Sequence[str]) -> None:
        """Count such a call: of those within one method the first to start is the first to end."""
        embedding = self._embedding.get(span_id)
        if embedding:
            call = self.calls.by_id.get(embedding.popleft())
            if call is not None:
                self._end(call, {EventPayload.CHUNKS: chunks})

    def left_embedding(self, span_id: str, error: BaseException | None) -> None:
        """Count what is open in a method that is over, and let the watch count what it has seen.

        LlamaIndex tells no end of batches that were under way together if one of them failed, and
        older versions of none that a cache has served.
        """
        by_id = self.calls.by_id
        begun = self._embedding.pop(span_id, ())
        if error is not None:
            for call in list(by_id.values()):
                if call.operation == "embedding" and call.span_id == span_id:
                    self.end_embedding({EventPayload.EXCEPTION: error}, call.event_id)
        for call in filter(None, map(by_id.get, begun)):
            self._end(call, {EventPayload.CHUNKS: call.texts})
        self.batches.leave(span_id)

    # --- either ----------------------------------------------------------------------------

    def unheard(self, span_id: str, *, nests: bool) -> None:
        """Note a call of which no callback will tell, nor a watched client, nor one around it."""
        if self.tracker.is_watching or (nests and self.calls.current(span_id) is not None):
            return
        name = span_id.partition("-")[0]
        self.tracker.note_uncounted(name, self.tracker.context({}))
        consequence = "it is in `uncounted`; TokenCountingHandler(everywhere=True) counts it"
        notice("a model calls without this handler: {}", name, consequence, name)

    def _is_told(self, model: object) -> bool:
        """Whether a model's own manager has this handler."""
        manager, handler = getattr(model, "callback_manager", None), self._handler()
        handlers: Sequence[object] = getattr(manager, "handlers", ())
        return handler is not None and any(known is handler for known in handlers)

    def _open(self, call: OpenCall, *, is_told: bool) -> None:
        try:
            call.context = self.tracker.context(users_tags(active_instrument_tags.get()))
        except Exception as error:  # noqa: BLE001 - tags may be anything
            notice("the tags of a call could not be read", error, "it is counted without them")
        self.calls.start(call)
        if not is_told and (self.tracker.is_limited or call.context is not None):
            self._reserve(call)

    def _reserve(self, call: OpenCall) -> None:
        """Hold in the budgets what a call may use, or have its requests refused."""
        refusal = None if call.parent is None else call.parent.refusal
        try:
            if refusal is None:
                self.tracker.reserve(call)
        except Exception as error:  # noqa: BLE001 - what a budget raises is up to its user
            pass_on(error)
            # Its frames would hold the call, and that holds it.
            refusal = error.with_traceback(None)
        if refusal is not None:
            self._refuse(call, refusal)

    def _refuse(self, call: OpenCall, refusal: Exception) -> None:
        call.refusal = refusal
        batch = self.batches.within(call.span_id or "")
        if batch is not None:
            batch.refusal = refusal
        self._watch_for_budgets()

    def _watch_for_budgets(self) -> None:
        """Hear requests that only then can be refused, or held in the budgets."""
        handler = self._handler()
        if handler is not None and not self._watches_for_budgets:
            self._watches_for_budgets = True
            weakref.finalize(handler, soon, watch_for_budgets(handler)).atexit = False

    def _end(self, call: OpenCall, payload: dict[str, Any]) -> None:
        """Count a call that has ended."""
        end = self.end_embedding if call.operation == "embedding" else self.end
        try:
            has_gone_on = payload.get(EventPayload.EXCEPTION) is None and not call.is_stopped
            if call.refusal is not None and has_gone_on:
                name = (call.span_id or "").partition("-")[0]
                notice("a budget could not stop a call: {}", name, "it is charged", name)
            end(payload, call.event_id)
        except BaseException as error:
            if is_sent(error):
                self.resume(call, payload)
                raise
            notice("an end could not be counted", error, "its call is not counted")

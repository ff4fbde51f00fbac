"""From what LlamaIndex tells of a call to the call that has ended: starts, ends, spans, chunks."""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from time import perf_counter, time
from typing import Any, Final

from llama_index.core.callbacks.schema import EventPayload
from llama_index.core.instrumentation.span import active_span_id

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import RETURNS_USERS_OBJECT
from llama_token_tracker.events.call import Settings, status_after
from llama_token_tracker.events.event import Status, TokenCountingEvent
from llama_token_tracker.events.settle import Ended, Ending
from llama_token_tracker.events.transcripts import (
    EmbeddingTranscript,
    PlainTranscript,
    SentTranscript,
    Transcript,
)
from llama_token_tracker.extraction import (
    SILENT,
    Reported,
    extract_parts,
    is_deferred,
    usage_parts,
)
from llama_token_tracker.extraction.fields import field_in
from llama_token_tracker.extraction.reader import UsageParts
from llama_token_tracker.extraction.texts import Words, held_bytes, plain_words, written
from llama_token_tracker.llama_index.base_classes import CoreEvent, CoreHandler
from llama_token_tracker.llama_index.embeddings import Batches
from llama_token_tracker.llama_index.open_calls import (
    OpenCall,
    OpenCalls,
    Outcome,
    outcome_of,
)
from llama_token_tracker.llama_index.payloads import (
    DICTS,
    LISTS,
    formatted,
    options_of,
    transcript_of,
)
from llama_token_tracker.llama_index.span_tree import SPANS
from llama_token_tracker.tokenizers.request_fields import NONE
from llama_token_tracker.tracking.charging import release, take_reservation
from llama_token_tracker.tracking.correlation import (
    UNKNOWN_OWNER,
    RequestOwner,
    is_running,
)
from llama_token_tracker.tracking.pending import Pending
from llama_token_tracker.tracking.tracker import Tracker

_MESSAGES: Final = EventPayload.MESSAGES
_PROMPT: Final = EventPayload.PROMPT
_RESPONSE: Final = EventPayload.RESPONSE
_COMPLETION: Final = EventPayload.COMPLETION
_EXCEPTION: Final = EventPayload.EXCEPTION
_SERIALIZED: Final = EventPayload.SERIALIZED
_CHUNKS: Final = EventPayload.CHUNKS
_ADDITIONAL: Final = EventPayload.ADDITIONAL_KWARGS


@dataclass(repr=False)
class LlamaIndexEvent(TokenCountingEvent, CoreEvent):
    """A `TokenCountingEvent` that is one of LlamaIndex's too."""


class Recorder:
    """Records the calls of one handler.

    It doesn't keep the handler alive, and goes with it.

    Args:
        handler: The callback handler, which may be in many managers.
        tracker: Where calls are recorded.
        settings: How their events are made.
        tell: Prints the figures of each call, if that's wanted.

    Attributes:
        calls: Those that are open.
        batches: The embedding calls among them.
    """

    def __init__(
        self,
        handler: CoreHandler,
        tracker: Tracker,
        settings: Settings,
        tell: Callable[[str], object] | None,
    ) -> None:
        self._handler = weakref.ref(handler)
        self.tracker = tracker
        self.settings = settings
        self._tell = None if tell is None else weakref.WeakMethod(tell)
        self.calls = OpenCalls(SPANS, self._settle)
        self.batches = Batches()
        self._known_answers = tracker.answers.known
        self.chunk = self.calls.chunk
        self.returned = self.calls.returned

    def has_open_calls(self) -> bool:
        """Whether any call is open."""
        return bool(self.calls.by_id)

    def find_owner(self, _provider: str | None, /) -> RequestOwner | None:
        """Find the call that a request belongs to which leaves here and now."""
        active = span_id = active_span_id.get()
        if active is None and not self.calls.by_id:
            return None
        while span_id is not None and not SPANS.is_call(span_id):
            batch = self.batches.within(span_id)
            if batch is not None:
                return batch
            span_id = SPANS.parent(span_id)
        call = self.calls.current(active)
        if call is None and active is None and is_running("llama_index.llms."):
            return UNKNOWN_OWNER
        return call

    # --- where calls end -------------------------------------------------------------------

    def end(self, payload: dict[str, Any], event_id: str) -> None:
        """Record the call that ends here, and whatever is settled by that."""
        response, error = payload.get(_RESPONSE), None
        if response is None:
            response, error = payload.get(_COMPLETION), payload.get(_EXCEPTION)
        call = self.calls.end_plainly(event_id)
        if call is not None:
            # Most calls: neither made nor was made by another, nor streamed.
            if error is not None or not self._record_later(call, response):
                self.record(outcome_of(call, response, error))
        else:
            self._end_others(payload, event_id, response, error)

    def _end_others(
        self, payload: dict[str, Any], event_id: str, response: object, error: BaseException | None
    ) -> None:
        """Record a call that isn't plain, and those that are settled with it."""
        outcomes = self.calls.end(event_id, response, error)
        if outcomes is not None:
            for one in outcomes:
                if not self._is_handed_on(one):
                    self.record(one)
        # The echo of a stream that was dropped before is counted already.
        elif status_after(error) != "abandoned":
            # Fed by hand, without a start.
            self.record(outcome_of(call_of(payload, event_id), response, error))

    def _is_handed_on(self, outcome: Outcome) -> bool:
        """Whether an answer is one that's recorded already, or will be: quick if none is known."""
        call = outcome.call
        if not (self._known_answers or self.calls.by_id or call.has_lost):
            return False
        return outcome.status == "complete" and _is_elsewhere(self, call, outcome.response)

    def _record_later(self, call: OpenCall, response: object) -> bool:
        """Record a plain call whose figures and texts can all be read later.

        Returns:
            Whether it's done with, as one is that has handed on another's answer; `False` if it's
            to be read at once.
        """
        if (self.calls.by_id or self._known_answers) and _is_elsewhere(self, call, response):
            return True
        if self._tell is not None:
            return False
        parts = usage_parts(response)
        if parts is None:
            return False
        words = plain_words(call.prompt, response)
        if words is None:
            return False
        # Kept on the call, in case that something interrupts this.
        pending = call.pending = Pending(
            (
                _plainly_ended,
                call,
                time(),
                perf_counter(),
                parts,
                words,
                NONE if call.options is None else options_of(call.options),
                self.settings,
            ),
            held_bytes(words),
            call.context,
            None if call.reservation is None else take_reservation(call),
        )
        self.tracker.add(pending)
        # The program's own objects are let go of.
        call.prompt = call.options = None
        return True

    def resume(self, call: OpenCall | None, payload: dict[str, Any]) -> None:
        """Record a call whose end was interrupted, and each call in it, once."""
        if call is None:
            return  # it's over already, or was fed by hand
        response, error = payload.get(_RESPONSE), payload.get(_EXCEPTION)
        response = payload.get(_COMPLETION) if response is None else response
        for outcome in self.calls.interrupted(call, response, error):
            pending = outcome.call.pending
            if pending is not None:
                self.tracker.add(pending)  # if it waits already, it's listed once
            elif call.operation == "embedding":
                self._record_embedding(call, payload.get(_CHUNKS) or (), outcome.status)
            else:
                self.record(outcome)

    def record(self, outcome: Outcome) -> None:
        """Record an innermost call, of which something is unusual."""
        call, response, status, reported = outcome
        prompt, answer = call.prompt, response
        if call.is_structured:
            prompt = formatted(prompt)
            answer = None if response is None else written(response)
        settings = self.settings
        transcript = transcript_of(
            prompt,
            answer,
            call.options,
            keeps_text=settings.keeps_text,
            reported=reported,
        )
        requests = call.requests
        if requests is not None and len(requests) == 1 and not reported.covers_input:
            transcript = SentTranscript(transcript, requests[0])
        pending = call.pending = Pending(
            (
                _ended,
                call,
                reported,
                transcript,
                status,
                time(),
                perf_counter(),
                response is not None,
                settings,
            ),
            transcript.held_bytes,
            call.outermost.context,
            take_reservation(call),
        )
        self.tracker.add(pending)
        # The program's own objects are let go of.
        call.prompt = call.progress = call.options = None
        if self._tell is not None and not outcome.is_free:
            for event in pending.events():
                _say(
                    self._tell,
                    f"LLM Prompt Token Usage: {event.prompt_token_count}\n"
                    f"LLM Completion Token Usage: {event.completion_token_count}",
                )

    def end_embedding(self, payload: dict[str, Any], event_id: str) -> None:
        """Record an embedding call that ends here: all of its texts together."""
        outcomes = self.calls.end(event_id, None, payload.get(_EXCEPTION))
        if outcomes is not None and not outcomes:
            return  # counted already: the handler is in its manager twice
        call = outcomes[0].call if outcomes else call_of(payload, event_id)
        call.operation = "embedding"
        status = status_after(payload.get(_EXCEPTION))
        self._record_embedding(call, payload.get(_CHUNKS) or (), status)

    def _record_embedding(self, call: OpenCall, chunks: Iterable[object], status: Status) -> None:
        if status in ("unanswered", "abandoned") and not self._is_counted(call):
            chunks = call.texts or ()
        groups = self.batches.groups(call, chunks)
        duration_s = perf_counter() - call.began
        transcript = EmbeddingTranscript(groups)
        ending = Ending(status, time() - duration_s, duration_s, has_answer=False)
        pending = call.pending = Pending(
            Ended(call, SILENT, transcript, ending, self.settings),
            transcript.held_bytes,
            call.context,
            take_reservation(call),
        )
        self.tracker.add(pending)
        if self._tell is not None:
            total = sum(event.prompt_token_count for event in pending.events())
            _say(self._tell, f"Embedding Token Usage: {total}")

    def _is_counted(self, call: OpenCall) -> bool:
        """Whether a watched client has told of an embedding call's requests that were lost."""
        batch = None if call.span_id is None else self.batches.within(call.span_id)
        return batch is not None and batch.has_lost

    def _settle(self, outcome: Outcome) -> None:
        """Record a call that ended without a word."""
        call = outcome.call
        try:
            if call.operation == "embedding":
                self._record_embedding(call, (), outcome.status)
            else:
                self.record(outcome)
        except Exception as error:  # noqa: BLE001 - called from anywhere
            notice("a call could not be counted", error, "it is left out")


def _is_elsewhere(recorder: Recorder, call: OpenCall, response: object) -> bool:
    """Whether a call has only handed on an answer that is recorded already, or will be."""
    answers, others = recorder.tracker.answers, recorder.calls.by_id
    raw = field_in(response, "raw")
    # Whoever has sent a request hands on nobody else's answer.
    if raw is None or not call.trusts_raw or call.requests:
        return False
    is_elsewhere = (call.has_lost and is_deferred(raw)) or answers.hands_on(
        [raw], call.began, call.maker, is_alone=not others
    )
    if is_elsewhere:
        release(call)
    return is_elsewhere


def _say(tell: "weakref.WeakMethod[Callable[[str], object]] | None", text: str) -> None:
    """Print a text, if that's wanted and the handler is still there."""
    method = None if tell is None else tell()
    if method is not None:
        method(text)


def call_of(payload: dict[str, Any], event_id: str, span_id: str | None = None) -> OpenCall:
    """Make a call of the payload of its start; of its end, if there was no start."""
    about: Any = payload.get(_SERIALIZED)
    prompt: Any = payload.get(_MESSAGES)
    if prompt is None:
        prompt = payload.get(_PROMPT)
    elif type(prompt) in LISTS:
        # A copy: the user's list may grow while the call runs.
        prompt = tuple(prompt)
    call = OpenCall(event_id, prompt, about, span_id)
    options: Any = payload.get(_ADDITIONAL)
    if options:
        call.options = options
    if SPANS.notes and span_id is not None:
        _add_notes(call, span_id)
    if type(about) in DICTS and about.get("class_name") in RETURNS_USERS_OBJECT:
        call.trusts_raw = call.is_plain = False
    return call


def _add_notes(call: OpenCall, span_id: str) -> None:
    """Add what its method's model is set to, and the URL that it asks."""
    notes = SPANS.notes.get(span_id)
    if notes is None:
        return
    settings, options = notes.settings, call.options
    if settings is not None:
        call.options = {**settings, **options} if type(options) in DICTS else options or settings
    about: Any = call.about
    if notes.url is not None and type(about) in DICTS:
        call.about = {**about, "api_base": notes.url}


def _ended(
    call: OpenCall,
    reported: Reported,
    answer: Transcript,
    status: Status,
    ended_s: float,
    ended: float,
    has_answer: bool,
    settings: Settings,
) -> Ended:
    duration_s = ended - call.began
    ending = Ending(status, ended_s - duration_s, duration_s, has_answer)
    return Ended(call, reported, answer, ending, settings)


def _plainly_ended(
    call: OpenCall,
    ended_s: float,
    ended: float,
    parts: UsageParts,
    words: Words,
    options: Mapping[str, Any],
    settings: Settings,
) -> Ended:
    """What is known of a call that gave its answer; read when somebody asks."""
    answer = PlainTranscript(words, settings.keeps_text, options)
    return _ended(call, extract_parts(parts), answer, "complete", ended_s, ended, True, settings)

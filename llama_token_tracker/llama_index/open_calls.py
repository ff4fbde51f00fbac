"""Calls of LlamaIndex that have started and not ended: who is inside whom, and how far each is.

A call of LlamaIndex often makes another: `complete()` asks `chat()`, a structured LLM asks
the one it wraps. Only the innermost spoke to the provider, so only it becomes an event. Who
is inside whom is known from the span tree, and for streams that start lazily from the
generator that is running; neither order nor texts are ever compared.

Nothing here knows LlamaIndex's classes. The handler tells of starts and ends, `instrumentation`
of spans and chunks; what comes out is an `Outcome` for every call that is now settled.
"""

import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from time import perf_counter
from types import AsyncGeneratorType, FrameType, GeneratorType
from typing import Any, NamedTuple, Protocol, TypeAlias

from llama_token_tracker._background import run_late, soon
from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker.events.call import (
    LOOKED_AT_EVERY,
    MAX_OPEN,
    Call,
    is_given_up,
    status_after,
)
from llama_token_tracker.events.event import Status
from llama_token_tracker.events.failures import usage_carried
from llama_token_tracker.extraction import (
    SILENT,
    Reported,
    believed,
    combined,
    extract_reported,
    is_silent,
)
from llama_token_tracker.extraction.fields import as_fields, field_in
from llama_token_tracker.llama_index.payloads import expected_tokens, provider_and_model
from llama_token_tracker.llama_index.progress import Progress
from llama_token_tracker.tracking.charging import CallReservation, take_reservation
from llama_token_tracker.tracking.correlation import AnsweredRequest
from llama_token_tracker.tracking.pending import Pending

Stream: TypeAlias = "GeneratorType[Any, Any, Any] | AsyncGeneratorType[Any, Any]"


class SpanTree(Protocol):
    """What is known of the dispatcher's spans."""

    def parent(self, span_id: str) -> str | None:
        """The span that this one was entered in, if both are still known."""
        ...

    def is_call(self, span_id: str) -> bool:
        """Whether this is the span of a method that calls a language model."""
        ...


class OpenCall(Call):
    """A call that has started.

    Attributes:
        prompt: What was asked, as LlamaIndex handed it over.
        about: What else LlamaIndex said of it.
        options: What else was passed to it: tools, among others.
        texts: The texts that it embeds, as far as they are known; `None` if it embeds none.
        served: Which of these a cache will serve; `None` if that can't be told.
        is_plain: Whether it neither made nor was made by another, nor streamed, nor was told of
            on the wire: most are.
        nests: Whether it can be part of another call: embedding texts is not.
        has_callback: Whether callback handlers are told of it, and the dispatcher of its end.
        asks_unheard: Whether it has returned a stream that asks a provider, or asked for it, with
            nobody being told: a generator of its own that called no other method.
        trusts_raw: Whether what it returns as `raw` comes from a provider.
        inner: The calls that it made itself, if any.
        starts: How often it was started: a handler that sits in a manager twice is told of each
            start and each end twice.
        is_settled: Whether its outcome is known, or that it has none of its own.
        is_free: Whether an error came before anything was billed; known once it has ended.
        outcome: Its outcome, kept back because the call around it may know more.
        stream: The generator that it returned.
        progress: How far that has come.
        requests: Requests that a watched client sent for it, whose answers have begun.
        pending: What it is recorded as.
        has_lost: Whether one of its requests wasn't answered, and is counted by itself.
    """

    parent: "OpenCall | None" = None  # pyright: ignore[reportIncompatibleVariableOverride]  # none else makes one
    inner: "list[OpenCall] | None" = None
    starts: int = 1
    is_settled: bool = False
    is_free: bool = False
    trusts_raw: bool = True
    nests: bool = True
    outcome: "Outcome | None" = None
    stream: "weakref.ref[Stream] | None" = None
    progress: Progress | None = None
    has_callback: bool = True
    asks_unheard: bool = False
    options: Any = None
    requests: list[AnsweredRequest] | None = None
    has_lost: bool = False
    texts: list[str] | None = None
    pending: Pending | None = None
    served: frozenset[str] | None = frozenset()

    def __init__(
        self, event_id: str, prompt: object, about: object, span_id: str | None = None
    ) -> None:
        self.event_id = event_id
        self.prompt = prompt
        self.about = about
        self.span_id = span_id
        if type(prompt) is str:
            self.operation = "completion"
        # What is asked of every call is quicker to find here than on the class.
        self.is_plain = True
        self.context = None
        self.began = perf_counter()

    @property
    def outermost(self) -> "OpenCall":
        """The call that the user made, as far as callbacks tell of it."""
        found = call = self
        while call.parent is not None:
            call = call.parent
            if call.has_callback or not found.has_callback:
                found = call
        return found

    @property
    def maker(self) -> str:
        """The class of the model that is asked."""
        return (self.span_id or str(field_in(self.about, "class_name"))).partition(".")[0]

    def identify(self) -> None:
        """Find out provider and model."""
        if self.provider is None and self.model is None:
            self.provider, self.model = provider_and_model(self.about)

    def expected_tokens(self) -> tuple[int, int | None]:
        """How many tokens it will send and may get back, roughly."""
        return expected_tokens(self.prompt, self.options, self.about, self.texts, self.served)

    def attach(self, request: AnsweredRequest) -> None:
        """Take in that a request of this call is being answered."""
        with LOCK:
            self.is_plain = False
            if self.requests is None:
                self.requests = []
            self.requests.append(request)

    def lose(self, request: AnsweredRequest) -> CallReservation | None:
        """Take in that a request of this call wasn't answered, and is counted by itself."""
        with LOCK:
            self.is_plain, self.has_lost = False, True
            if self.requests is not None and request in self.requests:
                self.requests.remove(request)
        return take_reservation(self)

    def leaves(self) -> "Iterator[OpenCall]":
        """The innermost calls within this one, those that speak to the provider."""
        if not self.inner:
            yield self
        for call in self.inner or ():
            yield from call.leaves()

    @property
    def is_simple(self) -> bool:
        """Whether it asked a provider once, itself or by one call that has its answer."""
        if self.progress is not None or self.requests is not None or self.starts > 1:
            return False
        inner = self.inner
        if inner is None:
            return True
        leaf = inner[0] if len(inner) == 1 else self
        return leaf.inner is None and leaf.is_settled and not leaf.is_free

    @property
    def has_begun_to_answer(self) -> bool:
        """Whether anything has come back, as far as that's known before its end."""
        return bool(
            self.outcome
            or self.requests
            or (self.progress and self.progress.chunks)
            or (self.asks_unheard and not self.is_stopped)
        )


class Outcome(NamedTuple):
    """How a call ended, and what its provider said.

    Attributes:
        call: The innermost call.
        response: The answer; of an unfinished stream its last chunk; or `None`.
        status: How it ended.
        reported: What the provider said.
    """

    call: OpenCall
    response: object
    status: Status
    reported: Reported = SILENT

    @property
    def is_free(self) -> bool:
        """Whether an error came before anything was billed."""
        return self.status == "failed" and self.response is None and self.reported.usage is None


class _OpenStreams:
    """The streams that calls have returned, and that somebody may still read."""

    def __init__(self) -> None:
        self._by_id: dict[str, int] = {}
        # By the ids of their generators' frames: to hold those would keep them alive.
        self._by_frame: dict[int, OpenCall] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, call: OpenCall, stream: Stream, dropped: Callable[[object], None]) -> None:
        """Note that a call has returned a stream."""
        call.stream = weakref.ref(stream, dropped)
        frame_id = self._by_id[call.event_id] = id(_frame_of(stream))
        known = self._by_frame.get(frame_id)
        # Of two methods that return the same stream, the inner one has returned first.
        if known is None or known.stream is None or known.stream() is not stream:
            self._by_frame[frame_id] = call

    def remove(self, call: OpenCall) -> None:
        """Note that a call's stream is over."""
        if call.stream is not None:
            frame_id = self._by_id.pop(call.event_id, 0)
            # By now it may be another's.
            if self._by_frame.get(frame_id) is call:
                del self._by_frame[frame_id]
            # Its callback holds the call: without this they would keep each other alive.
            call.stream = None

    def running(self, frame: FrameType | None) -> OpenCall | None:
        """Find the innermost open stream whose generator is running in this very stack.

        A generator that asks another method for its chunks does so when it's first
        iterated: by then its own span is long gone, but its frame is below us.
        """
        while frame is not None:
            call = self._by_frame.get(id(frame))
            stream = None if call is None or call.stream is None else call.stream()
            if stream is not None and _frame_of(stream) is frame:
                return call
            frame = frame.f_back
        return None


class _Nesting:
    """The open calls of one handler, and which of them is inside which.

    Args:
        spans: The dispatcher's span tree.

    Attributes:
        by_id: The calls, by their events' ids; others only look.
    """

    def __init__(self, spans: SpanTree) -> None:
        self._spans = spans
        self.by_id: dict[str, OpenCall] = {}
        self._by_span: dict[str | None, OpenCall] = {}
        self._streams = _OpenStreams()

    def _place(self, call: OpenCall, span_id: str | None) -> None:
        """Find out whether a call that starts now is made by one that is open."""
        parent = self.current(span_id)
        with LOCK:
            if parent is not None:
                call.is_plain = parent.is_plain = False
                call.parent = parent
                if parent.inner is None:
                    parent.inner = []
                parent.inner.append(call)
            if span_id is not None:
                if span_id not in self._by_span:
                    self._by_span[span_id] = call
                elif not self._spans.is_call(span_id):
                    # Two calls without spans of their own: chunks can't be told apart.
                    self._by_span[span_id].is_plain = call.is_plain = False
                    del self._by_span[span_id]

    def _forget(self, call: OpenCall) -> None:
        self.by_id.pop(call.event_id, None)
        self._streams.remove(call)
        if call.span_id is not None and self._by_span.get(call.span_id) is call:
            del self._by_span[call.span_id]

    def current(self, span_id: str | None) -> OpenCall | None:
        """The innermost open call around what starts, or leaves, here and now.

        Args:
            span_id: The span that is active now.
        """
        if not self.by_id:
            return None
        by_span = self._around(span_id)
        if not self._streams:
            return by_span
        by_frame = self._streams.running(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]  # documented, for just this
        if by_frame is None or by_span is None:
            return by_span or by_frame
        call: OpenCall | None = by_span
        while call is not None:
            if call is by_frame:
                return by_span
            call = call.parent
        return by_frame

    def _around(self, span_id: str | None) -> OpenCall | None:
        """The innermost open call whose span this is, or is around it."""
        while span_id is not None:
            call = self._by_span.get(span_id)
            if call is not None and self._spans.is_call(span_id):
                return call
            span_id = self._spans.parent(span_id)
        return None


class OpenCalls(_Nesting):
    """The starts, streams and ends of one handler's calls.

    Args:
        spans: The dispatcher's span tree.
        settle: Called with the outcome of a stream that was dropped without a word.
    """

    def __init__(self, spans: SpanTree, settle: Callable[[Outcome], None]) -> None:
        super().__init__(spans)
        self._settle = settle
        # Ids of those that were given up and counted, should their ends come after all.
        self._given_up: dict[str, bool] = {}

    # --- starts ----------------------------------------------------------------------------

    def start(self, call: OpenCall) -> None:
        """Note that a call has started."""
        if self.by_id:
            known = self.by_id.get(call.event_id)
            if known is not None and not known.is_settled:
                known.starts += 1
                known.is_plain = False
                return
            if known is not None:
                # An id that is used again, though not all of its ends have come.
                self._forget(known)
            if not len(self.by_id) % LOOKED_AT_EVERY:
                self._make_room()
            if call.nests:
                self._place(call, call.span_id)
        elif call.span_id is not None and call.nests:
            self._by_span[call.span_id] = call
        self.by_id[call.event_id] = call

    def adopt(self, span_id: str | None, event_id: str) -> OpenCall | None:
        """Let a callback tell of the end of a call of which only its span has told so far.

        Returns:
            The call, which has the callback's id from now on; `None` if there is none.
        """
        with LOCK:
            call = None if span_id is None else self.by_id.get(span_id)
            if call is None or call.is_structured or event_id in self.by_id:
                return None
            self.by_id[event_id] = call
            self.by_id.pop(call.event_id)
            call.event_id, call.has_callback = event_id, True
        return call

    def _make_room(self) -> None:
        """Give up calls whose ends won't come; they are counted as abandoned."""
        # In one step, for another thread may end a call meanwhile.
        for call in list(islice(self.by_id.values(), LOOKED_AT_EVERY)):
            if not is_given_up(call, len(self.by_id)):
                return
            notice("too many open calls", len(self.by_id), "the oldest are counted as abandoned")
            outcomes = [] if call.is_settled else self.drop(call.event_id)
            if not (outcomes or call.inner):
                outcomes = [outcome_of(call, None, GeneratorExit())]
            self._given_up[call.event_id] = True
            for outcome in outcomes:
                self._settle(outcome)
        for event_id in list(islice(self._given_up, max(0, len(self._given_up) - MAX_OPEN))):
            self._given_up.pop(event_id, None)

    def drop(self, event_id: str) -> list[Outcome]:
        """Forget a call that ended without a word.

        Returns:
            The outcomes of the calls within it that waited for what it would say.
        """
        with LOCK:
            call = self.by_id.get(event_id)
            if call is None:
                return []
            self._forget(call)
            call.is_settled = True
            outcomes: list[Outcome] = []
            for leaf in call.leaves():
                if leaf.outcome is not None:
                    outcomes.append(leaf.outcome)
                    leaf.outcome = None
        if call.requests and not call.inner:
            # It was answered, though LlamaIndex has nothing to say of it.
            outcomes.append(outcome_of(call, None, GeneratorExit()))
        return outcomes

    def retract(self, call: OpenCall | None) -> None:
        """Forget a call whose start was interrupted: it isn't made."""
        if call is not None:
            with LOCK:
                self._forget(call)
                call.is_settled = True
                siblings = [] if call.parent is None else call.parent.inner
                if siblings and call in siblings:
                    siblings.remove(call)

    def interrupted(
        self, call: OpenCall, response: object, error: BaseException | None
    ) -> Iterator[Outcome]:
        """End a call whose end was interrupted.

        Returns:
            The outcomes of all calls in it, but for those that wait for the call around it.
        """
        with LOCK:
            if call.starts == 1:
                self._forget(call)
            call.is_settled = True
        is_within = call.parent is not None and not call.parent.is_settled
        for leaf in call.leaves():
            known = leaf.outcome
            if known is None or not is_within:
                leaf.is_settled, leaf.outcome = True, None
                found = known or outcome_of(leaf, response if leaf is call else None, error)
                yield _completed(found, call, response)

    # --- streams ---------------------------------------------------------------------------

    def returned(self, span_id: str, stream: Stream) -> None:
        """Note that the method with this span has returned a stream."""
        call = self._by_span.get(span_id)
        if call is None:
            return
        # The registry must not be kept alive by a stream, nor a stream by the registry.
        dropped, progress = partial(_dropped, weakref.ref(self), call), Progress()
        # A method that is a generator itself does nothing before it's read.
        is_lazy = f".{stream.__name__}-" in span_id
        with LOCK:
            call.is_plain = False
            call.is_streamed = True
            call.asks_unheard = not (call.has_callback or is_lazy)
            call.progress = progress
            # Found on the call itself it's quicker, and each chunk asks for it.
            call.inner = call.inner
            self._streams.add(call, stream, dropped)

    def chunk(self, span_id: str | None, chunk: object) -> None:
        """Note that a chunk has come through the stream with this span."""
        call = self._by_span.get(span_id)
        if call is None or call.inner:
            return
        progress = call.progress
        if progress is None:
            call.is_plain = False
            progress = call.progress = Progress()
        progress.add(chunk)

    def dropped(self, call: OpenCall) -> None:
        """Note that nobody holds a call's stream any more."""
        with LOCK:
            self._forget(call)
            if call.is_settled:
                return
            if not any(leaf.is_settled or leaf.has_begun_to_answer for leaf in call.leaves()):
                # Never iterated: for LlamaIndex the call never happened.
                call.is_settled = True
                if call.parent is not None and call.parent.inner:
                    call.parent.inner.remove(call)
                return
            claim = _claimed(call)
        if claim is not None:
            # Of a stream that nobody tells of it isn't known how far it was read.
            error = None if call.asks_unheard else GeneratorExit()
            for outcome in self._settled(call, claim, None, error):
                self._settle(outcome)

    # --- ends ------------------------------------------------------------------------------

    def end(
        self, event_id: str, response: object, error: BaseException | None
    ) -> Sequence[Outcome] | None:
        """Note that a call has ended.

        Args:
            event_id: The call's id.
            response: Its answer, or the last chunk of its stream.
            error: What ended it instead.

        Returns:
            The outcomes of the calls that are settled by this, innermost calls only; or
            `None` if no such call is known.
        """
        # A stream inside this call may have been dropped.
        run_late()
        call = self.by_id.get(event_id)
        if call is None:
            return () if self._given_up.pop(event_id, False) else None
        if error is None and call.is_simple:
            return self._end_simply(call, response)
        with LOCK:
            if self.by_id.get(event_id) is not call:
                return ()  # another thread was quicker
            if call.starts > 1:
                call.starts -= 1
            else:
                self._forget(call)
            claim = _claimed(call)
        return () if claim is None else self._settled(call, claim, response, error)

    def end_plainly(self, event_id: str) -> OpenCall | None:
        """Take out a plain call.

        Returns:
            The call, which is settled by this; or `None` if there is more to it.
        """
        call = self.by_id.get(event_id)
        if call is None or not call.is_plain:
            return None
        call.is_settled = True
        # Not `del`: another thread may have made room of it meanwhile.
        self.by_id.pop(event_id, None)
        if call.span_id is not None:
            self._by_span.pop(call.span_id, None)
        return call

    def _end_simply(self, call: OpenCall, response: object) -> Sequence[Outcome]:
        """End a call that gave its answer, and was made by another or made one: most nested are."""
        reported = _reported(call, response)
        with LOCK:
            if self.by_id.pop(call.event_id, None) is None or call.is_settled:
                return ()  # another thread was quicker
            if call.span_id is not None:
                self._by_span.pop(call.span_id, None)
            call.is_settled = True
            return _simply_settled(call, response, reported)

    # --- outcomes --------------------------------------------------------------------------

    def _settled(
        self, call: OpenCall, claim: "_Claim", response: object, error: BaseException | None
    ) -> list[Outcome]:
        """Find out how the calls within this one ended.

        The lock is not held: reading a response may log, or run code of whoever made it, and
        that may wait for a thread which waits for us.
        """
        leaves, claimed = claim
        if not call.inner:
            ended = [known or outcome_of(call, response, error) for _, known in claimed]
        else:
            ended = _ended_within(call, claimed, response, error)
            ended += _asked_itself(call, leaves, response, error)
            if len(ended) == len(leaves) == 1 and ended[0].call is leaves[0]:
                ended = [_completed(ended[0], call, response)]
        return ended if call.parent is None else _kept_back(ended, call.parent)


_Claim: TypeAlias = tuple[list[OpenCall], list[tuple[OpenCall, Outcome | None]]]


def _claimed(call: OpenCall) -> _Claim | None:
    """Take what is settled with this call from everybody else; the caller holds the lock.

    Returns:
        The innermost calls, and those of them that are not settled yet or wait with their
        outcome; `None` if the call itself was settled before.
    """
    if call.is_settled:
        return None
    call.is_settled = True
    if not call.inner:
        known, call.outcome = call.outcome, None
        return [call], [(call, known)]
    leaves = list(call.leaves())
    claimed = [
        (leaf, leaf.outcome) for leaf in leaves if leaf.outcome is not None or not leaf.is_settled
    ]
    for leaf, _ in claimed:
        leaf.outcome, leaf.is_settled = None, True
    return leaves, claimed


def _simply_settled(call: OpenCall, response: object, reported: Reported) -> Sequence[Outcome]:
    """The outcome of a call that asked once, if it's known by now; the caller holds the lock."""
    inner = call.inner
    leaf = call if inner is None else inner[0]
    outcome = leaf.outcome if inner is not None else Outcome(call, response, "complete")
    if outcome is None:
        return ()  # what its provider said of the inner call stands
    leaf.outcome = None
    if reported.usage is not None:
        return (outcome._replace(reported=reported),)
    if call.parent is not None and not call.parent.is_settled:
        # What the provider left open, the call around it may be told.
        leaf.outcome = outcome
        return ()
    return (outcome,)


def _ended_within(
    call: OpenCall,
    claimed: "list[tuple[OpenCall, Outcome | None]]",
    response: object,
    error: BaseException | None,
) -> list[Outcome]:
    """The outcomes of the innermost calls within one that has ended."""
    # A stream that is closed from outside ends before the one inside it does.
    inner_error = GeneratorExit() if error is None else error
    return [
        known
        or outcome_of(
            leaf,
            response if leaf is call else None,
            error if leaf is call else inner_error,
        )
        for leaf, known in claimed
    ]


def _asked_itself(
    call: OpenCall, leaves: list[OpenCall], response: object, error: BaseException | None
) -> list[Outcome]:
    """The outcomes of a call that asked others, and a provider itself."""
    outcomes: list[Outcome] = []
    if error is None and call.trusts_raw and all(leaf.is_free for leaf in leaves):
        # It asked the others in vain.
        reported = extract_reported(response)
        if reported.usage is not None:
            call.inner = []
            outcomes.append(Outcome(call, response, "complete", reported))
    if call.inner and call.requests:
        outcomes.append(_by_wire(Outcome(call, response, "complete")))
    return outcomes


def _completed(outcome: Outcome, call: OpenCall, response: object) -> Outcome:
    """Take the usage from the outer call where the innermost one was silent."""
    if outcome.reported.usage is None and outcome.call is not call:
        told = _reported(call, response)
        if told.usage is not None:
            served = told.served.filled(outcome.reported.served)
            return outcome._replace(reported=told._replace(served=served))
    return outcome


def _kept_back(ended: list[Outcome], parent: OpenCall) -> list[Outcome]:
    """Keep back what the provider left open, as the call around it may be told more.

    Returns:
        The outcomes that stand.
    """
    with LOCK:
        is_told_more = parent.has_callback or parent.progress is None
        if is_told_more and not parent.is_settled:
            for outcome in ended:
                if outcome.reported.usage is None and not outcome.is_free:
                    outcome.call.outcome = outcome
        return [outcome for outcome in ended if outcome.call.outcome is None]


def _dropped(calls: "weakref.ref[OpenCalls]", call: OpenCall, _stream: object) -> None:
    """Note that a stream was collected; this may run anywhere, so that it takes no lock."""
    registry = calls()
    if registry is not None:
        soon(partial(registry.dropped, call))


def outcome_of(call: OpenCall, response: object, error: BaseException | None) -> Outcome:
    """Say how an innermost call ended, and what its provider reported.

    Args:
        call: The call.
        response: Its answer, or the last chunk of its stream.
        error: What ended it instead.
    """
    outcome = _by_response(call, response, error)
    if call.requests is not None:
        outcome = _by_wire(outcome)
    call.is_free = outcome.is_free
    return outcome


def _by_wire(outcome: Outcome) -> Outcome:
    """Put what the wire said in the place of what LlamaIndex left of it, unless that is more."""
    requests = outcome.call.requests or ()
    for request in requests:
        outcome.call.request_id = request.request_id or outcome.call.request_id
    wire, known = combined(request.reported() for request in requests), outcome.reported
    if outcome.status == "complete" and any(request.is_broken_off for request in requests):
        known = known._replace(output_is_complete=False)
        outcome = outcome._replace(status="abandoned")
    return outcome._replace(reported=believed(wire, known))


def _by_response(call: OpenCall, response: object, error: BaseException | None) -> Outcome:
    """The same, of what LlamaIndex has handed over alone."""
    progress = call.progress
    if progress is None or not progress.chunks:
        if error is None:
            return Outcome(call, response, "complete", _reported(call, response))
        return _without_answer(call, error)
    if error is None and response is not progress.last:
        progress.add(response)
    reported = progress.usage.read()
    if reported.usage is None:
        # It may stand where the quick look at each chunk doesn't go.
        progress.usage.add(progress.last)
        reported = progress.usage.read()
    if not call.trusts_raw:
        reported = SILENT
    if error is None and not _is_broken_off(response):
        return Outcome(call, response, "complete", reported)
    if call.trusts_raw:
        reported = progress.left_at(reported)
    if error is None:
        return Outcome(call, progress.so_far(), "abandoned", reported)
    return _broken_off(call, progress.so_far(), error, reported)


def _without_answer(call: OpenCall, error: BaseException) -> Outcome:
    """How a call ended of which nothing came but this error, and what that carries."""
    status = status_after(error)
    if status != "unanswered":
        return Outcome(call, None, status)
    carried = usage_carried(error)
    # What was sent is counted by now, if it was lost.
    is_counted = call.has_lost and not call.requests and carried is None
    return Outcome(call, None, "failed" if is_counted else status, Reported(carried))


def _broken_off(call: OpenCall, last: object, error: BaseException, reported: Reported) -> Outcome:
    """How a stream ended that an error broke off, and what that carries."""
    status = status_after(error)
    if status != "unanswered":
        return Outcome(call, last, status, reported)
    carried = usage_carried(error)
    if carried is not None:
        reported = Reported(carried, output_is_complete=False)
    # What came before it was an answer.
    return Outcome(call, last, "failed", reported)


def _is_broken_off(chunk: object) -> bool:
    """Whether a stream's last chunk says that there should be more: Claude's has no reason then.

    Source:
        llama-index-llms-anthropic 0.12.3, `stream_chat` (checked 2026-11-29).
    """
    fields = as_fields(chunk)
    message = None if fields is None else as_fields(fields.get("message")) or fields
    told: Any = None if message is None else message.get("additional_kwargs")
    return type(told) is dict and "stop_reason" in told and told["stop_reason"] is None


def _reported(call: OpenCall, response: Any) -> Reported:
    # Quick for those that hand on no answer of a provider's: mocks, and models around others.
    if not call.trusts_raw or (is_silent(response) and response.raw is None):
        return SILENT
    return extract_reported(response)


def _frame_of(stream: Stream) -> FrameType | None:
    if isinstance(stream, GeneratorType):
        return stream.gi_frame
    return stream.ag_frame

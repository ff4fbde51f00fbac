"""Calls that have started and not ended: who is inside whom, and how far each has come.

A call of LlamaIndex often makes another: `complete()` asks `chat()`, a structured LLM asks
the one it wraps. Only the innermost spoke to the provider, so only it becomes an event. Who
is inside whom is known from the span tree, and for streams that start lazily from the
generator that is running; neither order nor texts are ever compared.

This room knows nothing of LlamaIndex. The handler tells it of starts and ends, the observer
of spans and chunks; what it gives back is an `Outcome` for every call that is now settled.
"""

import sys
import time
import weakref
from asyncio import CancelledError
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import AsyncGeneratorType, CodeType, FrameType, GeneratorType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker.events.event import Status
from llama_token_tracker.extraction import Reading, StreamedUsage, extract_usage, knows
from llama_token_tracker.tracking.correlation import Heard
from llama_token_tracker.usage import Usage

Stream: TypeAlias = "GeneratorType[Any, Any, Any] | AsyncGeneratorType[Any, Any]"

MAX_OPEN: Final = 10_000
"""More calls than this are never open at once; what is older was forgotten by somebody."""

ABANDONING: Final = (GeneratorExit, CancelledError, KeyboardInterrupt)
"""What ends a call by its caller's will, and not by an error."""


class SpanTree(Protocol):
    """What is known of the dispatcher's spans."""

    def parent(self, span_id: str) -> str | None:
        """The span that this one was entered in, if both are still known."""
        ...

    def is_call(self, span_id: str) -> bool:
        """Whether this is the span of a method that calls a language model."""
        ...


class OpenCall:
    """A call that has started.

    Not slotted: what most calls never need is found on the class, which makes one cheap.

    Attributes:
        event_id: Its id among callback events.
        prompt: What was asked, as LlamaIndex handed it over.
        about: What else LlamaIndex said of it; the handler knows how to read that.
        trusts_raw: Whether what it returns as `raw` comes from a provider.
        span_id: The span that was active when it started: its own, if it has one.
        parent: The call it was made by, or `None`.
        inner: The calls that it made itself, if any.
        began: When it started, by the clock that durations are measured with, in seconds.
        starts: How often it was started: a handler that sits in a manager twice hears each
            start and each end twice.
        settled: Whether its outcome is known, or that it has none of its own.
        failed: Whether an error came before anything was billed.
        held: Its outcome, kept back because the call around it may know more.
        stream: The generator that it returned.
        progress: How far that has come.
        nests: Whether it can be part of another call: embedding texts is not.
        has_callback: Whether other callback handlers hear of it too.
        served: Which texts of an embedding a cache will serve; `None` if that can't be told.
        options: What else was passed to it: tools, among others.
        context: The scope and the tags it started in; whoever records it knows how to read that.
        heard: Requests that a watched client sent for it, whose answers have begun.
        plain: Whether it neither made nor was made by another, nor streamed, nor was heard on
            the wire: most are.
    """

    parent: "OpenCall | None" = None
    inner: "list[OpenCall] | None" = None
    starts: int = 1
    settled: bool = False
    failed: bool = False
    trusts_raw: bool = True
    held: "Outcome | None" = None
    stream: "weakref.ref[Stream] | None" = None
    progress: "Progress | None" = None
    has_callback: bool = True
    options: object = None
    heard: "list[Heard] | None" = None
    served: frozenset[str] | None = frozenset()

    def __init__(
        self, event_id: str, prompt: object, about: object, span_id: str | None = None
    ) -> None:
        self.event_id = event_id
        self.prompt = prompt
        self.about = about
        self.span_id = span_id
        # What is asked of every call is quicker to find here than on the class.
        self.plain = True
        self.nests = True
        self.context: Any = None
        self.began = time.perf_counter()

    @property
    def outermost(self) -> "OpenCall":
        """The call that the user made, as far as callbacks tell of it."""
        found = call = self
        while call.parent is not None:
            call = call.parent
            if call.has_callback or not found.has_callback:
                found = call
        return found

    def hear(self, request: Heard) -> None:
        """Take in that a request of this call is being answered."""
        with LOCK:
            self.plain = False
            if self.heard is None:
                self.heard = []
            self.heard.append(request)

    def leaves(self) -> "Iterator[OpenCall]":
        """The innermost calls within this one, those that speak to the provider."""
        if not self.inner:
            yield self
        for call in self.inner or ():
            yield from call.leaves()


class Progress:
    """How far a stream has come.

    Attributes:
        chunks: How many chunks have come.
        last: The newest of them.
        usage: The figures they held.
    """

    __slots__ = ("_figures_at", "chunks", "last", "usage")

    def __init__(self) -> None:
        self.chunks = 0
        self.last: object = None
        self.usage = StreamedUsage()
        self._figures_at = 0

    def hear(self, chunk: object) -> None:
        """Take in the next chunk."""
        self.chunks += 1
        self.last = chunk
        if self.usage.hear(chunk):
            self._figures_at = self.chunks

    @property
    def figures_are_newest(self) -> bool:
        """Whether nothing has come after the last new figure."""
        return self._figures_at == self.chunks


class Outcome(NamedTuple):
    """How a call ended, and what is known of its usage.

    Attributes:
        call: The innermost call.
        response: The answer; of an unfinished stream its last chunk; or `None`.
        status: How it ended.
        usage: What the provider reported, or `None` if it was silent.
        input_is_sure: Whether the reported input surely holds all of it.
        output_is_sure: Whether the reported output surely holds all of it.
    """

    call: OpenCall
    response: object
    status: Status
    usage: Usage | None
    input_is_sure: bool = True
    output_is_sure: bool = True

    @property
    def nothing_happened(self) -> bool:
        """Whether an error came before anything was billed."""
        return self.status == "failed" and self.response is None and self.usage is None


class OpenCalls:
    """The open calls of one handler.

    Args:
        spans: The dispatcher's span tree.
        settle: Called with the outcome of a stream that was dropped without a word.

    Attributes:
        by_id: The calls, by their events' ids; others only look.
    """

    def __init__(self, spans: SpanTree, settle: Callable[[Outcome], None]) -> None:
        self._spans = spans
        self._settle = settle
        self.by_id: dict[str, OpenCall] = {}
        self._by_span: dict[str, OpenCall] = {}
        self._streaming: dict[str, OpenCall] = {}
        self._stream_codes: set[CodeType] = set()

    def start(self, call: OpenCall) -> None:
        """Note that a call has started."""
        if self.by_id:
            known = self.by_id.get(call.event_id)
            if known is not None and not known.settled:
                known.starts += 1
                known.plain = False
                return
            if known is not None:
                # An id that is used again, though not all of its ends have come.
                self._forget(known)
            self._make_room()
            if call.nests:
                self._place(call, call.span_id)
        elif call.nests and call.span_id is not None:
            self._by_span[call.span_id] = call
        self.by_id[call.event_id] = call

    def _place(self, call: OpenCall, span_id: str | None) -> None:
        """Find out whether a call that starts now is made by one that is open."""
        parent = self._made_by(span_id)
        with LOCK:
            if parent is not None:
                call.plain = parent.plain = False
                call.parent = parent
                if parent.inner is None:
                    parent.inner = []
                parent.inner.append(call)
            if span_id is not None:
                if span_id not in self._by_span:
                    self._by_span[span_id] = call
                elif not self._spans.is_call(span_id):
                    # Two calls without spans of their own: chunks can't be told apart.
                    self._by_span[span_id].plain = call.plain = False
                    del self._by_span[span_id]

    def _make_room(self) -> None:
        if len(self.by_id) < MAX_OPEN:
            return
        with LOCK:
            oldest = next(iter(self.by_id), None)
            outcomes = [] if oldest is None else self.drop(oldest)
        notice("too many open calls", MAX_OPEN, "the oldest is forgotten")
        for outcome in outcomes:
            self._settle(outcome)

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
            call.settled = True
            held = [leaf for leaf in call.leaves() if leaf.held is not None]
            outcomes = [leaf.held for leaf in held if leaf.held is not None]
            for leaf in held:
                leaf.held = None
        if call.heard and not call.inner:
            # It was answered, though LlamaIndex has nothing to say of it.
            outcomes.append(outcome_of(call, None, GeneratorExit()))
        return outcomes

    def asking(self, span_id: str | None) -> OpenCall | None:
        """The call that a request is part of which leaves here and now.

        Args:
            span_id: The span that is active now.
        """
        return self._made_by(span_id) if self.by_id else None

    def _made_by(self, span_id: str | None) -> OpenCall | None:
        """Find the innermost open call that a call starting here is made by."""
        by_span: OpenCall | None = None
        while span_id is not None and by_span is None:
            by_span = self._by_span.get(span_id)
            if by_span is not None and not self._spans.is_call(span_id):
                by_span = None
            span_id = self._spans.parent(span_id)
        if not self._streaming:
            return by_span
        by_frame = self._running_stream(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]  # documented, for just this
        if by_frame is None or by_span is None:
            return by_span or by_frame
        call: OpenCall | None = by_span
        while call is not None:
            if call is by_frame:
                return by_span
            call = call.parent
        return by_frame

    def _running_stream(self, frame: FrameType | None) -> OpenCall | None:
        """Find the innermost open stream whose generator is running in this very stack.

        A generator that asks another method for its chunks does so when it's first
        iterated: by then its own span is long gone, but its frame is below us.
        """
        while frame is not None:
            if frame.f_code in self._stream_codes:
                for call in list(self._streaming.values()):
                    stream = call.stream() if call.stream is not None else None
                    if stream is not None and _frame_of(stream) is frame:
                        return call
            frame = frame.f_back
        return None

    def returned(self, span_id: str, stream: Stream) -> None:
        """Note that the method with this span has returned a stream."""
        call = self._by_span.get(span_id)
        if call is None:
            return
        with LOCK:
            # The registry must not be kept alive by a stream, nor a stream by the registry.
            lost = partial(_lost, weakref.ref(self), call)
            call.stream = weakref.ref(stream, lost)
            call.plain = False
            call.progress = Progress()
            self._streaming[call.event_id] = call
            self._stream_codes.add(_code_of(stream))

    def chunk(self, span_id: str, chunk: object) -> None:
        """Note that a chunk has come through the stream with this span."""
        call = self._by_span.get(span_id)
        if call is not None and not call.inner:
            if call.progress is None:
                call.plain = False
                call.progress = Progress()
            call.progress.hear(chunk)

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
        with LOCK:
            call = self.by_id.get(event_id)
            if call is None:
                return None
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
        if call is None or not call.plain:
            return None
        call.settled = True
        # Not `del`: another thread may have made room of it meanwhile.
        self.by_id.pop(event_id, None)
        if call.span_id is not None:
            self._by_span.pop(call.span_id, None)
        return call

    def _settled(
        self, call: OpenCall, claim: "_Claim", response: object, error: BaseException | None
    ) -> list[Outcome]:
        """Find out how the calls within this one ended.

        The lock is not held: reading a response may log, or run code of whoever made it, and
        that may wait for a thread which waits for us.
        """
        leaves, claimed = claim
        ended = [
            held
            if held is not None
            # A stream that is closed from outside ends before the one inside it does.
            else outcome_of(
                leaf,
                response if leaf is call else None,
                error if leaf is call or error is not None else GeneratorExit(),
            )
            for leaf, held in claimed
        ]
        for outcome in ended:
            outcome.call.failed = outcome.nothing_happened
        if call.inner and error is None and all(leaf.failed for leaf in leaves):
            ended += self._answered_itself(call, response)
        if call.inner and call.heard:
            # Beside what it asked others, it asked the provider itself.
            ended.append(_by_wire(Outcome(call, response, "complete", None)))
        if [outcome.call for outcome in ended] == leaves and len(leaves) == 1:
            ended = [self._completed(ended[0], call, response)]
        if call.parent is None:
            return ended
        with LOCK:
            if not call.parent.settled:
                # What the provider didn't tell this call it may have told the one around it.
                for outcome in ended:
                    if outcome.usage is None and not outcome.nothing_happened:
                        outcome.call.held = outcome
            return [outcome for outcome in ended if outcome.call.held is None]

    def _answered_itself(self, call: OpenCall, response: object) -> list[Outcome]:
        """The outcome of a call that asked others in vain and then a provider itself."""
        usage = extract_usage(response) if call.trusts_raw else None
        if usage is None:
            return []
        call.inner = []
        return [Outcome(call, response, "complete", usage)]

    def _completed(self, outcome: Outcome, call: OpenCall, response: object) -> Outcome:
        """Take the usage from the outer call where the innermost one was silent."""
        if outcome.usage is None and outcome.call is not call and call.trusts_raw:
            usage = extract_usage(response)
            if usage is not None:
                return outcome._replace(usage=usage)
        return outcome

    def _forget(self, call: OpenCall) -> None:
        self.by_id.pop(call.event_id, None)
        if call.stream is not None:
            self._streaming.pop(call.event_id, None)
            # Its callback holds the call: without this they would keep each other alive.
            call.stream = None
        if call.span_id is not None and self._by_span.get(call.span_id) is call:
            del self._by_span[call.span_id]

    def lost(self, call: OpenCall) -> None:
        """Note that nobody holds a call's stream any more."""
        with LOCK:
            self._forget(call)
            if call.settled:
                return
            if not any(
                leaf.held or leaf.heard or (leaf.progress and leaf.progress.chunks)
                for leaf in call.leaves()
            ):
                # Never iterated: for LlamaIndex the call never happened.
                call.settled = True
                if call.parent is not None and call.parent.inner:
                    call.parent.inner.remove(call)
                return
            claim = _claimed(call)
        if claim is not None:
            for outcome in self._settled(call, claim, None, GeneratorExit()):
                self._settle(outcome)


_Claim: TypeAlias = tuple[list[OpenCall], list[tuple[OpenCall, Outcome | None]]]


def _claimed(call: OpenCall) -> _Claim | None:
    """Take what is settled with this call from everybody else; the caller holds the lock.

    Returns:
        The innermost calls, and those of them that are not settled yet or wait with their
        outcome; `None` if the call itself was settled before.
    """
    if call.settled:
        return None
    leaves = list(call.leaves())
    claimed = [(leaf, leaf.held) for leaf in leaves if leaf.held is not None or not leaf.settled]
    for leaf, _ in claimed:
        leaf.held, leaf.settled = None, True
    call.settled = True
    return leaves, claimed


def _lost(calls: "weakref.ref[OpenCalls]", call: OpenCall, _stream: object) -> None:
    registry = calls()
    if registry is not None:
        registry.lost(call)


def outcome_of(call: OpenCall, response: object, error: BaseException | None) -> Outcome:
    """Say how an innermost call ended, and what its provider reported.

    Args:
        call: The call.
        response: Its answer, or the last chunk of its stream.
        error: What ended it instead.
    """
    outcome = _by_response(call, response, error)
    return outcome if call.heard is None else _by_wire(outcome)


def _by_wire(outcome: Outcome) -> Outcome:
    """Put what the wire said in the place of what LlamaIndex left of it, unless that is more."""
    heard = _added([request.reading() for request in outcome.call.heard or ()])
    if heard is None:
        return outcome
    known = outcome.usage
    if known is not None and (knows(known), outcome.input_is_sure) > (
        knows(heard.usage),
        heard.input_is_sure,
    ):
        return outcome
    return outcome._replace(
        usage=heard.usage,
        input_is_sure=heard.input_is_sure,
        output_is_sure=heard.output_is_sure,
    )


def _added(readings: list[Reading | None]) -> Reading | None:
    """The usage of all requests of one call; most calls have one."""
    total: Reading | None = None
    for reading in readings:
        if reading is None:
            continue
        if total is None:
            total = reading
        else:
            total = Reading(
                total.usage + reading.usage,
                total.input_is_sure and reading.input_is_sure,
                total.output_is_sure and reading.output_is_sure,
            )
    return total


def _by_response(call: OpenCall, response: object, error: BaseException | None) -> Outcome:
    """The same, of what LlamaIndex has handed over alone."""
    progress = call.progress
    if error is None:
        if progress is None or not progress.chunks:
            usage = extract_usage(response) if call.trusts_raw else None
            return Outcome(call, response, "complete", usage)
        if response is not progress.last:
            progress.hear(response)
        reading = progress.usage.read() if call.trusts_raw else None
        if reading is None:
            return Outcome(call, response, "complete", None)
        return Outcome(
            call,
            response,
            "complete",
            reading.usage,
            reading.input_is_sure,
        )
    status: Status = "abandoned" if isinstance(error, ABANDONING) else "failed"
    if progress is None or not progress.chunks:
        return Outcome(call, None, status, None)
    reading = progress.usage.read() if call.trusts_raw else None
    if reading is None:
        return Outcome(call, progress.last, status, None)
    return Outcome(
        call,
        progress.last,
        status,
        reading.usage,
        reading.input_is_sure,
        reading.input_is_sure and progress.figures_are_newest,
    )


def _frame_of(stream: Stream) -> FrameType | None:
    if isinstance(stream, GeneratorType):
        return stream.gi_frame
    return stream.ag_frame


def _code_of(stream: Stream) -> CodeType:
    return stream.gi_code if isinstance(stream, GeneratorType) else stream.ag_code

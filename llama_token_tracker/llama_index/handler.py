"""LlamaIndex's callback handler: its events in, `TokenCountingEvent`s out.

The callback manager tells of starts and ends, `instrumentation` of spans and chunks; `OpenCalls`
finds out which calls those make. Nothing that goes wrong here reaches the user's call, except
that a budget stops it: `BudgetExceededError` from its start, or the `ValueError` of LlamaIndex's
own `token_budget`.
"""

import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from time import perf_counter, time
from typing import Any, Final, cast

import llama_index.core
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.utilities.token_counting import TokenCounter
from llama_index.core.utils import (
    get_tokenizer,  # pyright: ignore[reportUnknownVariableType] - LlamaIndex's gap
)
from llama_index_instrumentation.dispatcher import active_instrument_tags

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import RETURNS_USERS_OBJECT
from llama_token_tracker.budgets import Budget
from llama_token_tracker.events.call import ABANDONING, Settings
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.events.settle import Ended, Ending
from llama_token_tracker.events.transcripts import (
    EmbeddedTexts,
    EmbeddingTranscript,
    PlainTranscript,
)
from llama_token_tracker.extraction import SILENT, Reported, extract_parts, usage_parts
from llama_token_tracker.extraction.reader import UsageParts
from llama_token_tracker.extraction.texts import Words, plain_words, shown
from llama_token_tracker.llama_index.base_classes import CoreEvent, CoreHandler
from llama_token_tracker.llama_index.embeddings import Batches
from llama_token_tracker.llama_index.instrumentation import SPANS, embedding, listen
from llama_token_tracker.llama_index.open_calls import (
    OpenCall,
    OpenCalls,
    Outcome,
    outcome_of,
)
from llama_token_tracker.llama_index.payloads import (
    formatted,
    is_image,
    tools_of,
    transcript_of,
    users_tags,
)
from llama_token_tracker.pricing import OwnPrices, Prices
from llama_token_tracker.sinks import Sink
from llama_token_tracker.tokenizers.selection import Tokenizers
from llama_token_tracker.tracking.charging import take_reservation
from llama_token_tracker.tracking.correlation import (
    UNKNOWN_OWNER,
    AnsweredRequest,
    RequestOwner,
    is_running,
)
from llama_token_tracker.tracking.pending import Pending
from llama_token_tracker.tracking.scopes import is_somewhere
from llama_token_tracker.tracking.tracker import Tracker, Tracking

_LLM: Final = CBEventType.LLM
_EMBEDDING: Final = CBEventType.EMBEDDING
_COUNTED: Final = (_LLM, _EMBEDDING)
_MESSAGES: Final = EventPayload.MESSAGES
_PROMPT: Final = EventPayload.PROMPT
_RESPONSE: Final = EventPayload.RESPONSE
_COMPLETION: Final = EventPayload.COMPLETION
_EXCEPTION: Final = EventPayload.EXCEPTION
_SERIALIZED: Final = EventPayload.SERIALIZED
_CHUNKS: Final = EventPayload.CHUNKS
_ADDITIONAL: Final = EventPayload.ADDITIONAL_KWARGS


@dataclass
class LlamaIndexEvent(TokenCountingEvent, CoreEvent):
    """A `TokenCountingEvent` that is one of LlamaIndex's too."""


class TokenCountingHandler(  # type: ignore[misc]  # events are LlamaIndex's with more fields
    Tracking,
    CoreHandler,  # pyright: ignore[reportIncompatibleVariableOverride]
):
    """Counts every call to a provider exactly once, as it was billed.

    A drop-in for `llama_index.core.callbacks.TokenCountingHandler`: the same arguments, lists,
    totals and budget. Its events say more: see `TokenCountingEvent`.

    Args:
        tokenizer: Text to tokens, for providers that report no usage. By default LlamaIndex's
            global tokenizer, or else its own `cl100k_base`, which is marked as an estimate.
        event_starts_to_ignore: Event types whose start is not to be heard. Without the starts
            of LLM events a call inside a call cannot be told from one beside it.
        event_ends_to_ignore: Event types whose end is not to be heard, and so not counted.
        verbose: Whether to print the counts of each call.
        logger: Where to print them, at level DEBUG; by default standard output.
        token_budget: As in LlamaIndex: once the LLM calls' total exceeds it, `ValueError` is
            raised, at the end of that call and at the start of every event after it.
        max_events: How many events each list holds at the most; the oldest go first, and stay
            in the totals. `None` keeps all until `reset_counts()`.
        keep_text: Whether events keep prompts and completions, which may be long.
        include_failed: Whether `llm_token_counts` also lists calls that failed before anything
            was billed. They cost no token, and are in `failed_calls` in any case.
        prices: Your own prices by model's id; they win over those of genai-prices.
        models: Which model is behind an id that names none, such as the ARN of an application
            inference profile.
        budget: A limit, or several, that calls are held to before they're sent. It's better
            than `token_budget`, which raises when the answer has been paid for, and loses it.
        sinks: Functions that take each finished call's event, exactly once, failed and abandoned
            calls included: within a second of its end, in the order of ending, on a thread of
            their own. One that raises or hangs harms nobody. `flush()` waits for them.

    Raises:
        TokenizerError: `tokenizer` can't count tokens.
        BudgetError: `budget` holds something that is no budget.
        SinkError: `sinks` holds something that can't be called.
    """

    def __init__(
        self,
        tokenizer: Callable[[str], list[Any]] | None = None,
        event_starts_to_ignore: list[CBEventType] | None = None,
        event_ends_to_ignore: list[CBEventType] | None = None,
        verbose: bool = False,
        logger: logging.Logger | None = None,
        token_budget: int | None = None,
        *,
        max_events: int | None = None,
        keep_text: bool = True,
        include_failed: bool = False,
        prices: Mapping[str, OwnPrices] | None = None,
        models: Mapping[str, str] | None = None,
        budget: Budget | Iterable[Budget] | None = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        # Not LlamaIndex's own __init__: it loads a tokenizer that may never be needed.
        super(CoreHandler, self).__init__(
            event_starts_to_ignore=event_starts_to_ignore or [],
            event_ends_to_ignore=event_ends_to_ignore or [],
            logger=logger,
        )
        self.tracker = Tracker(
            max_events=max_events,
            include_failed=include_failed,
            prices=Prices(prices, models),
            budget=budget,
            sinks=sinks,
        )
        self.token_budget = token_budget
        self.settings = Settings(
            keeps_text=keep_text, event_class=LlamaIndexEvent, prices=self.tracker.prices
        )
        self.tokenizer = tokenizer
        self._verbose = verbose
        self._listen()

    def _listen(self) -> None:
        self._listener = _Listener(self)
        self._calls = self._listener.calls
        listen(self._listener, self)
        self.tracker.owners.add(self._listener, _Listener.find_owner)

    # --- what LlamaIndex calls -------------------------------------------------------------

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        parent_id: str = "",
        **kwargs: Any,
    ) -> str:
        """Note the start of a call.

        Raises:
            BudgetExceededError: It would pass the limit of a budget; nothing is sent.
            ValueError: The token budget is used up, as in LlamaIndex.
        """
        if self.token_budget is not None:
            self._check_budget()
        # Without an id a start can't be told from another's, and its end says all that's needed.
        if payload is not None and event_id and event_type in _COUNTED:
            call: OpenCall | None = None
            try:
                call = _call(payload, event_id, active_span_id.get())
                tags = active_instrument_tags.get()
                if tags or is_somewhere():
                    call.context = self.tracker.context(users_tags(tags))
                if event_type == _EMBEDDING:
                    self._listener.embeds(call)
                if event_type not in self.event_ends_to_ignore:
                    self._calls.start(call)
            except Exception as error:  # noqa: BLE001 - counting must not stop the call
                notice("a start could not be noted", error, "its end is counted alone")
            tracker = self.tracker
            if call is not None and (tracker.is_limited or call.context is not None):
                self._reserve(call)
        return event_id

    def _reserve(self, call: OpenCall) -> None:
        """Hold in the budgets what a call may use.

        Raises:
            BudgetExceededError: It would pass a limit.
        """
        try:
            self.tracker.reserve(call)
        except BaseException:
            self._calls.drop(call.event_id)
            raise

    def on_event_end(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        **kwargs: Any,
    ) -> None:
        """Count a call that has ended.

        Raises:
            ValueError: The token budget is exceeded now, as in LlamaIndex.
        """
        if event_type in self.event_ends_to_ignore:
            return
        try:
            if payload is None:
                for outcome in self._calls.drop(event_id):
                    self._record(outcome)
            elif event_type == _LLM:
                self._end(payload, event_id)
            elif event_type == _EMBEDDING:
                self._end_embedding(payload, event_id)
        except Exception as error:  # noqa: BLE001 - a paid answer must not be lost
            notice("an end could not be counted", error, "its call is not counted")
        if self.token_budget is not None and event_type == _LLM and payload is not None:
            self._check_budget()

    def _check_budget(self) -> None:
        budget = self.token_budget
        if budget is not None and (spent := self.total_llm_token_count) > budget:
            msg = f"Token budget exceeded! Limit: {budget}, Current: {spent}"
            raise ValueError(msg)

    # --- what users read -------------------------------------------------------------------

    @property
    def tokenizer(self) -> Callable[[str], Any]:
        """What was given to count with, or else LlamaIndex's global tokenizer."""
        tokenizers = self.settings.tokenizers
        given = None if tokenizers is None else tokenizers.given
        return cast("Callable[[str], Any]", get_tokenizer() if given is None else given)

    @tokenizer.setter
    def tokenizer(self, tokenizer: Callable[[str], Any] | None) -> None:
        tokenizers = Tokenizers(tokenizer, _global_tokenizer)
        self.settings = self.settings._replace(tokenizers=tokenizers)

    @property
    def keep_text(self) -> bool:
        """Whether events keep prompts and completions, from the next call's end on."""
        return self.settings.keeps_text

    @keep_text.setter
    def keep_text(self, keep_text: bool) -> None:
        self.settings = self.settings._replace(keeps_text=keep_text)

    @property
    def _token_counter(self) -> TokenCounter:  # type: ignore[override]  # made when asked for
        """LlamaIndex's own counter, for subclasses that use it."""
        return TokenCounter(tokenizer=self.tokenizer)

    # --- where calls end -------------------------------------------------------------------

    def _end(self, payload: dict[str, Any], event_id: str) -> None:
        """Record the call that ends here, and whatever is settled by that."""
        response, error = payload.get(_RESPONSE), None
        if response is None:
            response, error = payload.get(_COMPLETION), payload.get(_EXCEPTION)
        call = self._calls.end_plainly(event_id)
        if call is not None:
            # Most calls: neither made nor was made by another, nor streamed.
            if error is not None or not self._record_later(call, response):
                self._record(outcome_of(call, response, error))
            return
        outcomes = self._calls.end(event_id, response, error)
        if outcomes is not None:
            for outcome in outcomes:
                self._record(outcome)
        # The echo of a stream that was dropped before is counted already.
        elif not isinstance(error, ABANDONING):
            # Fed by hand, without a start.
            self._record(outcome_of(_call(payload, event_id), response, error))

    def _record_later(self, call: OpenCall, response: object) -> bool:
        """Record a call whose figures and texts can all be read later; `False` if they can't."""
        if self._verbose:
            return False
        parts = usage_parts(response)
        words = None if parts is None else plain_words(call.prompt, response)
        if parts is None or words is None:
            return False
        options = call.options
        self.tracker.add(
            Pending(
                (
                    _plainly_ended,
                    call.event_id,
                    call.span_id,
                    call.about,
                    perf_counter() - call.began,
                    time(),
                    parts,
                    words,
                    None if options is None else tools_of(options),
                    self.settings,
                ),
                len(words[1]) + len(words[-1]),
                call.context,
                None if call.reservation is None else take_reservation(call),
            )
        )
        return True

    def _record(self, outcome: Outcome) -> None:
        """Record an innermost call, of which something is unusual."""
        call, response, status, reported = outcome
        prompt = call.prompt if call.has_callback else formatted(call.prompt)
        settings = self.settings
        transcript = transcript_of(
            prompt,
            response,
            call.options,
            keeps_text=settings.keeps_text,
            is_reported=reported.covers_call,
        )
        duration_s = perf_counter() - call.began
        ending = Ending(status, time() - duration_s, duration_s, response is not None)
        # The program's own objects are let go of.
        call.prompt = call.progress = call.options = None
        pending = Pending(
            Ended(call, reported, transcript, ending, settings),
            transcript.held_bytes,
            call.outermost.context,
            take_reservation(call),
        )
        self.tracker.add(pending)
        if self._verbose and not outcome.is_free:
            for event in pending.events():
                self._print(
                    f"LLM Prompt Token Usage: {event.prompt_token_count}\n"
                    f"LLM Completion Token Usage: {event.completion_token_count}"
                )

    def _end_embedding(self, payload: dict[str, Any], event_id: str) -> None:
        """Record an embedding call that ends here: all of its texts together."""
        outcomes = self._calls.end(event_id, None, payload.get(_EXCEPTION))
        if outcomes is not None and not outcomes:
            return  # counted already: the handler is in its manager twice
        call = outcomes[0].call if outcomes else _call(payload, event_id)
        call.operation = "embedding"
        groups = self._listener.embedded_by(call, payload.get(_CHUNKS) or ())
        duration_s = perf_counter() - call.began
        transcript = EmbeddingTranscript(groups)
        ending = Ending("complete", time() - duration_s, duration_s)
        pending = Pending(
            Ended(call, SILENT, transcript, ending, self.settings),
            transcript.held_bytes,
            call.context,
            take_reservation(call),
        )
        self.tracker.add(pending)
        if self._verbose:
            total = sum(event.prompt_token_count for event in pending.events())
            self._print(f"Embedding Token Usage: {total}")

    # --- copies ----------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open calls, which go on in the original."""
        state = self.__dict__.copy()
        del state["_calls"], state["_listener"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a handler of its own, that has counted what the original had."""
        vars(self).update(state)
        self._listen()


class _Listener:
    """Passes on what LlamaIndex's dispatcher tells, without keeping the handler alive."""

    def __init__(self, handler: TokenCountingHandler) -> None:
        self._handler = weakref.ref(handler)
        self.calls = OpenCalls(SPANS, self._settle)
        self.batches = Batches()
        self.chunk = self.calls.chunk
        self.returned = self.calls.returned

    def find_owner(self, _provider: str) -> RequestOwner | None:
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

    def embeds(self, call: OpenCall) -> None:
        """Note that a call embeds texts, and which, as far as that is known."""
        call.nests = False
        call.operation = "embedding"
        call.texts = []
        if call.span_id is not None:
            self.batches.start(call.span_id)
        method = embedding(call.span_id)
        if method is not None:
            call.texts, call.served = method.next_batch()

    def embedded_by(self, call: OpenCall, chunks: Iterable[object]) -> list[EmbeddedTexts]:
        """Split what a call has embedded by who has told of its tokens.

        What a cache has served is left out.
        """
        named = [(shown(chunk), chunk) for chunk in chunks]
        requests, silent = self._requests_of(call, [text for text, _ in named])
        groups = [EmbeddedTexts(told, request.reported()) for request, told in requests]
        by_text, is_certain = dict(named), call.served is not None
        for is_picture, texts in groupby(silent, lambda text: is_image(by_text[text])):
            together = tuple(texts)
            if is_picture:
                notice("an image was embedded", together, "it is counted as nothing, and marked")
            groups.append(EmbeddedTexts(together, SILENT, is_certain, is_picture))
        return groups

    def _requests_of(
        self, call: OpenCall, texts: list[str]
    ) -> tuple[Sequence[tuple[AnsweredRequest, list[str]]], list[str]]:
        """The requests that a watched client has told of, with their texts, and the other texts."""
        served = call.served or ()
        span_id, batches = call.span_id, self.batches
        batch = None if span_id is None else batches.within(span_id)
        if span_id is None or batch is None:
            return [], [text for text in texts if text not in served]
        requests, rest = batch.take(texts)
        if batch.has_requests and call.served is None:
            # So the client is watched, and what it didn't send came from the cache.
            rest = []
        batches.end(span_id)
        return requests, [text for text in rest if text not in served]

    def asked_for_structure(self, span_id: str, llm: object, arguments: Mapping[str, Any]) -> None:
        """Open a call, for some integrations ask the provider here without a callback."""
        manager, handler = getattr(llm, "callback_manager", None), self._handler()
        if handler is None or not any(
            known is handler for known in getattr(manager, "handlers", ())
        ):
            return
        about = llm.to_payload() if isinstance(llm, BaseLLM) else None
        call = OpenCall(span_id, dict(arguments), about, span_id)
        call.has_callback = call.trusts_raw = False
        call.context = handler.tracker.context(users_tags(active_instrument_tags.get()))
        self.calls.start(call)

    def left(self, span_id: str, result: object, error: BaseException | None) -> None:
        """Count that call, if it has asked no other."""
        for outcome in self.calls.end(span_id, result, error) or ():
            self._settle(outcome)

    def embedded(self, span_id: str) -> None:
        """Let the watch count what no embedding call has told of, for it failed."""
        self.batches.leave(span_id)

    def _settle(self, outcome: Outcome) -> None:
        handler = self._handler()
        if handler is not None:
            try:
                handler._record(outcome)  # pyright: ignore[reportPrivateUsage]  # this is a part of it
            except Exception as error:  # noqa: BLE001 - called from anywhere
                notice("a call could not be counted", error, "it is left out")


def _call(payload: dict[str, Any], event_id: str, span_id: str | None = None) -> OpenCall:
    """Make a call of the payload of its start; of its end, if there was no start."""
    about: Any = payload.get(_SERIALIZED)
    prompt: Any = payload.get(_MESSAGES)
    if prompt is None:
        prompt = payload.get(_PROMPT)
    elif type(prompt) is list:
        # A copy: the user's list may grow while the call runs.
        prompt = tuple(prompt)
    call = OpenCall(event_id, prompt, about, span_id)
    options = payload.get(_ADDITIONAL)
    if options:
        call.options = options
    name: Any = about.get("class_name") if type(about) is dict else None
    if type(name) is str and name in RETURNS_USERS_OBJECT:
        call.trusts_raw = call.is_plain = False
    return call


def _plainly_ended(
    event_id: str,
    span_id: str | None,
    about: object,
    duration_s: float,
    ended_s: float,
    parts: UsageParts,
    words: Words,
    tools: object,
    settings: Settings,
) -> Ended:
    """What is known of a call that gave its answer; read when somebody asks."""
    answer = PlainTranscript(words, settings.keeps_text, tools)
    return Ended(
        # The call as it was, but for the program's own objects, which are let go of.
        OpenCall(event_id, answer.prompt(), about, span_id),
        Reported(extract_parts(parts)),
        answer,
        Ending("complete", ended_s - duration_s, duration_s),
        settings,
    )


def _global_tokenizer() -> object:
    """LlamaIndex's global tokenizer, if it has one yet; asked for it, it would make one."""
    return cast("object", getattr(llama_index.core, "global_tokenizer", None))

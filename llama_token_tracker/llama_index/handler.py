"""LlamaIndex's callback events in, `TokenCountingEvent`s out.

The callback manager tells of starts and ends, the observer of spans and chunks; `OpenCalls`
finds out which calls those make. Nothing that goes wrong here reaches the user's call, except
that a budget stops it: `BudgetExceededError` from its start, or the `ValueError` of LlamaIndex's
own `token_budget`.
"""

import logging
import mimetypes
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter, time
from typing import Any, cast

import llama_index.core
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.constants import DEFAULT_NUM_OUTPUTS
from llama_index.core.instrumentation.span import active_span_id
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.utilities.token_counting import TokenCounter
from llama_index.core.utils import (
    get_tokenizer,  # pyright: ignore[reportUnknownVariableType] - LlamaIndex's gap
)
from llama_index_instrumentation.dispatcher import active_instrument_tags

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import PROVIDERS, RETURNS_USERS_OBJECT
from llama_token_tracker.budgets import Budget
from llama_token_tracker.events.embedding import SharedTexts
from llama_token_tracker.events.event import Operation, TokenCountingEvent
from llama_token_tracker.events.settle import Said, embedded, event_of
from llama_token_tracker.events.unreported import NOTHING, Count, LateCall, SilentCall
from llama_token_tracker.extraction.messages import answer_of, as_message, messages_of
from llama_token_tracker.extraction.parts import Message, Text
from llama_token_tracker.extraction.reader import carefully_reported, plainly_reported, says_nothing
from llama_token_tracker.extraction.shape import Glance
from llama_token_tracker.extraction.texts import (
    Line,
    Words,
    plain_lines,
    printed,
    prompt_text,
    shown,
    texts_of,
    words_of,
)
from llama_token_tracker.llama_index.base_classes import CoreEvent, CoreHandler
from llama_token_tracker.llama_index.embeddings import Batches
from llama_token_tracker.llama_index.instrumentation import SPANS, embedding, listen
from llama_token_tracker.llama_index.open_calls import (
    ABANDONING,
    OpenCall,
    OpenCalls,
    Outcome,
    Stream,
    outcome_of,
)
from llama_token_tracker.pricing import OwnPrices, Prices
from llama_token_tracker.tokenizers.estimate import expected_input, expected_texts, stated_output
from llama_token_tracker.tokenizers.selection import Tokenizers
from llama_token_tracker.tracking.charging import Hold
from llama_token_tracker.tracking.correlation import UNTOLD, Claim, Heard, is_running
from llama_token_tracker.tracking.scopes import Context, is_somewhere
from llama_token_tracker.tracking.tracker import BYTES_PER_CALL, Tracker, Tracking

_LLM = CBEventType.LLM
_EMBEDDING = CBEventType.EMBEDDING
_COUNTED = (_LLM, _EMBEDDING)
# Asked of a thing's type, since the thing itself may raise even when asked for its class.
_DICTS = (dict,)
_LISTS = (list,)
_PROMPT = EventPayload.PROMPT
_MESSAGES = EventPayload.MESSAGES
_COMPLETION = EventPayload.COMPLETION
_RESPONSE = EventPayload.RESPONSE
_EXCEPTION = EventPayload.EXCEPTION
_SERIALIZED = EventPayload.SERIALIZED
_CHUNKS = EventPayload.CHUNKS
_LONGEST_PATH = 4096
_NO_WORDS: Words = ("", "")
_OWN_TAGS = "llamaindex."
_ADDITIONAL = EventPayload.ADDITIONAL_KWARGS


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
        )
        self.token_budget = token_budget
        self.keep_text = keep_text
        self.tokenizer = tokenizer
        self._verbose = verbose
        self._open_ears()

    def _open_ears(self) -> None:
        self._ear = _Ear(self)
        self._calls = self._ear.calls
        listen(self._ear, self)
        self.tracker.let_claim(self._ear, _Ear.claim)

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
            texts: list[str] | None = None
            call: OpenCall | None = None
            try:
                call = _call(payload, event_id, active_span_id.get())
                tags = active_instrument_tags.get()
                if tags or is_somewhere():
                    call.context = self.tracker.context(_own(tags))
                if event_type == _EMBEDDING:
                    texts = self._embeds(call)
                if event_type not in self.event_ends_to_ignore:
                    self._calls.start(call)
            except Exception as error:  # noqa: BLE001 - counting must not stop the call
                notice("a start could not be noted", error, "its end is counted alone")
            tracker = self.tracker
            if call is not None and (tracker.is_limited or call.context is not None):
                self._reserve(call, texts)
        return event_id

    def _embeds(self, call: OpenCall) -> list[str]:
        """Note that a call embeds texts, and give them, as far as they are known."""
        call.nests = False
        if call.span_id is not None:
            self._ear.batches.start(call.span_id)
        method = embedding(call.span_id)
        if method is None:
            return []
        texts, call.served = method.next_batch()
        return texts

    def _reserve(self, call: OpenCall, texts: list[str] | None) -> None:
        """Hold in the budgets what a call may use, unless the call around it does so already.

        Raises:
            BudgetExceededError: It would pass a limit.
        """
        outer = call.parent
        if not self.tracker.limits(call.context) or (outer is not None and _hold_of(outer)):
            return
        if texts is None:
            tokens = expected_input(call.prompt, _tools(call.options))
        else:
            tokens = expected_texts(text for text in texts if text not in (call.served or ()))
        provider, model = _about(call.about)
        try:
            call.context = self.tracker.reserve(
                call.context,
                input_tokens=tokens,
                output_tokens=0
                if texts is not None
                else stated_output(call.options, call.about, _settings(call.about)),
                provider=provider,
                model=model,
                operation="embedding" if texts is not None else _operation(call.prompt),
            )
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
        if payload is None:
            self._drop(event_id)
            return
        if event_type == _LLM:
            try:
                self._end(payload, event_id)
            except Exception as error:  # noqa: BLE001 - a paid answer must not be lost
                notice("an end could not be counted", error, "its call is not counted")
            if self.token_budget is not None:
                self._check_budget()
        elif event_type == _EMBEDDING:
            try:
                self._record_embeddings(payload, event_id)
            except Exception as error:  # noqa: BLE001 - nor must paid embeddings
                notice("an embedding could not be counted", error, "it is not counted")

    def _drop(self, event_id: str) -> None:
        try:
            for outcome in self._calls.drop(event_id):
                self._record(outcome)
        except Exception as error:  # noqa: BLE001 - nothing may be raised into the user's call
            notice("an end could not be noted", error, "its call is not counted")

    def _check_budget(self) -> None:
        budget = self.token_budget
        if budget is not None and (spent := self.total_llm_token_count) > budget:
            msg = f"Token budget exceeded! Limit: {budget}, Current: {spent}"
            raise ValueError(msg)

    # --- what users read -------------------------------------------------------------------

    @property
    def tokenizer(self) -> Callable[[str], Any]:
        """What was given to count with, or else LlamaIndex's global tokenizer."""
        given = self._tokenizers.given
        return cast("Callable[[str], Any]", get_tokenizer() if given is None else given)

    @tokenizer.setter
    def tokenizer(self, tokenizer: Callable[[str], Any] | None) -> None:
        self._tokenizers = Tokenizers(tokenizer, _global_tokenizer)

    @property
    def tokenizers(self) -> Tokenizers:
        """What counts where a provider says nothing: `tokenizer`, or each model's own."""
        return self._tokenizers

    @property
    def _token_counter(self) -> TokenCounter:  # type: ignore[override]  # made when asked for
        """LlamaIndex's own counter, for subclasses that use it."""
        return TokenCounter(tokenizer=self.tokenizer)

    # --- from outcomes to events -----------------------------------------------------------

    def _end(self, payload: dict[str, Any], event_id: str) -> None:
        """Record the call that ends here, and whatever is settled by that."""
        response = payload.get(_RESPONSE)
        if response is None:
            response = payload.get(_COMPLETION)
        error = payload.get(_EXCEPTION)
        call = self._calls.end_plainly(event_id)
        if call is not None:
            # Most calls: neither made nor was made by another, nor streamed.
            if error is None:
                self._record_complete(call, response)
            else:
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

    def _record_complete(self, call: OpenCall, response: object) -> None:
        """Record a plain call that has given its answer; its event is made later."""
        glanced = plainly_reported(response)
        if glanced is None:
            self._record_otherwise(call, response)
            return
        input_tokens, output_tokens, glance, values = glanced
        context: Context | None = call.context
        if context is not None and context.hold is not None:
            self._record(Outcome(call, response, "complete", glance.usage(values)))
            return
        prompt = call.prompt
        self.tracker.record_later(
            (
                input_tokens,
                output_tokens,
                context,
                _plain_event,
                words_of(prompt, response) if self.keep_text else _NO_WORDS,
                glance,
                values,
                call.about,
                type(prompt) is str,
                time(),
                perf_counter() - call.began,
                call.event_id,
                call.span_id,
            ),
        )
        if self._verbose:
            self._tell(input_tokens, output_tokens)

    def _record_otherwise(self, call: OpenCall, response: object) -> None:
        """Record a plain call whose usage is in an odd place, or nowhere."""
        usage = None if says_nothing(response) else carefully_reported(response)
        lines = plain_lines(call.prompt, response) if usage is None else None
        if lines is None or self._verbose:
            self._record(Outcome(call, response, "complete", usage))
        else:
            self._record_silent(call, *lines)

    def _record_silent(self, call: OpenCall, prompt: tuple[Line, ...], answer: Line) -> None:
        """Record a plain call of plain texts, whose provider said nothing."""
        # Not a generator: it would cost as much as all the rest.
        held_bytes = len(answer[1])
        for _, text in prompt:
            held_bytes += len(text)
        self.tracker.record_uncounted(
            LateCall(
                held_bytes,
                _silent_call,
                self._tokenizers,
                prompt,
                answer,
                self.keep_text,
                None if call.options is None else _tools(call.options),
                call.about,
                time(),
                perf_counter() - call.began,
                call.event_id,
                call.span_id,
            ),
            call.context,
        )

    def _record(self, outcome: Outcome) -> None:
        call, response, status, usage, input_is_sure, output_is_sure = outcome
        if not call.has_callback:
            call.prompt = _formatted(call.prompt)
        outermost = call.outermost
        words = words_of(call.prompt, response) if self.keep_text else _NO_WORDS
        prompt, completion = texts_of(words)
        fields = _known(
            call.about, time(), perf_counter() - call.began, call.event_id, call.span_id
        )
        fields |= {
            "prompt": prompt,
            "completion": completion,
            "status": status,
            "operation": _operation(call.prompt),
            "event_id": outermost.event_id,
            "span_id": outermost.span_id,
        }
        model: str | None = fields["model"]
        said = Said(usage, "reported" if input_is_sure else "estimated", output_is_sure)
        if said.is_all:
            event: TokenCountingEvent = event_of(LlamaIndexEvent, fields, said, NOTHING, NOTHING)
        else:
            nothing = outcome.nothing_happened
            silent = SilentCall(
                partial(self._tokenizers.of, model),
                model,
                prompt=None if nothing or said.prompt is not None else _prompt(call.prompt),
                tools=_tools(call.options),
                answer=None if nothing or said.is_all_of_the_answer else answer_of(response),
                make=partial(event_of, LlamaIndexEvent, fields, said),
            )
            if not (nothing or self._verbose):
                self.tracker.record_uncounted(silent, _context(call))
                return
            event = silent.count()
        self.tracker.record(event, _context(call))
        if self._verbose and not outcome.nothing_happened:
            self._tell(event.prompt_token_count, event.completion_token_count)

    def _tell(self, prompt_tokens: int, completion_tokens: int) -> None:
        self._print(
            f"LLM Prompt Token Usage: {prompt_tokens}\n"
            f"LLM Completion Token Usage: {completion_tokens}"
        )

    def _record_embeddings(self, payload: dict[str, Any], event_id: str) -> None:
        error = payload.get(_EXCEPTION)
        outcomes = self._calls.end(event_id, None, error)
        if outcomes is not None and not outcomes:
            return  # counted already: the handler is in its manager twice
        call = outcomes[0].call if outcomes else _call(payload, event_id)
        fields = _known(call.about, time(), perf_counter() - call.began, event_id, call.span_id)
        fields |= {"completion": "", "operation": "embedding"}
        chunks = [(shown(chunk), chunk) for chunk in payload.get(_CHUNKS) or ()]
        requests, silent = self._heard(call, [text for text, _ in chunks])
        if (held := _hold_of(call)) is not None:
            held.expect(sum(len(texts) for _, texts in requests) + len(silent))
        total = 0
        for request, texts in requests:
            total += self._record_shared(call, fields, request, texts)
        by_text = dict(chunks)
        for text in silent:
            total += self._record_embedded(call, fields, text, by_text[text])
        if self._verbose:
            self._print(f"Embedding Token Usage: {total}")

    def _heard(
        self, call: OpenCall, texts: list[str]
    ) -> tuple[Sequence[tuple[Heard, list[str]]], list[str]]:
        """The requests that a watched client has told of, with their texts, and the other texts.

        What a cache has served is in neither.
        """
        served = call.served or ()
        span_id, batches = call.span_id, self._ear.batches
        batch = None if span_id is None else batches.within(span_id)
        if span_id is None or batch is None:
            return [], [text for text in texts if text not in served]
        requests, rest = batch.take(texts)
        if batch.has_heard and call.served is None:
            # So the client is watched, and what it didn't send came from the cache.
            rest = []
        batches.end(span_id)
        return requests, [text for text in rest if text not in served]

    def _record_shared(
        self, call: OpenCall, fields: dict[str, Any], request: Heard, texts: list[str]
    ) -> int:
        """Record the texts of one request, whose figure they share.

        Returns:
            Their tokens, as far as the request has told.
        """
        reading = request.reading()
        self.tracker.record_uncounted(
            SharedTexts(
                sum(map(len, texts)) + BYTES_PER_CALL * len(texts),
                lambda: texts,
                None if reading is None else reading.usage.input_tokens,
                partial(self._tokenizers.of, fields["model"]),
                partial(_embedding, fields, self.keep_text, True),
            ),
            call.context,
        )
        return (reading.usage.input_tokens or 0) if reading else 0

    def _record_embedded(
        self, call: OpenCall, fields: dict[str, Any], text: str, chunk: object
    ) -> int:
        """Record one text of whose tokens nobody has told.

        Returns:
            Its tokens if they are printed, else 0.
        """
        is_image = _is_image(chunk)
        if is_image:
            notice("an image was embedded", text, "it is counted as nothing, and marked")
        is_sure = call.served is not None
        silent = SilentCall(
            partial(self._tokenizers.of, fields["model"]),
            fields["model"],
            prompt=None if is_image else text,
            tools=None,
            answer=None,
            make=partial(_embedding_alone, fields, self.keep_text, is_sure, text),
        )
        self.tracker.record_uncounted(silent, call.context)
        return silent.count().prompt_token_count if self._verbose else 0

    # --- copies ----------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open calls, which go on in the original."""
        state = self.__dict__.copy()
        del state["_calls"], state["_ear"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a handler of its own, that has counted what the original had."""
        vars(self).update(state)
        self._open_ears()


class _Ear:
    """Passes on what the observer hears, without keeping the handler alive."""

    def __init__(self, handler: TokenCountingHandler) -> None:
        self._handler = weakref.ref(handler)
        self.calls = OpenCalls(SPANS, self._settle)
        self.batches = Batches()

    def claim(self, _provider: str) -> Claim | None:
        """Whose request it is that a watched client sends here and now."""
        active = span_id = active_span_id.get()
        if active is None and not self.calls.by_id:
            return None
        while span_id is not None and not SPANS.is_call(span_id):
            batch = self.batches.within(span_id)
            if batch is not None:
                return batch
            span_id = SPANS.parent(span_id)
        call = self.calls.asking(active)
        if call is None and active is None and is_running("llama_index.llms."):
            return UNTOLD
        return call

    def returned(self, span_id: str, stream: Stream) -> None:
        self.calls.returned(span_id, stream)

    def chunk(self, span_id: str, chunk: object) -> None:
        self.calls.chunk(span_id, chunk)

    def asked_for_structure(self, span_id: str, llm: object, arguments: Mapping[str, Any]) -> None:
        """Open a call, for some integrations ask the provider here without a callback."""
        manager, handler = getattr(llm, "callback_manager", None), self._handler()
        if handler is None or not any(
            heard is handler for heard in getattr(manager, "handlers", ())
        ):
            return
        about = llm.to_payload() if isinstance(llm, BaseLLM) else None
        call = OpenCall(span_id, dict(arguments), about, span_id)
        call.has_callback = call.trusts_raw = False
        call.context = handler.tracker.context(_own(active_instrument_tags.get()))
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
            except Exception as error:  # noqa: BLE001 - called from anywhere, even by the gc
                notice("a call could not be counted", error, "it is left out")


def _formatted(prompt: object) -> object:
    """The prompt of a call; of a structured one, its template with everything put in."""
    if not isinstance(prompt, dict):
        return prompt
    arguments = cast("dict[str, Any]", prompt)
    template, values = arguments.get("prompt"), arguments.get("prompt_args", {})
    if not isinstance(template, BasePromptTemplate):
        return None
    return tuple(template.format_messages(**values))


def _call(payload: dict[str, Any], event_id: str, span_id: str | None = None) -> OpenCall:
    """Make a call of the payload of its start; of its end, if there was no start."""
    prompt: Any = payload.get(_MESSAGES)
    if prompt is None:
        prompt = payload.get(_PROMPT)
    elif type(prompt) in _LISTS:
        # A copy: the user's list may grow while the call runs.
        prompt = tuple(prompt)
    about: Any = payload.get(_SERIALIZED)
    call = OpenCall(event_id, prompt, about, span_id)
    options = payload.get(_ADDITIONAL)
    if options:
        call.options = options
    name: Any = about.get("class_name") if type(about) in _DICTS else None
    if type(name) is str and name in RETURNS_USERS_OBJECT:
        call.trusts_raw = call.plain = False
    return call


def _settings(about: object) -> dict[str, Any]:
    """What a model's settings say of its output, in the words that most providers use."""
    output: Any = cast("dict[str, Any]", about).get("num_output") if _is(about, dict) else None
    # LlamaIndex's default stands for "not stated".
    return {} if output == DEFAULT_NUM_OUTPUTS else {"max_tokens": output}


def _own(tags: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tags that users gave by `instrument_tags`.

    Those that LlamaIndex's workflows add for themselves are left out: they are new with each
    run, and hold the text of prompts.
    """
    return {name: value for name, value in tags.items() if not str(name).startswith(_OWN_TAGS)}


def _operation(prompt: object) -> Operation:
    return "completion" if type(prompt) is str else "chat"


def _hold_of(call: OpenCall) -> Hold | None:
    """What a call holds in budgets."""
    context: Context | None = call.context
    return None if context is None else context.hold


def _context(call: OpenCall) -> Context | None:
    """Where the outermost call started, and what this one holds, or one around it."""
    context: Context | None = call.outermost.context
    holder: OpenCall | None = call
    while holder is not None:
        held = _hold_of(holder)
        if held is not None:
            # Taken: another call within the same one must reserve for itself.
            holder.context = holder.context._replace(hold=None)
            return (context or Context())._replace(hold=held)
        holder = holder.parent
    return None if context is None else context._replace(hold=None)


def _global_tokenizer() -> object:
    """LlamaIndex's global tokenizer, if it has one yet; asked for it, it would make one."""
    return cast("object", getattr(llama_index.core, "global_tokenizer", None))


def _prompt(prompt: object) -> str | tuple[Message, ...] | None:
    if prompt is None:
        return None
    if _is(prompt, tuple):
        return messages_of(cast("tuple[object, ...]", prompt))
    return prompt_text(prompt)


def _is_image(chunk: object) -> bool:
    """Whether an embedded thing is no text, but an image or the name of its file."""
    if not issubclass(type(chunk), str):
        return True
    chunk = cast("str", chunk)
    kind = mimetypes.guess_type(chunk)[0] if len(chunk) < _LONGEST_PATH else None
    return kind is not None and kind.startswith("image/") and Path(chunk).is_file()


def _tools(options: object) -> object:
    return cast("dict[str, Any]", options).get("tools") if _is(options, dict) else None


def _embedding(
    fields: dict[str, Any], keeps_text: bool, is_sure: bool, text: str, prompt: Count
) -> LlamaIndexEvent:
    return embedded(LlamaIndexEvent, fields, text if keeps_text else "", is_sure, prompt)


def _embedding_alone(
    fields: dict[str, Any],
    keeps_text: bool,
    is_sure: bool,
    text: str,
    prompt: Count,
    _answer: Count,
) -> LlamaIndexEvent:
    return _embedding(fields, keeps_text, is_sure, text, prompt)


def _is(thing: object, kind: type) -> bool:
    """Whether it is exactly that, and so does nothing odd when asked."""
    return type(thing) is kind


def _plain_event(
    words: Words,
    glance: Glance,
    values: tuple[Any, ...],
    about: object,
    is_completion: bool,
    ended_s: float,
    duration_s: float,
    event_id: str,
    span_id: str | None,
) -> LlamaIndexEvent:
    """Make the event of one call that gave one answer and reported its whole usage."""
    usage = glance.usage(values)
    return LlamaIndexEvent(
        *texts_of(words),
        completion_token_count=usage.output_tokens or 0,
        prompt_token_count=usage.input_tokens or 0,
        usage=usage,
        prompt_source="reported",
        completion_source="reported",
        operation="completion" if is_completion else "chat",
        **_known(about, ended_s, duration_s, event_id, span_id),
    )


def _silent_call(
    tokenizers: Tokenizers,
    prompt: tuple[Line, ...],
    answer: Line,
    keeps_text: bool,
    tools: object,
    about: object,
    ended_s: float,
    duration_s: float,
    event_id: str,
    span_id: str | None,
) -> SilentCall:
    """Prepare to count a call of plain texts."""
    fields = _known(about, ended_s, duration_s, event_id, span_id)
    if keeps_text:
        fields |= {"prompt": printed(prompt), "completion": printed([answer])}
    else:
        fields |= {"prompt": "", "completion": ""}
    model: str | None = fields["model"]
    return SilentCall(
        partial(tokenizers.of, model),
        model,
        prompt=tuple([as_message(role, (Text(text),)) for role, text in prompt]),
        tools=tools,
        answer=(Text(answer[1]),),
        make=partial(event_of, LlamaIndexEvent, fields, Said(None, "estimated", False)),
    )


def _known(
    about: object, ended_s: float, duration_s: float, event_id: str, span_id: str | None
) -> dict[str, Any]:
    """What an event says of its call, whatever it used: whose it was, when, and its ids."""
    provider, model = _about(about)
    return {
        "provider": provider,
        "model": model,
        "started_s": ended_s - duration_s,
        "duration_s": duration_s,
        "event_id": event_id,
        "inner_event_id": event_id,
        "span_id": span_id,
        "inner_span_id": span_id,
    }


def _about(about: Any) -> tuple[str | None, str | None]:
    """The provider's name and the model's id, as far as the start event told them."""
    if type(about) not in _DICTS:
        return None, None
    model: Any = about.get("model_name")
    if type(model) is not str or not model:
        model = about.get("model")
    if type(model) is not str or not model or model == "unknown":
        model = None
    name: Any = about.get("class_name")
    return PROVIDERS.get(name) if type(name) is str else None, model

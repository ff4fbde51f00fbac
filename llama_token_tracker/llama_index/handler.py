"""LlamaIndex's callback handler: its events in, `TokenCountingEvent`s out.

The callback manager tells of starts and ends, `instrumentation` of spans and chunks; `OpenCalls`
finds out which calls those make. Nothing that goes wrong here reaches the user's call, except
that a budget stops it: `BudgetExceededError` from its start, or the `ValueError` of LlamaIndex's
own `token_budget`.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, cast

import llama_index.core
from llama_index.core.callbacks.schema import CBEventType
from llama_index.core.utilities.token_counting import TokenCounter
from llama_index.core.utils import (
    get_tokenizer,  # pyright: ignore[reportUnknownVariableType] - LlamaIndex's gap
)

from llama_token_tracker._lock import is_sent
from llama_token_tracker._log_once import notice
from llama_token_tracker.budgets import Budget
from llama_token_tracker.events.call import Settings
from llama_token_tracker.llama_index.base_classes import CoreHandler
from llama_token_tracker.llama_index.instrumentation import listen
from llama_token_tracker.llama_index.open_calls import OpenCall
from llama_token_tracker.llama_index.recorder import LlamaIndexEvent
from llama_token_tracker.llama_index.spans import SpanRecorder
from llama_token_tracker.pricing import OwnPrices, Prices
from llama_token_tracker.sinks import Sink
from llama_token_tracker.sinks.ledger import LedgerLike
from llama_token_tracker.tokenizers.selection import Tokenizers
from llama_token_tracker.tracking.tracker import Tracker, Tracking
from llama_token_tracker.wire.watching import Watch
from llama_token_tracker.wire.watching import watch as watch_process

_LLM: Final = CBEventType.LLM
_EMBEDDING: Final = CBEventType.EMBEDDING
_COUNTED: Final = (_LLM, _EMBEDDING)
_ASK_FOR_USAGE: Final = 'OpenAI(additional_kwargs={"stream_options": {"include_usage": True}})'


class TokenCountingHandler(  # type: ignore[misc]  # events are LlamaIndex's with more fields
    Tracking[SpanRecorder],
    CoreHandler,  # pyright: ignore[reportIncompatibleVariableOverride]
):
    """Counts every call to a provider exactly once, as it was billed.

    A drop-in for `llama_index.core.callbacks.TokenCountingHandler`: the same arguments, lists,
    totals and budget. Its events say more: see `TokenCountingEvent`.

    Args:
        tokenizer: Text to tokens, for providers that report no usage. By default LlamaIndex's
            global tokenizer, or else its own `cl100k_base`, which is marked as an estimate.
        event_starts_to_ignore: Event types whose start is not counted with. Without the starts
            of LLM events a call inside a call cannot be told from one beside it.
        event_ends_to_ignore: Event types whose end is not told of, and so not counted.
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
        ledger: Where each call is written down, so that it outlives the process: a file's path,
            an SQLAlchemy URL of PostgreSQL, or a `Ledger`. `refresh()` reads what other processes
            of the same run have written.
        watch: Whether to count whatever this process sends to a provider, as `watch(handler)`
            does; `handler.watching.stop()` ends it.
        everywhere: Whether to count every call that LlamaIndex's models make in this process,
            whatever callback manager they have; `handler.close()` ends it. A call that callbacks or
            a watch tell of as well is counted once. A budget stops calls of whose start a callback
            tells, and all others as their requests leave.

    Raises:
        TokenizerError: `tokenizer` can't count tokens.
        BudgetError: `budget` holds something that is no budget.
        SinkError: `sinks` holds something that can't be called.
        LedgerError: The ledger can't be opened.
    """

    watching: Watch | None = None

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
        ledger: LedgerLike | None = None,
        watch: bool = False,
        everywhere: bool = False,
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
            ledger=ledger,
        )
        self.token_budget = token_budget
        self._verbose = verbose
        tokenizers = Tokenizers(tokenizer, _global_tokenizer)
        self._listen(
            Settings(tokenizers, keep_text, LlamaIndexEvent, self.tracker.prices, _ASK_FOR_USAGE),
            everywhere=everywhere,
        )
        if watch:
            self.watching = watch_process(self)

    def _listen(self, settings: Settings, *, everywhere: bool = False) -> None:
        tell = self._print if self._verbose else None
        self._recorder = SpanRecorder(self, self.tracker, settings, tell, hears_all=everywhere)
        listen(self._recorder, self)
        self.tracker.owners.add(self._recorder)

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
            call = self._recorder.start(event_type, payload, event_id, self.event_ends_to_ignore)
            if call is not None and (self.tracker.is_limited or call.context is not None):
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
            self._recorder.calls.drop(call.event_id)
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
        call = None
        try:
            call = self._recorder.calls.by_id.get(event_id)
            if payload is None:
                for outcome in self._recorder.calls.drop(event_id):
                    self._recorder.record(outcome)
            elif event_type == _LLM:
                self._recorder.end(payload, event_id)
            elif event_type == _EMBEDDING:
                self._recorder.end_embedding(payload, event_id)
        except BaseException as error:
            if is_sent(error):
                self._recorder.resume(call, payload or {})
                raise
            # A paid answer must not be lost.
            notice("an end could not be counted", error, "its call is not counted")
        if self.token_budget is not None and event_type == _LLM and payload is not None:
            self._check_budget()

    def _check_budget(self) -> None:
        budget = self.token_budget
        if budget is not None and (spent := self.total_llm_token_count) > budget:
            msg = f"Token budget exceeded! Limit: {budget}, Current: {spent}"
            raise ValueError(msg)

    def close(self, timeout_s: float | None = None) -> bool:
        """Wait until all calls are counted, and given to sinks; then give sinks no further ones.

        From then on only calls that callbacks or a watch tell of are counted.

        Args:
            timeout_s: How long to wait at the most, in seconds; `None` for as long as it takes.

        Returns:
            Whether that was done in time; `False` if a sink hangs.
        """
        self._recorder.hears_all = False
        return super().close(timeout_s)

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
        self._recorder.settings = self.settings._replace(tokenizers=tokenizers)

    @property
    def raise_error(self) -> bool:
        """What LangChain asks its own handlers first.

        Raises:
            AttributeError: In any case.
        """
        msg = (
            "this handler is LlamaIndex's, and was given to LangChain, which has another: "
            "llama_token_tracker.langchain.TokenCountingCallbackHandler(tracker=handler.tracker)."
        )
        raise AttributeError(msg)

    @property
    def open_calls(self) -> int:
        """How many calls have started and not ended."""
        return len(self._recorder.calls.by_id)

    @property
    def _token_counter(self) -> TokenCounter:  # type: ignore[override]  # made when asked for
        """LlamaIndex's own counter, for subclasses that use it."""
        return TokenCounter(tokenizer=self.tokenizer)


def _global_tokenizer() -> object:
    """LlamaIndex's global tokenizer, if it has one yet; asked for it, it would make one."""
    return cast("object", getattr(llama_index.core, "global_tokenizer", None))

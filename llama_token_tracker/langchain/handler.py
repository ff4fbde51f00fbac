"""LangChain's callback handler: its runs in, `TokenCountingEvent`s out.

Both frameworks may feed one tracker: `TokenCountingCallbackHandler(tracker=token_counter.tracker)`
of a LlamaIndex handler. Nothing that goes wrong here reaches the user's call, except that a budget
stops it: `BudgetExceededError` from its start.
"""

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import Generation, LLMResult
from langchain_core.tracers.context import register_configure_hook

from llama_token_tracker._lock import is_sent
from llama_token_tracker._log_once import notice
from llama_token_tracker.budgets import Budget
from llama_token_tracker.events.call import Settings
from llama_token_tracker.langchain.recorder import RunRecorder
from llama_token_tracker.pricing import OwnPrices, Prices
from llama_token_tracker.sinks import Sink
from llama_token_tracker.sinks.ledger import LedgerLike
from llama_token_tracker.tokenizers.selection import Tokenizers
from llama_token_tracker.tracking.tracker import Tracker, Tracking

_entered: Final[list[ContextVar[BaseCallbackHandler | None]]] = []
"""Who counts by `with`: one variable for each depth to which such blocks were ever nested.

LangChain knows no way to forget a variable, so they are shared by all handlers.
"""


class TokenCountingCallbackHandler(Tracking[RunRecorder], BaseCallbackHandler):
    """Counts every call that LangChain makes to a provider exactly once, as it was billed.

        token_counter = TokenCountingCallbackHandler()
        chain.invoke({"subject": "ai"}, config={"callbacks": [token_counter]})
        token_counter.total_tokens

    It may also be given to a model's constructor (`callbacks=[token_counter]`), or be entered:
    within `with token_counter:` it hears all of LangChain's calls. Everything that
    `TokenCountingHandler` tells can be read here too.

    A run's metadata become tags, as far as they are texts, whole numbers or booleans; those that
    LangChain and LangGraph add for themselves don't, `langgraph_node` excepted. LangChain's
    `tags`, which have no names, are left out.

    Args:
        tokenizer: Text to tokens, for providers that report no usage. By default each model's
            own.
        tracker: Where to record, such as that of a LlamaIndex handler; by default a new one.
        max_events: How many events each list holds at the most; the oldest go first, and stay
            in the totals. `None` keeps all until `reset_counts()`.
        keep_text: Whether events keep prompts and completions, which may be long.
        include_failed: Whether `llm_token_counts` also lists calls that failed before anything
            was billed. They cost no token, and are in `failed_calls` in any case.
        prices: Your own prices by model's id; they win over those of genai-prices.
        models: Which model is behind an id that names none, such as the ARN of an application
            inference profile.
        budget: A limit, or several, that calls are held to before they're sent. Those of a
            tracker that is given hold in any case.

        sinks: Functions that take each finished call's event; see LlamaIndex's
            `TokenCountingHandler`. Those of a tracker that is given get them in any case.
        ledger: Where each call is written down: a `Ledger`, or its path or URL.

    Raises:
        TypeError: `tracker` is none.
        ValueError: `tracker` comes with an argument that only a new one takes.
        SinkError: `sinks` holds something that can't be called.
        LedgerError: The ledger can't be opened.
        TokenizerError: `tokenizer` can't count tokens.
        BudgetError: `budget` holds something that is no budget.
    """

    # In an event loop too: a thread for each word of a stream would cost more than counting.
    run_inline = True
    # Else LangChain would log that a budget is used up, and send the call.
    raise_error = True

    def __init__(
        self,
        tokenizer: Callable[[str], list[Any]] | None = None,
        *,
        tracker: Tracker | None = None,
        max_events: int | None = None,
        keep_text: bool = True,
        include_failed: bool = False,
        prices: Mapping[str, OwnPrices] | None = None,
        models: Mapping[str, str] | None = None,
        budget: Budget | Iterable[Budget] | None = None,
        sinks: Iterable[Sink] = (),
        ledger: LedgerLike | None = None,
    ) -> None:
        super().__init__()
        if tracker is None:
            tracker = Tracker(
                max_events=max_events,
                include_failed=include_failed,
                prices=Prices(prices, models),
                budget=budget,
                sinks=sinks,
                ledger=ledger,
            )
        else:
            _check(
                tracker,
                max_events=max_events,
                include_failed=include_failed or None,
                prices=prices,
                models=models,
                budget=budget,
                sinks=sinks or None,
                ledger=ledger,
            )
        self.tracker = tracker
        tokenizers = Tokenizers(tokenizer, _no_other)
        self._listen(
            Settings(
                tokenizers,
                keep_text,
                prices=tracker.prices,
                ask_for_usage="ChatOpenAI(stream_usage=True)",
            )
        )

    def _listen(self, settings: Settings) -> None:
        self._recorder = RunRecorder(self.tracker, settings)
        self.tracker.owners.add(self._recorder)

    # --- what users read -------------------------------------------------------------------

    @property
    def input_tokens(self) -> int:
        """Tokens that went into calls, cache reads and writes included."""
        return self.prompt_llm_token_count

    @property
    def output_tokens(self) -> int:
        """Tokens that came out of calls, reasoning included."""
        return self.completion_llm_token_count

    @property
    def total_tokens(self) -> int:
        """Tokens of all calls, in and out."""
        return self.total_llm_token_count

    @property
    def event_starts_to_ignore(self) -> tuple[()]:
        """What LlamaIndex asks its own handlers first.

        Raises:
            AttributeError: In any case.
        """
        msg = (
            "this handler is LangChain's, and was given to LlamaIndex, which has another: "
            "llama_token_tracker.TokenCountingHandler."
        )
        raise AttributeError(msg)

    start_trace = event_starts_to_ignore

    @property
    def open_calls(self) -> int:
        """How many calls have started and not ended."""
        return len(self._recorder.runs)

    def __enter__(self) -> Self:
        """Hear all of LangChain's calls that start from now on in this context."""
        free = next((place for place in _entered if place.get() is None), None)
        (free or _one_more()).set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Hear no further calls in this context, but the ends of those that have started."""
        for place in reversed(_entered):
            if place.get() is self:
                place.set(None)
                return

    # --- what LangChain calls --------------------------------------------------------------

    @property
    def ignore_chain(self) -> bool:
        """Chains call no provider themselves."""
        return True

    # Nor does anything else that starts no run of a model.
    ignore_agent = ignore_custom_event = ignore_retriever = ignore_retry = ignore_chain  # pyright: ignore[reportIncompatibleMethodOverride]

    def on_llm_start(
        self,
        serialized: dict[str, Any],
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the start of a call that completes a text.

        Raises:
            BudgetExceededError: It would pass the limit of a budget; nothing is sent.
        """
        self._recorder.start(
            "completion", prompts, serialized, run_id, parent_run_id, metadata, kwargs
        )

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the start of a call that answers messages.

        Raises:
            BudgetExceededError: It would pass the limit of a budget; nothing is sent.
        """
        self._recorder.start("chat", messages, serialized, run_id, parent_run_id, metadata, kwargs)

    def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: Generation | None = None,
        run_id: UUID,
        **kwargs: Any,
    ) -> None:
        """Keep a piece of a stream, in case that its end never tells of it."""
        run = self._recorder.runs.get(str(run_id))
        if run is not None:
            run.has_sent = True
            if issubclass(type(chunk), Generation):
                run.chunks.append(chunk)
                run.is_streamed = True

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Count a call that has given its answer."""
        run = None
        try:
            run = self._recorder.runs.get(str(run_id))
            self._recorder.end(str(run_id), response)
        except BaseException as error:
            if is_sent(error):
                self._recorder.resume(str(run_id), run, response, None)
                raise
            # A paid answer must not be lost.
            notice("an end could not be counted", error, "its call is not counted")

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Count a call that has failed or was left, as far as it came."""
        if kwargs.get("signal"):
            return  # langchain-aws tells of a guardrail; the answer comes all the same
        run = None
        try:
            run = self._recorder.runs.get(str(run_id))
            self._recorder.fail(str(run_id), error, kwargs.get("response"))
        except BaseException as problem:
            if is_sent(problem):
                self._recorder.resume(str(run_id), run, kwargs.get("response"), error)
                raise
            # The user's own error must not be hidden.
            notice("a failed call could not be counted", problem, "it is left out")


def _check(tracker: object, **arguments: object) -> None:
    if not isinstance(tracker, Tracker):
        msg = f"tracker is {tracker!r}; give a Tracker, such as `token_counter.tracker`."
        raise TypeError(msg)
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        names = " and ".join(given)
        msg = f"{names} came with a tracker; give them to whatever makes the tracker."
        raise ValueError(msg)


def _no_other() -> None:
    """LangChain has no tokenizer for all."""


def _one_more() -> ContextVar[BaseCallbackHandler | None]:
    place: ContextVar[BaseCallbackHandler | None] = ContextVar(
        f"llama_token_tracker_langchain_{len(_entered)}", default=None
    )
    _entered.append(place)
    register_configure_hook(place, inheritable=True)
    return place

"""From what LangChain tells of a run to the call that has ended."""

from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar
from time import perf_counter, time
from typing import Any, Final, cast
from uuid import UUID

from langchain_core.messages import get_buffer_string
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, LLMResult

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import BEDROCK, LANGCHAIN_PROVIDERS
from llama_token_tracker.events.call import Settings, status_after
from llama_token_tracker.events.event import Operation, Status
from llama_token_tracker.events.failures import usage_carried
from llama_token_tracker.events.settle import Ended, Ending
from llama_token_tracker.events.transcripts import PartsTranscript
from llama_token_tracker.extraction import Reported, extract_fullest, knows
from llama_token_tracker.extraction.messages import messages_of
from llama_token_tracker.extraction.parts import Message, Part, Text
from llama_token_tracker.extraction.texts import shown
from llama_token_tracker.langchain.runs import OpenRuns, Run
from llama_token_tracker.tracking.charging import release, take_reservation
from llama_token_tracker.tracking.correlation import UNKNOWN_OWNER, RequestOwner, is_running
from llama_token_tracker.tracking.pending import Pending
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.usage import WHOLES, Usage

_MAX_TAGS: Final = 16
# What LangChain and LangGraph add to a run's metadata for themselves.
_INTERNAL: Final = ("ls_", "lc_", "langgraph_", "checkpoint_", "__")
_TELLING: Final = "langgraph_node"
_MODEL_KEYS: Final = ("model", "model_name", "model_id")

_ON_AWS: Final = (BEDROCK, None)
_ASKING: Final = "langchain_aws."
"""The integration that asks from threads without a context, as BedrockLLM does in event loops."""

_started: Final[ContextVar[str]] = ContextVar("llama_token_tracker_langchain_started", default="")
"""The id of the run that started last in this context: its request leaves here, too.

LangChain calls us in the context in which it then calls the model, or copies that for a thread.
"""


class RunRecorder:
    """Records the runs of one handler.

    Args:
        tracker: Where they are recorded.
        settings: How their events are made.

    Attributes:
        runs: Those that are open.
    """

    def __init__(self, tracker: Tracker, settings: Settings) -> None:
        self.tracker = tracker
        self.settings = settings
        self.runs = OpenRuns(self._lose)

    def end(self, run_id: str, response: LLMResult) -> None:
        """Record a run that has given its answer."""
        run = self.runs.end(run_id, response)
        if run is not None:
            self._settle(run, response, "complete")

    def fail(self, run_id: str, error: BaseException, response: LLMResult | None) -> None:
        """Record a run that has failed or was left, as far as it came."""
        run = self.runs.fail(run_id, error)
        if run is None:
            return
        status = status_after(error)
        carried = usage_carried(error) if status == "unanswered" else None
        if run.has_lost and run.request is None and carried is None:
            # What was sent is counted by now.
            status = "failed"
        self._settle(run, response, status, carried)

    def start(
        self,
        operation: Operation,
        prompt: object,
        serialized: object,
        run_id: UUID,
        parent_run_id: UUID | None,
        metadata: object,
        options: Mapping[str, Any],
    ) -> None:
        """Open a call: every one starts here, before anything is sent.

        Raises:
            BudgetExceededError: It would pass a limit.
        """
        try:
            params = options.get("invocation_params")
            given, known = _fields(params), _fields(metadata)
            limit = known.get("ls_max_tokens")
            run = Run(
                str(run_id),
                operation,
                prompt,
                model=_model(known, given, serialized),
                provider=LANGCHAIN_PROVIDERS.get(str(known.get("ls_provider"))),
                tools=given.get("tools") or given.get("toolConfig"),
                # LangChain puts the limit of the answer under one name.
                limits=given if limit is None else {**given, "max_tokens": limit},
                context=self.tracker.context(_tags(known)),
            )
            size = int(options.get("batch_size") or 1)
            is_news = self.runs.start(run, run_id, str(parent_run_id), params, size)
            _started.set(run.event_id)
        except Exception as error:  # noqa: BLE001 - counting must not stop the call
            notice("a start could not be noted", error, "its call is not counted")
        else:
            if is_news:
                self._reserve(run)

    def _reserve(self, run: Run) -> None:
        """Hold in the budgets what a call may use.

        Raises:
            BudgetExceededError: It would pass a limit.
        """
        try:
            self.tracker.reserve(run)
        except BaseException:
            self.runs.refuse(run)
            raise

    def find_owner(self, provider: str) -> RequestOwner | None:
        """Find the run that a request belongs to which leaves here and now."""
        run = self.runs.get(_started.get())
        if run is not None:
            return run.batch.asking() if _may_send(run.provider, provider) else None
        if len(self.runs) and is_running(_ASKING) and self.runs.take_asking(_ON_AWS):
            return UNKNOWN_OWNER
        return None

    def _lose(self, run: Run) -> None:
        """Count a call that was cancelled."""
        try:
            self._settle(run, None, "abandoned")
        except Exception as error:  # noqa: BLE001 - called from anywhere, even by the gc
            notice("a cancelled call could not be counted", error, "it is left out")

    def _settle(
        self, run: Run, response: LLMResult | None, status: Status, carried: Usage | None = None
    ) -> None:
        """Settle a call: every one ends here, once."""
        if run.asked_another or _is_from_cache(response) or _is_paid_already(run, response):
            # What it holds in budgets, if no run within it has taken that, is given back.
            release(run)
            if run.request is not None:
                run.request.disown()
            return
        answers = _answers(run, response)
        usage = _usage(response, answers) or carried
        reported = _by_wire(run, Reported(usage, True, status == "complete"))
        # Empty pieces are no answer; and what was reported need not be counted.
        parts = () if reported.covers_call else _parts(answers)
        prompt = "" if not self.settings.keeps_text else _prompt_text(run.prompt)
        completion = "" if not self.settings.keeps_text else "".join([one.text for one in answers])
        transcript = PartsTranscript(
            (prompt, completion),
            None if reported.input_tokens is not None else _prompt(run.prompt),
            parts,
            run.tools,
        )
        duration_s = perf_counter() - run.began
        ending = Ending(status, time() - duration_s, duration_s, bool(parts))
        self.tracker.add(
            Pending(
                Ended(run, reported, transcript, ending, self.settings),
                transcript.held_bytes,
                run.context,
                take_reservation(run),
            )
        )


def _may_send(run: str | None, request: str) -> bool:
    """Whether a run of one provider may send a request to another.

    Many speak as OpenAI does, and a run knows only whose class it has; but nobody takes Bedrock for
    another, or another for Bedrock.
    """
    return run is None or (run == BEDROCK) == (request == BEDROCK)


# --- what a start tells --------------------------------------------------------------------


def _fields(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _model(
    metadata: Mapping[str, Any], params: Mapping[str, Any], serialized: object
) -> str | None:
    """The model's id, as it is asked for."""
    named = metadata.get("ls_model_name")
    if isinstance(named, str) and named:
        return named
    for fields in (params, _fields(_fields(serialized).get("kwargs"))):
        for key in _MODEL_KEYS:
            if isinstance(model := fields.get(key), str) and model:
                return model
    return None


def _tags(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tags = {
        name: value
        for name, value in metadata.items()
        if isinstance(value, str | int)
        and (name == _TELLING or not str(name).startswith(_INTERNAL))
    }
    return dict(list(tags.items())[:_MAX_TAGS])


# --- what an end tells ---------------------------------------------------------------------


def _is_from_cache(response: LLMResult | None) -> bool:
    """Whether LangChain's own cache gave the answer: it marks that as costing nothing."""
    if response is None or response.llm_output:
        return False
    messages = [one.message for one in _generations(response) if isinstance(one, ChatGeneration)]
    usages: list[Any] = [getattr(message, "usage_metadata", None) or {} for message in messages]
    return any(usage.get("total_cost") == 0 for usage in usages)


def _is_paid_already(run: Run, response: LLMResult | None) -> bool:
    """Whether its prompt was sent, and reported, together with the first of its batch.

    LangChain then leaves the usage with the first, and empties it for the others.
    """
    batch = run.batch
    if run.request is not None:
        return False
    usage = (response.llm_output or {}).get("token_usage") if response is not None else None
    if batch.is_first(run):
        batch.is_paid_by_first = bool(usage)
        return False
    return batch.is_paid_by_first and usage == {}


def _by_wire(run: Run, told: Reported) -> Reported:
    """Put what the wire said in the place of what LangChain left of it, unless that is more."""
    request = run.request
    wire = told if request is None else request.reported()
    if wire.usage is None or request is None:
        return told
    if told.usage is not None and told.covers_call:
        is_same = (told.input_tokens, told.output_tokens) == (
            wire.input_tokens,
            wire.output_tokens,
        )
        # Of several that were sent at once, the requests can't be told apart.
        if not run.batch.is_alone or (is_same and knows(told.usage) > knows(wire.usage)):
            return told
    return wire


def _answers(run: Run, response: LLMResult | None) -> list[Generation]:
    """What came back: several if several were asked for, or if an integration tells pieces."""
    answers = [] if response is None else _generations(response)
    if run.chunks and not _parts(answers):
        pieces = run.chunks
        if isinstance(pieces[0], ChatGenerationChunk):
            # Adding up a message's pieces one by one would copy it as often.
            return [*answers, pieces[0] + pieces[1:]]
        return [*answers, *pieces]
    return answers


def _generations(response: LLMResult) -> list[Generation]:
    answers: list[Any] = [one for several in response.generations for one in several]
    return answers


def _parts(answers: Sequence[Generation]) -> tuple[Part, ...]:
    """What was said, thought and called, without what is empty."""
    messages = [one.message for one in answers if isinstance(one, ChatGeneration)]
    if messages:
        parts = tuple([part for message in messages_of(messages) for part in message.parts])
    else:
        parts = (Text("".join([one.text for one in answers])),)
    return tuple([part for part in parts if part != Text("")])


def _usage_in(response: LLMResult | None, answers: Iterable[Generation]) -> Usage | None:
    """The usage that stands in any of the places where integrations leave it."""
    raw: list[object] = []
    copies: list[object] = []
    for answer in answers:
        message = getattr(answer, "message", None)
        raw += [getattr(message, "response_metadata", None), answer.generation_info]
        copies.append(getattr(message, "usage_metadata", None))
    if response is not None:
        raw.append(response.llm_output)
    # Of a stream LangChain adds up all numbers, and only of its own it's sure that they are parts.
    streamed = any(isinstance(answer, ChatGenerationChunk) for answer in answers)
    return extract_fullest([*copies, *raw] if streamed else [*raw, *copies])


def _usage(response: LLMResult | None, answers: Sequence[Generation]) -> Usage | None:
    """What was reported; zeros that stand for what was not said are left out."""
    usage = _usage_in(response, answers)
    if usage is None:
        return None
    if usage.input_tokens and usage.output_tokens:
        return usage
    counts: dict[str, int] = usage.reported()
    for whole, is_something in (("input_tokens", True), ("output_tokens", bool(_parts(answers)))):
        if is_something and not counts.get(whole):
            counts = {name: n for name, n in counts.items() if WHOLES.get(name, name) != whole}
    return Usage.of(counts) if counts else None


# --- what was asked ------------------------------------------------------------------------


def _prompt(prompt: object) -> str | tuple[Message, ...]:
    return prompt if isinstance(prompt, str) else messages_of(prompt)


def _prompt_text(prompt: Any) -> str:
    """Messages as LangChain prints them."""
    if isinstance(prompt, str):
        return prompt
    try:
        return get_buffer_string(prompt)
    except Exception:  # noqa: BLE001 - a message of no kind that LangChain knows
        return "\n".join(map(shown, prompt))

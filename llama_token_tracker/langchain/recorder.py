"""From what LangChain tells of a run to the call that has ended."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from time import perf_counter, time
from typing import Any, Final, cast
from uuid import UUID

from langchain_core.messages import get_buffer_string
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation, LLMResult

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker._names import (
    ANTHROPIC,
    BEDROCK,
    LANGCHAIN_PROVIDERS,
    OWN_NAMES,
    at_url,
)
from llama_token_tracker._printable import exact, is_text
from llama_token_tracker.events.call import Settings, status_after
from llama_token_tracker.events.event import Operation, Status
from llama_token_tracker.events.failures import usage_carried
from llama_token_tracker.events.settle import Ended, Ending
from llama_token_tracker.events.transcripts import PartsTranscript, SentTranscript, Transcript
from llama_token_tracker.extraction import (
    Reported,
    StreamedUsage,
    believed,
    extract_fullest,
    is_deferred,
    together,
)
from llama_token_tracker.extraction.fields import as_fields, field_in
from llama_token_tracker.extraction.messages import messages_of
from llama_token_tracker.extraction.parts import Message, Part, Text
from llama_token_tracker.extraction.shapes.langchain import BILLED_APART
from llama_token_tracker.extraction.texts import as_text, is_list, items
from llama_token_tracker.langchain.runs import OpenRuns, Run
from llama_token_tracker.tracking.charging import release, take_reservation
from llama_token_tracker.tracking.correlation import UNKNOWN_OWNER, RequestOwner, is_running
from llama_token_tracker.tracking.pending import Pending
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.usage import Usage

_MAX_TAGS: Final = 16
# What LangChain and LangGraph add to a run's metadata for themselves.
_INTERNAL: Final = ("ls_", "lc_", "langgraph_", "checkpoint_", "__")
_TELLING: Final = "langgraph_node"
_MODEL_KEYS: Final = ("model", "model_name", "model_id")

_URLS: Final = ("openai_api_base", "anthropic_api_url", "base_url")
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
        is_counted = status == "unanswered" and run.has_lost and run.request is None
        if is_counted and carried is None:
            status = "failed"
        self._settle(run, response, status, carried)

    def resume(
        self, run_id: str, run: Run | None, response: LLMResult | None, error: BaseException | None
    ) -> None:
        """Record a run whose end was interrupted, once.

        Args:
            run_id: The id that its end was told of.
            run: The run of this id, if that was found before.
            response: Its answer.
            error: What ended it instead.
        """
        unfinished = self.runs.unfinished(run)
        for one in unfinished:
            self._settle(one, response, status_after(error))
        if not unfinished and error is not None:
            self.fail(run_id, error, response)
        elif not unfinished and response is not None:
            self.end(run_id, response)

    def start(
        self,
        operation: Operation,
        asked: object,
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
        params, size = options.get("invocation_params"), options.get("batch_size")
        try:
            run = self._opened(operation, asked, serialized, run_id, metadata, params)
        except Exception as error:  # noqa: BLE001 - counting must not stop the call
            notice("a start could not be read", error, "its call is counted without it")
            run = Run(str(run_id), operation, None)
        try:
            size = size if type(size) is int else 1
            is_news = self.runs.start(run, run_id, str(parent_run_id), params, size)
            _started.set(run.event_id)
        except Exception as error:  # noqa: BLE001 - counting must not stop the call
            notice("a start could not be noted", error, "its call is not counted")
        else:
            if is_news:
                self._reserve(run)

    def _opened(
        self,
        operation: Operation,
        asked: object,
        serialized: object,
        run_id: UUID,
        metadata: object,
        params: object,
    ) -> Run:
        given, known = _fields(params), _fields(metadata)
        limit = known.get("ls_max_tokens")
        return Run(
            str(run_id),
            operation,
            _messages(asked) if operation == "chat" else _text(asked),
            model=_model(known, given, serialized),
            provider=_provider(known, serialized),
            # LangChain puts the limit of the answer under one name.
            options=given if limit is None else {**given, "max_tokens": limit},
            context=self.tracker.context(_tags(known)),
            maker=_maker(serialized),
        )

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

    def has_open_calls(self) -> bool:
        """Whether any run is open."""
        return bool(len(self.runs))

    def find_owner(self, provider: str | None, /) -> RequestOwner | None:
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
        if run.pending is not None:
            # Interrupted: what is recorded twice is listed once.
            self.tracker.add(run.pending)
            run.is_over = True
            return
        try:
            self._record(run, response, status, carried)
        except Exception as error:  # noqa: BLE001 - a paid call must not be lost
            notice("an answer could not be read", error, "its call counts without it")
            self._record(run, None, status, carried)

    def _hands_on(self, run: Run, response: LLMResult | None) -> bool:
        """Whether a run has only handed on an answer that is recorded already."""
        answers, others = self.tracker.answers, len(self.runs)
        # Whoever has sent a request hands on nobody else's answer. And quick for most.
        if response is None or run.request is not None or not (others or answers):
            return False
        places = _places(response)
        if not run.batch.is_alone:
            for place in places if others else ():
                answers.note(place, run.began, run.maker)
            return False
        return answers.hands_on(places, run.began, run.maker, is_alone=not others)

    def _record(
        self, run: Run, response: LLMResult | None, status: Status, carried: Usage | None
    ) -> None:
        if self._is_counted_elsewhere(run, response, status):
            # What it holds in budgets, if no run within it has taken that, is given back.
            release(run)
            if run.request is not None:
                run.request.disown()
            run.is_over = True
            return
        answers = _answers(run, response)
        if status == "complete" and _is_broken_off(run, answers):
            status = "abandoned"
        told = _told(run, response, answers, carried)
        # An error that carries figures came after all of the answer.
        is_complete = status == "complete" or (carried is not None and told.usage is carried)
        reported = _by_wire(run, told._replace(output_is_complete=is_complete))
        # Empty pieces are no answer; and what was reported need not be counted.
        parts = () if reported.covers_call else _parts(answers)
        transcript = self._transcript(run, reported, answers, parts)
        duration_s = perf_counter() - run.began
        ending = Ending(status, time() - duration_s, duration_s, bool(parts))
        run.pending = Pending(
            Ended(run, reported, transcript, ending, self.settings),
            transcript.held_bytes,
            run.context,
            take_reservation(run),
        )
        self.tracker.add(run.pending)
        run.is_over = True

    def _is_counted_elsewhere(self, run: Run, response: LLMResult | None, status: Status) -> bool:
        return (
            run.asked_another
            or _is_from_cache(response)
            or _is_paid_already(run, response)
            or _is_deferred(run, response)
            or (status == "complete" and self._hands_on(run, response))
        )

    def _transcript(
        self, run: Run, reported: Reported, answers: list[Generation], parts: tuple[Part, ...]
    ) -> Transcript:
        keeps_text = self.settings.keeps_text
        transcript = PartsTranscript(
            (_prompt_text(run.prompt), _joined(answers)) if keeps_text else ("", ""),
            None if reported.covers_input else _prompt(run.prompt),
            parts,
            run.options,
        )
        if run.request is not None and run.batch.is_alone and not reported.covers_input:
            return SentTranscript(transcript, run.request)
        return transcript


def _may_send(run: str | None, request: str | None) -> bool:
    """Whether a run of one provider may send a request to another.

    Many speak as OpenAI does, and a run knows only whose class it has; but nobody takes Bedrock for
    another, or another for Bedrock.
    """
    return run is None or (run == BEDROCK) == (request == BEDROCK)


# --- what a start tells --------------------------------------------------------------------


def _fields(value: object) -> dict[str, Any]:
    found = as_fields(value) if issubclass(type(value), Mapping) else None
    return cast("dict[str, Any]", found) if type(found) is dict else {}


def _text(prompts: object) -> str:
    """The prompts of a completion, one under the other."""
    return "\n".join(map(as_text, items(prompts))) if is_list(prompts) else as_text(prompts)


def _messages(asked: object) -> tuple[object, ...]:
    """The messages of a chat, copied, as the user's list may grow while the call runs."""
    parts = items(asked) if is_list(asked) else (asked,)
    return tuple([one for part in parts for one in (items(part) if is_list(part) else (part,))])


def _model(
    metadata: Mapping[str, Any], params: Mapping[str, Any], serialized: object
) -> str | None:
    """The model's id, as it is asked for."""
    named = metadata.get("ls_model_name")
    if is_text(named) and exact(named):
        return exact(named)
    for fields in (params, _fields(_fields(serialized).get("kwargs"))):
        for key in _MODEL_KEYS:
            if is_text(model := fields.get(key)) and exact(model):
                return exact(model)
    return None


def _provider(metadata: Mapping[str, Any], serialized: object) -> str | None:
    """Whom it asks: whose class it is, unless that was given another's URL."""
    given = _fields(_fields(serialized).get("kwargs"))
    url = next((given[key] for key in _URLS if given.get(key)), None)
    return at_url(url, LANGCHAIN_PROVIDERS.get(as_text(metadata.get("ls_provider"))))


def _maker(serialized: object) -> str:
    """The class of the model that is asked."""
    path: Any = _fields(serialized).get("id")
    return ".".join(filter(is_text, items(path))) if is_list(path) else ""


def _tags(metadata: Mapping[str, Any]) -> dict[str, Any]:
    tags = {
        name: value
        for name, value in metadata.items()
        if issubclass(type(value), str | int)
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


def _is_deferred(run: Run, response: LLMResult | None) -> bool:
    """Whether its answer was only begun, and its request waits to be told of the rest."""
    if response is None or not run.has_lost or run.request is not None:
        return False
    return any(map(is_deferred, _places(response)))


def _places(response: LLMResult) -> list[Any]:
    """Its messages, which hold LangChain's ids, and their metadata, which hold the provider's."""
    messages = [getattr(one, "message", None) for one in _generations(response)]
    told = [(one, getattr(one, "response_metadata", None)) for one in messages if one]
    return [place for places in told for place in places if place]


def _is_broken_off(run: Run, answers: list[Generation]) -> bool:
    """Whether an answer ended well, but too early: the wire tells, and Claude gives no reason then.

    Source:
        langchain-anthropic 1.7, `_stream` (checked 2026-11-29).
    """
    if run.request is not None and run.request.is_broken_off:
        return True
    message = getattr(answers[-1], "message", None) if answers else None
    told: dict[str, Any] = getattr(message, "response_metadata", None) or {}
    return told.get("model_provider") == ANTHROPIC and told.get("stop_reason") is None


def _by_wire(run: Run, told: Reported) -> Reported:
    """Put what the wire said in the place of what LangChain left of it, unless that is more."""
    request = run.request
    # Of several that were sent at once, the requests can't be told apart.
    if request is None or (told.covers_call and not run.batch.is_alone):
        return told
    run.request_id = request.request_id
    return believed(request.reported(), told)


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


def _joined(answers: Iterable[Generation]) -> str:
    return "".join([as_text(one.text) for one in answers])


def _generations(response: LLMResult) -> list[Generation]:
    answers: list[Any] = [one for several in response.generations for one in several]
    return answers


def _parts(answers: Sequence[Generation]) -> tuple[Part, ...]:
    """What was said, thought and called, without what is empty."""
    messages = [one.message for one in answers if isinstance(one, ChatGeneration)]
    if messages:
        parts = tuple([part for message in messages_of(messages) for part in message.parts])
    else:
        parts = (Text(_joined(answers)),)
    return tuple([part for part in parts if part != Text("")])


def _reported(response: LLMResult | None, answers: Sequence[Generation]) -> Reported:
    """What was reported in any of the places where integrations leave it."""
    raw: list[object] = []
    for answer in answers:
        message = getattr(answer, "message", None)
        raw += [getattr(message, "response_metadata", None), answer.generation_info]
    if response is not None:
        raw.append(response.llm_output)
    copies = [getattr(getattr(one, "message", None), "usage_metadata", None) for one in answers]
    # Of a stream LangChain adds up all numbers, and only of its own it's sure that they are parts.
    streamed = any(isinstance(answer, ChatGenerationChunk) for answer in answers)
    return extract_fullest([*copies, *raw] if streamed else [*raw, *copies])


def _told(
    run: Run, response: LLMResult | None, answers: list[Generation], carried: Usage | None
) -> Reported:
    """What LangChain has left of what was reported, or what the error that ended it carries."""
    told = _reported(response, answers)
    repeated = _repeated(run.chunks)
    if repeated is not None:
        told = repeated._replace(served=told.served)
    if told.usage is None:
        return told._replace(usage=carried)
    own = OWN_NAMES.get(run.provider or "", ())
    if told.usage.cache_read_tokens is not None:
        own = tuple(name for name in own if name != "cached_tokens")
    apart = [name for answer in answers for name in _dropped(answer, own)]
    return told._replace(not_understood=together(told.not_understood, apart))


def _dropped(answer: Generation, own_names: Iterable[str]) -> Iterator[str]:
    """What LangChain may have dropped of an answer's usage, where its own copy is all that's left.

    Args:
        answer: The answer.
        own_names: What its provider says under names that LangChain doesn't know.
    """
    message: Any = getattr(answer, "message", None)
    told: Any = getattr(message, "response_metadata", None) or {}
    if "usage" in told or "token_usage" in told:
        return
    yield from own_names
    content: Any = getattr(message, "content", None)
    if is_list(content):
        kinds = [field_in(block, "type") for block in items(content)]
        yield from [f"content[type={kind}]" for kind in BILLED_APART if kind in kinds]


def _repeated(chunks: Iterable[Generation]) -> Reported | None:
    """What a stream said that states its figures again and again, which LangChain adds up.

    Integrations that state parts of them, to be added up, state the input once.
    """
    told = [getattr(getattr(chunk, "message", None), "usage_metadata", None) for chunk in chunks]
    usages: list[Any] = [usage for usage in told if usage and usage.get("input_tokens")]
    if len(usages) < 2:
        return None
    stream = StreamedUsage()
    for usage in usages:
        stream.add({"usage_metadata": usage})
    sums = [(usage["input_tokens"], usage.get("output_tokens") or 0) for usage in usages]
    pairs = itertools.pairwise(sums)
    if all(old[0] <= new[0] and old[1] <= new[1] for old, new in pairs):
        return stream.read()
    return stream.read()._replace(not_understood=("usage_metadata of the chunks",))


# --- what was asked ------------------------------------------------------------------------


def _prompt(prompt: object) -> str | tuple[Message, ...] | None:
    return prompt if prompt is None or isinstance(prompt, str) else messages_of(prompt)


def _prompt_text(prompt: Any) -> str:
    """Messages as LangChain prints them."""
    if prompt is None or isinstance(prompt, str):
        return prompt or ""
    try:
        return as_text(get_buffer_string(prompt))
    except Exception as error:  # noqa: BLE001 - a message of no kind that LangChain knows
        pass_on(error)
        return "\n".join(map(as_text, prompt))

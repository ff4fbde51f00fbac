"""One request of a watched client, from its leaving to the end of its answer.

What it used is read off the wire. If a framework has claimed it, its own event takes the
figures; else an event is recorded here. Figures and texts are looked at when somebody asks for
them: in the user's own call every line costs, for the code comes out of a cold cache.
"""

import sys
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter, time
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import WatchError
from llama_token_tracker.events.embedding import SharedTexts
from llama_token_tracker.events.event import Operation, Status, TokenCountingEvent
from llama_token_tracker.events.settle import Said, embedded, event_of
from llama_token_tracker.events.unreported import NOTHING, Count, SilentCall, texts_in
from llama_token_tracker.extraction import Reading, StreamedUsage, extract_usage, knows
from llama_token_tracker.extraction.parts import Message, Part
from llama_token_tracker.tokenizers.estimate import expected_input, expected_texts
from llama_token_tracker.tokenizers.selection import Tokenizers
from llama_token_tracker.tracking.charging import Hold
from llama_token_tracker.tracking.correlation import Claim
from llama_token_tracker.tracking.scopes import Context, is_somewhere
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.usage import Source, Usage

_BYTES_PER_PIECE: Final = 500
# Pictures stand in a request as text; what is read of them is their size alone.
_LONGEST_BODY: Final = 262_144
_SIZED: Final = (bytes, str, bytearray)
_END_OF_JSON: Final = b"}"
_NO_TAGS: Final[dict[str, Any]] = {}
_NO_TOKENIZER: Final = Tokenizers(None, lambda: None)

Read: TypeAlias = Callable[[Any], object]
"""Gives what a piece of an answer says, as fields, or `None`."""


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        prompt: A text, or the messages of a chat.
        tools: The tools that are sent along, in whatever form.
        texts: The texts to embed.
        max_tokens: How much may come back at the most, if it says so.
        model: The model's id, if the body names it.
    """

    prompt: str | tuple[Message, ...] = ""
    tools: object = None
    texts: tuple[str, ...] = ()
    max_tokens: int | None = None
    model: str = ""


class Answered(NamedTuple):
    """What an answer says, whole or as far as it has come.

    Attributes:
        parts: What the model said, thought and called.
        usage: What the body says of its tokens, if it was read.
    """

    parts: tuple[Part, ...] = ()
    usage: Usage | None = None


class Dialect(Protocol):
    """How requests and answers of one operation are read."""

    def asked(self, body: Any) -> Asked:
        """Read a request; of what can't be read, nothing."""
        ...

    def answered(self, pieces: Sequence[Any]) -> Answered:
        """Read an answer, of the pieces that have come."""
        ...


class Recorder:
    """Where the requests of one watched client go.

    Args:
        token_counter: Whoever counts: a `Tracker`, or a handler that has one.

    Raises:
        WatchError: It doesn't count.
    """

    def __init__(self, token_counter: Any) -> None:
        self.tracker: Tracker = getattr(token_counter, "tracker", token_counter)
        if not isinstance(self.tracker, Tracker):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = (
                f"a client was to be watched by a {type(token_counter).__name__}, which doesn't "
                "count; give a TokenCountingHandler or a Tracker."
            )
            raise WatchError(msg)
        # A client may live as long as the program; the handler needn't.
        self._counter = weakref.ref(token_counter)

    @property
    def keeps_text(self) -> bool:
        """Whether events keep prompts and answers."""
        return bool(getattr(self._counter(), "keep_text", True))

    def tokenizer(self, model: str) -> Any:
        """What counts the texts of a model that says nothing."""
        tokenizers: Tokenizers = getattr(self._counter(), "tokenizers", _NO_TOKENIZER)
        return tokenizers.of(model)


class Exchange:
    """A request that leaves where and when this is made, and what is known of its answer.

    It ends in `settle`, once and in any case, and then stands in the tracker's line itself until
    it's counted. One that nobody holds any more before it's settled is lost: it was cancelled,
    or its answer was dropped half-way.

    Args:
        recorder: Where it goes.
        provider: Whom it's sent to.
        model: The model's id; "" if it's only known once the body is read.
        operation: What is asked for, as far as that can be told yet.
        dialect: How its body and its answer are read.
        body: The request's body.

    Attributes:
        body: The request's body, as long as nobody has read it.
        id: What the provider calls the request, once that's known.
        keeps_pieces: Whether the pieces of the answer are needed for an event.
        pieces: Those that have come, if they are needed.
        told_by: Gives what a piece tells of its tokens, as fields or `None`, if pieces do so;
            they are looked at when somebody asks for the figures.
        status: How it ended; abandoned until then.
        duration_s: How long it took until then, in seconds.
        held_bytes: About how much memory its texts take from then on until it's counted.
        is_limited: Whether it's subject to any budget, and may use only what it has reserved.
        is_settled: Whether it's over, as far as its event goes.
    """

    # Here rather than in `__init__`, which runs in the user's call: what is set later, or only read
    # then. What is read in the call is set there, for to find it here would take longer.
    id = ""
    status: Status = "abandoned"
    duration_s = 0.0
    held_bytes = 0
    # Until it's made; so one that couldn't be made is no request that was lost.
    is_settled = True
    told_by: Read | None = None
    _asked: Asked | None = None
    _whole: Usage | None = None
    _whole_put_off: object = None
    _figures_at = 0
    _events: list[TokenCountingEvent] | None = None

    def __init__(
        self,
        recorder: Recorder,
        provider: str,
        model: str,
        operation: Operation,
        dialect: Dialect,
        body: Any,
    ) -> None:
        tracker, claim = recorder.tracker, None
        for reference, claim_by in tracker.claimants:
            listener = reference()
            if listener is not None:
                claim = claim_by(listener, provider)
                if claim is not None:
                    break
        context, is_limited = None, tracker.is_limited
        if is_somewhere():
            context = tracker.context(_NO_TAGS)
            is_limited = tracker.limits(context)
        # The framework's call that it's part of.
        self._claim: Claim | None = claim
        self._context: Context | None = context
        self.keeps_pieces = claim is None
        self.is_limited = is_limited and claim is None
        self.provider = provider
        self.model = model
        self.operation: Operation = operation
        self.body = body
        self.pieces: list[Any] = []
        self._recorder = recorder
        self._dialect = dialect
        self._came = 0
        self._usage: StreamedUsage | None = None
        self._put_off: list[tuple[int, Any]] = []
        self._event: TokenCountingEvent | None = None
        # Whoever takes it out settles it: of two threads one.
        self._turns = [True]
        self._started_s = time()
        self._began = perf_counter()
        self.is_settled = False

    def __del__(self, is_exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        """Count what nobody waits for any more; whoever counts it holds it again."""
        # At exit nobody counts any more.
        if not (self.is_settled or is_exiting()):
            self.lost()

    def reserve(self) -> None:
        """Hold in the budgets what it may use, before it's sent.

        What a framework sends, its own call has reserved.

        Raises:
            BudgetExceededError: It would pass a limit. A user's `on_exceed` may raise anything.
        """
        if not self.is_limited:
            return
        # Until it may be sent it is no request that could be lost.
        self.is_settled = True
        asked = self._ask()
        embeds = self.operation == "embedding"
        self._context = self._recorder.tracker.reserve(
            self._context,
            input_tokens=expected_texts(asked.texts)
            if embeds
            else expected_input(asked.prompt, asked.tools),
            output_tokens=0 if embeds else asked.max_tokens,
            provider=self.provider,
            model=self.model,
            operation=self.operation,
        )
        self.is_settled = False

    # --- what the watch hears --------------------------------------------------------------

    def answered(self) -> None:
        """Note that the answer has begun."""
        if self._claim is not None:
            self._claim.hear(self)

    def hear(self, fields: object) -> None:
        """Take in a part of the answer that may say something of its tokens."""
        if self._put_off:
            # In the order in which they came.
            self.hear_later(fields)
            return
        self._came += 1
        usage = self._usage
        if usage is None:
            usage = self._usage = StreamedUsage()
        if usage.hear(fields):
            self._figures_at = self._parts()

    def _parts(self) -> int:
        """A number that grows with every part that comes."""
        return self._came + len(self.pieces) + len(self._put_off)

    def hear_later(self, fields: object) -> None:
        """Take in such a part, and look at it when somebody asks for the figures.

        Args:
            fields: They are kept until then, so they should be few, and nobody may change them.
        """
        # Frameworks' calls ask for the figures where nothing may be logged.
        if self._claim is None and self._usage is None:
            self._put_off.append((self._parts() + 1, fields))
        else:
            self.hear(fields)

    def hear_all(self, fields: object) -> None:
        """Take in an answer that says at once all that it will say of its tokens."""
        self._whole = extract_usage(fields)

    def keep(self, piece: object) -> None:
        """Take in a part of the answer that says nothing of them."""
        if self.keeps_pieces:
            self.pieces.append(piece)
        else:
            self._came += 1

    def take_in(self, piece: bytes, _amount: int | None, /) -> None:
        """Take in bytes of an answer whose figures are known, as they are read."""
        self.pieces.append(piece)
        event = self._event
        if event is None:
            self._recorder.tracker.holds_more(len(piece))
        elif piece.rstrip().endswith(_END_OF_JSON):
            event.completion = self._completion(event.operation, self._answered())
            if event.completion:
                self.pieces.clear()

    def settle(self, status: Status, told: object = None) -> None:
        """Note that the request is over; all but the first time do nothing.

        Args:
            status: How it ended.
            told: What an answer says at once of its tokens, if nothing was heard of it before.
                It's looked at when somebody asks for the figures, so it should be small, and
                nobody may change it.
        """
        claim = self._claim
        if told is not None:
            if claim is None:
                self._whole_put_off = told
            else:
                self.hear_all(told)
                claim.hear(self)
        try:
            self._turns.pop()
        except IndexError:
            return
        self.status = status
        self.duration_s = perf_counter() - self._began
        if self._claim is None:
            # Nobody claims it any more, so that nobody disowns it: no lock, which is dear here.
            self.is_settled = True
        else:
            with LOCK:
                self.is_settled = True
                # Whoever disowns it from now on records it.
                if self._claim is not None:  # pyright: ignore[reportUnnecessaryComparison]  # by another thread
                    return
        self._record()

    def lost(self) -> None:
        """Note that nobody waits for the rest of the answer any more."""
        self.settle("abandoned")

    # --- what a framework's call reads -----------------------------------------------------

    def reading(self) -> Reading | None:
        """What the wire has said of its tokens so far, or `None`."""
        whole = self._whole
        if whole is None and self._whole_put_off is not None:
            whole = self._whole = extract_usage(self._whole_put_off)
        if whole is not None:
            return Reading(whole)
        usage, figures_at = self._heard()
        reading = None if usage is None else usage.read()
        if reading is None or (self.is_settled and self.status == "complete"):
            return reading
        return reading._replace(output_is_sure=figures_at == self._parts())

    def _heard(self) -> tuple[StreamedUsage | None, int]:
        """The figures that came in parts, and after how many parts the last of them came."""
        told_by = self.told_by
        parts = self._put_off if told_by is None else list(enumerate(self.pieces, 1))
        if not parts:
            return self._usage, self._figures_at
        # Made anew each time, for two threads may ask at once.
        usage, figures_at = StreamedUsage(), 0
        for at, part in parts:
            try:
                fields = part if told_by is None else told_by(part)
            except Exception as error:  # noqa: BLE001 - what a provider sends may be anything
                notice("a part of an answer could not be read", error, "its figures are missing")
                continue
            if fields is not None and usage.hear(fields):
                figures_at = at
        return usage, figures_at

    def texts(self) -> tuple[str, ...]:
        """The texts that it had embedded."""
        return self._ask().texts

    def disown(self) -> None:
        """Record it here after all."""
        with LOCK:
            was_settled, self._claim = self.is_settled, None
        if was_settled:
            self._record()

    # --- its event -------------------------------------------------------------------------

    def _record(self) -> None:
        try:
            # In a row rather than by functions, as this is done in the user's call.
            body: Any = self.body
            pieces, context, held = self.pieces, self._context, 0
            if type(body) in _SIZED:
                held = len(body)
                if held > _LONGEST_BODY:
                    self._ask()
            if pieces:
                # To ask each for its length would cost more than all the rest; the last may be
                # the whole answer.
                last = pieces[-1]
                held += _BYTES_PER_PIECE * len(pieces)
                if type(last) in _SIZED:
                    held += len(last)
            self.held_bytes = held
            if context is not None and context.hold is not None:
                self._record_held(context, context.hold)
            else:
                self._recorder.tracker.record_uncounted(self, context)
        except Exception as error:  # noqa: BLE001 - called from anywhere, even by the gc
            notice("a request could not be counted", error, "it is left out")

    def _record_held(self, context: Context, hold: Hold) -> None:
        """Record it, and give back soon what it holds in budgets."""
        tracker, embeds = self._recorder.tracker, self.operation == "embedding"
        said = self._said(self.reading())
        if self._has_nothing(said) or (said.is_all and not embeds):
            for event in self.events():
                tracker.record(event, context)
            return
        if embeds:
            hold.expect(len(self.texts()))
        tracker.record_uncounted(self, context)

    def events(self) -> list[TokenCountingEvent]:
        """Its events, counted; two threads that ask at once find the same. Never raises."""
        if self._events is None:
            try:
                events = self._counted()
            except Exception as error:  # noqa: BLE001 - a figure is asked for long after the call
                notice("a request could not be counted", error, "it is left out")
                events = []
            with LOCK:
                if self._events is None:
                    self._events = events
                    self._forget(events)
        return self._events

    def _counted(self) -> list[TokenCountingEvent]:
        reading = self.reading()
        said = self._said(reading)
        if self._has_nothing(said):
            return [self._make(said, NOTHING, NOTHING)]
        if self.operation == "embedding":
            total = None if reading is None else reading.usage.input_tokens
            return SharedTexts(0, self.texts, total, self._tokenizer, self._make_embedded).events()
        asked = self._ask()
        return SilentCall(
            self._tokenizer,
            self.model,
            prompt=None if said.prompt is not None else asked.prompt,
            tools=asked.tools,
            answer=None if said.is_all_of_the_answer else self._answered().parts,
            make=partial(self._make, said),
        ).events()

    def _said(self, reading: Reading | None) -> Said:
        if reading is None:
            return Said(None, "reported", False)
        source: Source = "reported" if reading.input_is_sure else "estimated"
        return Said(reading.usage, source, reading.output_is_sure)

    def _has_nothing(self, said: Said) -> bool:
        """Whether it failed before anything was billed."""
        return self.status == "failed" and said.usage is None and not self.pieces

    def _answered(self) -> Answered:
        if not self.pieces:
            return Answered()
        try:
            return self._dialect.answered(self.pieces)
        except Exception as error:  # noqa: BLE001 - what a provider sends may be anything
            notice("an answer could not be read", error, "its text is left empty")
            return Answered()

    def _forget(self, events: list[TokenCountingEvent]) -> None:
        """Let go of what only its events needed; of an unread answer the text may follow."""
        if self.operation != "embedding" and events:
            self._event = events[0]
        self._asked, self.body = Asked(), None
        # Whoever takes in the rest of it holds these very lists.
        self.pieces.clear()
        self._put_off.clear()

    def _make(self, said: Said, prompt: Count, answer: Count) -> TokenCountingEvent:
        asked = self._ask()
        operation = self.operation
        if operation == "chat" and isinstance(asked.prompt, str):
            operation = "completion"
        answered = self._answered()
        completion = self._completion(operation, answered)
        fields = self._fields(operation, self._text(asked), completion)
        if _is_richer(answered.usage, said.usage):
            said = said._replace(usage=answered.usage)
        return event_of(TokenCountingEvent, fields, said, prompt, answer)

    def _make_embedded(self, text: str, count: Count) -> TokenCountingEvent:
        kept = text if self._recorder.keeps_text else ""
        fields = self._fields("embedding", None, "")
        return embedded(TokenCountingEvent, fields, kept, True, count)

    def _fields(self, operation: Operation, prompt: str | None, answer: str) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "completion": answer,
            "event_id": self.id,
            "inner_event_id": self.id,
            "status": self.status,
            "operation": operation,
            "provider": self.provider,
            "model": self.model,
            "started_s": self._started_s,
            "duration_s": self.duration_s,
        }
        return fields if prompt is None else {**fields, "prompt": prompt}

    def _text(self, asked: Asked) -> str:
        if not self._recorder.keeps_text:
            return ""
        if self.operation == "embedding":
            return "\n".join(asked.texts)
        if isinstance(asked.prompt, str):
            return asked.prompt
        return "\n".join([f"{m.role}: {_joined(m.parts)}" for m in asked.prompt])

    def _completion(self, operation: Operation, answered: Answered) -> str:
        if not (self.pieces and self._recorder.keeps_text):
            return ""
        text = _joined(answered.parts)
        return f"assistant: {text}" if operation == "chat" else text

    def _tokenizer(self) -> Any:
        return self._recorder.tokenizer(self.model)

    def _ask(self) -> Asked:
        if self._asked is None:
            try:
                asked = self._dialect.asked(self.body)
            except Exception as error:  # noqa: BLE001 - the body may be anything at all
                notice("a request could not be read", error, "its prompt is left empty")
                asked = Asked()
            with LOCK:
                # Another thread that was quicker has let go of the body, too.
                if self._asked is None:
                    self._asked, self.body = asked, None
                    self.model = self.model or asked.model
        return self._asked


def _joined(parts: Sequence[Part]) -> str:
    return "".join(texts_in(parts))


def _is_richer(body: Usage | None, known: Usage | None) -> bool:
    """Whether a body says more of the same figures that are in the sums already."""
    return (
        body is not None
        and known is not None
        and (body.input_tokens, body.output_tokens) == (known.input_tokens, known.output_tokens)
        and knows(body) > knows(known)
    )

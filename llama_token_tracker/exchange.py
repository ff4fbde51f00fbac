"""One request of a watched client, from its leaving to the end of its answer.

What it used is read off the wire. If a framework has claimed it, its own event takes the
figures; else an event is recorded here. Texts are looked at when somebody reads the event.
"""

import weakref
from collections.abc import Sequence
from functools import partial
from time import perf_counter, time
from typing import Any, Final, NamedTuple, Protocol

from llama_token_tracker.claims import Claim
from llama_token_tracker.embedded import SharedTexts
from llama_token_tracker.event import Operation, Status, TokenCountingEvent
from llama_token_tracker.expected import expected_input, expected_texts
from llama_token_tracker.extraction import Reading, StreamedUsage, extract_usage, knows
from llama_token_tracker.holds import Hold
from llama_token_tracker.lock import LOCK
from llama_token_tracker.notices import notice
from llama_token_tracker.said import Said, embedded, event_of
from llama_token_tracker.scopes import Context
from llama_token_tracker.silent import NOTHING, Count, LateCall, SilentCall, texts_in
from llama_token_tracker.tokenizer import Tokenizers
from llama_token_tracker.tokenizers import Message, Part
from llama_token_tracker.tracker import Tracker
from llama_token_tracker.usage import Usage

_BYTES_PER_CALL: Final = 1_000
# Pictures stand in a request as text; what is read of them is their size alone.
_LONGEST_BODY: Final = 262_144
_NO_TAGS: Final[dict[str, Any]] = {}
_NO_TOKENIZER: Final = Tokenizers(None, lambda: None)


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        prompt: A text, or the messages of a chat.
        tools: The tools that are sent along, in whatever form.
        texts: The texts to embed.
        max_tokens: How much may come back at the most, if it says so.
    """

    prompt: str | tuple[Message, ...] = ""
    tools: object = None
    texts: tuple[str, ...] = ()
    max_tokens: int | None = None


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
    """

    def __init__(self, token_counter: Any) -> None:
        self.tracker: Tracker = getattr(token_counter, "tracker", token_counter)
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

    def leaves(
        self, provider: str, model: str, operation: Operation, dialect: Dialect, body: Any
    ) -> "Exchange":
        """Note that a request leaves here and now.

        The request ends in `Exchange.settle`, once and in any case.
        """
        claim, context = self.tracker.claim(provider), self.tracker.context(_NO_TAGS)
        return Exchange(self, claim, context, provider, model, operation, dialect, body)


class Exchange:
    """A request that has left, and what is known of its answer.

    Args:
        recorder: Where it goes.
        claim: The framework's call that it's part of, or `None`.
        context: The scope it left in.
        provider: Whom it's sent to.
        model: The model's id.
        operation: What is asked for, as far as that can be told yet.
        dialect: How its body and its answer are read.
        body: The request's body.

    Attributes:
        id: What the provider calls the request, once that's known.
        keeps_pieces: Whether the pieces of the answer are needed for an event.
        status: How it ended; abandoned until then.
        duration_s: How long it took until then, in seconds.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_began",
        "_body",
        "_came",
        "_claim",
        "_context",
        "_dialect",
        "_event",
        "_figures_at",
        "_length",
        "_pieces",
        "_recorder",
        "_settled",
        "_started_s",
        "_usage",
        "_whole",
        "duration_s",
        "id",
        "keeps_pieces",
        "model",
        "operation",
        "provider",
        "status",
    )

    def __init__(
        self,
        recorder: Recorder,
        claim: Claim | None,
        context: Context | None,
        provider: str,
        model: str,
        operation: Operation,
        dialect: Dialect,
        body: Any,
    ) -> None:
        self.provider = provider
        self.model = model
        self.operation: Operation = operation
        self.id = ""
        self.status: Status = "abandoned"
        self.duration_s = 0.0
        self.keeps_pieces = claim is None
        self._recorder = recorder
        self._claim = claim
        self._context = context
        self._dialect = dialect
        self._body = body
        self._length = len(body) if isinstance(body, str | bytes | bytearray) else 0
        self._asked: Asked | None = None
        self._began = perf_counter()
        self._started_s = time()
        self._usage = StreamedUsage()
        self._whole: Usage | None = None
        self._came = 0
        self._figures_at = 0
        self._pieces: list[Any] = []
        self._settled = False
        self._event: TokenCountingEvent | None = None

    def reserve(self) -> None:
        """Hold in the budgets what it may use, before it's sent.

        What a framework sends, its own call has reserved.

        Raises:
            BudgetExceededError: It would pass a limit. A user's `on_exceed` may raise anything.
        """
        if self._claim is not None or not self._recorder.tracker.limits(self._context):
            return
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

    @property
    def _hold(self) -> Hold | None:
        return None if self._context is None else self._context.hold

    # --- what the watch hears --------------------------------------------------------------

    def answered(self) -> None:
        """Note that the answer has begun."""
        if self._claim is not None:
            self._claim.hear(self)

    def hear(self, fields: object) -> None:
        """Take in a part of the answer that may say something of its tokens."""
        self._came += 1
        if self._usage.hear(fields):
            self._figures_at = self._came

    def hear_all(self, fields: object) -> None:
        """Take in an answer that says at once all that it will say of its tokens."""
        self._whole = extract_usage(fields)

    def keep(self, piece: object) -> None:
        """Take in a part of the answer that says nothing of them."""
        self._came += 1
        if self.keeps_pieces:
            self._pieces.append(piece)

    @property
    def body(self) -> Any:
        """The request's body, as long as nobody has read it."""
        return self._body

    @property
    def is_settled(self) -> bool:
        """Whether it's over, as far as its event goes."""
        return self._settled

    def settle(self, status: Status) -> None:
        """Note that the request is over; all but the first time do nothing."""
        with LOCK:
            if self._settled:
                return
            self._settled = True
        self.status = status
        self.duration_s = perf_counter() - self._began
        if self._claim is None:
            self._record_safely()

    def lost(self) -> None:
        """Note that nobody waits for the rest of the answer any more."""
        self.settle("abandoned")

    def is_whole(self) -> None:
        """Note that the body of an answer that is recorded already has been read, too."""
        event = self._event
        if event is not None:
            event.completion = self._completion(event.operation)
            self._pieces = []

    # --- what a framework's call reads -----------------------------------------------------

    def reading(self) -> Reading | None:
        """What the wire has said of its tokens so far, or `None`."""
        if self._whole is not None:
            return Reading(self._whole)
        reading = self._usage.read()
        if reading is None or (self._settled and self.status == "complete"):
            return reading
        return reading._replace(output_is_sure=self._figures_at == self._came)

    def texts(self) -> tuple[str, ...]:
        """The texts that it had embedded."""
        return self._ask().texts

    def disown(self) -> None:
        """Record it here after all."""
        with LOCK:
            was_settled, self._claim = self._settled, None
        if was_settled:
            self._record_safely()

    # --- its event -------------------------------------------------------------------------

    def _record_safely(self) -> None:
        try:
            self._record()
        except Exception as error:  # noqa: BLE001 - called from anywhere, even by the gc
            notice("a request could not be counted", error, "it is left out")

    def _record(self) -> None:
        if self._length > _LONGEST_BODY:
            self._ask()
        tracker, reading = self._recorder.tracker, self.reading()
        if self.status == "failed" and reading is None and not self._pieces:
            tracker.record(
                self._make(Said(None, "estimated", True), NOTHING, NOTHING), self._context
            )
        elif self.operation == "embedding":
            total = None if reading is None else reading.usage.input_tokens
            if self._hold is not None:
                self._hold.expect(len(self.texts()))
            texts = SharedTexts(
                self._length + _BYTES_PER_CALL,
                self.texts,
                total,
                self._tokenizer,
                self._make_embedded,
            )
            tracker.record_uncounted(texts, self._context)
        else:
            self._record_chat(tracker, reading)

    def _record_chat(self, tracker: Tracker, reading: Reading | None) -> None:
        said = Said(
            None if reading is None else reading.usage,
            "reported" if reading is None or reading.input_is_sure else "estimated",
            reading is not None and reading.output_is_sure,
        )
        if said.is_all and self._hold is not None:
            tracker.record(self._make(said, NOTHING, NOTHING), self._context)
        elif said.is_all and said.usage is not None:
            tokens = said.usage.input_tokens, said.usage.output_tokens
            recipe = (*tokens, self._context, self._make, said, NOTHING, NOTHING)
            tracker.record_later(recipe)
        else:
            held = self._length + sum(map(_length, self._pieces)) + _BYTES_PER_CALL
            tracker.record_uncounted(LateCall(held, self._count, said), self._context)

    def _count(self, said: Said) -> SilentCall:
        asked = self._ask()
        is_answered = said.is_all_of_the_answer
        return SilentCall(
            self._tokenizer,
            self.model,
            prompt=None if said.prompt is not None else asked.prompt,
            tools=asked.tools,
            answer=None if is_answered else self._dialect.answered(self._pieces).parts,
            make=partial(self._make, said),
        )

    def _make(self, said: Said, prompt: Count, answer: Count) -> TokenCountingEvent:
        asked = self._ask()
        operation = self.operation
        if operation == "chat" and isinstance(asked.prompt, str):
            operation = "completion"
        fields = self._fields(operation, self._text(asked), self._completion(operation))
        body = self._dialect.answered(self._pieces).usage if self._pieces else None
        if _is_richer(body, said.usage):
            said = said._replace(usage=body)
        event = event_of(TokenCountingEvent, fields, said, prompt, answer)
        self._event = event
        # Only the event needed it; of an answer that nobody has read yet the text may follow.
        self._asked, self._pieces = Asked(), []
        return event

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

    def _completion(self, operation: Operation) -> str:
        if not (self._pieces and self._recorder.keeps_text):
            return ""
        text = _joined(self._dialect.answered(self._pieces).parts)
        return f"assistant: {text}" if operation == "chat" else text

    def _tokenizer(self) -> Any:
        return self._recorder.tokenizer(self.model)

    def _ask(self) -> Asked:
        asked = self._asked
        if asked is None:
            try:
                asked = self._dialect.asked(self._body)
            except Exception as error:  # noqa: BLE001 - the body may be anything at all
                notice("a request could not be read", error, "its prompt is left empty")
                asked = Asked()
            self._asked, self._body = asked, None
        return asked


def _joined(parts: Sequence[Part]) -> str:
    return "".join(texts_in(parts))


def _length(piece: object) -> int:
    return len(piece) if isinstance(piece, str | bytes) else _BYTES_PER_CALL


def _is_richer(body: Usage | None, known: Usage | None) -> bool:
    """Whether a body says more of the same figures that are in the sums already."""
    return (
        body is not None
        and known is not None
        and (body.input_tokens, body.output_tokens) == (known.input_tokens, known.output_tokens)
        and knows(body) > knows(known)
    )

"""One request of a watched client, from its leaving to the end of its answer.

What it used is read off the wire. If it belongs to a framework's call, that one's event takes the
figures; else it becomes an event of its own. Figures and texts are read when somebody asks for
them.
"""

import sys
import weakref
from collections.abc import Callable, Sequence
from time import perf_counter, time
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from llama_token_tracker._background import soon
from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import WatchError
from llama_token_tracker.events.call import Call, Settings
from llama_token_tracker.events.event import Operation, Status, TokenCountingEvent
from llama_token_tracker.events.settle import Ended, Ending
from llama_token_tracker.events.transcripts import EmbeddedTexts, Transcript
from llama_token_tracker.events.unreported import texts_in
from llama_token_tracker.extraction import SILENT, Reported, StreamedUsage, extract_usage, knows
from llama_token_tracker.extraction.parts import Message, Part
from llama_token_tracker.tokenizers.estimate import expected_input, expected_texts
from llama_token_tracker.tracking.correlation import RequestOwner
from llama_token_tracker.tracking.pending import Pending
from llama_token_tracker.tracking.scopes import is_somewhere
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.usage import Usage

_BYTES_PER_PIECE: Final = 500
# Pictures stand in a request as text; what is read of them is their size alone.
_LONGEST_BODY: Final = 262_144
_SIZED: Final = (bytes, str, bytearray)
_END_OF_JSON: Final = b"}"
_NO_TAGS: Final[dict[str, Any]] = {}

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
    def settings(self) -> Settings:
        """How events are made: as the handler says, as long as there is one."""
        settings: Settings | None = getattr(self._counter(), "settings", None)
        plain = Settings(prices=self.tracker.prices)
        return plain if settings is None else settings._replace(event_class=TokenCountingEvent)


class Exchange(Call, Transcript):
    """A request that leaves where and when this is made, and what is known of its answer.

    It ends in `settle`, once and in any case. One that nobody holds any more before it's settled
    was cancelled, or its answer was dropped half-way.

    Args:
        recorder: Where it goes.
        provider: Whom it's sent to.
        model: The model's id; "" if it's only known once the body is read.
        operation: What is asked for, as far as that can be told yet.
        dialect: How its body and its answer are read.
        body: The request's body.

    Attributes:
        body: The request's body, as long as nobody has read it.
        keeps_pieces: Whether the pieces of the answer are needed for an event.
        pieces: Those that have come, if they are needed.
        read_piece: Gives what a piece tells of its tokens, as fields or `None`, if pieces do so;
            they are looked at when somebody asks for the figures.
        is_limited: Whether it's subject to any budget, and may use only what it has reserved.
        is_settled: Whether it's over, as far as its event goes.
    """

    # Here rather than in `__init__`, which runs in the user's call: what is set later, or only read
    # then. Until it's made; so one that couldn't be made is no request that was lost.
    is_settled = True
    read_piece: Read | None = None
    status: Status = "abandoned"
    _asked: Asked | None = None
    _whole: Usage | None = None
    _unread: object = None
    _figures_at = 0
    _pending: Pending | None = None
    _event: TokenCountingEvent | None = None

    def __init__(
        self,
        recorder: Recorder,
        provider: str,
        model: str,
        operation: Operation,
        dialect: Dialect,
        body: Any,
    ) -> None:
        tracker = recorder.tracker
        owner = tracker.owners.find(provider)
        if is_somewhere():
            self.context = tracker.context(_NO_TAGS)
        # The framework's call that it's part of.
        self._owner: RequestOwner | None = owner
        self.keeps_pieces = owner is None
        self.is_limited = owner is None and tracker.limits(self.context)
        self.provider = provider
        self.model = model
        self.operation = operation
        self.body = body
        self.pieces: list[Any] = []
        self._recorder = recorder
        self._dialect = dialect
        self._came = 0
        self._usage: StreamedUsage | None = None
        self._put_off: list[tuple[int, Any]] = []
        # Whoever takes it out settles it: of two threads one.
        self._turns = [True]
        self._started_s = time()
        self.began = perf_counter()
        self.is_settled = False

    def __del__(self, is_exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        """Count what nobody waits for any more; a finalizer, so that it waits for no lock."""
        # At exit nobody counts any more.
        if not (self.is_settled or is_exiting()):
            soon(self.lost)

    def reserve(self) -> None:
        """Hold in the budgets what it may use, before it's sent.

        What a framework sends, its own call has reserved.

        Raises:
            BudgetExceededError: It would pass a limit. A user's `on_exceed` may raise anything.
        """
        if self.is_limited:
            # Until it may be sent it is no request that could be lost.
            self.is_settled = True
            self._recorder.tracker.reserve(self)
            self.is_settled = False

    def expected_tokens(self) -> tuple[int, int | None]:
        """How many tokens it will send and may get back, roughly."""
        asked = self._ask()
        if self.operation == "embedding":
            return expected_texts(asked.texts), 0
        return expected_input(asked.prompt, asked.tools), asked.max_tokens

    # --- what the client's watch tells -----------------------------------------------------

    def answered(self) -> None:
        """Note that the answer has begun."""
        if self._owner is not None:
            self._owner.attach(self)

    def add(self, fields: object) -> None:
        """Take in a part of the answer that may say something of its tokens."""
        if self._put_off:
            # In the order in which they came.
            self.add_later(fields)
            return
        self._came += 1
        usage = self._usage
        if usage is None:
            usage = self._usage = StreamedUsage()
        if usage.add(fields):
            self._figures_at = self._parts()

    def _parts(self) -> int:
        """A number that grows with every part that comes."""
        return self._came + len(self.pieces) + len(self._put_off)

    def add_later(self, fields: object) -> None:
        """Take in such a part, and look at it when somebody asks for the figures.

        Args:
            fields: They are kept until then, so they should be few, and nobody may change them.
        """
        # Frameworks' calls ask for the figures where nothing may be logged.
        if self._owner is None and self._usage is None:
            self._put_off.append((self._parts() + 1, fields))
        else:
            self.add(fields)

    def add_all(self, fields: object) -> None:
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
            if self._pending is not None:
                self._recorder.tracker.hold_more(self._pending, len(piece))
        elif piece.rstrip().endswith(_END_OF_JSON):
            event.completion = self._completion(event.operation)
            if event.completion:
                self.pieces.clear()

    def settle(self, status: Status, told: object = None) -> None:
        """Note that the request is over; all but the first time do nothing.

        Args:
            status: How it ended.
            told: What an answer says at once of its tokens, if nothing was read of it before.
                It's looked at when somebody asks for the figures, so it should be small, and
                nobody may change it.
        """
        owner = self._owner
        if told is not None:
            if owner is None:
                self._unread = told
            else:
                self.add_all(told)
                owner.attach(self)
        try:
            self._turns.pop()
        except IndexError:
            return
        self.status = status
        self._duration_s = perf_counter() - self.began
        if self._owner is None:
            # No lock: nobody owns it, so that nobody disowns it.
            self.is_settled = True
        else:
            with LOCK:
                self.is_settled = True
                # Whoever disowns it from now on records it.
                if self._owner is not None:  # pyright: ignore[reportUnnecessaryComparison]  # by another thread
                    return
        self._record()

    def lost(self) -> None:
        """Note that nobody waits for the rest of the answer any more."""
        self.settle("abandoned")

    # --- what a framework's call reads -----------------------------------------------------

    def reported(self) -> Reported:
        """What the wire has said of its tokens so far."""
        whole = self._whole
        if whole is None and self._unread is not None:
            whole = self._whole = extract_usage(self._unread)
        if whole is not None:
            return Reported(whole)
        usage, figures_at = self._streamed()
        reported = SILENT if usage is None else usage.read()
        if self.is_settled and self.status == "complete":
            return reported
        return reported._replace(output_is_complete=figures_at == self._parts())

    def _streamed(self) -> tuple[StreamedUsage | None, int]:
        """The figures that came in parts, and after how many parts the last of them came."""
        read = self.read_piece
        parts = self._put_off if read is None else list(enumerate(self.pieces, 1))
        if not parts:
            return self._usage, self._figures_at
        # Made anew each time, for two threads may ask at once.
        usage, figures_at = StreamedUsage(), 0
        for at, part in parts:
            try:
                fields = part if read is None else read(part)
            except Exception as error:  # noqa: BLE001 - what a provider sends may be anything
                notice("a part of an answer could not be read", error, "its figures are missing")
                continue
            if fields is not None and usage.add(fields):
                figures_at = at
        return usage, figures_at

    def texts(self) -> Sequence[str]:
        """The texts that it had embedded."""
        return self._ask().texts

    def disown(self) -> None:
        """Record it here after all."""
        with LOCK:
            was_settled, self._owner = self.is_settled, None
        if was_settled:
            self._record()

    # --- from the request to its event -----------------------------------------------------

    def _record(self) -> None:
        try:
            if type(self.body) in _SIZED and len(self.body) > _LONGEST_BODY:
                self._ask()
            reservation, self.reservation = self.reservation, None
            self._pending = Pending((self._ended,), self.held_bytes, self.context, reservation)
            self._recorder.tracker.add(self._pending)
        except Exception as error:  # noqa: BLE001 - called from anywhere
            notice("a request could not be counted", error, "it is left out")

    def _ended(self) -> Ended:
        """All that is needed to make its event, read when somebody asks."""
        has_answer = bool(self.pieces)
        ending = Ending(self.status, self._started_s, self._duration_s, has_answer)
        return Ended(self, self._all_reported(), self, ending, self._recorder.settings)

    def _all_reported(self) -> Reported:
        """What was said, and what a body says that was kept for its text, if that is more."""
        reported = self.reported()
        in_body = self._read_answer().usage
        if (
            in_body is not None
            and reported.usage is not None
            and (in_body.input_tokens, in_body.output_tokens)
            == (reported.input_tokens, reported.output_tokens)
            and knows(in_body) > knows(reported.usage)
        ):
            return reported._replace(usage=in_body)
        return reported

    @property
    def held_bytes(self) -> int:
        """About how much memory its texts take until it's counted."""
        body: Any = self.body
        held = len(body) if type(body) in _SIZED else 0
        if self.pieces:
            # To ask each for its length would cost more than all the rest; the last may be
            # the whole answer.
            last = self.pieces[-1]
            held += _BYTES_PER_PIECE * len(self.pieces)
            held += len(last) if type(last) in _SIZED else 0
        return held

    def identify(self) -> None:
        """Find out the model and what was asked for, where the body alone tells."""
        asked = self._ask()
        if self.operation == "chat" and isinstance(asked.prompt, str):
            self.operation = "completion"

    def printed(self) -> tuple[str, str]:
        """Prompt and completion."""
        if not self._recorder.settings.keeps_text:
            return "", ""
        asked = self._ask()
        if self.operation == "embedding":
            prompt = "\n".join(asked.texts)
        elif isinstance(asked.prompt, str):
            prompt = asked.prompt
        else:
            prompt = "\n".join([f"{m.role}: {_joined(m.parts)}" for m in asked.prompt])
        return prompt, self._completion(self.operation)

    def _completion(self, operation: Operation) -> str:
        if not (self.pieces and self._recorder.settings.keeps_text):
            return ""
        text = _joined(self._read_answer().parts)
        return f"assistant: {text}" if operation == "chat" else text

    def prompt(self) -> str | Sequence[Message]:
        """What was sent."""
        return self._ask().prompt

    def tools(self) -> object:
        """The tools that were sent along."""
        return self._ask().tools

    def answer(self) -> Sequence[Part]:
        """What came back."""
        return self._read_answer().parts

    def embedded(self) -> Sequence[EmbeddedTexts]:
        """The texts, which share what was reported."""
        return (EmbeddedTexts(self.texts(), self.reported()),)

    def settled(self, events: Sequence[TokenCountingEvent]) -> None:
        """Let go of what only its events needed; of an unread answer the text may follow."""
        if self.operation != "embedding" and events:
            self._event = events[0]
        self._asked, self.body = Asked(), None
        # Whoever takes in the rest of it holds these very lists.
        self.pieces.clear()
        self._put_off.clear()

    def _read_answer(self) -> Answered:
        if not self.pieces:
            return Answered()
        try:
            return self._dialect.answered(self.pieces)
        except Exception as error:  # noqa: BLE001 - what a provider sends may be anything
            notice("an answer could not be read", error, "its text is left empty")
            return Answered()

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

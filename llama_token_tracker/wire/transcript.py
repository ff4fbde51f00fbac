"""What a request asks and its answer says, read from their bytes when somebody asks."""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import WatchError
from llama_token_tracker.events.call import Call, Settings
from llama_token_tracker.events.event import Operation, TokenCountingEvent
from llama_token_tracker.events.transcripts import EmbeddedTexts, Transcript
from llama_token_tracker.events.unreported import texts_in
from llama_token_tracker.extraction import SILENT, Reported
from llama_token_tracker.extraction.parts import Message, Part
from llama_token_tracker.pricing import UNSAID, Served
from llama_token_tracker.tokenizers.estimate import expected_input, expected_texts
from llama_token_tracker.tokenizers.request_fields import NONE
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire.bodies import Pieces

SIZED: Final = (bytes, str, bytearray)
"""What has a length that can be asked for quickly."""


class Asked(NamedTuple):
    """What a request asks for.

    Attributes:
        prompt: A text, or the messages of a chat.
        tools: The tools that are sent along, in whatever form.
        texts: The texts to embed.
        max_tokens: How much may come back at the most, if it says so.
        model: The model's id, if the body names it.
        characters: How many characters are billed.
        options: What else the request holds.
    """

    prompt: str | tuple[Message, ...] = ""
    tools: object = None
    texts: tuple[str, ...] = ()
    max_tokens: int | None = None
    model: str = ""
    characters: int = 0
    options: Mapping[str, Any] = NONE


UNREADABLE: Final = Asked(options={"body, which can't be read": True})
"""What a request asks for that can't be read: not nothing."""


class Answered(NamedTuple):
    """What an answer says, whole or as far as it has come.

    Attributes:
        parts: What the model said, thought and called.
        reported: What the body says of its tokens, if it was read.
    """

    parts: tuple[Part, ...] = ()
    reported: Reported = SILENT


class Dialect(Protocol):
    """How requests and answers of one operation are read."""

    def asked(self, body: Any) -> Asked:
        """Read a request; of what can't be read, nothing."""
        ...

    def answered(self, pieces: Sequence[Any]) -> Answered:
        """Read an answer, of the pieces that have come."""
        ...

    @property
    def finishes(self) -> Sequence[str]:
        """Where a stream's document holds something if all of the answer has come."""
        ...

    def is_over(self, last: Iterable[object]) -> bool:
        """Whether a stream whose last pieces are these, the newest first, has come to its end."""
        ...


class Recorder:
    """Where the requests of one watched client go.

    Args:
        token_counter: Whoever counts: a `Tracker`, or a handler that has one.
        for_budgets: Whether it takes those alone of which only a watch can tell a budget: of calls
            that it refuses, and of those that ask for structure without a callback.

    Attributes:
        takes_all: Whether it takes whatever is sent.

    Raises:
        WatchError: It doesn't count.
    """

    def __init__(self, token_counter: Any, *, for_budgets: bool = False) -> None:
        self.tracker: Tracker = getattr(token_counter, "tracker", token_counter)
        if not isinstance(self.tracker, Tracker):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = (
                f"a client was to be watched by a {type(token_counter).__name__}, which doesn't "
                "count; give a TokenCountingHandler or a Tracker."
            )
            raise WatchError(msg)
        self.takes_all = not for_budgets
        if not for_budgets:
            self.tracker.is_watching = True
        # A client may live as long as the program; the handler needn't.
        self._counter = weakref.ref(token_counter)

    def takes(self) -> bool:
        """Whether a request is its own that leaves here and now."""
        if self.takes_all:
            return True
        owner = self.tracker.owners.find(None)
        return owner is not None and (owner.refusal is not None or owner.is_structured)

    @property
    def settings(self) -> Settings:
        """How events are made: as the handler says, as long as there is one."""
        settings: Settings | None = getattr(self._counter(), "settings", None)
        plain = Settings(prices=self.tracker.prices)
        return plain if settings is None else settings._replace(event_class=TokenCountingEvent)


class WireTranscript(Call, Transcript):
    """A request and its answer, as far as they are known: what a dialect reads of both.

    Attributes:
        body: The request's body, as long as nobody has read it.
        pieces: The pieces of the answer that have come, if they are needed.
        sent: What the request tells of how it's served: the region, and what is billed by it.
    """

    sent: Served = UNSAID
    body: Any
    pieces: Pieces
    _recorder: Recorder
    _dialect: Dialect
    _asked: Asked | None = None
    _answered: tuple[int, Answered] = (0, Answered())
    _event: TokenCountingEvent | None = None

    def reported(self) -> Reported:
        """What the wire has said of its tokens so far."""
        raise NotImplementedError

    def expected_tokens(self) -> tuple[int, int | None]:
        """How many tokens it will send and may get back, roughly."""
        asked = self.ask()
        if self.operation == "embedding":
            return expected_texts(asked.texts), 0
        return expected_input(asked.prompt, asked.tools), asked.max_tokens

    def texts(self) -> Sequence[str]:
        """The texts that it had embedded."""
        return self.ask().texts

    def identify(self) -> None:
        """Find out the model and what was asked for, where the body alone tells."""
        asked = self.ask()
        if self.operation == "chat" and isinstance(asked.prompt, str):
            self.operation = "completion"

    def printed(self) -> tuple[str, str]:
        """Prompt and completion."""
        if not self._recorder.settings.keeps_text:
            return "", ""
        asked = self.ask()
        if self.operation == "embedding":
            prompt = "\n".join(asked.texts)
        elif isinstance(asked.prompt, str):
            prompt = asked.prompt
        else:
            prompt = "\n".join([f"{m.role}: {_joined(m.parts)}" for m in asked.prompt])
        return prompt, self.completion(self.operation)

    def completion(self, operation: Operation) -> str:
        """The text that came back, as an event shows it."""
        if not (self.pieces.hold_answer() and self._recorder.settings.keeps_text):
            return ""
        text = _joined(self.read_answer().parts)
        return f"assistant: {text}" if operation == "chat" else text

    def prompt(self) -> str | Sequence[Message]:
        """What was sent."""
        return self.ask().prompt

    def options(self) -> Mapping[str, Any]:
        """What else the request holds."""
        return self.ask().options

    def answer(self) -> Sequence[Part]:
        """What came back."""
        return self.read_answer().parts

    def embedded(self) -> Sequence[EmbeddedTexts]:
        """The texts, which share what was reported."""
        texts, reported = self.texts(), self.reported()
        # What has no text wasn't read.
        return (EmbeddedTexts(texts, reported, bool(texts) or reported.usage is not None),)

    def settled(self, events: Sequence[TokenCountingEvent]) -> None:
        """Let go of what only its events needed; of an unread answer the text may follow."""
        if self.operation != "embedding" and events:
            self._event = events[0]
        self._asked, self.body = Asked(), None
        self.drop_pieces()

    def drop_pieces(self) -> None:
        """Let go of what has come of the answer; more may come."""
        # Whoever takes in the rest of it holds this very list.
        self.pieces.clear()
        self._answered = 0, Answered()

    def read_answer(self) -> Answered:
        """What its answer says, as far as it has come; read once for figures and texts."""
        number = len(self.pieces)
        known, answered = self._answered
        if number != known:
            try:
                answered = self._dialect.answered(self.pieces)
            except Exception as error:  # noqa: BLE001 - what a provider sends may be anything
                notice("an answer could not be read", error, "its text is left empty")
                answered = Answered()
            self._answered = number, answered
        return answered

    def ask(self) -> Asked:
        """What it asks for."""
        if self._asked is None:
            try:
                asked = self._dialect.asked(self.body)
            except Exception as error:  # noqa: BLE001 - the body may be anything at all
                notice("a request could not be read", error, "its prompt is left empty")
                asked = UNREADABLE
            with LOCK:
                # Another thread that was quicker has let go of the body, too.
                if self._asked is None:
                    self._asked, self.body = asked, None
                    self.model = self.model or asked.model
                    if asked.characters:
                        self.sent = self.sent._replace(units={"characters": asked.characters})
        return self._asked


def _joined(parts: Sequence[Part]) -> str:
    return "".join(texts_in(parts))

"""What was sent and what came back in a call, kept until somebody reads it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.events.unreported import texts_in
from llama_token_tracker.extraction import SILENT, Reported
from llama_token_tracker.extraction.messages import as_message
from llama_token_tracker.extraction.parts import Message, Part, Text
from llama_token_tracker.extraction.texts import Words, held_bytes, lines_of, texts_of
from llama_token_tracker.tokenizers.request_fields import NONE

_BYTES_PER_PART: Final = 200


class EmbeddedTexts(NamedTuple):
    """Texts that were embedded together, and share what was reported.

    Attributes:
        texts: The texts; of a picture there is none.
        reported: What the provider said of all of them.
        is_certain: Whether it's sure that they were embedded, and not served from a cache.
        is_picture: Whether it's a picture, whose tokens can't be counted here.
        sent: The texts as they were sent, in the same order, if they were changed before.
    """

    texts: Sequence[str]
    reported: Reported = SILENT
    is_certain: bool = True
    is_picture: bool = False
    sent: Sequence[str] | None = None


class Transcript:
    """What was sent and what came back: as an event shows it, and as a tokenizer counts it."""

    __slots__ = ()

    @property
    def held_bytes(self) -> int:
        """About how much memory it takes until it's counted."""
        return 0

    def printed(self) -> tuple[str, str]:
        """Prompt and completion, as an event shows them; empty if texts aren't kept."""
        return "", ""

    def prompt(self) -> str | Sequence[Message] | None:
        """What was sent, to be counted; `None` if that needs no count."""
        return None

    def options(self) -> Mapping[str, Any]:
        """What else the request holds: tools, and whatever may add to its tokens."""
        return NONE

    def answer(self) -> Sequence[Part]:
        """What came back, to be counted."""
        return ()

    def embedded(self) -> Sequence[EmbeddedTexts]:
        """The texts of an embedding call, by what they share."""
        return ()

    def settled(self, events: Sequence[TokenCountingEvent]) -> None:
        """Let go of what only its events needed, now that they are made."""


class PlainTranscript(Transcript):
    """Messages of one text each, or a prompt and a completion that are texts.

    Args:
        words: Roles and texts, as `extraction.texts.plain_words` gives them.
        keeps_text: Whether the event shows them.
        options: What else was passed to the call.
    """

    __slots__ = ("_keeps_text", "_options", "_words")

    def __init__(self, words: Words, keeps_text: bool, options: Mapping[str, Any] = NONE) -> None:
        self._words = words
        self._keeps_text = keeps_text
        self._options = options

    @property
    def held_bytes(self) -> int:
        """About how much memory its texts take."""
        return held_bytes(self._words)

    def printed(self) -> tuple[str, str]:
        """Prompt and completion."""
        return texts_of(self._words) if self._keeps_text else ("", "")

    def prompt(self) -> str | Sequence[Message]:
        """What was sent."""
        lines = lines_of(self._words)
        if lines is None:
            prompt: str = self._words[0]
            return prompt
        return tuple([as_message(role, (Text(text),)) for role, text in lines[:-1]])

    def options(self) -> Mapping[str, Any]:
        """What else was passed to the call."""
        return self._options

    def answer(self) -> Sequence[Part]:
        """What came back."""
        return (Text(self._words[-1]),)


class PartsTranscript(Transcript):
    """Texts to show, and parts to count that were read when the call ended.

    Args:
        printed: Prompt and completion, as the event shows them.
        prompt: What was sent; `None` if it needs no count.
        answer: What came back; empty if it needs no count.
        options: What else was passed to the call.
    """

    __slots__ = ("_answer", "_options", "_printed", "_prompt")

    def __init__(
        self,
        printed: tuple[str, str],
        prompt: str | Sequence[Message] | None = None,
        answer: Sequence[Part] = (),
        options: Mapping[str, Any] = NONE,
    ) -> None:
        self._printed = printed
        self._prompt = prompt
        self._answer = answer
        self._options = options

    @property
    def held_bytes(self) -> int:
        """About how much memory its parts take."""
        prompt = self._prompt
        if isinstance(prompt, str):
            held = len(prompt)
        else:
            held = sum(_bytes(message.parts) for message in prompt or ())
        return held + _bytes(self._answer)

    def printed(self) -> tuple[str, str]:
        """Prompt and completion."""
        return self._printed

    def prompt(self) -> str | Sequence[Message] | None:
        """What was sent."""
        return self._prompt

    def options(self) -> Mapping[str, Any]:
        """What else was passed to the call."""
        return self._options

    def answer(self) -> Sequence[Part]:
        """What came back."""
        return self._answer


class SentRequest(Protocol):
    """What a watched client has sent for a framework's call."""

    def prompt(self) -> str | Sequence[Message] | None:
        """What was sent, to be counted."""
        ...

    def options(self) -> Mapping[str, Any]:
        """What else the request holds."""
        ...


class SentTranscript(Transcript):
    """A call as its framework tells of it, but counted by the request that was sent for it.

    Args:
        told: What the framework tells.
        request: The request.
    """

    __slots__ = ("_request", "_told")

    def __init__(self, told: Transcript, request: SentRequest) -> None:
        self._told = told
        self._request = request

    @property
    def held_bytes(self) -> int:
        """About how much memory its texts take, which the request has as well."""
        return 2 * self._told.held_bytes

    def printed(self) -> tuple[str, str]:
        """Prompt and completion."""
        return self._told.printed()

    def prompt(self) -> str | Sequence[Message] | None:
        """What was sent; as the framework tells it, if the request can't be read."""
        return self._request.prompt() or self._told.prompt()

    def options(self) -> Mapping[str, Any]:
        """What else the request holds."""
        return self._request.options()

    def answer(self) -> Sequence[Part]:
        """What came back."""
        return self._told.answer()


class EmbeddingTranscript(Transcript):
    """The texts of an embedding call.

    Args:
        groups: The texts, by what they share.
    """

    __slots__ = ("_groups",)

    def __init__(self, groups: Sequence[EmbeddedTexts]) -> None:
        self._groups = groups

    @property
    def held_bytes(self) -> int:
        """About how much memory its texts take."""
        return sum(len(text) for group in self._groups for text in group.texts)

    def embedded(self) -> Sequence[EmbeddedTexts]:
        """The texts, by what they share."""
        return self._groups


def _bytes(parts: Iterable[Part]) -> int:
    held = 0
    for part in parts:
        held += _BYTES_PER_PART
        held += len(part.text) if isinstance(part, Text) else sum(map(len, texts_in((part,))))
    return held

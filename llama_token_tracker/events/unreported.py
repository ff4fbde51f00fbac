"""Calls whose provider said nothing, or not all: what to count of them, later.

Holds only strings and numbers, taken when the call ended: what a user does to a message
afterwards changes nothing. Counting is done once, when somebody asks, and never raises.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple

from llama_token_tracker._log_once import notice
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.extraction.messages import tools_of
from llama_token_tracker.extraction.parts import (
    Document,
    Message,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from llama_token_tracker.tokenizers import Tokenizer, count_messages
from llama_token_tracker.usage import Source, weaker

_CHARS_PER_TOKEN: Final = 4
# A message and its parts beside their texts, roughly.
_BYTES_PER_PART: Final = 200


class Count(NamedTuple):
    """A number of tokens, and where it comes from."""

    tokens: int
    source: Source


NOTHING: Final = Count(0, "estimated")


class SilentCall:
    """One call whose tokens wait to be counted.

    Args:
        tokenizer: Gives the tokenizer; looked up when it is needed.
        model: The model's name, or `None` if unknown.
        prompt: What was sent, or `None` if that needs no count.
        tools: The tools that were sent along, in whatever form.
        answer: What came back, or `None` if that needs no count.
        make: Makes the events of the counts of prompt and answer.
    """

    __slots__ = ("_answer", "_events", "_make", "_model", "_prompt", "_tokenizer", "_tools")

    def __init__(
        self,
        tokenizer: Callable[[], Tokenizer],
        model: str | None,
        prompt: str | Sequence[Message] | None,
        tools: object,
        answer: Sequence[Part] | None,
        make: Callable[[Count, Count], TokenCountingEvent],
    ) -> None:
        self._tokenizer = tokenizer
        self._model = model
        self._prompt = prompt
        self._tools = tools
        self._answer = answer
        self._make = make
        self._events: list[TokenCountingEvent] | None = None

    @property
    def held_bytes(self) -> int:
        """About how much memory its texts take until it's counted."""
        prompt = self._prompt
        if isinstance(prompt, str):
            held = len(prompt)
        else:
            held = sum(_bytes(message.parts) for message in prompt or ())
        return held + _bytes(self._answer or ())

    def count(self) -> TokenCountingEvent:
        """Count, if nobody has; two threads that do so at once find the same."""
        return self.events()[0]

    def events(self) -> list[TokenCountingEvent]:
        """The call's event, counted."""
        events = self._events
        if events is None:
            prompt, answer = self._prompt, self._answer
            counted = NOTHING if prompt is None else _safely(self._count_prompt, prompt)
            said = NOTHING if answer is None else _safely(self._count_answer, answer)
            events = self._events = [self._make(counted, said)]
            self._prompt = self._answer = None
            self._tools = None
        return events

    def _count_prompt(self, prompt: Any) -> Count:
        tokenizer = self._tokenizer()
        if isinstance(prompt, str):
            tokens = tokenizer.count(prompt)
            return Count(tokens, _standing(tokenizer))
        count = count_messages(
            prompt, model=self._model or "", tools=tools_of(self._tools), tokenizer=tokenizer
        )
        return Count(count.tokens, weaker(count.source, _standing(tokenizer)))

    def _count_answer(self, parts: Any) -> Count:
        tokenizer = self._tokenizer()
        tokens = sum(tokenizer.count_many(list(texts_in(parts))))
        # How thoughts and calls of tools are written is the provider's secret.
        covered = all(isinstance(part, Text) for part in parts)
        return Count(tokens, _standing(tokenizer) if covered else "estimated")


class LateCall:
    """A call of which nothing is looked at before its tokens are asked for.

    Args:
        held_bytes: About how much memory its texts take.
        recipe: A function that makes a `SilentCall`, and its arguments.
    """

    __slots__ = ("_events", "_recipe", "held_bytes")

    def __init__(self, held_bytes: int, *recipe: Any) -> None:
        self.held_bytes = held_bytes
        self._recipe: tuple[Any, ...] | None = recipe
        self._events: list[TokenCountingEvent] = []

    def events(self) -> list[TokenCountingEvent]:
        """The call's event, counted; two threads that ask at once find the same."""
        recipe = self._recipe
        if recipe is not None:
            make, *arguments = recipe
            self._events = make(*arguments).events()
            self._recipe = None
        return self._events


def counted_apart(tokenizer: Callable[[], Tokenizer], texts: Sequence[str]) -> list[Count]:
    """Count texts that are no parts of one prompt, each by itself; never raises."""
    try:
        found = tokenizer()
        return [Count(tokens, _standing(found)) for tokens in found.count_many(list(texts))]
    except Exception as error:  # noqa: BLE001 - a figure is asked for long after the call
        notice("a text could not be counted", error, "it is estimated by its length")
        return [Count(_by_length(text), "estimated") for text in texts]


def _by_length(text: str) -> int:
    return -(-len(text) // _CHARS_PER_TOKEN)


def _safely(count: Callable[[Any], Count], content: Any) -> Count:
    try:
        return count(content)
    except Exception as error:  # noqa: BLE001 - a figure is asked for long after the call
        notice("a text could not be counted", error, "it is estimated by its length")
        texts = [content] if isinstance(content, str) else texts_in(content)
        return Count(sum(_by_length(text) for text in texts), "estimated")


def _standing(tokenizer: Tokenizer) -> Source:
    """The tokenizer's source; one that has ever failed and was stood in for is not trusted."""
    failed = getattr(getattr(tokenizer, "counter", None), "has_failed", False)
    return "estimated" if failed else tokenizer.source


def texts_in(parts: Iterable[Part | Message]) -> Iterable[str]:
    """The texts of parts and of what is inside them, those of tools included."""
    for part in parts:
        match part:
            case Text(text) | Thinking(text):
                yield text
            case ToolCall(name, arguments):
                yield name
                yield arguments
            case Document(text):
                yield text
            case ToolResult(parts=inner) | Message(parts=inner):
                yield from texts_in(inner)
            case _:
                pass


def _bytes(parts: Iterable[Part]) -> int:
    held = 0
    for part in parts:
        held += _BYTES_PER_PART
        held += len(part.text) if isinstance(part, Text) else sum(map(len, texts_in((part,))))
    return held

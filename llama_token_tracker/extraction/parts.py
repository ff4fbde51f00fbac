"""The parts of messages: text, thinking, tool calls and results, images, documents; and tools.

Every framework's and provider's messages are read into these (`extraction.messages`), and
tokenizers count them (`tokenizers.message_rules`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Detail: TypeAlias = Literal["auto", "low", "high", "original"]
"""How closely OpenAI's models look at an image."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it is sent."""

    text: str


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thinking block that is sent back to the model."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model made.

    Attributes:
        name: The tool's name.
        arguments: The arguments, as JSON text.
    """

    name: str
    arguments: str = "{}"


@dataclass(frozen=True, slots=True)
class Image:
    """An image, by its size alone.

    Attributes:
        width: In pixels; `None` if it isn't known, as for a URL.
        height: In pixels, likewise.
        detail: OpenAI's `detail`.
    """

    width: int | None = None
    height: int | None = None
    detail: Detail = "auto"


@dataclass(frozen=True, slots=True)
class Document:
    """A document that is sent as such, for example a PDF.

    Attributes:
        text: Its text, as far as it is known.
        pages: How many pages the provider turns into images.
    """

    text: str = ""
    pages: int = 0


@dataclass(frozen=True, slots=True)
class Opaque:
    """Content that can't be counted here, such as audio.

    Attributes:
        kind: What it is, in a word.
    """

    kind: str


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of a tool call.

    Attributes:
        parts: Its content.
        name: The tool's name, where it is sent along.
    """

    parts: tuple[Text | Image | Document | Opaque, ...]
    name: str | None = None


Part: TypeAlias = Text | Thinking | ToolCall | ToolResult | Image | Document | Opaque


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt.

    Attributes:
        role: `system`, `user`, `assistant`, `tool` …
        parts: Its content, in order.
        name: The participant's name, where it is sent along.
    """

    role: str
    parts: tuple[Part, ...]
    name: str | None = None

    @classmethod
    def of(cls, role: str, text: str) -> "Message":
        """Make a message of text alone."""
        return cls(role, (Text(text),))


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model may call.

    Attributes:
        name: Its name.
        description: What it does.
        parameters: The JSON schema of its arguments.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict[str, object])

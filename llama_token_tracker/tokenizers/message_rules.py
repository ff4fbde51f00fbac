"""Input tokens of messages and tools, by the rules that providers publish.

Each provider's rule is a function that adds texts, and what else costs tokens,
to a tally. What no rule covers is estimated, and the count says so.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, cast

from llama_token_tracker.extraction.parts import (
    Document,
    Image,
    Message,
    Opaque,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from llama_token_tracker.tokenizers.base import Tokenizer
from llama_token_tracker.tokenizers.images import (
    TYPICAL_SIZE,
    claude_image_tokens,
    openai_image_tokens,
)
from llama_token_tracker.tokenizers.models import Model, identify
from llama_token_tracker.tokenizers.request_fields import (
    NONE,
    THINKING,
    field_of,
    is_written,
    uncovered,
)
from llama_token_tracker.tokenizers.resolve import get_tokenizer
from llama_token_tracker.usage import Source

ToolChoice: TypeAlias = Literal["auto", "none", "any", "tool"]


@dataclass(frozen=True, slots=True)
class MessageCount:
    """What a prompt costs.

    Attributes:
        tokens: The input tokens.
        source: `counted` if published rules and the model's own tokenizer gave
            every token, otherwise `estimated`.
        estimates: What was estimated, in words; empty when nothing was.
    """

    tokens: int
    source: Source
    estimates: tuple[str, ...] = ()


@dataclass(slots=True)
class _Tally:
    """What a rule has added up so far: tokens, and texts that are still to be counted."""

    texts: list[str] = field(default_factory=list[str])
    tokens: int = 0
    # A dict for its order; the values mean nothing.
    estimates: dict[str, None] = field(default_factory=dict[str, None])

    def text(self, *texts: str) -> None:
        self.texts += texts

    def estimate(self, reason: str) -> None:
        self.estimates[reason] = None


def count_messages(
    messages: Iterable[Message],
    *,
    model: str,
    tools: Iterable[Tool] = (),
    tool_choice: ToolChoice = "auto",
    tokenizer: Tokenizer | None = None,
    options: Mapping[str, Any] = NONE,
) -> MessageCount:
    """Count the input tokens of a prompt.

    Nothing is fetched: an image without a size counts as one of 1,024 by 1,024
    pixels, and is marked.

    Args:
        messages: The prompt.
        model: The model's name, as for `get_tokenizer`.
        tools: The tools sent along.
        tool_choice: What the model may do with them, in Claude's terms.
        tokenizer: Counts the texts; the model's own by default.
        options: What else the request holds, `tool_choice` in its provider's words included.

    Returns:
        The count, and what of it is an estimate.
    """
    tokenizer = tokenizer or get_tokenizer(model)
    known = identify(model)
    tally = _Tally()
    if tokenizer.source == "estimated":
        tally.estimate(f"text, with {tokenizer.name}")
    messages, tools = tuple(messages), tuple(tools)
    chosen = _TOOL_CHOICES.get(_named(field_of(options, "tool_choice")), tool_choice)
    _RULES[known.provider](tally, known, messages, tools, chosen)
    _options(tally, known, options)
    tally.tokens += sum(tokenizer.count_many(tally.texts))
    source: Source = "estimated" if tally.estimates else "counted"
    return MessageCount(max(0, tally.tokens), source, tuple(tally.estimates))


def takes_messages_alone(model: str) -> bool:
    """Whether a text reaches this model as a message, whatever method it was handed to."""
    known = identify(model)
    if known.provider == "claude":
        return not known.is_legacy
    return known.provider == "openai" and not _OPENAI_COMPLETES.match(known.name)


def shows_all_it_writes(model: str) -> bool:
    """Whether all output tokens stand in the answer: models that reason hide some."""
    known = identify(model)
    return known.provider != "openai" or bool(_OPENAI_SPEAKS_AT_ONCE.match(known.name))


_TOOL_CHOICES: Final[dict[str, ToolChoice]] = {
    "auto": "auto",
    "none": "none",
    "any": "any",
    "required": "any",
    "tool": "tool",
    "function": "tool",
}
"""What the model may do with tools: OpenAI's and Anthropic's words in Claude's."""


def _named(tool_choice: object) -> str:
    kind = _mapping(tool_choice).get("type", tool_choice)
    return kind if isinstance(kind, str) else ""


def _options(tally: _Tally, model: Model, options: Mapping[str, Any]) -> None:
    """Count the fields of a request that no other rule does, as far as that can be."""
    for name, value in uncovered(options):
        tally.estimate(f"the request's {name}")
        if name in THINKING and model.provider == "claude":
            tally.tokens += _thinking(model)
        elif is_written(name):
            tally.text(_string(value))


# ---- OpenAI ---------------------------------------------------------------------

_OPENAI_PER_MESSAGE: Final = 3
_OPENAI_PER_NAME: Final = 1
_OPENAI_REPLY: Final = 3
# Models whose overheads the cookbook compares with the API's figures, with the
# tokens that open a tool's definition.
_OPENAI_VERIFIED: Final = (
    (re.compile(r"(ft:)?gpt-4o(-mini)?(-20\d\d|:|$)"), 7),
    (re.compile(r"(ft:)?gpt-(3\.5|35)-turbo(-|:|$)"), 10),
    (re.compile(r"(ft:)?gpt-4(-0\d|-32k|-turbo|-1106|-20\d\d|:|$)"), 10),
)
_OPENAI_COMPLETES: Final = re.compile(r".*(instruct|davinci|babbage|curie|ada)|text-|code-")
_OPENAI_SPEAKS_AT_ONCE: Final = re.compile(
    r"(ft:)?(gpt-3|gpt-4|chatgpt-4o|davinci|babbage|curie|ada|text-|code-)"
)
_OPENAI_FREE_NAME: Final = re.compile(r"(ft:)?gpt-4o")
_OPENAI_TOOL_START: Final = 7
_OPENAI_TOOLS_END: Final = 12
_OPENAI_PROPERTIES: Final = 3
_OPENAI_PROPERTY: Final = 3
_OPENAI_ENUM: Final = -3
_OPENAI_ENUM_ITEM: Final = 3
_OPENAI_TOOL_CALL: Final = 3
# A page of a PDF: its text, and its image. Half-way between the bounds that
# Anthropic gives; OpenAI gives none.
_PAGE_TEXT: Final = 2250


def _openai(
    tally: _Tally,
    model: Model,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    tool_choice: ToolChoice,
) -> None:
    """Count a prompt as the chat completions API does.

    Source:
        OpenAI's cookbook, "How to count tokens with tiktoken", sections 6 and 7,
        whose figures were compared with the API's for gpt-3.5-turbo, gpt-4,
        gpt-4o and gpt-4o-mini (checked 2026-11-22). Tool calls:
        LlamaIndex's `TokenCounter`, 3 tokens each.
    """
    tool_start = next((start for name, start in _OPENAI_VERIFIED if name.match(model.name)), None)
    if tool_start is None:
        tool_start = _OPENAI_TOOL_START
        tally.estimate(f"overheads of messages, not published for {model.name}")
    tally.tokens += _OPENAI_REPLY
    for message in messages:
        tally.tokens += _OPENAI_PER_MESSAGE
        tally.text(message.role)
        if message.name is not None:
            tally.tokens += _openai_name(tally, model, message)
            tally.text(message.name)
        for part in message.parts:
            _openai_part(tally, model, part)
    if tools:
        tally.tokens += _OPENAI_TOOLS_END
        if tool_choice != "auto":
            tally.estimate("the request's tool_choice")
    for tool in tools:
        tally.tokens += tool_start
        _openai_tool(tally, tool)


def _openai_name(tally: _Tally, model: Model, message: Message) -> int:
    """What a name costs beside its text: the cookbook compares those of system messages alone.

    A bill of gpt-4o for a user's message has one token less than its rule gives.
    """
    if message.role in _SYSTEM or not _OPENAI_FREE_NAME.match(model.name):
        return _OPENAI_PER_NAME
    tally.estimate(f"the name of a {message.role}'s message, not published for {model.name}")
    return 0


def _openai_part(tally: _Tally, model: Model, part: Part) -> None:
    if isinstance(part, Image):
        size = _size(tally, part)
        tokens, is_ruled = openai_image_tokens(*size, model.name, part.detail)
        tally.tokens += tokens
        if not is_ruled:
            tally.estimate(f"an image, as detail={part.detail!r} for {model.name}")
        return
    if isinstance(part, ToolCall):
        tally.tokens += _OPENAI_TOOL_CALL
    _part(tally, part, lambda image: _openai_part(tally, model, image))


def _openai_tool(tally: _Tally, tool: Tool) -> None:
    tally.text(f"{tool.name}:{tool.description.removesuffix('.')}")
    properties = _mapping(tool.parameters.get("properties"))
    if properties:
        tally.tokens += _OPENAI_PROPERTIES
    for name, value in properties.items():
        tally.tokens += _OPENAI_PROPERTY
        schema = _mapping(value)
        kind, description = schema.get("type"), schema.get("description")
        if not isinstance(kind, str) or not isinstance(description, str):
            tally.estimate("a tool's parameter without type or description")
        tally.text(f"{name}:{kind or ''}:{str(description or '').removesuffix('.')}")
        values = schema.get("enum")
        if isinstance(values, list | tuple):
            items = cast("Sequence[object]", values)
            tally.tokens += _OPENAI_ENUM + _OPENAI_ENUM_ITEM * len(items)
            tally.text(*map(_string, items))
        nested = {
            key: inner
            for key, inner in schema.items()
            if key not in {"type", "description", "enum", "title"}
        }
        if nested:
            tally.estimate("a tool's nested parameters")
            tally.text(_json(nested))


# ---- Claude ---------------------------------------------------------------------

# The system prompt that makes tools work, by model: for `auto` and `none`, and
# for `any` and `tool`. The first pattern that matches decides.
# Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview,
# "Pricing" (checked 2026-11-22); models before 3.5 Haiku: the same page in 2025.
_CLAUDE_TOOL_PROMPTS: Final = tuple(
    (re.compile(pattern), costs)
    for pattern, costs in (
        (r"claude-opus-5(-20|$)", (286, 406)),
        (r"claude-sonnet-5(-20|$)", (354, 474)),
        (r"claude-opus-4[-.]8", (290, 410)),
        (r"claude-opus-4[-.]7", (675, 804)),
        (r"claude-(opus|sonnet)-4[-.]6", (497, 589)),
        (r"claude-(opus|sonnet|haiku)-4[-.]5", (496, 588)),
        (r"claude-(opus|sonnet)-4([-.][01])?(-20|$)", (313, 315)),
        (r"claude-3[-.]7-sonnet", (346, 313)),
        (r"claude-3[-.]5-sonnet.*(20241022|v2)", (346, 313)),
        (r"claude-3[-.]5-sonnet", (294, 261)),
        (r"claude-3[-.]5-haiku", (264, 355)),
        (r"claude-3-opus", (530, 281)),
        (r"claude-3-sonnet", (159, 235)),
        (r"claude-3-haiku", (264, 340)),
    )
)
_CLAUDE_NEWEST: Final = (5, 0)
_SYSTEM: Final = frozenset({"system", "developer"})

# What thinking adds to a prompt, by single bills: 24 tokens were billed as 52 for 3.7, 17 as 50 for
# Sonnet 4. Anthropic publishes nothing of it.
_CLAUDE_THINKING: Final = ((re.compile(r"claude-3[-.]7"), 28), (re.compile("claude"), 33))


def _thinking(model: Model) -> int:
    return next((tokens for name, tokens in _CLAUDE_THINKING if name.match(model.name)), 0)


def _claude(
    tally: _Tally,
    model: Model,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    tool_choice: ToolChoice,
) -> None:
    """Count a prompt as the messages API does.

    Source:
        The frame of one user message: ctok's measurement of `count_tokens`. A
        system prompt has none: https://platform.claude.com/docs/en/build-with-
        claude/token-counting, whose first example is 14 tokens (checked
        2026-11-22). The frames of several messages aren't published; each is
        taken to cost as much. Tools: the table above, and their definitions as
        JSON.
    """
    if model.is_legacy:
        _claude_legacy(tally, messages, tools)
        return
    version = model.version or _CLAUDE_NEWEST
    frame = _frame(version)
    turns = [message for message in messages if message.role not in _SYSTEM]
    tally.tokens += frame * len(turns)
    if [(message.role, len(message.parts)) for message in messages] != [("user", 1)]:
        tally.estimate("frames, measured for a single user message of one part")

    def image(part: Image) -> None:
        tally.tokens += claude_image_tokens(*_size(tally, part), version)

    for message in messages:
        for part in message.parts:
            _part(tally, part, image)
    if tools:
        _claude_tools(tally, model, tools, tool_choice)


def _claude_tools(
    tally: _Tally, model: Model, tools: Sequence[Tool], tool_choice: ToolChoice
) -> None:
    """Add the system prompt that makes tools work, and their definitions."""
    prompts = next((costs for name, costs in _CLAUDE_TOOL_PROMPTS if name.match(model.name)), None)
    if prompts is None:
        tally.estimate(f"the system prompt for tools, not published for {model.name}")
        prompts = _CLAUDE_TOOL_PROMPTS[0][1]
    tally.tokens += prompts[tool_choice in {"any", "tool"}]
    tally.estimate("definitions of tools")
    tally.text(*map(_claude_tool, tools))


def _frame(version: tuple[int, int]) -> int:
    from llama_token_tracker.tokenizers.claude import frame

    return frame(version)


def _claude_tool(tool: Tool) -> str:
    """Write a tool as Claude sees it.

    Source:
        The second example of https://platform.claude.com/docs/en/build-with-
        claude/token-counting, 403 tokens: 313 for the tools' prompt of Claude 4,
        16 for the message, and as many as this form has.
    """
    definition = {
        "description": tool.description,
        "name": tool.name,
        "parameters": dict(tool.parameters),
    }
    return f"<function>{_json(definition, spaced=True)}</function>"


def _claude_legacy(tally: _Tally, messages: Sequence[Message], tools: Sequence[Tool]) -> None:
    """Count a prompt as Claude 1 and 2 see it: one text of turns.

    Source:
        Anthropic's "Migrating from Text Completions to Messages": turns begin
        with two newlines and `Human:` or `Assistant:`, the prompt ends with
        the latter.
    """
    tally.estimate("turns of Claude 1 and 2, joined into one text")
    turns: list[str] = []
    inner = _Tally()
    for message in messages:
        inner.texts.clear()
        for part in message.parts:
            _part(inner, part, lambda image: _unruled_image(inner, image))
        text = "".join(inner.texts)
        opening = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
        turns.append(opening.get(message.role, "") + text)
    tally.tokens += inner.tokens
    tally.estimates.update(inner.estimates)
    tally.text("".join(turns) + "\n\nAssistant:", *map(_tool, tools))


# ---- anybody else ---------------------------------------------------------------


def _other(
    tally: _Tally,
    model: Model,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    tool_choice: ToolChoice,
) -> None:
    """Estimate a prompt whose provider publishes no rule: LlamaIndex's overheads."""
    tally.estimate(f"overheads of messages, as no rule is known for {model.name}")
    for message in messages:
        tally.tokens += _OPENAI_PER_MESSAGE
        tally.text(message.role)
        for part in message.parts:
            _part(tally, part, lambda image: _unruled_image(tally, image))
    tally.text(*map(_tool, tools))


_RULES: Final[
    Mapping[
        str,
        Callable[[_Tally, Model, Sequence[Message], Sequence[Tool], ToolChoice], None],
    ]
] = {"openai": _openai, "claude": _claude, "other": _other}


# ---- what the rules share -------------------------------------------------------


def _part(tally: _Tally, part: Part, image: Callable[[Image], None]) -> None:
    """Put a part on the tally, an image by the provider's own rule."""
    match part:
        case Text(text):
            tally.text(text)
        case Thinking(text):
            tally.text(text)
            tally.estimate("thinking, which providers leave out of some turns")
        case ToolCall(name, arguments):
            tally.text(name, arguments)
            tally.estimate("calls of tools")
        case ToolResult(parts, name):
            if name is not None:
                tally.text(name)
            for inner in parts:
                _part(tally, inner, image)
            tally.estimate("results of tools")
        case Image():
            image(part)
        case Document(text, pages):
            tally.text(text)
            for _ in range(pages):
                image(Image(*TYPICAL_SIZE, detail="high"))
            # Source: https://platform.claude.com/docs/en/build-with-claude/
            # pdf-support, "Estimate your costs": 1,500 to 3,000 tokens a page.
            if not text:
                tally.tokens += _PAGE_TEXT * pages
            tally.estimate("documents")
        case Opaque(kind):
            tally.estimate(f"{kind}, counted as nothing")


def _unruled_image(tally: _Tally, image: Image) -> None:
    width, height = _size(tally, image)
    tally.tokens += openai_image_tokens(width, height, "", image.detail)[0]
    tally.estimate("images, as OpenAI's tiles")


def _size(tally: _Tally, image: Image) -> tuple[int, int]:
    """Return an image's size, or a typical one if it isn't known."""
    if not image.width or not image.height or min(image.width, image.height) < 1:
        tally.estimate("an image of unknown size")
        return TYPICAL_SIZE
    return image.width, image.height


def _mapping(value: object) -> Mapping[str, object]:
    return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: object, *, spaced: bool = False) -> str:
    separators = (", ", ": ") if spaced else (",", ":")
    try:
        return json.dumps(value, ensure_ascii=False, separators=separators, default=str)
    except (TypeError, ValueError):
        # Keys that are no strings, or a structure that contains itself.
        return repr(value)
    except RecursionError:
        # Nobody sends that; it just mustn't raise.
        return ""


def _tool(tool: Tool) -> str:
    return _json(
        {
            "name": tool.name,
            "description": tool.description,
            "parameters": dict(tool.parameters),
        }
    )

"""Prompts, messages and responses as LlamaIndex prints them, without knowing their classes."""

import json
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, TypeAlias, TypeGuard, cast

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker._printable import exact, is_text

_TUPLES = (tuple,)


Line: TypeAlias = tuple[str, str]
"""The role of a message, and its text."""

Words: TypeAlias = tuple[Any, ...]
"""A prompt and its completion. Or roles and texts of messages in turn, the answer's last: these
are at least four, copy nothing, and take no time until somebody reads them."""

_TEXTS_ALONE = len(("prompt", "completion"))
_ONE_MESSAGE = len(("role", "prompt", "role", "completion"))


def plain_words(prompt: Any, response: Any) -> Words | None:
    """Take the texts of a prompt and its answer, where every message is one text and no more.

    Returns:
        Prompt and completion if the prompt is a text. Or role and text of each message in turn,
        the answer's last. `None` where there is more than texts.
    """
    try:
        if type(prompt) not in _TUPLES:
            text = response.text if type(prompt) is str else None
            return (prompt, text) if type(text) is str else None
        answer = response.message
        if len(prompt) == 1:
            # The commonest call, and quick.
            (message,) = prompt
            (asked,) = message.blocks
            (said,) = answer.blocks
            prompted, answered = asked.text, said.text
            if (
                type(prompted) is str
                and type(answered) is str
                and asked.block_type == "text"
                and said.block_type == "text"
                and not message.additional_kwargs
                and not answer.additional_kwargs
            ):
                return message.role, prompted, answer.role, answered
            return None
        return _in_turn((*prompt, answer)) if prompt else None
    except Exception as error:  # noqa: BLE001 - whatever is not plain takes care to read
        pass_on(error)
        return None


def _in_turn(messages: Iterable[Any]) -> Words | None:
    """Role and text of each message; a foreign one may raise anything."""
    words: list[Any] = []
    for message in messages:
        (block,) = message.blocks
        text = block.text if block.block_type == "text" else None
        if type(text) is not str or message.additional_kwargs:
            return None
        words += (message.role, text)
    return tuple(words)


def held_bytes(words: Words) -> int:
    """About how much memory the texts take that such words keep alive."""
    if len(words) == _ONE_MESSAGE:
        # The commonest call, and quick.
        return len(words[1]) + len(words[3])
    return sum(map(len, words if len(words) == _TEXTS_ALONE else words[1::2]))


def are_texts(words: Words) -> bool:
    """Whether they are a prompt and a completion that are texts, not messages."""
    return len(words) == _TEXTS_ALONE


def lines_of(words: Words) -> list[Line] | None:
    """Roles and texts of messages; `None` for a prompt and a completion that are texts."""
    if are_texts(words):
        return None
    return [(_role(role), text) for role, text in zip(words[::2], words[1::2], strict=True)]


def texts_of(words: Words) -> tuple[str, str]:
    """The texts of an event's `prompt` and `completion`, as LlamaIndex prints them."""
    lines = lines_of(words)
    if lines is None:
        return words[0], words[1]
    *asked, last = lines
    return printed(asked), printed([last])


def _role(role: Any) -> str:
    value = _field(role, "value")
    return exact(value) if is_text(value) else shown(role)


def printed(lines: Iterable[Line]) -> str:
    """Such messages as LlamaIndex prints them."""
    return "\n".join([f"{role}: {text}" for role, text in lines])


def prompt_text(prompt: Any) -> str:
    """The text of an event's `prompt`: as LlamaIndex prints it, messages on lines."""
    if is_text(prompt):
        return exact(prompt)
    if is_list(prompt):
        messages: Any = prompt
        return "\n".join([_message_text(message) for message in items(messages)])
    return "" if prompt is None else shown(prompt)


def response_text(response: Any) -> str:
    """The text of an event's `completion`: as LlamaIndex prints it."""
    if response is None or is_text(response):
        return "" if response is None else exact(response)
    try:
        message = response.message
    except Exception as error:  # noqa: BLE001 - a completion has none, and a foreign one may raise
        pass_on(error)
        message = None
    if message is not None:
        return _message_text(message)
    text = _field(response, "text")
    if is_text(text):
        return exact(text)
    is_users = hasattr(cast("Any", type(response)), "__pydantic_fields__")
    return written(response) if is_users else shown(response)


def is_list(thing: object) -> TypeGuard[list[Any] | tuple[Any, ...]]:
    """Whether something is a list or a tuple, asked of its class: itself may raise."""
    return issubclass(type(thing), (list, tuple))


def items(listed: list[Any] | tuple[Any, ...]) -> Iterator[Any]:
    """What a list or a tuple holds, whatever its class makes of being read."""
    kind: Any = list if issubclass(cast("type[Any]", type(listed)), list) else tuple
    return cast("Iterator[Any]", kind.__iter__(listed))


def _field(thing: object, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception as error:  # noqa: BLE001 - a foreign property may raise anything
        pass_on(error)
        return None


def _message_text(message: Any) -> str:
    """What `str(message)` gives; most messages are one block of text, and quick."""
    try:
        blocks = message.blocks
        block = blocks[0]
        if block.block_type == "text" and len(blocks) == 1:
            text = block.text
            return f"{_role(message.role)}: {as_text(text)}"
    except Exception as error:  # noqa: BLE001 - no single block of text: all else is as it's printed
        pass_on(error)
    return shown(message)


def shown(thing: Any) -> str:
    """`str(thing)`, whatever `thing` does when asked."""
    try:
        return exact(str(thing))
    except Exception as error:  # noqa: BLE001 - a foreign __str__ may raise anything
        notice("unprintable {}", error, "its text is left empty", type(thing).__name__)
        return ""


def as_text(thing: object) -> str:
    """A text as a plain one, and of anything else what it prints."""
    return exact(thing) if is_text(thing) else shown(thing)


def written(answer: object) -> str:
    """The text of an answer that was read into the user's own class: it went over the wire as JSON.

    It's put together of fields alone: serializers and properties are users' code.
    """
    if is_text(answer):
        return exact(answer)
    try:
        return json.dumps(_plain(answer), ensure_ascii=False, separators=(",", ":"))
    except Exception as error:  # noqa: BLE001 - endless within itself, or otherwise no JSON
        notice("an answer can't be written as JSON", error, "its text is left empty")
        return ""


def _plain(value: Any) -> object:
    """What JSON knows, made of any value."""
    kind = cast("Any", type(value))
    if kind in _JSON:
        return value
    if issubclass(kind, (str, Enum)):
        return exact(value) if issubclass(kind, str) else _plain(value._value_)
    if is_list(value):
        return [_plain(one) for one in items(value)]
    if hasattr(kind, "__pydantic_fields__"):
        return _plain(value.__dict__)
    if issubclass(kind, dict):
        fields = cast("Iterable[tuple[object, object]]", dict.items(value))  # pyright: ignore[reportUnknownMemberType]
        return {as_text(key): _plain(one) for key, one in fields}
    return str(value) if kind.__module__ in _STANDARD else f"<{kind.__name__}>"


_JSON = (str, int, float, bool, type(None))
_STANDARD = ("datetime", "decimal", "uuid")

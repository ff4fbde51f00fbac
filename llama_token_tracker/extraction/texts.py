"""LlamaIndex's prompts, messages and responses as text, without knowing their classes."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias, cast

from llama_token_tracker._log_once import notice

_TUPLES = (tuple,)


Words: TypeAlias = tuple[Any, ...]
"""A prompt and its completion. Or roles and texts of messages in turn, the answer's last: these
are at least four, hold no memory of their own, and take no time until somebody reads them."""


def words_of(prompt: Any, response: Any) -> Words:
    """What was said, without printing it yet if it's messages of one text each."""
    try:
        if type(prompt) in _TUPLES and prompt:
            answer = response.message
            if len(prompt) > 1:
                return _in_turn((*prompt, answer))
            # The commonest call, and quick.
            message = prompt[0]
            (asked,) = message.blocks
            (said,) = answer.blocks
            if asked.block_type == said.block_type == "text":
                return message.role, asked.text, answer.role, said.text
    except Exception:  # noqa: BLE001 - all else is printed as it is, and a foreign one may raise
        pass
    return prompt_text(prompt), response_text(response)


def _in_turn(messages: Iterable[Any]) -> Words:
    """Role and text of each message.

    Raises:
        ValueError: A message isn't one text. A foreign one may raise anything.
    """
    words: list[Any] = []
    for message in messages:
        words += (message.role, _only_text(message).text)
    return tuple(words)


def _only_text(message: Any) -> Any:
    """The block of a message that is one text.

    Raises:
        ValueError: It isn't. A foreign message may raise anything.
    """
    (block,) = message.blocks
    if block.block_type != "text":
        raise ValueError
    return block


def texts_of(words: Words) -> tuple[str, str]:
    """The texts of an event's `prompt` and `completion`, as LlamaIndex prints them."""
    if len(words) == len(("prompt", "completion")):
        return words[0], words[1]
    *lines, last = [
        (_role(role), text if type(text) is str else shown(text))
        for role, text in zip(words[::2], words[1::2], strict=True)
    ]
    return printed(lines), printed([last])


def _role(role: Any) -> str:
    value = _field(role, "value")
    return value if type(value) is str else shown(role)


Line: TypeAlias = tuple[str, str]
"""The role of a message, and its text."""


def plain_lines(prompt: Any, response: Any) -> tuple[tuple[Line, ...], Line] | None:
    """What was said, if every message of prompt and answer is one block of text and no more."""
    if type(prompt) not in _TUPLES:
        return None
    try:
        lines = tuple([_plain_line(message) for message in prompt])
        answer = _plain_line(response.message)
    except Exception:  # noqa: BLE001 - whatever is not plain takes care to read
        return None
    return lines, answer


def _plain_line(message: Any) -> Line:
    """Role and text of one message.

    Raises:
        ValueError: There is more to it. A foreign message may raise anything.
    """
    role, text = message.role._value_, _only_text(message).text  # quicker than `value`
    if message.additional_kwargs or not type(role) is type(text) is str:
        raise ValueError
    return role, text


def printed(lines: Iterable[Line]) -> str:
    """Such messages as LlamaIndex prints them."""
    return "\n".join([f"{role}: {text}" for role, text in lines])


def prompt_text(prompt: Any) -> str:
    """The text of an event's `prompt`: as LlamaIndex prints it, messages on lines."""
    if _is(prompt, str):
        return cast("str", prompt)
    if _is(prompt, list, tuple):
        messages = cast("Sequence[Any]", prompt)
        return "\n".join([_message_text(message) for message in messages])
    return "" if prompt is None else shown(prompt)


def response_text(response: Any) -> str:
    """The text of an event's `completion`: as LlamaIndex prints it."""
    if response is None:
        return ""
    try:
        message = response.message
    except Exception:  # noqa: BLE001 - a completion has none, and a foreign one may raise
        message = None
    if message is not None:
        return _message_text(message)
    text = _field(response, "text")
    return cast("str", text) if _is(text, str) else _as_sent(response)


def _is(thing: object, *kinds: type) -> bool:
    """`isinstance`, but asking the thing's class: an object may raise when it's asked itself."""
    return issubclass(type(thing), kinds)


def _field(thing: object, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001 - a foreign property may raise anything
        return None


def _message_text(message: Any) -> str:
    """What `str(message)` gives; most messages are one block of text, and quick."""
    try:
        blocks = message.blocks
        block = blocks[0]
        if block.block_type == "text" and len(blocks) == 1:
            return f"{message.role._value_}: {block.text}"  # quicker than `value`
    except Exception:  # noqa: BLE001 - no single block of text: all else is as it's printed
        pass
    return shown(message)


def shown(thing: Any) -> str:
    """`str(thing)`, whatever `thing` does when asked."""
    try:
        return str(thing)
    except Exception as error:  # noqa: BLE001 - a foreign __str__ may raise anything
        notice(f"unprintable {type(thing).__name__}", error, "its text is left empty")
        return ""


def _as_sent(answer: Any) -> str:
    """The text of an answer; one in the user's own class went over the wire as JSON."""
    try:
        if hasattr(answer, "model_dump_json"):
            return str(answer.model_dump_json())
    except Exception:  # noqa: BLE001 - whatever JSON can't say is printed
        pass
    return shown(answer)

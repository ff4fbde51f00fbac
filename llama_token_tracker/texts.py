"""LlamaIndex's prompts, messages and responses as text, without knowing their classes."""

from collections.abc import Sequence
from typing import Any, cast

from llama_token_tracker.notices import notice

_TUPLES = (tuple,)


def prompt_text(prompt: Any) -> str:
    """The text of an event's `prompt`: as LlamaIndex prints it, messages on lines."""
    if type(prompt) in _TUPLES and len(prompt) == 1:
        return _message_text(prompt[0])  # the commonest prompt, and quick
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

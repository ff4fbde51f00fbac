"""LlamaIndex's prompts, messages and responses as text, without knowing their classes."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

from llama_token_tracker.notices import notice

TOKENS_PER_MESSAGE = 3
"""What a message costs beside its text, as LlamaIndex's own counter has it."""

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


def prompt_parts(prompt: Any) -> tuple[list[str], int]:
    """The texts of a prompt that cost tokens, and the tokens that no text accounts for.

    Args:
        prompt: A text, or messages.

    Returns:
        The texts, and a number of tokens to add to their count.
    """
    if not _is(prompt, list, tuple):
        return [prompt_text(prompt)], 0
    parts: list[str] = []
    messages = cast("Sequence[Any]", prompt)
    for message in messages:
        role = _field(message, "role") or ""
        parts.append(shown(_field(role, "value") or role))
        parts.extend(_all_parts(message))
    return parts, TOKENS_PER_MESSAGE * len(messages)


def response_parts(response: Any) -> list[str]:
    """The texts of a response that cost tokens: what was said, thought, and called."""
    if response is None:
        return []
    message = _field(response, "message")
    if message is None:
        return [response_text(response)]
    parts = _all_parts(message)
    # Mistral's streams say it all again, and a little more, in each new block.
    return [part for part, following in pairwise([*parts, ""]) if not following.startswith(part)]


def _all_parts(message: object) -> list[str]:
    try:
        return list(_message_parts(message))
    except Exception as error:  # noqa: BLE001 - a foreign message may raise anything when read
        notice(f"unreadable {type(message).__name__}", error, "it is counted as it prints")
        return [shown(message)]


def _message_parts(message: Any) -> Iterator[str]:
    blocks: object = getattr(message, "blocks", None)
    several: Any = blocks
    if not isinstance(blocks, Iterable):
        yield shown(message)
        return
    called = False
    for block in several:
        kind = getattr(block, "block_type", "")
        if kind == "text":
            yield shown(block.text)
        elif kind == "thinking":
            yield shown(getattr(block, "content", "") or "")
        elif kind == "tool_call":
            called = True
            yield shown(block.tool_name)
            yield shown(block.tool_kwargs)
    if not called:
        yield from _legacy_calls(getattr(message, "additional_kwargs", None))


def _legacy_calls(additional: Any) -> Iterator[str]:
    """Tool calls of integrations that keep them beside the blocks."""
    kept = cast("dict[str, Any]", additional) if isinstance(additional, dict) else {}
    calls: Any = kept.get("tool_calls")
    for call in cast("Sequence[Any]", calls if isinstance(calls, list | tuple) else ()):
        function: Any = getattr(call, "function", call)
        if isinstance(function, dict):
            function = cast("dict[str, Any]", function)
            function = function.get("function", function)
            yield shown(function.get("name", ""))
            yield shown(function.get("arguments", function.get("input", "")))
        else:
            yield shown(getattr(function, "name", ""))
            yield shown(getattr(function, "arguments", ""))

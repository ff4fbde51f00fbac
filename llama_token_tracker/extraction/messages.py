"""Messages, answers and tools of every framework and API, as the plain parts that are counted.

LlamaIndex's and LangChain's messages are known by the names of their fields, not by their classes.
What is taken from them are strings and numbers, so that nothing changes if a message does. Nothing
is fetched, and no file is looked at.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final, cast

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker._printable import is_text
from llama_token_tracker.extraction.images import image_size
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
from llama_token_tracker.extraction.texts import as_text, is_list, items, response_text, shown

# A JPEG's size may stand behind a preview picture; nobody's is larger than this.
_HEAD_BYTES: Final = 262_144
_PDF_PAGE: Final = re.compile(rb"/Type\s*/Page\b")


def messages_of(prompt: object) -> tuple[Message, ...]:
    """Read the messages of a prompt.

    Args:
        prompt: One message or several: LlamaIndex's or LangChain's, dicts with `role` and
            `content` as OpenAI, Anthropic or Bedrock have them, or `Message`s as they are.
    """
    if is_list(prompt):
        return tuple([_message(message) for message in items(prompt)])
    return (_message(prompt),)


def answer_of(response: Any) -> tuple[Part, ...]:
    """Read an answer: its text, thinking and tool calls."""
    if response is None:
        return ()
    try:
        message = getattr(response, "message", None)
    except Exception as error:  # noqa: BLE001 - a foreign property may raise anything
        pass_on(error)
        message = None
    if message is None:
        return (Text(response_text(response)),)
    parts = _message(message).parts
    # Mistral's streams repeat the whole text, and a little more, in each new block.
    return tuple(
        [
            part
            for part, following in zip_longest(parts, parts[1:])
            if not (
                isinstance(part, Text)
                and isinstance(following, Text)
                and following.text.startswith(part.text)
            )
        ]
    )


def _message(given: object) -> Message:
    message: Any = given
    try:
        if isinstance(given, Message):
            return given
        if isinstance(given, str):
            return Message.of("user", as_text(given))
        if isinstance(given, Mapping):
            return _of_dict(cast("Mapping[str, Any]", given))
        if not hasattr(message, "blocks") and hasattr(message, "response_metadata"):
            return _of_langchain(message)
        return _of_llama_index(message)
    except Exception as error:  # noqa: BLE001 - a foreign message may raise anything when read
        notice("unreadable {}", error, "it is counted as it prints", _kind(message))
        return Message("user", (Text(shown(message)), Opaque("what can't be read")))


def as_message(role: str, parts: tuple[Part, ...], name: object = None) -> Message:
    """Make a message; what a tool's message holds is a tool result to every provider."""
    if role == "tool":
        inner = tuple([p for p in parts if isinstance(p, Text | Image | Document | Opaque)])
        parts = (ToolResult(inner),)
    return Message(role, parts, as_text(name) if is_text(name) else None)


# --- LlamaIndex ----------------------------------------------------------------------------


def _of_llama_index(message: Any) -> Message:
    role = as_text(getattr(message.role, "value", message.role))
    blocks = message.blocks
    if len(blocks) == 1 and getattr(blocks[0], "block_type", "") == "text":
        parts: tuple[Part, ...] = (Text(as_text(blocks[0].text)),)
    else:
        parts = tuple(_of_blocks(blocks))
    additional = message.additional_kwargs
    name = None
    if additional:
        if not any(isinstance(part, ToolCall) for part in parts):
            parts = (*parts, *_calls_beside(additional.get("tool_calls")))
        name = additional.get("name")
    return as_message(role, parts, name)


def _of_blocks(blocks: Iterable[Any]) -> Iterator[Part]:
    for block in blocks:
        kind = str(getattr(block, "block_type", "content"))
        read = _BLOCKS.get(kind)
        if read is not None:
            yield read(block)
        elif kind == "citable":
            yield Text(as_text(block.title))
            yield from _of_blocks(block.content)
        elif kind == "citation":
            yield from _of_blocks([block.cited_content])
        elif kind != "cache":  # a mark, which costs nothing itself
            yield Opaque(kind)


def _image_block(block: Any) -> Part:
    # A path is left alone, as a URL is: what names a file may be a stranger's word.
    return _image(block.image or _data_url(block.url), block.detail)


def _document_block(block: Any) -> Part:
    data = block.data
    content = _plain_bytes(data) if isinstance(data, str | bytes) else b""
    return _document(content)


_BLOCKS: Final[dict[str, Callable[[Any], Part]]] = {
    "text": lambda block: Text(as_text(block.text)),
    "thinking": lambda block: Thinking(as_text(block.content or "")),
    "tool_call": lambda block: ToolCall(as_text(block.tool_name), _json(block.tool_kwargs)),
    "image": _image_block,
    "document": _document_block,
}


def _calls_beside(calls: Any) -> Iterator[ToolCall]:
    """Read tool calls that integrations keep beside the blocks, in forms of their own."""
    for call in cast("Sequence[Any]", calls if isinstance(calls, (list, tuple)) else ()):
        if isinstance(call, dict):
            outer = cast("dict[str, Any]", call)
            fields = outer.get("function", outer)
            arguments = fields.get("arguments", fields.get("input", ""))
            yield ToolCall(as_text(fields.get("name", "")), _json(arguments))
        else:
            function: Any = getattr(call, "function", call)
            arguments = getattr(function, "arguments", "")
            yield ToolCall(as_text(getattr(function, "name", "")), _json(arguments))


# --- LangChain -----------------------------------------------------------------------------


_ROLES: Final = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}
_CALL_BLOCKS: Final = frozenset(
    {"function_call", "input_json_delta", "tool_call", "tool_call_chunk", "tool_use"}
)


def _of_langchain(message: Any) -> Message:
    kind = as_text(message.type)
    content, calls = message.content, getattr(message, "tool_calls", None)
    if not isinstance(content, str):
        blocks = cast("list[Any]", content)
        # What it calls stands in `tool_calls` as well, there in one form for all providers.
        content = [block for block in blocks if not (calls and _calls_a_tool(block))]
        parts = tuple(map(_of_langchain_block, content))
    else:
        parts = tuple(_of_content(content or None))
    parts += tuple(ToolCall(as_text(call["name"]), _json(call["args"])) for call in calls or ())
    role = _ROLES.get(kind) or as_text(getattr(message, "role", kind))
    return as_message(role, parts, message.name)


def _calls_a_tool(block: Any) -> bool:
    return isinstance(block, Mapping) and (
        block.get("type") in _CALL_BLOCKS or "toolUse" in block  # pyright: ignore[reportUnknownMemberType]
    )


def _of_langchain_block(block: Any) -> Part:
    """Read one block of LangChain's own content; others are as their provider has them.

    Source:
        langchain_core.messages.content, and the blocks that langchain-aws makes of Converse's
        (checked 2026-11-22).
    """
    match block:
        case {"type": "reasoning", "reasoning": str(text)}:
            return Thinking(as_text(text))
        case {"type": "reasoning_content", "reasoning_content": {"text": str(text)}}:
            return Thinking(as_text(text))
        case {"type": "image", "base64": str(data)} | {"type": "image", "data": str(data)}:
            return _image(data)
        case {"type": "file", "base64": str(data)} | {"type": "file", "data": str(data)}:
            return _document(_plain_bytes(data))
        case _:
            return next(_of_content([block]))


# --- dicts ---------------------------------------------------------------------------------


def _of_dict(message: Mapping[str, Any]) -> Message:
    role, content = as_text(message.get("role", "user")), message.get("content")
    parts = tuple(_of_content(content))
    parts = (*parts, *_calls_beside(message.get("tool_calls")))
    parts = (*parts, *_of_unknown_fields(message))
    return as_message(role, parts, message.get("name"))


_OF_MESSAGES: Final = frozenset(
    {
        "cache_control",
        "content",
        "id",
        "name",
        "role",
        "status",
        "tool_call_id",
        "tool_calls",
        "type",
    }
)
"""Fields of a message that are read above, or cost nothing."""


def _of_unknown_fields(message: Mapping[str, Any]) -> Iterator[Part]:
    """Read what stands beside a message's content: an earlier turn's reasoning, for example."""
    for key, value in message.items():
        if key in _OF_MESSAGES or value is None or (type(value) in _JSON and not value):
            continue
        yield Thinking(as_text(value)) if is_text(value) else Opaque(as_text(key))


_JSON: Final = (bool, dict, list, str)


def _of_content(content: Any) -> Iterator[Part]:
    if content is None:
        return
    if is_text(content):
        yield Text(as_text(content))
        return
    if issubclass(type(content), Mapping):
        content = [content]
    if not is_list(content):
        # An iterator would be used up by being looked at.
        yield Text(as_text(content))
        yield Opaque("content that is neither text nor a list")
        return
    for block in items(content):
        if isinstance(block, Mapping):
            yield _of_dict_block(cast("Mapping[str, Any]", block))
        else:
            yield Text(as_text(block))


def _of_dict_block(block: Mapping[str, Any]) -> Part:
    """Read one block.

    Source:
        OpenAI's chat completions, Anthropic's messages, Bedrock's ContentBlock (checked
        2026-11-22).
    """
    match block:
        case {"type": "tool_use", "name": name, "input": arguments}:
            return ToolCall(as_text(name), _json(arguments))
        case {"toolUse": {"name": name, "input": arguments}}:
            return ToolCall(as_text(name), _json(arguments))
        case {"type": "tool_result"}:
            return ToolResult(_inner(block.get("content")))
        case {"toolResult": result}:
            return ToolResult(_inner(result.get("content")))
        case {"image_url": {"url": str(url), **rest}}:
            return _image(_data_url(url), rest.get("detail"))
        case {"type": "image", "source": source} | {"image": {"source": source}}:
            return _image(_source_data(source))
        case {"type": "document", "source": source} | {"document": {"source": source}}:
            return _document(_plain_bytes(_source_data(source) or b""))
        case _:
            return _of_dict_text(block)


def _of_dict_text(block: Mapping[str, Any]) -> Part:
    """Read a block that is text of some kind, if anything."""
    match block:
        case {"thinking": str(text)} | {"reasoningContent": {"reasoningText": {"text": str(text)}}}:
            return Thinking(as_text(text))
        case {"text": str(text)}:
            return Text(as_text(text))
        case {"json": value}:
            return Text(_json(value))
        case _:
            kind = as_text(block.get("type", ""))
            return Opaque(kind or ", ".join(map(str, block)) or "content")


def _source_data(source: Any) -> Any:
    """The content of an image or document: Anthropic's `data`, Bedrock's `bytes`."""
    return source.get("data") or source.get("bytes")


def _inner(content: Any) -> tuple[Text | Image | Document | Opaque, ...]:
    parts = _of_content(content)
    return tuple([part for part in parts if isinstance(part, Text | Image | Document | Opaque)])


# --- tools ---------------------------------------------------------------------------------


def tools_of(tools: object) -> tuple[Tool, ...]:
    """Read the tools that are sent along.

    Args:
        tools: What `tools=` was: dicts as OpenAI, Anthropic or Bedrock have them, LlamaIndex's
            tools, or `Tool`s as they are.
    """
    if isinstance(tools, Mapping):
        # Bedrock's toolConfig
        tools = cast("Mapping[str, object]", tools).get("tools")
    if not isinstance(tools, (list, tuple)):
        return ()
    return tuple([_tool(tool) for tool in cast("Sequence[object]", tools)])


def _tool(given: object) -> Tool:
    tool: Any = given
    try:
        if isinstance(given, Tool):
            return given
        if not isinstance(given, Mapping):
            tool = tool.metadata.to_openai_tool()
        fields: Any = tool.get("function") or tool.get("toolSpec") or tool
        schema: Any = (
            fields.get("parameters") or fields.get("input_schema") or fields.get("inputSchema")
        )
        schema = schema or {}
        return Tool(
            as_text(fields.get("name", "")),
            as_text(fields.get("description") or ""),
            json.loads(_json(schema.get("json", schema))),
        )
    except Exception as error:  # noqa: BLE001 - a foreign tool may raise anything when read
        notice("unreadable tool {}", error, "it is counted as it prints", _kind(tool))
        return Tool("", shown(tool))


# --- what they share -----------------------------------------------------------------------


def _kind(thing: Any) -> str:
    return type(thing).__name__


def _json(value: object) -> str:
    if is_text(value):
        return as_text(value)
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except Exception as error:  # noqa: BLE001 - what JSON can't say is printed
        pass_on(error)
        return shown(value)


def _image(data: object, detail: Any = "auto") -> Image:
    # Its head is enough, and an image may be large.
    size = image_size(_plain_bytes(data[:_HEAD_BYTES])) if isinstance(data, str | bytes) else None
    width, height = size or (None, None)
    return Image(width, height, detail if detail in {"low", "high"} else "auto")


def _document(content: bytes) -> Document:
    if content.startswith(b"%PDF"):
        return Document(pages=max(1, len(_PDF_PAGE.findall(content))))
    try:
        return Document(content.decode())
    except UnicodeDecodeError:
        # A format whose text isn't known: one page, and marked.
        return Document(pages=1)


def _plain_bytes(data: str | bytes) -> bytes:
    """Decode Base64, in which LlamaIndex keeps what it is given, if it is that."""
    raw = data.encode() if isinstance(data, str) else data
    try:
        return base64.b64decode(raw, validate=True)
    except (binascii.Error, ValueError):
        return raw


def _data_url(url: object) -> str | None:
    """The data of a `data:` URL; any other URL is left where it is."""
    text = str(url or "")
    return text.partition(",")[2] if text.startswith("data:") else None

"""Messages and tools as plain parts, whatever form they come in."""

import base64
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    CachePoint,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    DocumentBlock,
    ImageBlock,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools import FunctionTool

from llama_token_tracker.extraction.messages import answer_of, messages_of, tools_of
from llama_token_tracker.extraction.parts import (
    Document,
    Image,
    Message,
    Opaque,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480) + b"\x08\2\0\0\0"
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


def test_every_kind_of_block_is_a_part():
    """Text, thoughts, calls and documents keep their text; a mark for the cache costs nothing."""
    message = ChatMessage(
        role="assistant",
        blocks=[
            TextBlock(text="said"),
            ThinkingBlock(content="thought"),
            ToolCallBlock(tool_name="add", tool_kwargs={"a": 1}),
            CachePoint(cache_control={"type": "ephemeral"}),
            DocumentBlock(data=base64.b64encode(b"pages"), document_mimetype="text/plain"),
            AudioBlock(url="https://example.com/a.mp3"),
        ],
    )
    parts = (
        Text("said"),
        Thinking("thought"),
        ToolCall("add", '{"a": 1}'),
        Document("pages"),
        Opaque("audio"),
    )
    assert messages_of([message]) == (Message("assistant", parts),)
    assert answer_of(ChatResponse(message=message)) == parts
    assert answer_of(CompletionResponse(text="text")) == (Text("text"),)
    assert answer_of(None) == ()


@pytest.mark.parametrize(
    ("block", "image"),
    [
        (ImageBlock(image=PNG), Image(640, 480)),
        (ImageBlock(image=base64.b64encode(PNG), detail="low"), Image(640, 480, "low")),
        (ImageBlock(url=DATA_URL), Image(640, 480)),
        (ImageBlock(url="http://127.0.0.1:9/a.png"), Image()),
    ],
    ids=["bytes", "base64", "data", "url"],
)
def test_an_image_is_known_by_its_size(block: ImageBlock, image: Image):
    """The size stands in the image's first bytes; a URL is left alone."""
    assert messages_of([ChatMessage(role="user", blocks=[block])])[0].parts == (image,)


def test_an_image_of_a_file_is_left_alone(tmp_path: Any):
    """Nobody looks into the file system because of what a message says."""
    file = tmp_path / "a.png"
    file.write_bytes(PNG)
    message = ChatMessage(role="user", blocks=[ImageBlock(path=file)])
    assert messages_of([message])[0].parts == (Image(),)


def test_an_answer_of_a_tool_is_a_result():
    """A message with the role of a tool is its result."""
    assert messages_of([ChatMessage(role="tool", content="3")]) == (
        Message("tool", (ToolResult((Text("3"),)),)),
    )


def test_what_is_read_does_not_change():
    """A message that is changed later was read as it was."""
    message = ChatMessage(role="user", content="before")
    read = messages_of([message])
    message.blocks[0].text = "after"
    assert read == (Message.of("user", "before"),)


@pytest.mark.parametrize(
    "call",
    [
        SimpleNamespace(function=SimpleNamespace(name="add", arguments='{"a":1}')),
        {"function": {"name": "add", "arguments": '{"a":1}'}},
        {"name": "add", "input": '{"a":1}'},
        SimpleNamespace(name="add", arguments='{"a":1}'),
    ],
    ids=["sdk", "dict", "bedrock", "flat"],
)
def test_calls_of_tools_beside_the_blocks(call: object):
    """Older integrations keep calls of tools in `additional_kwargs`, in forms of their own."""
    message = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [call]})
    assert messages_of([message])[0].parts == (Text(""), ToolCall("add", '{"a":1}'))


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("text", Text("text")),
        ([{"type": "text", "text": "text"}], Text("text")),
        ([{"text": "text"}], Text("text")),
        ([{"type": "thinking", "thinking": "hm", "signature": "s"}], Thinking("hm")),
        ([{"type": "tool_use", "id": "1", "name": "f", "input": {}}], ToolCall("f", "{}")),
        ([{"toolUse": {"toolUseId": "1", "name": "f", "input": {}}}], ToolCall("f", "{}")),
        (
            [{"type": "tool_result", "tool_use_id": "1", "content": "3"}],
            ToolResult((Text("3"),)),
        ),
        (
            [{"toolResult": {"toolUseId": "1", "content": [{"json": {"a": 3}}]}}],
            ToolResult((Text('{"a": 3}'),)),
        ),
        ([{"type": "image_url", "image_url": {"url": DATA_URL}}], Image(640, 480)),
        ([{"type": "image_url", "image_url": {"url": "https://example.com"}}], Image()),
        ([{"image": {"format": "png", "source": {"bytes": PNG}}}], Image(640, 480)),
        ([{"type": "input_audio", "input_audio": {}}], Opaque("input_audio")),
    ],
)
def test_dicts_are_read_in_each_providers_form(content: object, part: object):
    """OpenAI's, Anthropic's and Bedrock's messages need no LlamaIndex."""
    assert messages_of([{"role": "user", "content": content}]) == (Message("user", (part,)),)


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}],
        [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        {
            "tools": [
                {"toolSpec": {"name": "f", "description": "d", "inputSchema": {"json": SCHEMA}}}
            ]
        },
        [Tool("f", "d", SCHEMA)],
    ],
    ids=["openai", "anthropic", "bedrock", "neutral"],
)
def test_tools_are_read_in_each_providers_form(tools: object):
    """One tool, four spellings."""
    assert tools_of(tools) == (Tool("f", "d", SCHEMA),)


def test_tools_of_llama_index_are_read():
    """A function's own signature is its schema."""

    def add(a: int) -> int:
        """Add one."""
        return a + 1

    [tool] = tools_of([FunctionTool.from_defaults(add)])
    assert tool.name == "add"
    assert "a" in tool.parameters["properties"]  # type: ignore[operator]


class Raises:
    """Raises whatever it's asked."""

    def __getattribute__(self, name: str) -> Any:
        """Refuse."""
        raise RuntimeError(name)


# Made late: pytest itself would ask for the class of one that raises.
ODD: dict[str, Callable[[], Any]] = {
    "raises": lambda: Raises(),
    "number": lambda: 5,
    "nothing": lambda: None,
    "content": lambda: {"role": "user", "content": 5},
    "blocks": lambda: SimpleNamespace(role="user", blocks=[Raises()], additional_kwargs={}),
    "no blocks": lambda: SimpleNamespace(blocks=5),
    "message": lambda: SimpleNamespace(message=SimpleNamespace(blocks=[Raises()])),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_odd_things_raise_nothing(make: Callable[[], Any]):
    """Whatever stands in a prompt's, an answer's or a tool's place is read somehow."""
    odd = make()
    assert len(messages_of([odd])) == 1
    assert isinstance(answer_of(odd), tuple)
    assert len(tools_of([odd])) == 1

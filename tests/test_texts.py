"""Prompts, messages and responses as text."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from pydantic import BaseModel

from llama_token_tracker.texts import prompt_parts, prompt_text, response_parts, response_text

BLOCKS = st.one_of(
    st.builds(TextBlock, text=st.text(max_size=10)),
    st.builds(ImageBlock, url=st.just("https://example.com/a.png")),
    st.builds(AudioBlock, url=st.just("https://example.com/a.mp3")),
    st.builds(ThinkingBlock, content=st.none() | st.text(max_size=5)),
    st.builds(ToolCallBlock, tool_name=st.just("add"), tool_kwargs=st.just({"a": 1})),
)
MESSAGES = st.builds(
    ChatMessage, role=st.sampled_from(MessageRole), blocks=st.lists(BLOCKS, max_size=3)
)


@given(st.lists(MESSAGES, max_size=4))
def test_a_prompt_reads_as_llamaindex_prints_it(messages: list[ChatMessage]):
    """The text of messages is what LlamaIndex's own handler keeps of them."""
    expected = "\n".join([str(message) for message in messages])
    assert prompt_text(messages) == prompt_text(tuple(messages)) == expected


@given(MESSAGES, st.text())
def test_a_response_reads_as_llamaindex_prints_it(message: ChatMessage, text: str):
    """The text of a response is what LlamaIndex's own handler keeps of it."""
    chat = ChatResponse(message=message)
    assert response_text(chat) == str(chat)
    assert response_text(CompletionResponse(text=text)) == text
    assert prompt_text(text) == text


def test_nothing_is_empty():
    """An absent prompt or response has no text, and costs nothing."""
    assert prompt_text(None) == response_text(None) == ""
    assert response_parts(None) == []
    assert prompt_parts([]) == ([], 0)


def test_an_answer_in_the_users_own_class_is_json():
    """A structured answer went over the wire as JSON."""

    class Fact(BaseModel):
        capital: str

    assert response_text(Fact(capital="Canberra")) == '{"capital":"Canberra"}'


def test_a_block_that_says_the_one_before_again_is_counted_alone():
    """Some streams grow by whole blocks, each of which holds the one before it."""
    blocks = [TextBlock(text=text) for text in ("one", "one two", "one two three", "four")]
    response = ChatResponse(message=ChatMessage(role="assistant", blocks=blocks))
    assert response_parts(response) == ["one two three", "four"]
    assert response_parts(ChatResponse(message=ChatMessage(role="assistant"))) == []


def test_what_costs_tokens():
    """Roles, texts, thoughts and calls of tools are counted; three tokens a message are added."""
    message = ChatMessage(
        role="assistant",
        blocks=[
            TextBlock(text="said"),
            ThinkingBlock(content="thought"),
            ToolCallBlock(tool_name="add", tool_kwargs={"a": 1}),
            ImageBlock(url="https://example.com/a.png"),
        ],
    )
    said = ["said", "thought", "add", "{'a': 1}"]
    assert prompt_parts([message, message]) == (["assistant", *said] * 2, 6)
    assert response_parts(ChatResponse(message=message)) == said
    assert prompt_parts("text") == (["text"], 0)
    assert response_parts(CompletionResponse(text="text")) == ["text"]


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
    assert response_parts(ChatResponse(message=message)) == ["add", '{"a":1}']


class Raises:
    """Raises whatever it's asked."""

    def __getattribute__(self, name: str) -> Any:
        """Refuse."""
        raise RuntimeError(name)


class RaisesText:
    """Can't be printed, and has blocks that can't be read."""

    blocks = property(lambda self: 1 / 0)
    message = property(lambda self: 1 / 0)
    role = property(lambda self: 1 / 0)

    def __str__(self) -> str:
        """Refuse."""
        raise RecursionError


ODD: dict[str, Callable[[], Any]] = {
    "raises": lambda: Raises(),
    "unprintable": lambda: RaisesText(),
    "number": lambda: 5,
    "bytes": lambda: b"bytes",
    "list of odd things": lambda: [None, 5, Raises(), RaisesText()],
    "odd blocks": lambda: SimpleNamespace(role="user", blocks=[Raises(), None, 5]),
    "text without text": lambda: SimpleNamespace(
        role=5, blocks=[SimpleNamespace(block_type="text")]
    ),
    "blocks that are none": lambda: SimpleNamespace(blocks=5),
    "odd text": lambda: SimpleNamespace(
        blocks=[SimpleNamespace(block_type="text", text=RaisesText())]
    ),
    "odd calls": lambda: SimpleNamespace(
        blocks=[], additional_kwargs={"tool_calls": [None, 5, Raises()]}
    ),
    "odd response": lambda: SimpleNamespace(message=Raises()),
    "odd message": lambda: SimpleNamespace(message=SimpleNamespace(blocks=[Raises()])),
    "surrogate": lambda: "\ud800",
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_odd_things_have_some_text(odd: Callable[[], object]):
    """Whatever stands in a prompt's or a response's place is text in the end."""
    thing = odd()
    assert isinstance(prompt_text(thing), str)
    assert isinstance(response_text(thing), str)
    parts, overhead = prompt_parts(thing)
    assert overhead >= 0
    assert all(isinstance(part, str) for part in [*parts, *response_parts(thing)])

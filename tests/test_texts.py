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

from llama_token_tracker.texts import prompt_text, response_text

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
    """An absent prompt or response has no text."""
    assert prompt_text(None) == response_text(None) == ""


def test_an_answer_in_the_users_own_class_is_json():
    """A structured answer went over the wire as JSON."""

    class Fact(BaseModel):
        capital: str

    assert response_text(Fact(capital="Canberra")) == '{"capital":"Canberra"}'


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

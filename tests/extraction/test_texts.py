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

from llama_token_tracker.extraction.texts import plain_words, prompt_text, response_text, texts_of

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


def printed_later(prompt: tuple[ChatMessage, ...], response: ChatResponse) -> tuple[str, str]:
    """What an event shows, of words that are put off where that can be done."""
    words = plain_words(prompt, response)
    return (prompt_text(prompt), response_text(response)) if words is None else texts_of(words)


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


@given(st.lists(MESSAGES, max_size=3), MESSAGES)
def test_what_is_printed_later_reads_the_same(messages: list[ChatMessage], message: ChatMessage):
    """Putting the printing off changes no text."""
    chat = ChatResponse(message=message)
    expected = "\n".join([str(message) for message in messages]), str(chat)
    assert printed_later(tuple(messages), chat) == expected


@pytest.mark.parametrize("number", [1, 2])
def test_only_texts_are_put_off(number: int):
    """A block that has a text, but isn't one, is printed as LlamaIndex does: not at all."""

    class Aside(BaseModel):
        block_type: str = "aside"
        text: str

    aside = ChatMessage.model_construct(role=MessageRole.USER, blocks=[Aside(text="no")])
    plain = ChatMessage("hi", role="user")
    said = ChatResponse(message=ChatMessage("hello", role="assistant"))
    for messages in ([aside] * number, [plain] * (number - 1) + [aside]):
        assert printed_later(tuple(messages), said)[0] == prompt_text(messages)
    unsaid = ChatResponse.model_construct(message=aside, raw=None)
    assert printed_later((plain,) * number, unsaid)[1] == response_text(unsaid)


def test_a_list_that_grows_later_changes_nothing():
    """What was said is held as it was said."""
    message, answer = ChatMessage("hi", role="user"), ChatMessage("hello", role="assistant")
    words = plain_words((message,), ChatResponse(message=answer))
    assert words is not None
    message.content = answer.content = "something else"
    message.role = answer.role = MessageRole.TOOL
    assert texts_of(words) == ("user: hi", "assistant: hello")


class Mute:
    """Can't be printed."""

    def __str__(self) -> str:
        raise RuntimeError

    __format__ = None


@pytest.mark.parametrize("text", [None, 5, Mute()], ids=["none", "five", "mute"])
@pytest.mark.parametrize("role", ["user", Mute(), MessageRole.USER], ids=["text", "mute", "role"])
@pytest.mark.parametrize("number", [1, 3])
def test_odd_roles_and_texts_are_printed_as_far_as_they_can_be(text: Any, role: Any, number: int):
    """Whoever assigns something odd to a message loses no event by it."""
    message = ChatMessage("hi", role="user")
    message.blocks[0].text, message.role = text, role
    printed = (
        f"{'' if isinstance(role, Mute) else 'user'}: {'' if isinstance(text, Mute) else text}"
    )
    prompt, completion = printed_later((message,) * number, ChatResponse(message=message))
    assert prompt == "\n".join([printed] * number)
    assert completion == printed


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

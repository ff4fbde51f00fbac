"""What dialects read of requests and answers."""

import json
from typing import Any

import pytest

from llama_token_tracker.errors import WireFormatError
from llama_token_tracker.extraction.parts import Opaque, Text, Thinking, ToolCall
from llama_token_tracker.wire import Dialect, dialects


def asked(dialect: Dialect, **body: Any) -> Any:
    """Read a request."""
    return dialect.asked(json.dumps(body))


ACME = Dialect(
    answer={"say": Text, "think[].text": Thinking},
    messages="chat.turns",
    content="words",
    system="chat.rules[]",
    last="chat.now",
    texts=("embed[]",),
    tools=("chat.functions", "functions"),
    limits=("chat.most",),
    ends={("over", True): "complete"},
)


def test_a_dialect_of_ones_own_reads_a_request():
    """Instructions, messages, the last of them, tools, texts and the limit, each by its path."""
    read = asked(
        ACME,
        model="a-1",
        chat={"rules": ["Be brief.", "Be kind."], "turns": [{"role": "user", "words": "Hi"}]}
        | {"now": "How are you?", "most": 7},
        functions=[{"name": "f"}],
        embed=["a", "b"],
    )
    assert [(m.role, [part.text for part in m.parts]) for m in read.prompt] == [
        ("system", ["Be brief.", "Be kind."]),
        ("user", ["Hi"]),
        ("user", ["How are you?"]),
    ]
    assert read.tools == [{"name": "f"}]
    assert (read.texts, read.max_tokens, read.model) == (("a", "b"), 7, "a-1")


def test_a_dialect_of_ones_own_reads_an_answer():
    """Neighbouring pieces of a kind are one; what can't be read is there, and a field ends it."""
    pieces = [b'{"think": [{"text": "a"}, {"text": "b"}]}', b'{"say": "c"}', b"[", b'{"say": "d"}']
    assert ACME.answered(pieces).parts == (Thinking("ab"), Text("cd"), Opaque("answer"))
    assert ACME.ended({"over": True}) == "complete"
    assert ACME.ended({"over": False}) is None


@pytest.mark.parametrize("prompt", ["one two", ["one", " two"]])
def test_a_prompt_may_be_one_text_or_several(prompt: object):
    """Of several, all are asked for."""
    assert asked(dialects.COMPLETIONS, prompt=prompt).prompt == "one two"


def test_instructions_in_several_blocks_are_one_message():
    """As Anthropic and Gemini take them."""
    blocks = [{"text": "a"}, {"text": "b"}]
    claude = asked(dialects.MESSAGES, system=[{"type": "text", **block} for block in blocks])
    gemini = asked(dialects.GEMINI, systemInstruction={"parts": blocks})
    alone = asked(dialects.GEMINI, systemInstruction={"parts": {"text": "ab"}})
    for read in (claude, gemini, alone):
        assert [m.role for m in read.prompt] == ["system"]
        assert "".join(part.text for part in read.prompt[0].parts) == "ab"


def test_a_body_in_bytes_is_one_document_with_its_usage():
    """However many reads it came in."""
    body = b'{"content": [{"text": "hi"}], "usage": {"input_tokens": 3, "output_tokens": 4}}'
    read = dialects.INVOKE.answered([body[:20], body[20:]])
    assert read.parts == (Text("hi"),)
    assert read.reported.usage is not None
    assert read.reported.usage.total_tokens == 7


def test_blocks_and_events_of_converse_are_told_apart():
    """A block of an answer is a part by itself; an event of a kind that says nothing is none."""
    call = {"toolUse": {"name": "f", "input": {}}}
    events = [{"contentBlockDelta": {"delta": {"text": text}}} for text in "ab"]
    signed = {"contentBlockDelta": {"delta": {"reasoningContent": {"signature": "x"}}}}
    answer = {"output": {"message": {"content": [{"text": "a"}, call]}}}
    for piece in (answer, json.dumps(answer).encode()):
        assert dialects.CONVERSE.answered([piece]).parts == (Text("a"), ToolCall("f", "{}"))
    assert dialects.CONVERSE.answered([*events, signed]).parts == (Text("ab"),)


@pytest.mark.parametrize("changes", [{"answer": {"a..b": Text}}, {"texts": ("a[b",)}])
def test_a_path_that_cant_be_parsed_is_refused(changes: dict[str, Any]):
    """When the dialect is made."""
    with pytest.raises(WireFormatError, match="can't be read"):
        Dialect(**changes)


@pytest.mark.parametrize("body", [None, b"", b"[]", b"{", b'"text"', 5])
def test_what_is_no_object_asks_for_nothing(body: object):
    """And nothing is raised."""
    assert dialects.CHAT.asked(body) == dialects.CHAT.asked(None)

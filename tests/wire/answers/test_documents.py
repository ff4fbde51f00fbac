"""Documents are the same, wherever the bytes they come in are cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.wire.answers.documents import Documents, Events, Lines, Whole

# Drawn examples take their time.
pytestmark = pytest.mark.slow

KEYS = ("usage",)
JSON: Any = st.recursive(
    st.none() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=9
)
OBJECTS = st.lists(st.dictionaries(st.text(min_size=1), JSON, min_size=1), max_size=6)
ENDS = st.sampled_from([b"\n", b"\r\n"])


def cut(data: st.DataObject, content: bytes) -> list[bytes]:
    """Cut bytes anywhere."""
    places = sorted(data.draw(st.sets(st.integers(0, len(content)), max_size=9)))
    return [content[a:b] for a, b in zip([0, *places], [*places, len(content)], strict=True)]


def read(documents: Documents, pieces: list[bytes]) -> list[Any]:
    """All documents, decoded."""
    found = [document for piece in pieces for document in documents.feed(piece)]
    return [json.loads(document) for document in [*found, documents.rest()] if document]


@given(st.data(), OBJECTS, ENDS)
def test_events_are_found(data: st.DataObject, objects: list[Any], end: bytes):
    """Other fields, comments, and events of several lines are no matter."""
    content = b": a comment" + end * 2
    for one in objects:
        lines = json.dumps(one, indent=1).encode().splitlines()
        content += b"event: it" + end + b"".join(b"data: " + line + end for line in lines) + end
    assert read(Events(KEYS), cut(data, content)) == objects


@given(st.data(), OBJECTS, ENDS, st.booleans())
def test_lines_are_found(data: st.DataObject, objects: list[Any], end: bytes, is_ended: bool):
    """The last needn't be ended."""
    content = end.join([json.dumps(one).encode() for one in objects])
    assert read(Lines(KEYS), cut(data, content + end * is_ended)) == objects


@given(st.data(), st.dictionaries(st.text(), JSON))
def test_a_body_is_one_document(data: st.DataObject, body: dict[str, Any]):
    """However many lines it has."""
    pieces = cut(data, json.dumps(body, indent=2).encode())
    assert read(Whole(KEYS), pieces) == [body]


@given(
    st.data(),
    st.sampled_from([Events, Lines, Whole]),
    st.dictionaries(st.sampled_from(["prompt_tokens", "total_tokens"]), st.integers(0), min_size=1),
)
def test_of_a_document_that_is_too_long_the_figures_are_read(
    data: st.DataObject, kind: Any, usage: dict[str, int]
):
    """A text that looks like figures is none: its quotation marks are escaped."""
    said = 'look: "usage": {"prompt_tokens": 1}' * 40_000
    document = json.dumps({"usage": {"total_tokens": 9}, "text": said, "usage ": 3, "end": said})
    content = (document[:-1] + f', "usage": {json.dumps(usage)}}}').encode()
    pieces = cut(data, b"data: " + content + b"\n\n" if kind is Events else content + b"\n")
    assert read(kind(KEYS), pieces) == [{"usage": usage}]


@pytest.mark.parametrize(
    "end",
    [
        '"usage": null, "usage": {"total_tokens": 7}}',
        '"usage": {"total_tokens": 9}, "usage"\n: {"total_tokens": 7}}',
        '"usage": {"total_tokens": 7}, "usage": {"total_tok',
        '"usage": {"total_tokens": 7}, "kind": "usage"}',
    ],
    ids=["after null", "after another", "before one that is cut", "before a value"],
)
def test_of_several_figures_in_a_document_that_is_too_long_the_last_stands(end: str):
    """The last that can be read."""
    content = f'{{"text": "{"tell me " * 100_000}", {end}'.encode()
    assert read(Whole(KEYS), [content]) == [{"usage": {"total_tokens": 7}}]

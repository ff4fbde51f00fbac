"""The language of paths: what each form names, and that both ways to read it agree."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.errors import WireFormatError
from llama_token_tracker.extraction.paths import (
    Reading,
    Segment,
    parse,
    texts_at,
    tree_of,
    values_at,
)

BODY: dict[str, Any] = {
    "usage": {"input": 5},
    "parts": [{"kind": "IMAGE", "count": 2}, {"kind": "text", "count": 3}, [{"count": 9}], None],
    "lone": {"kind": "text", "count": 4},
    "counts": [1, 2],
    "texts": ["a", "b", 3, None, ["c"]],
    "text": "a",
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("text", ["a"]),
        ("usage.input", [5]),
        ("usage.other", []),
        ("usage.input.deeper", []),
        ("parts[].count", [2, 3]),
        ("parts[kind=image].count", [2]),
        ("parts[kind=Text].count", [3]),
        ("parts.count", []),
        ("lone[].count", [4]),
        ("lone[kind=image].count", []),
        ("counts[]", [1, 2]),
        ("texts[]", ["a", "b", 3]),
        ("text[]", ["a"]),
        ("missing[].count", []),
    ],
)
def test_a_path_names_what_its_form_says(path: str, expected: list[object]):
    """Fields by dots, lists by brackets, entries by a field of theirs; nulls are nowhere."""
    assert list(values_at(BODY, parse(path))) == expected


def test_texts_are_what_is_a_text():
    """Numbers among them are left out."""
    assert list(texts_at(BODY, parse("texts[]"))) == ["a", "b"]


def test_a_path_is_compiled_to_its_segments():
    """A key, and for a list which of its entries."""
    assert parse("a-1.b[].c[kind=X]") == (
        Segment("a-1"),
        Segment("b", is_list=True),
        Segment("c", is_list=True, field="kind", value="x"),
    )


@pytest.mark.parametrize(
    "path", ["", ".a", "a.", "a..b", "a[", "a[]b", "a[=x]", "a[x=]", "a[b]", "a]", "[]", "a=b"]
)
def test_what_is_no_path_is_refused_with_the_way_to_write_one(path: str):
    """The message names the path, and the forms that there are."""
    with pytest.raises(WireFormatError, match=r"key\[field=value\]"):
        parse(path)


@pytest.mark.parametrize(
    "paths", [("a", "a.b"), ("a.b", "a[].b"), ("a", "a[]"), ("x.a[].b", "x.a[].b.c")]
)
def test_one_key_is_read_in_one_way(paths: tuple[str, ...]):
    """A count, an object and a list can't stand in one place."""
    with pytest.raises(WireFormatError, match="in one way"):
        tree_of(paths)


KEYS = st.sampled_from("abc")
SEGMENTS = st.one_of(KEYS, KEYS.map("{}[]".format), KEYS.map("{}[kind=x]".format))
PATHS = st.lists(SEGMENTS, min_size=1, max_size=3).map(".".join)
BODIES = st.recursive(
    st.one_of(st.none(), st.integers(0, 9)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3),
        st.builds(lambda entry, kind: {**entry, "kind": kind}, st.dictionaries(KEYS, inner), KEYS),
        st.dictionaries(KEYS, inner).map(lambda entry: {**entry, "kind": "X"}),
    ),
    max_leaves=12,
)


@given(
    body=st.dictionaries(KEYS, BODIES),
    paths=st.lists(PATHS, unique=True, max_size=4),
    deepest=st.integers(0, 3),
)
def test_reading_at_once_is_reading_one_by_one(
    body: dict[str, Any], paths: list[str], deepest: int
):
    """A count is the sum of what stands at its path, however deep others are looked for."""
    try:
        tree = tree_of(paths)
    except WireFormatError:
        return
    reading = Reading("example")
    reading.take(tree.layout(tuple(body)), body, deepest)
    for path in paths:
        counts = [value for value in values_at(body, parse(path)) if type(value) is int]
        assert reading.counts.get(path) == (sum(counts) if counts else None)

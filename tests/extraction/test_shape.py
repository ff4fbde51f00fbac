"""What a table of a wire shape is made of."""

from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import Usage
from llama_token_tracker.extraction import SHAPES, WireShape
from llama_token_tracker.extraction.fields import MAX_TOKENS, to_count
from llama_token_tracker.usage import BUCKETS, WHOLES

SHAPE = WireShape(
    name="example",
    source="https://example.com",
    checked=date(2026, 11, 22),
    marks=("in",),
    adds={
        "in": ("input_tokens",),
        "cached": ("input_tokens", "cache_read_tokens"),
        "alias": ("input_tokens", "cache_read_tokens"),
        "details.thought": ("reasoning_tokens",),
        "parts[kind=image].count": ("input_image_tokens",),
        "results[].count": ("output_tokens",),
    },
    same=(("cached", "alias"),),
)


def read(body: dict[str, Any], shape: WireShape = SHAPE) -> Usage | None:
    """Read a usage by a table, the quick way and the slow way, which agree."""
    plan = shape.plan(tuple([key for key, value in body.items() if value is not None]))
    usage, _ = shape.read(plan.read(body, is_flat=False)[0])
    return usage


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"in": 5}, Usage(input_tokens=5)),
        ({"in": 5, "cached": 3}, Usage(input_tokens=8, cache_read_tokens=3)),
        ({"in": 5, "alias": 3}, Usage(input_tokens=8, cache_read_tokens=3)),
        ({"in": 5, "cached": 3, "alias": 3}, Usage(input_tokens=8, cache_read_tokens=3)),
        ({"in": 5, "cached": "x", "alias": 3}, Usage(input_tokens=8, cache_read_tokens=3)),
        (
            {"in": 5, "results": [{"count": 2}, {"count": 3}], "details": {"thought": 4}},
            Usage(input_tokens=5, output_tokens=5, reasoning_tokens=4),
        ),
        (
            {
                "in": 9,
                "parts": [
                    {"kind": "IMAGE", "count": 2},
                    {"kind": "text", "count": 3},
                    {"kind": "image", "count": 4},
                ],
            },
            Usage(input_tokens=9, input_image_tokens=6),
        ),
        ({"in": None}, None),
        ({"other": 5}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_table_says_which_key_adds_to_which_bucket(body: dict[str, Any], expected: Usage | None):
    """Paths, lists of entries, conditions and double names are all of a table's language."""
    assert read(body) == expected


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_tables_speak_of_buckets_that_exist(shape: WireShape):
    """Every bucket of a table is one of `Usage`, and every path of a group adds to some."""
    assert {name for names in shape.adds.values() for name in names} <= set(BUCKETS)
    assert {path for group in shape.same for path in group} <= set(shape.adds)
    assert set(shape.excluded) <= set(WHOLES)
    assert set(shape.sure_in_stream_with) <= set(shape.adds)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@given(data=st.data())
def test_whatever_a_table_reads_contradicts_nothing(shape: WireShape, data: st.DataObject):
    """Any figures on the wire give a usage that can be true, or none."""
    paths = data.draw(st.lists(st.sampled_from(sorted(shape.adds)), unique=True))
    counts = {path: data.draw(st.integers(0, 50)) for path in paths}
    if shape.total is not None and data.draw(st.booleans()):
        counts[shape.total] = data.draw(st.integers(0, 200))
    usage = shape.read(counts)[0]
    if usage is not None:
        assert Usage(**usage.reported()) == usage
        assert usage.reported()


@given(st.integers(0, MAX_TOKENS))
def test_a_count_reads_as_itself(count: int):
    """A whole number is the same count as an int, as a float, and as text."""
    assert to_count(count, "x") == to_count(float(count), "x") == to_count(str(count), "x") == count


@given(st.one_of(st.floats(), st.integers(), st.text(), st.none(), st.binary(), st.booleans()))
def test_a_count_is_a_whole_number_or_none(value: object):
    """Anything else is none, and nothing is raised."""
    count = to_count(value, "x")
    assert count is None or (type(count) is int and 0 <= count <= MAX_TOKENS)

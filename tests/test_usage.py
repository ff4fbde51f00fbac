"""What one call used: the laws that counts obey."""

import pickle
from copy import deepcopy
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import LlamaTokenTrackerError, Usage, UsageShapeError
from llama_token_tracker.usage import BUCKETS, EXCLUSIVE_PARTS, WHOLES, contradiction

COUNTS = st.integers(0, 10**9)
MAYBE = st.none() | COUNTS


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Any usage that can be true of a call."""
    counts = {name: draw(MAYBE) for name in BUCKETS if name not in WHOLES}
    for name, whole in WHOLES.items():
        taken = sum(counts.get(left) or 0 for left, right in EXCLUSIVE_PARTS if right == name)
        rest = None if counts[whole] is None else counts[whole] - taken
        counts[name] = None if rest is None else draw(st.none() | st.integers(0, rest))
    return Usage(**counts)


@given(usages(), usages())
def test_addition_commutes(left: Usage, right: Usage):
    """The order of two calls makes no difference."""
    assert left + right == right + left


@given(usages(), usages(), usages())
def test_addition_is_associative(one: Usage, two: Usage, three: Usage):
    """How calls are grouped makes no difference."""
    assert (one + two) + three == one + (two + three)


@given(usages())
def test_nothing_is_the_identity(usage: Usage):
    """A usage that reports nothing adds nothing, and makes no zero of what was not reported."""
    assert usage + Usage() == Usage() + usage == usage


@given(usages(), usages())
def test_a_sum_contradicts_nothing(left: Usage, right: Usage):
    """Parts stay within their wholes when usages are added."""
    total = left + right
    assert contradiction(total.reported()) is None
    for part, whole in WHOLES.items():
        assert (getattr(total, part) or 0) <= (getattr(total, whole) or 0)


@given(usages(), usages())
def test_buckets_add_one_by_one(left: Usage, right: Usage):
    """A bucket of a sum is `None` only where neither side reported it."""
    for name, count in asdict(left + right).items():
        sides = [getattr(left, name), getattr(right, name)]
        reported = [side for side in sides if side is not None]
        assert count == (sum(reported) if reported else None)


@given(usages())
def test_a_usage_survives_copies_and_pickles(usage: Usage):
    """Copies and pickles of a usage are equal to it, and hash alike."""
    for copy in (deepcopy(usage), pickle.loads(pickle.dumps(usage)), replace(usage)):
        assert copy == usage
        assert hash(copy) == hash(usage)


@given(usages())
def test_the_total_is_input_plus_output(usage: Usage):
    """Cached and reasoning tokens are within the two sums already."""
    assert usage.total_tokens == (usage.input_tokens or 0) + (usage.output_tokens or 0)


@given(usages())
def test_uncached_input_is_never_negative(usage: Usage):
    """What was neither read from a cache nor written to one is unknown, or a count."""
    rest = usage.uncached_input_tokens
    assert (rest is None) == (usage.input_tokens is None)
    assert rest is None or rest >= 0


def test_none_is_not_zero():
    """A reported zero is a figure; a bucket that wasn't reported is not."""
    assert Usage(input_tokens=0) != Usage()
    assert Usage(input_tokens=0).reported() == {"input_tokens": 0}
    assert Usage(input_tokens=0) + Usage(output_tokens=3) == Usage(input_tokens=0, output_tokens=3)


def test_a_usage_does_not_change():
    """A fact is frozen."""
    usage = Usage(input_tokens=1)
    with pytest.raises(FrozenInstanceError):
        usage.input_tokens = 2  # type: ignore[misc]


def test_a_usage_adds_to_usages_alone():
    """Adding a number to a usage is a mistake."""
    with pytest.raises(TypeError, match="unsupported operand"):
        Usage() + 1  # type: ignore[operator]


def test_a_usage_made_of_counts_equals_one_made_of_arguments():
    """The quick way to make a usage gives the same as the careful one."""
    quick = Usage.of({"input_tokens": 3, "cache_read_tokens": 2})
    assert quick == Usage(input_tokens=3, cache_read_tokens=2)
    assert quick.output_tokens is None
    assert repr(quick) == repr(Usage(input_tokens=3, cache_read_tokens=2))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"input_tokens": -1}, "input_tokens is -1; a count of tokens cannot be negative."),
        (
            {"cache_read_tokens": 5},
            "cache_read_tokens (5) is reported without input_tokens, which it is a part of.",
        ),
        (
            {"output_tokens": 4, "reasoning_tokens": 5},
            "reasoning_tokens (5) exceeds output_tokens (4); "
            "buckets are inclusive: the whole holds its parts.",
        ),
        (
            {"input_tokens": 5, "cache_read_tokens": 3, "cache_write_tokens": 3},
            "cache_read_tokens + cache_write_tokens (6) exceed input_tokens (5); "
            "buckets are inclusive: the whole holds its parts.",
        ),
    ],
)
def test_a_contradiction_is_refused(counts: dict[str, int], message: str):
    """A usage that cannot be true says which figures contradict each other."""
    with pytest.raises(UsageShapeError) as refused:
        Usage(**counts)
    assert str(refused.value) == message
    assert isinstance(refused.value, LlamaTokenTrackerError)
    assert isinstance(refused.value, ValueError)


@given(st.dictionaries(st.sampled_from(BUCKETS), st.integers(-5, 20)))
def test_a_usage_is_made_or_refused(counts: dict[str, int]):
    """Whatever the counts, they make a usage that contradicts nothing, or none at all."""
    try:
        usage = Usage(**counts)
    except UsageShapeError:
        assert contradiction(counts) is not None
    else:
        assert usage.reported() == counts
        assert contradiction(counts) is None

"""Anthropic's Messages API."""

from typing import Any

import pytest

from llama_token_tracker import Usage, extract_usage
from llama_token_tracker.extraction import StreamedUsage

WARM: dict[str, Any] = {
    "input_tokens": 3,
    "output_tokens": 50,
    "cache_read_input_tokens": 21_400,
    "cache_creation_input_tokens": 100,
    "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
    "output_tokens_details": {"thinking_tokens": 30},
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    "service_tier": "standard",
}
WARM_USAGE = Usage(
    input_tokens=21_503,
    output_tokens=50,
    cache_read_tokens=21_400,
    cache_write_tokens=100,
    cache_write_5m_tokens=60,
    cache_write_1h_tokens=40,
    reasoning_tokens=30,
)


def body(**usage: Any) -> dict[str, Any]:
    """A message with this usage."""
    return {"id": "m", "type": "message", "role": "assistant", "content": [], "usage": usage}


def test_input_is_the_sum_of_three_buckets():
    """`input_tokens` is only what came after the last cache breakpoint."""
    assert extract_usage(body(**WARM)) == WARM_USAGE


def test_an_sdk_object_says_the_same():
    """The SDK's message holds what its JSON holds."""
    types = pytest.importorskip("anthropic.types")
    message = types.Message.model_validate({**body(**WARM), "model": "claude"})
    assert extract_usage(message) == WARM_USAGE
    # LlamaIndex turns the message into a dict, and leaves the usage an object.
    assert extract_usage(dict(message)) == WARM_USAGE


def test_a_cold_cache():
    """Zeros are figures: nothing was read and nothing was written."""
    usage = body(
        input_tokens=12, output_tokens=5, cache_read_input_tokens=0, cache_creation_input_tokens=0
    )
    assert extract_usage(usage) == Usage(
        input_tokens=12, output_tokens=5, cache_read_tokens=0, cache_write_tokens=0
    )


def test_an_older_body_without_cache_keys():
    """What wasn't reported is unknown."""
    assert extract_usage(body(input_tokens=12, output_tokens=5)) == Usage(
        input_tokens=12, output_tokens=5
    )


START = {"type": "message_start", "message": body(**{**WARM, "output_tokens": 1})}
DELTAS = [
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 20}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 50}},
]


def test_a_streams_deltas_are_cumulative():
    """Figures of a stream are merged field by field, the last one stands, none are added."""
    assert extract_usage([START, *DELTAS]) == WARM_USAGE


def test_a_null_in_a_delta_takes_nothing_back():
    """A later null doesn't undo a figure."""
    delta = {"usage": {"input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 50}}
    assert extract_usage([START, delta]) == WARM_USAGE


def test_a_delta_that_repeats_the_input_adds_nothing():
    """Newer deltas carry the whole usage once more."""
    assert extract_usage([START, {"usage": WARM}]) == WARM_USAGE


def test_an_unfinished_stream_says_whether_its_input_is_whole():
    """Without the cache keys of `message_start` nobody knows how much was cached."""
    stream = StreamedUsage()
    assert stream.read().usage is None
    assert stream.add(DELTAS[0])
    reading = stream.read()
    assert reading.usage is not None
    assert not reading.input_is_complete
    assert stream.add(START)
    reading = stream.read()
    assert reading.usage is not None
    assert reading.input_is_complete
    assert reading.usage.input_tokens == 21_503


def test_a_chunk_without_news_is_no_news():
    """Hearing the same figures again changes nothing."""
    stream = StreamedUsage()
    assert stream.add(START)
    assert not stream.add({"type": "content_block_delta", "delta": {"text": "hi"}})
    assert not stream.add(START)
    assert stream.add(DELTAS[0])

"""LangChain: inclusive figures with details, and InvokeModel's headers under other names."""

from llama_token_tracker import Usage, extract_usage
from llama_token_tracker.extraction import extract_fullest


def test_usage_metadata():
    """Parts are in their wholes already."""
    usage = {
        "input_tokens": 350,
        "output_tokens": 240,
        "total_tokens": 590,
        "input_token_details": {"audio": 10, "cache_creation": 200, "cache_read": 100},
        "output_token_details": {"audio": 10, "reasoning": 200},
    }
    assert extract_usage(usage) == Usage(
        input_tokens=350,
        output_tokens=240,
        input_audio_tokens=10,
        cache_write_tokens=200,
        cache_read_tokens=100,
        output_audio_tokens=10,
        reasoning_tokens=200,
    )


def test_writes_by_their_lifetime():
    """Where they are told apart, the sum of both is left at zero."""
    usage = {
        "input_tokens": 22_734,
        "output_tokens": 56,
        "total_tokens": 22_790,
        "input_token_details": {
            "cache_creation": 0,
            "cache_read": 20_000,
            "ephemeral_5m_input_tokens": 1_000,
            "ephemeral_1h_input_tokens": 500,
        },
    }
    assert extract_usage(usage) == Usage(
        input_tokens=22_734,
        output_tokens=56,
        cache_read_tokens=20_000,
        cache_write_tokens=1_500,
        cache_write_5m_tokens=1_000,
        cache_write_1h_tokens=500,
    )


def test_usage_metadata_without_details():
    """They are plain sums."""
    usage = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}
    assert extract_usage(usage) == Usage(input_tokens=7, output_tokens=5)


def test_a_tier_before_the_names():
    """langchain-openai says so of flexible and of prior service."""
    usage = {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "input_token_details": {"flex_cache_read": 4, "flex": 6},
        "output_token_details": {"flex_reasoning": 2, "flex": 3},
    }
    assert extract_usage(usage) == Usage(
        input_tokens=10, output_tokens=5, cache_read_tokens=4, reasoning_tokens=2
    )


def test_langchain_awss_copy_of_the_headers():
    """Its `prompt_tokens` leave the cache out, as the headers do."""
    usage = {
        "prompt_tokens": 1_234,
        "completion_tokens": 56,
        "cache_read_input_tokens": 20_000,
        "cache_write_input_tokens": 1_500,
        "total_tokens": 22_790,
    }
    assert extract_usage({"usage": usage, "stop_reason": "end_turn"}) == Usage(
        input_tokens=22_734, output_tokens=56, cache_read_tokens=20_000, cache_write_tokens=1_500
    )


def test_the_fullest_of_several_places():
    """Of equals the first; what holds nothing is passed over."""
    plain, cached = {"prompt_tokens": 5, "completion_tokens": 3}, {"cache_read": 4}
    full = {"input_tokens": 5, "output_tokens": 3, "input_token_details": cached}
    other = {"input_tokens": 6, "output_tokens": 3}
    assert extract_fullest([None, {}, plain, other]).usage == extract_usage(plain)
    assert extract_fullest([plain, full, other]).usage == extract_usage(full)
    assert extract_fullest([None, {}]).usage is None

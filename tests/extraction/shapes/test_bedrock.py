"""Amazon Bedrock: Converse, InvokeModel, and Amazon's and Meta's models."""

from typing import Any

import pytest

from llama_token_tracker import Usage, extract_usage

CONVERSE: dict[str, Any] = {
    "inputTokens": 1_234,
    "outputTokens": 56,
    "totalTokens": 22_790,
    "cacheReadInputTokens": 21_000,
    "cacheWriteInputTokens": 500,
    "cacheDetails": [
        {"ttl": "5m", "inputTokens": 300},
        {"ttl": "1h", "inputTokens": 150},
        {"ttl": "5m", "inputTokens": 50},
    ],
}
CONVERSE_USAGE = Usage(
    input_tokens=22_734,
    output_tokens=56,
    cache_read_tokens=21_000,
    cache_write_tokens=500,
    cache_write_5m_tokens=350,
    cache_write_1h_tokens=150,
)
METRICS = {
    "inputTokenCount": 1_234,
    "outputTokenCount": 56,
    "cacheReadInputTokenCount": 21_000,
    "cacheWriteInputTokenCount": 500,
    "invocationLatency": 900,
    "firstByteLatency": 300,
}
METRICS_USAGE = Usage(
    input_tokens=22_734, output_tokens=56, cache_read_tokens=21_000, cache_write_tokens=500
)


def test_converse():
    """`inputTokens` leaves the cache out; `cacheDetails` split the writes by their lifetime."""
    body = {"output": {}, "stopReason": "end_turn", "usage": CONVERSE, "metrics": {}}
    assert extract_usage(body) == CONVERSE_USAGE


def test_converse_stream():
    """The last event of a stream holds the usage in its metadata."""
    last = {"metadata": {"usage": CONVERSE, "metrics": {"latencyMs": 5}}}
    assert extract_usage(last) == CONVERSE_USAGE
    assert extract_usage([{"messageStart": {}}, {"contentBlockDelta": {}}, last]) == CONVERSE_USAGE


@pytest.mark.parametrize("details", [[], None, [None], ["5m"], [{"ttl": "5m"}], [{"ttl": 5}], "5m"])
def test_odd_cache_details_are_left_out(details: object):
    """Details that say nothing take nothing away from the rest."""
    usage = extract_usage({"usage": {**CONVERSE, "cacheDetails": details}})
    assert usage == METRICS_USAGE


def test_converse_without_cache():
    """Models without prompt caching report three keys."""
    usage = {"inputTokens": 12, "outputTokens": 5, "totalTokens": 17}
    assert extract_usage({"usage": usage}) == Usage(input_tokens=12, output_tokens=5)


@pytest.mark.parametrize("null", ["cacheReadInputTokens", "cacheReadInputTokenCount"])
def test_two_names_of_one_count(null: str):
    """Of two names for cached tokens the one that holds a figure counts, both count once."""
    usage = {
        "inputTokens": 10,
        "outputTokens": 5,
        "cacheReadInputTokens": 7,
        "cacheReadInputTokenCount": 7,
    }
    expected = Usage(input_tokens=17, output_tokens=5, cache_read_tokens=7)
    for _ in range(2):
        assert extract_usage({"usage": usage}) == expected
        assert extract_usage({"usage": {**usage, null: None}}) == expected


def test_invocation_metrics():
    """The last chunk of InvokeModelWithResponseStream holds Amazon's own figures."""
    last = {"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS}
    assert extract_usage(last) == METRICS_USAGE


def test_claude_reports_twice_in_a_stream_and_counts_once():
    """Claude's own figures and Amazon's metrics are one usage."""
    chunks = [
        {
            "type": "message_start",
            "message": {
                "usage": {
                    "input_tokens": 1_234,
                    "cache_read_input_tokens": 21_000,
                    "cache_creation_input_tokens": 500,
                    "output_tokens": 1,
                }
            },
        },
        {"type": "message_delta", "usage": {"output_tokens": 56}},
        {"type": "message_stop", "amazon-bedrock-invocationMetrics": METRICS},
    ]
    assert extract_usage(chunks) == METRICS_USAGE


def test_headers_are_strings():
    """InvokeModel's headers hold counts as text."""
    headers = {
        "x-amzn-bedrock-input-token-count": "1234",
        "x-amzn-bedrock-output-token-count": "56",
        "x-amzn-bedrock-cache-read-input-token-count": "21000",
        "x-amzn-bedrock-cache-write-input-token-count": "500",
    }
    assert extract_usage(headers) == METRICS_USAGE


def test_titan():
    """Titan counts its input once, and each of its results."""
    body = {
        "inputTextTokenCount": 12,
        "results": [{"tokenCount": 30, "outputText": "…"}, {"tokenCount": 4}],
    }
    assert extract_usage(body) == Usage(input_tokens=12, output_tokens=34)


def test_titans_stream():
    """A chunk of Titan's stream holds the total of its output so far."""
    chunks = [
        {"outputText": "a", "inputTextTokenCount": 12, "totalOutputTextTokenCount": None},
        {"outputText": "b", "totalOutputTextTokenCount": 34},
    ]
    assert extract_usage(chunks) == Usage(input_tokens=12, output_tokens=34)


def test_llama():
    """Meta's models count prompt and generation, in each chunk of a stream anew."""
    body = {"generation": "hi", "prompt_token_count": 12, "generation_token_count": 5}
    assert extract_usage(body) == Usage(input_tokens=12, output_tokens=5)
    chunks = [
        {"generation": "h", "prompt_token_count": 12, "generation_token_count": 1},
        {"generation": "i", "prompt_token_count": None, "generation_token_count": 5},
    ]
    assert extract_usage(chunks) == Usage(input_tokens=12, output_tokens=5)


def test_nova_through_invoke_model():
    """Nova's own body ends its cache keys in `Count`."""
    usage = {
        "inputTokens": 10,
        "outputTokens": 5,
        "totalTokens": 22,
        "cacheReadInputTokenCount": 7,
        "cacheWriteInputTokenCount": 0,
    }
    assert extract_usage({"output": {}, "usage": usage}) == Usage(
        input_tokens=17, output_tokens=5, cache_read_tokens=7, cache_write_tokens=0
    )

"""Cohere: what it bills, and what the model saw."""

from typing import Any

import pytest

from llama_token_tracker import Usage, extract_usage

USAGE: dict[str, Any] = {
    "billed_units": {"input_tokens": 5.0, "output_tokens": 418.0},
    "tokens": {"input_tokens": 71.0, "output_tokens": 420.0},
}
BILLED = Usage(input_tokens=5, output_tokens=418, seen_input_tokens=71, seen_output_tokens=420)


@pytest.mark.parametrize(
    "body",
    [
        {"id": "x", "usage": USAGE},
        {"text": "hi", "meta": {"api_version": {"version": "1"}, **USAGE}},
        {"event_type": "stream-end", "response": {"meta": USAGE}},
    ],
    ids=["v2", "v1", "v1 stream"],
)
def test_the_bill_comes_before_what_was_seen(body: dict[str, Any]):
    """`billed_units` are the bill, in whole floats; `tokens` are kept beside it."""
    assert extract_usage(body) == BILLED


def test_sdk_objects():
    """The SDK's objects say the same, v1 and v2."""
    cohere = pytest.importorskip("cohere")
    v2 = cohere.Usage(
        billed_units=cohere.UsageBilledUnits(**USAGE["billed_units"]),
        tokens=cohere.UsageTokens(**USAGE["tokens"]),
    )
    v1 = cohere.ApiMeta(
        billed_units=cohere.ApiMetaBilledUnits(**USAGE["billed_units"]),
        tokens=cohere.ApiMetaTokens(**USAGE["tokens"]),
    )
    assert extract_usage({"usage": v2}) == BILLED
    # LlamaIndex hands over the response's `__dict__`.
    assert extract_usage({"text": "hi", "meta": v1}) == BILLED


def test_without_a_bill_what_was_seen_stands():
    """Where only `tokens` are reported they are the figures."""
    assert extract_usage({"meta": {"tokens": USAGE["tokens"]}}) == Usage(
        input_tokens=71, output_tokens=420
    )


def test_cached_tokens_beyond_the_bill_are_left_out():
    """Cached tokens were seen; if they exceed the billed input they cannot be a part of it."""
    usage = {**USAGE, "cached_tokens": 64}
    assert extract_usage({"usage": usage}) == BILLED
    usage = {"tokens": USAGE["tokens"], "cached_tokens": 64}
    assert extract_usage({"usage": usage}) == Usage(
        input_tokens=71, output_tokens=420, cache_read_tokens=64
    )


def test_a_stream():
    """The end of a v2 stream holds the usage in its delta."""
    end = {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": USAGE}}
    assert extract_usage([{"type": "content-delta"}, end]) == BILLED

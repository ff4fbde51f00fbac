"""How Amazon Bedrock writes usage: Converse, InvokeModel, and Amazon's and Meta's models."""

from datetime import date
from typing import Final

from llama_token_tracker.extraction.shape import WireShape

CONVERSE: Final = WireShape(
    name="bedrock.converse",
    source="https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html",
    checked=date(2026, 11, 22),
    marks=("inputTokens", "outputTokens"),
    adds={
        "inputTokens": ("input_tokens",),
        "cacheReadInputTokens": ("input_tokens", "cache_read_tokens"),
        "cacheWriteInputTokens": ("input_tokens", "cache_write_tokens"),
        "cacheDetails[ttl=5m].inputTokens": ("cache_write_5m_tokens",),
        "cacheDetails[ttl=1h].inputTokens": ("cache_write_1h_tokens",),
        # Nova's own body, through InvokeModel, ends the cache keys in `Count`.
        "cacheReadInputTokenCount": ("input_tokens", "cache_read_tokens"),
        "cacheWriteInputTokenCount": ("input_tokens", "cache_write_tokens"),
        "outputTokens": ("output_tokens",),
    },
    same=(
        ("cacheReadInputTokens", "cacheReadInputTokenCount"),
        ("cacheWriteInputTokens", "cacheWriteInputTokenCount"),
    ),
    total="totalTokens",
    total_leaves_out=("cache_read_tokens", "cache_write_tokens"),
)

INVOCATION_METRICS: Final = WireShape(
    name="bedrock.invocation_metrics",
    source="https://docs.aws.amazon.com/bedrock/latest/userguide/prompt-caching.html",
    checked=date(2026, 11, 22),
    marks=("inputTokenCount", "outputTokenCount"),
    adds={
        "inputTokenCount": ("input_tokens",),
        "cacheReadInputTokenCount": ("input_tokens", "cache_read_tokens"),
        "cacheWriteInputTokenCount": ("input_tokens", "cache_write_tokens"),
        "outputTokenCount": ("output_tokens",),
    },
)

HEADERS: Final = WireShape(
    name="bedrock.headers",
    source="https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html",
    checked=date(2026, 11, 22),
    marks=("x-amzn-bedrock-input-token-count", "x-amzn-bedrock-output-token-count"),
    adds={
        "x-amzn-bedrock-input-token-count": ("input_tokens",),
        "x-amzn-bedrock-cache-read-input-token-count": (
            "input_tokens",
            "cache_read_tokens",
        ),
        "x-amzn-bedrock-cache-write-input-token-count": (
            "input_tokens",
            "cache_write_tokens",
        ),
        "x-amzn-bedrock-output-token-count": ("output_tokens",),
    },
)

TITAN: Final = WireShape(
    name="bedrock.titan",
    source="https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-titan-text.html",
    checked=date(2026, 11, 22),
    marks=("inputTextTokenCount", "totalOutputTextTokenCount"),
    adds={
        "inputTextTokenCount": ("input_tokens",),
        "results[].tokenCount": ("output_tokens",),
        "totalOutputTextTokenCount": ("output_tokens",),
    },
    same=(("totalOutputTextTokenCount", "results[].tokenCount"),),
)

LLAMA: Final = WireShape(
    name="bedrock.llama",
    source="https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-meta.html",
    checked=date(2026, 11, 22),
    marks=("generation_token_count",),
    adds={
        "prompt_token_count": ("input_tokens",),
        "generation_token_count": ("output_tokens",),
    },
)

_BODY: Final = {
    "serviceTier.type": "service_tier",
    "performanceConfig.latency": "speed",
    # Of a router, whose own id names no model.
    "trace.promptRouter.invokedModelId": "model",
}

SERVED: Final = {
    **_BODY,
    **{f"metadata.{path}": fact for path, fact in _BODY.items()},
    "x-amzn-bedrock-service-tier": "service_tier",
    "x-amzn-bedrock-performanceconfig-latency": "speed",
    # Models of Amazon's and Stability's that draw.
    "images[]": "#images",
}
"""Where answers, the last event of a stream and headers say how they were served.

Source: API reference, ConverseResponse, ConverseStreamMetadataEvent, InvokeModel (checked
2026-11-29).
"""

SHAPES: Final = (CONVERSE, INVOCATION_METRICS, HEADERS, TITAN, LLAMA)

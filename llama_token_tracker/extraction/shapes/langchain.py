"""How LangChain writes usage down, whoever the provider is."""

from datetime import date
from typing import Final

from llama_token_tracker.extraction.shape import WireShape

USAGE_METADATA: Final = WireShape(
    name="langchain.usage_metadata",
    source="https://reference.langchain.com/python/langchain-core/messages/ai/UsageMetadata",
    checked=date(2026, 11, 22),
    # Without details it reads like Anthropic's, and as that it may be read.
    marks=("input_token_details", "output_token_details"),
    adds={
        "input_tokens": ("input_tokens",),
        "input_token_details.cache_read": ("cache_read_tokens",),
        # A zero beside the two that follow, where they are told apart.
        "input_token_details.cache_creation": ("cache_write_tokens",),
        "input_token_details.ephemeral_5m_input_tokens": (
            "cache_write_tokens",
            "cache_write_5m_tokens",
        ),
        "input_token_details.ephemeral_1h_input_tokens": (
            "cache_write_tokens",
            "cache_write_1h_tokens",
        ),
        "input_token_details.audio": ("input_audio_tokens",),
        "output_tokens": ("output_tokens",),
        "output_token_details.reasoning": ("reasoning_tokens",),
        "output_token_details.audio": ("output_audio_tokens",),
        # langchain-openai puts the tier before the names.
        "input_token_details.flex_cache_read": ("cache_read_tokens",),
        "input_token_details.flex_cache_creation": ("cache_write_tokens",),
        "output_token_details.flex_reasoning": ("reasoning_tokens",),
        "input_token_details.priority_cache_read": ("cache_read_tokens",),
        "input_token_details.priority_cache_creation": ("cache_write_tokens",),
        "output_token_details.priority_reasoning": ("reasoning_tokens",),
    },
    total="total_tokens",
)

INVOKE_MODEL: Final = WireShape(
    name="langchain.invoke_model",
    source="https://github.com/langchain-ai/langchain-aws/blob/main/libs/aws/langchain_aws/llms/bedrock.py",
    checked=date(2026, 11, 22),
    # Others who say `prompt_tokens` name the written cache otherwise, and include it.
    marks=("cache_write_input_tokens",),
    adds={
        "prompt_tokens": ("input_tokens",),
        "cache_read_input_tokens": ("input_tokens", "cache_read_tokens"),
        "cache_write_input_tokens": ("input_tokens", "cache_write_tokens"),
        "completion_tokens": ("output_tokens",),
    },
    total="total_tokens",
    total_leaves_out=("cache_read_tokens", "cache_write_tokens"),
)

SERVED: Final = {
    "model_name": "model",
    "token_usage.cost": "usd",
    "token_usage.is_byok": "has_own_key",
    "token_usage.cost_details.upstream_inference_cost": "upstream_usd",
    "token_usage.cost_in_usd_ticks": "ticks",
}
"""Where `response_metadata` and `llm_output` say how a call was served."""

BILLED_APART: Final = ("compaction", "advisor_tool_result")
"""Anthropic's blocks of content that tell of billed tokens which its sums leave out. They stand in
`iterations` of its usage, of which `usage_metadata` has nothing.

Source: https://platform.claude.com/docs/en/build-with-claude/compaction, and that of the advisor
tool (checked 2026-11-30).
"""

SHAPES: Final = (USAGE_METADATA, INVOKE_MODEL)

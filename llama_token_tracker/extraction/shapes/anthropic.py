"""How Anthropic's Messages API writes usage."""

from datetime import date
from typing import Final

from llama_token_tracker.extraction.shape import WireShape

MESSAGES: Final = WireShape(
    name="anthropic.messages",
    source="https://docs.anthropic.com/en/api/messages#response-usage",
    checked=date(2026, 11, 29),
    marks=("input_tokens", "output_tokens"),
    adds={
        # `input_tokens` is only what came after the last cache breakpoint.
        "input_tokens": ("input_tokens",),
        "cache_read_input_tokens": ("input_tokens", "cache_read_tokens"),
        "cache_creation_input_tokens": ("input_tokens", "cache_write_tokens"),
        "cache_creation.ephemeral_5m_input_tokens": ("cache_write_5m_tokens",),
        "cache_creation.ephemeral_1h_input_tokens": ("cache_write_1h_tokens",),
        "output_tokens": ("output_tokens",),
        "output_tokens_details.thinking_tokens": ("reasoning_tokens",),
        # What compaction takes is billed, and stands here alone; the others are in the sums.
        # https://platform.claude.com/docs/en/build-with-claude/compaction
        "iterations[type=compaction].input_tokens": ("input_tokens",),
        "iterations[type=compaction].cache_read_input_tokens": (
            "input_tokens",
            "cache_read_tokens",
        ),
        "iterations[type=compaction].cache_creation_input_tokens": (
            "input_tokens",
            "cache_write_tokens",
        ),
        "iterations[type=compaction].cache_creation.ephemeral_5m_input_tokens": (
            "cache_write_5m_tokens",
        ),
        "iterations[type=compaction].cache_creation.ephemeral_1h_input_tokens": (
            "cache_write_1h_tokens",
        ),
        "iterations[type=compaction].output_tokens": ("output_tokens",),
        "iterations[type=message].input_tokens": (),
        "iterations[type=message].cache_read_input_tokens": (),
        "iterations[type=message].cache_creation_input_tokens": (),
        "iterations[type=message].cache_creation.ephemeral_5m_input_tokens": (),
        "iterations[type=message].cache_creation.ephemeral_1h_input_tokens": (),
        "iterations[type=message].output_tokens": (),
    },
    # LangChain's copies in these words have one.
    total="total_tokens",
    # `message_start` says it all, but LlamaIndex shows a stream's first figures without it.
    sure_in_stream_with=("cache_read_input_tokens", "cache_creation_input_tokens"),
)

_USAGE: Final = {
    "service_tier": "service_tier",
    "speed": "speed",
    "inference_geo": "region",
    "server_tool_use.web_search_requests": "web_searches",
}

SERVED: Final = {
    "model": "model",
    "message.model": "model",
    **{f"usage.{path}": fact for path, fact in _USAGE.items()},
    **{f"message.usage.{path}": fact for path, fact in _USAGE.items()},
}
"""Where answers, and a stream's first event, say how they were served.

Source: that of the table above, and
https://platform.claude.com/docs/en/build-with-claude/fast-mode (checked 2026-11-29).
"""

SHAPES: Final = (MESSAGES,)

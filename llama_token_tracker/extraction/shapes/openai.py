"""How OpenAI writes usage, and those who speak its dialect."""

from datetime import date
from typing import Final

from llama_token_tracker.extraction.shape import WireShape

CHAT: Final = WireShape(
    name="openai.chat_completions",
    source="https://platform.openai.com/docs/api-reference/chat/object#chat/object-usage",
    checked=date(2026, 11, 22),
    marks=("prompt_tokens", "completion_tokens"),
    adds={
        "prompt_tokens": ("input_tokens",),
        "prompt_tokens_details.cached_tokens": ("cache_read_tokens",),
        "prompt_tokens_details.cache_write_tokens": ("cache_write_tokens",),
        "prompt_tokens_details.audio_tokens": ("input_audio_tokens",),
        "prompt_tokens_details.image_tokens": ("input_image_tokens",),
        "completion_tokens": ("output_tokens",),
        "completion_tokens_details.reasoning_tokens": ("reasoning_tokens",),
        "completion_tokens_details.audio_tokens": ("output_audio_tokens",),
        "completion_tokens_details.image_tokens": ("output_image_tokens",),
        "prompt_tokens_details.text_tokens": (),
        "completion_tokens_details.text_tokens": (),
        # Predictions that didn't come true are billed as output, and in its sum.
        "completion_tokens_details.accepted_prediction_tokens": (),
        "completion_tokens_details.rejected_prediction_tokens": (),
        # Gateways (LiteLLM, OpenRouter) and LlamaIndex's Converse integration put
        # Anthropic's cache keys beside OpenAI's: mostly parts of a gross `prompt_tokens`.
        "cache_read_input_tokens": ("cache_read_tokens",),
        "cache_creation_input_tokens": ("cache_write_tokens",),
        # DeepSeek's name for cached tokens.
        "prompt_cache_hit_tokens": ("cache_read_tokens",),
        "prompt_cache_miss_tokens": (),
        # Moonshot's and Together's: https://platform.moonshot.ai/docs/api/chat
        # (checked 2026-11-29).
        "cached_tokens": ("cache_read_tokens",),
        # What Mistral's connectors have found, and its model has read; a part of the total alone:
        # https://docs.mistral.ai/agents/tools/built-in/websearch (checked 2026-11-29).
        "connector_tokens": ("input_tokens",),
    },
    same=(
        (
            "prompt_tokens_details.cached_tokens",
            "cache_read_input_tokens",
            "prompt_cache_hit_tokens",
            "cached_tokens",
        ),
        (
            "prompt_tokens_details.cache_write_tokens",
            "cache_creation_input_tokens",
        ),
    ),
    total="total_tokens",
    # xAI and Gemini's OpenAI endpoint leave reasoning out of `completion_tokens`, Converse's
    # copy leaves the cache out of `prompt_tokens`; their `total_tokens` holds all of it.
    excluded=("cache_read_tokens", "cache_write_tokens", "reasoning_tokens"),
)

RESPONSES: Final = WireShape(
    name="openai.responses",
    source="https://platform.openai.com/docs/api-reference/responses/object",
    checked=date(2026, 11, 22),
    marks=("input_tokens_details",),
    adds={
        "input_tokens": ("input_tokens",),
        "input_tokens_details.cached_tokens": ("cache_read_tokens",),
        "input_tokens_details.cache_write_tokens": ("cache_write_tokens",),
        "input_tokens_details.audio_tokens": ("input_audio_tokens",),
        "input_tokens_details.image_tokens": ("input_image_tokens",),
        "output_tokens": ("output_tokens",),
        "output_tokens_details.reasoning_tokens": ("reasoning_tokens",),
        "output_tokens_details.audio_tokens": ("output_audio_tokens",),
        "output_tokens_details.image_tokens": ("output_image_tokens",),
        "input_tokens_details.text_tokens": (),
        "output_tokens_details.text_tokens": (),
    },
    total="total_tokens",
)


CONNECTORS: Final = {
    "web_search": "web_searches",
    "web_search_premium": "premium_web_searches",
    "code_interpreter": "code_runs",
    "image_generation": "generated_images",
    "document_library": "document_searches",
}
"""Mistral's connectors, and what one run of each is called.

Source: https://docs.mistral.ai/agents/tools (checked 2026-11-29).
"""

_BODY: Final = {
    "model": "model",
    "service_tier": "service_tier",
    # Web searches of Responses, and images, which some models bill each.
    "output[type=web_search_call].id": "#web_searches",
    # Who answered in Mistral's conversations, and which connectors ran how often; each is billed.
    "outputs[role=assistant].model": "model",
    **{f"usage.connectors.{name}": unit for name, unit in CONNECTORS.items()},
    # There are more, and new ones: what any of them found shows that one ran.
    "usage.connector_tokens": "connector_tokens",
    # Whisper's; of newer models `usage` holds tokens.
    "usage.seconds": "seconds",
    # OpenRouter's, with whether another provider bills as well; Perplexity's; xAI's.
    "usage.cost": "usd",
    "usage.is_byok": "has_own_key",
    "usage.cost_details.upstream_inference_cost": "upstream_usd",
    "usage.cost.total_cost": "usd",
    "usage.cost_in_usd_ticks": "ticks",
}

SERVED: Final = {
    **_BODY,
    **{f"response.{path}": fact for path, fact in _BODY.items()},
    "data[].b64_json": "#images",
    "data[].url": "#images",
}
"""Where answers say how they were served.

Source: that of the tables above; https://openrouter.ai/docs/use-cases/usage-accounting and
https://docs.x.ai/developers/cost-tracking (checked 2026-11-29).
"""

SHAPES: Final = (CHAT, RESPONSES)

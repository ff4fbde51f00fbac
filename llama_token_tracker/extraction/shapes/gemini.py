"""How Gemini writes usage: camelCase in JSON, snake_case in the SDK."""

from datetime import date
from typing import Final

from llama_token_tracker.extraction.shape import WireShape

# Thoughts and the prompts of tools are extra to the candidates and the prompt.
_ADDS: Final = {
    "promptTokenCount": ("input_tokens",),
    "toolUsePromptTokenCount": ("input_tokens",),
    "cachedContentTokenCount": ("cache_read_tokens",),
    "promptTokensDetails[modality=audio].tokenCount": ("input_audio_tokens",),
    "promptTokensDetails[modality=image].tokenCount": ("input_image_tokens",),
    "candidatesTokenCount": ("output_tokens",),
    "thoughtsTokenCount": ("output_tokens", "reasoning_tokens"),
    "candidatesTokensDetails[modality=audio].tokenCount": ("output_audio_tokens",),
    "candidatesTokensDetails[modality=image].tokenCount": ("output_image_tokens",),
    "promptTokensDetails[modality=text].tokenCount": (),
    "promptTokensDetails[modality=document].tokenCount": (),
    "promptTokensDetails[modality=video].tokenCount": (),
    "candidatesTokensDetails[modality=text].tokenCount": (),
    **{
        f"{part}TokensDetails[modality={kind}].tokenCount": ()
        for part in ("cache", "toolUsePrompt")
        for kind in ("text", "image", "audio", "video", "document")
    },
}


def _snake(path: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in path)


_SOURCE: Final = "https://ai.google.dev/api/generate-content#UsageMetadata"

JSON: Final = WireShape(
    name="gemini.json",
    source=_SOURCE,
    checked=date(2026, 11, 22),
    marks=("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount"),
    adds=_ADDS,
    total="totalTokenCount",
)

SDK: Final = WireShape(
    name="gemini.sdk",
    source=_SOURCE,
    checked=date(2026, 11, 22),
    marks=("candidates_token_count", "thoughts_token_count", "prompt_token_count"),
    adds={_snake(path): buckets for path, buckets in _ADDS.items()},
    total="total_token_count",
)

SERVED: Final = {
    "modelVersion": "model",
    "model_version": "model",
    "usageMetadata.serviceTier": "service_tier",
    "usageMetadata.trafficType": "service_tier",
    "usage_metadata.service_tier": "service_tier",
    "usage_metadata.traffic_type": "service_tier",
}
"""Where answers say how they were served.

Source: https://ai.google.dev/api/generate-content, and Vertex AI's `trafficType` (checked
2026-11-29).
"""

SHAPES: Final = (JSON, SDK)

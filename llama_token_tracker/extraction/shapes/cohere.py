"""How Cohere writes usage: what it bills, and what the model saw."""

from datetime import date
from typing import Final

from llama_token_tracker.extraction.shape import WireShape

_SOURCE: Final = "https://docs.cohere.com/reference/chat#response.body.usage"

BILLED: Final = WireShape(
    name="cohere.billed_units",
    source=_SOURCE,
    checked=date(2026, 11, 22),
    marks=("billed_units",),
    adds={
        "billed_units.input_tokens": ("input_tokens",),
        "billed_units.output_tokens": ("output_tokens",),
        "tokens.input_tokens": ("seen_input_tokens",),
        "tokens.output_tokens": ("seen_output_tokens",),
        "cached_tokens": ("cache_read_tokens",),
    },
)

SEEN: Final = WireShape(
    name="cohere.tokens",
    source=_SOURCE,
    checked=date(2026, 11, 22),
    marks=("tokens",),
    adds={
        "tokens.input_tokens": ("input_tokens",),
        "tokens.output_tokens": ("output_tokens",),
        "cached_tokens": ("cache_read_tokens",),
    },
)

SERVED: Final = {
    "meta.billed_units.search_units": "search_units",
    "meta.billed_units.classifications": "classifications",
    "meta.billed_units.images": "images",
    "usage.billed_units.search_units": "search_units",
}
"""Where answers say what was billed apart from tokens.

Source: https://docs.cohere.com/reference/rerank (checked 2026-11-29).
"""

SHAPES: Final = (BILLED, SEEN)

"""A provider's response -> `Usage`: one table a wire shape.

To add a provider, write its table (see `shapes/openai.py`) and name it in `registry.SHAPES`, or
give a table of your own to `register_shape`; if LlamaIndex leaves its usage in a new place, add
that to `registry.WITHIN`.
"""

from llama_token_tracker.extraction.reader import (
    StreamedUsage,
    extract_fullest,
    extract_parts,
    extract_reported,
    extract_served,
    extract_usage,
    is_deferred,
    is_silent,
    usage_parts,
)
from llama_token_tracker.extraction.registry import SHAPES, register_shape
from llama_token_tracker.extraction.reported import (
    DEFERRED,
    SILENT,
    Reported,
    believed,
    combined,
    together,
    with_parts,
)
from llama_token_tracker.extraction.shape import WireShape

__all__ = [
    "DEFERRED",
    "SHAPES",
    "SILENT",
    "Reported",
    "StreamedUsage",
    "WireShape",
    "believed",
    "combined",
    "extract_fullest",
    "extract_parts",
    "extract_reported",
    "extract_served",
    "extract_usage",
    "is_deferred",
    "is_silent",
    "register_shape",
    "together",
    "usage_parts",
    "with_parts",
]

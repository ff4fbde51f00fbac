"""A provider's response -> `Usage`: one table a wire shape.

To add a provider, write its table (see `openai.py`) and name it in `reader.SHAPES`; if
LlamaIndex leaves its usage in a new place, add that to `reader.WITHIN`.
"""

from llama_token_tracker.extraction.reader import (
    SHAPES,
    StreamedUsage,
    extract_fullest,
    extract_parts,
    extract_usage,
    is_silent,
    knows,
    usage_parts,
)
from llama_token_tracker.extraction.reported import SILENT, Reported, combined
from llama_token_tracker.extraction.shape import WireShape

__all__ = [
    "SHAPES",
    "SILENT",
    "Reported",
    "StreamedUsage",
    "WireShape",
    "combined",
    "extract_fullest",
    "extract_parts",
    "extract_usage",
    "is_silent",
    "knows",
    "usage_parts",
]

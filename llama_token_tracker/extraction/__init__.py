"""A provider's response -> `Usage`: one table a wire shape.

To add a provider, write its table (see `openai.py`) and name it in `reader.SHAPES`; if
LlamaIndex leaves its usage in a new place, add that to `reader.WITHIN`.
"""

from llama_token_tracker.extraction.reader import (
    SHAPES,
    Reading,
    StreamedUsage,
    extract_fullest,
    extract_usage,
    knows,
)
from llama_token_tracker.extraction.shape import WireShape

__all__ = [
    "SHAPES",
    "Reading",
    "StreamedUsage",
    "WireShape",
    "extract_fullest",
    "extract_usage",
    "knows",
]

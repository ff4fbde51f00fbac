"""How those write usage who state the sum alone, in anybody's words."""

from datetime import date
from typing import Final

from llama_token_tracker.extraction.shape import WireShape

_NAMES: Final = ("total_tokens", "totalTokens", "totalTokenCount", "total_token_count")

TOTAL: Final = WireShape(
    name="total",
    # Voyage and Jina do, of embeddings; of others it may be all that has come through.
    source="https://docs.voyageai.com/reference/embeddings-api",
    checked=date(2026, 11, 29),
    marks=_NAMES,
    adds=dict.fromkeys(_NAMES, ("input_tokens",)),
    same=(_NAMES,),
)

SHAPES: Final = (TOTAL,)
"""Read only where no other table knows a usage."""

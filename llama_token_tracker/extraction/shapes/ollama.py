"""How Ollama writes usage: on the final chunk, beside the message."""

from datetime import date
from typing import Final

from llama_token_tracker.extraction.shape import WireShape

CHAT: Final = WireShape(
    name="ollama.chat",
    source="https://docs.ollama.com/api/usage",
    checked=date(2026, 11, 22),
    marks=("prompt_eval_count", "eval_count"),
    adds={
        "prompt_eval_count": ("input_tokens",),
        "eval_count": ("output_tokens",),
    },
)

SERVED: Final = {"model": "model"}
"""Where answers say how they were served."""

SHAPES: Final = (CHAT,)

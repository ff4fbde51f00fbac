"""Bills and requests that several tests use."""

from typing import Any

from llama_token_tracker import Usage
from llama_token_tracker.testing import ToolCall

CACHED = Usage(
    input_tokens=22_734,
    output_tokens=1_256,
    cache_read_tokens=21_500,
    cache_write_tokens=701,
    cache_write_5m_tokens=501,
    cache_write_1h_tokens=200,
)
UNCACHED = 22_734 - 21_500 - 701
THOUGHT = Usage(
    input_tokens=22_734, output_tokens=1_256, cache_read_tokens=21_500, reasoning_tokens=811
)
PLAIN = Usage(input_tokens=20_011, output_tokens=3_001)

TEXT = "Canberra is the capital."
ADDS = (ToolCall("add", {"a": 20, "b": 22}),)
ASK: list[Any] = [{"role": "user", "content": "Which?"}]

"""What is loaded late, beside the user's threads: nothing that an SDK may look at half-loaded."""

import subprocess
import sys

import pytest

LOOKED_AT = ("httpx", "httpx2", "requests")
"""What openai and google-genai look for among the loaded modules, at each call: `sys.modules.get`.

While one thread loads a module, another that finds it there gets it without its classes.
"""

USE_EVERYTHING = """
import sys

import llama_index.core
from llama_token_tracker import Budget, TokenCountingHandler
from tests.scripted import HELLO, answer, by_hand, reported

looked_at = set({looked_at!r})
before = looked_at & set(sys.modules)
budget = Budget(usd=100, on_exceed="warn")
handler = TokenCountingHandler(budget=budget, sinks=[lambda event: None])
models = ("gpt-4o", "claude-3-haiku-20240307", "anthropic.claude-sonnet-4-5-20250929-v1:0",
          "gemini-2.5-flash", "mistral-large-latest", "command-r-plus", "llama3.2")
for model in models:
    for body in (reported(4_711, 815), {{}}):
        raw = body | {{"model": model}}
        by_hand(handler, answer("hello there", raw=raw), HELLO, event_id=str(raw))
handler.tracker.flush()
assert len(handler.llm_token_counts) == 2 * len(models)
assert any(event.cost_usd for event in handler.llm_token_counts)
handler.by("model"), handler._repr_html_(), handler.summary()
print(sorted((looked_at & set(sys.modules)) - before))
"""


@pytest.mark.slow
def test_nothing_is_loaded_late_that_an_sdk_looks_at() -> None:
    """Counting, prices, budgets, sinks, reports and the card load none of it after the package."""
    script = USE_EVERYTHING.format(looked_at=LOOKED_AT)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr

"""Counts the tokens of LlamaIndex apps exactly once, as the provider billed them.

Importing this loads no LlamaIndex: the handler is loaded when it's first asked for.
"""

from typing import TYPE_CHECKING, Any

from llama_token_tracker.budgets import Budget
from llama_token_tracker.errors import (
    BudgetError,
    BudgetExceededError,
    CountRefusedError,
    LlamaTokenTrackerError,
    PriceError,
    TokenizerError,
    UsageShapeError,
    WireFormatError,
)
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.extraction import WireShape, extract_usage, register_shape
from llama_token_tracker.pricing import Cost, Price, Prices
from llama_token_tracker.tokenizers import count_tokens, get_tokenizer
from llama_token_tracker.tokenizers.preflight import count_messages
from llama_token_tracker.tracking.row import Row
from llama_token_tracker.tracking.scopes import Scope
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.usage import Usage

if TYPE_CHECKING:
    from llama_token_tracker.llama_index.handler import TokenCountingHandler

__all__ = [
    "Budget",
    "BudgetError",
    "BudgetExceededError",
    "Cost",
    "CountRefusedError",
    "LlamaTokenTrackerError",
    "Price",
    "PriceError",
    "Prices",
    "Row",
    "Scope",
    "TokenCountingEvent",
    "TokenCountingHandler",
    "TokenizerError",
    "Tracker",
    "Usage",
    "UsageShapeError",
    "WireFormatError",
    "WireShape",
    "count_messages",
    "count_tokens",
    "extract_usage",
    "get_tokenizer",
    "register_shape",
]


def __getattr__(name: str) -> Any:
    if name == "TokenCountingHandler":
        from llama_token_tracker.llama_index.handler import TokenCountingHandler

        return TokenCountingHandler
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def load_ipython_extension(shell: Any) -> None:
    """Give a notebook the cell magic `%%tokens`: `%load_ext llama_token_tracker`."""
    from llama_token_tracker import notebook

    notebook.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take it away again: `%unload_ext llama_token_tracker`."""
    from llama_token_tracker import notebook

    notebook.unload(shell)

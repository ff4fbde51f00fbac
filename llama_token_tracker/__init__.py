"""Counts the tokens of LlamaIndex apps exactly once, as the provider billed them.

Importing this loads no LlamaIndex: what needs it is loaded when it's first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llama_token_tracker.budgets import Budget
from llama_token_tracker.errors import (
    BudgetError,
    BudgetExceededError,
    CountRefusedError,
    LedgerError,
    LlamaTokenTrackerError,
    PriceError,
    SinkError,
    TokenizerError,
    UsageShapeError,
    WatchError,
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
    from llama_token_tracker.budgets.redis_accounts import RedisAccounts
    from llama_token_tracker.llama_index.handler import TokenCountingHandler
    from llama_token_tracker.sinks.ledger import Ledger
    from llama_token_tracker.sinks.ledger.accounts import SqlAccounts
    from llama_token_tracker.wire import (
        AsyncWatchingTransport,
        Watch,
        WatchingTransport,
        watch,
    )

__all__ = [
    "AsyncWatchingTransport",
    "Budget",
    "BudgetError",
    "BudgetExceededError",
    "Cost",
    "CountRefusedError",
    "Ledger",
    "LedgerError",
    "LlamaTokenTrackerError",
    "Price",
    "PriceError",
    "Prices",
    "RedisAccounts",
    "Row",
    "Scope",
    "SinkError",
    "SqlAccounts",
    "TokenCountingEvent",
    "TokenCountingHandler",
    "TokenizerError",
    "Tracker",
    "Usage",
    "UsageShapeError",
    "Watch",
    "WatchError",
    "WatchingTransport",
    "WireFormatError",
    "WireShape",
    "__version__",
    "count_messages",
    "count_tokens",
    "extract_usage",
    "get_tokenizer",
    "register_shape",
    "watch",
]

__version__ = "0.1.0"

_LATE = {
    "TokenCountingHandler": "llama_token_tracker.llama_index.handler",
    "Ledger": "llama_token_tracker.sinks.ledger.ledger",
    "RedisAccounts": "llama_token_tracker.budgets",
    "SqlAccounts": "llama_token_tracker.sinks.ledger.accounts",
    "AsyncWatchingTransport": "llama_token_tracker.wire.httpx",
    "WatchingTransport": "llama_token_tracker.wire.httpx",
    "Watch": "llama_token_tracker.wire.watching",
    "watch": "llama_token_tracker.wire.watching",
}
"""What is loaded when it's first asked for, as it brings LlamaIndex, httpx or SQLAlchemy along."""


def __getattr__(name: str) -> Any:
    if name in _LATE:
        found = getattr(import_module(_LATE[name]), name)
        globals()[name] = found
        return found
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:
    """Give a notebook the cell magic `%%tokens`: `%load_ext llama_token_tracker`."""
    from llama_token_tracker.cli import notebook

    notebook.load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Take it away again: `%unload_ext llama_token_tracker`."""
    from llama_token_tracker.cli import notebook

    notebook.unload(shell)

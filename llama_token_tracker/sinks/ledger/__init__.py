"""A ledger: calls written to a database, SQLite or PostgreSQL, that outlives the process."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from llama_token_tracker._lock import LOADING
from llama_token_tracker.sinks.delivery import BatchingSink

if TYPE_CHECKING:
    from llama_token_tracker.sinks.ledger.ledger import Ledger

__all__ = ["Ledger", "LedgerLike", "opened"]

LedgerLike: TypeAlias = BatchingSink | Path | str
"""A `Ledger`, a file's path, or an SQLAlchemy URL as text."""


def opened(target: object) -> BatchingSink:
    """The ledger that was given, or the one at the path or URL that was.

    Raises:
        LedgerError: It can't be opened.
    """
    if isinstance(target, BatchingSink):
        return target
    with LOADING:  # SQLAlchemy, which is slow to load
        from llama_token_tracker.sinks.ledger.ledger import Ledger
    given: Any = target
    return Ledger(given)


def __getattr__(name: str) -> Any:
    if name == "Ledger":
        with LOADING:
            from llama_token_tracker.sinks.ledger.ledger import Ledger
        return Ledger
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)

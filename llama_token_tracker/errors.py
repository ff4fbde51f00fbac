"""Everything this package raises on purpose.

    LlamaTokenTrackerError
    ├── BudgetError (ValueError)         a budget that makes no sense, or a figure that is none
    ├── BudgetExceededError (ValueError) a call that would pass the limit of a budget
    ├── CountRefusedError                a provider that was asked for a count gave none
    ├── LedgerError (ValueError)         a ledger that can't be opened, read or changed
    ├── LoopbackError (ValueError)       a loopback provider told to do what it can't
    ├── PriceError (ValueError)          a price that can't be one
    ├── SinkError (TypeError)            a sink that can't be called
    ├── TokenizerError (ValueError)      a tokenizer that can't count, or isn't there
    ├── UsageShapeError (ValueError)     a usage that contradicts itself
    ├── WatchError (TypeError)           a client that can't be watched, or nobody who counts
    └── WireFormatError (ValueError)     a table of a wire format that can't be read by

Only `BudgetExceededError` is ever raised into a LlamaIndex call, and only before anything is
sent; the others answer bad input to this package's own API. The one exception that LlamaIndex's
handler raises itself, the plain `ValueError` of `token_budget`, is raised here word for word and
is no part of the tree.
"""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, NamedTuple, Protocol, TypeAlias

Over: TypeAlias = Literal["tokens", "usd", "unpriced", "away"]
"""What a call is refused for: the limit that it would pass, a price that nobody knows, or shared
accounts that can't be reached."""


class Amount(NamedTuple):
    """Something in both units; `None` where it's not limited, or its price not known."""

    tokens: int | None
    usd: Decimal | None


class BudgetTerms(Protocol):
    """What an error can tell of the `Budget` it's about."""

    @property
    def tokens(self) -> int | None:
        """The limit in tokens."""
        ...

    @property
    def usd(self) -> Decimal | None:
        """The limit in US dollars."""
        ...

    @property
    def per(self) -> str | None:
        """Whose calls share the limit."""
        ...

    @property
    def window(self) -> str | timedelta | None:
        """How long the limit is for."""
        ...

    @property
    def default_max_tokens(self) -> int:
        """What is reserved for the output of a call that states no limit."""
        ...


class LlamaTokenTrackerError(Exception):
    """Base class of all errors of this package."""


class UsageShapeError(LlamaTokenTrackerError, ValueError):
    """A usage contradicts itself: a count is negative, or a part exceeds its whole."""


class PriceError(LlamaTokenTrackerError, ValueError):
    """A price can't be one: negative, not a number, or given for something that is no model."""


class TokenizerError(LlamaTokenTrackerError, ValueError):
    """A tokenizer can't count tokens, or its vocabulary isn't on this machine."""


class LedgerError(LlamaTokenTrackerError, ValueError):
    """A ledger can't be opened, read or changed as asked."""


class LoopbackError(LlamaTokenTrackerError, ValueError):
    """A loopback provider is told to answer, or asked for, what no provider could."""


class CountRefusedError(LlamaTokenTrackerError):
    """A provider that was asked what a prompt costs gave no count."""


class WatchError(LlamaTokenTrackerError, TypeError):
    """A client can't be watched, or is to be watched by something that doesn't count."""


class SinkError(LlamaTokenTrackerError, TypeError):
    """A sink can't take events, as it can't be called."""


class WireFormatError(LlamaTokenTrackerError, ValueError):
    """A table of a provider's wire format can't be read by, or its place is taken."""


class BudgetError(LlamaTokenTrackerError, ValueError):
    """A budget makes no sense, or what is to be reserved or settled is no figure."""


class BudgetExceededError(LlamaTokenTrackerError, ValueError):
    """A call would pass the limit of a budget, and was not sent.

    Attributes:
        budget: The budget.
        over: Which limits it would pass: "tokens", "usd", or both; "unpriced" if money is limited
            and nobody knows the price of the call; "away" if its accounts can't be reached.
        limit: The budget's limits, `limit.tokens` and `limit.usd`; `None` where there is none.
        spent: What was settled in this window, in both units.
        reserved: What other calls under way have reserved.
        asked: What this call may use; in money `None` if its price isn't known.
        account: Whose limit it is: what the budget is `per`, and the value of that.
        until: When the window ends, or `None` if it never does.
    """

    budget: BudgetTerms
    over: tuple[Over, ...]
    limit: Amount
    spent: Amount
    reserved: Amount
    asked: Amount
    account: tuple[str | None, str | None]
    until: datetime | None

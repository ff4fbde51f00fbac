"""`Report`: what can be read of recorded calls, the same of a handler, a tracker and a scope.

Nothing is kept here: every figure comes out of an account's lists and running sums.
"""

from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import partial
from typing import Any, Final, TypeVar

from llama_token_tracker._lock import LOADING, LOCK, make
from llama_token_tracker._log_once import notice, put_off, say_late
from llama_token_tracker._printable import plain, printable
from llama_token_tracker.budgets import Accounts
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.events.frames import Frames, rows_of
from llama_token_tracker.tracking.account import Account
from llama_token_tracker.tracking.row import Row
from llama_token_tracker.tracking.summary import Rows, Snapshot
from llama_token_tracker.tracking.totals import Kind
from llama_token_tracker.usage import Usage
from llama_token_tracker.views import html
from llama_token_tracker.views.card import Card

_T = TypeVar("_T")

_LONGEST_NAME: Final = 80
_PRICING_ROUNDS: Final = 3
"""So often prices are looked up of calls that came while prices were looked up."""


def price(account: Account) -> None:
    """Look up what the calls of an account cost that came since the last time."""
    with LOCK:
        unpriced = account.totals.unpriced
    # Outside the lock: looking the first one up loads all prices, and logs what has none.
    costs = [(one, one[0].cost) for one in unpriced]
    with LOCK, put_off():
        change = make(partial(account.totals.add_costs, costs))
    say_late()
    del change  # without the lock


class Report(Frames):
    """Figures of recorded calls."""

    _account: Account
    """The account that is read."""

    _budgets: tuple[Accounts, ...]
    """Those of its budgets."""

    def _catch_up(self) -> None:
        """Bring the account up to date."""
        raise NotImplementedError

    def _read(self, read: Callable[[Account], _T]) -> _T:
        """Copy figures out of the account, of one moment and with all costs looked up.

        Calls that come too quickly to be priced first are unpriced in what is read.

        Args:
            read: Copies them; it's called with the lock.
        """
        self._catch_up()
        for _ in range(_PRICING_ROUNDS):
            price(self._account)
            with LOCK:
                if not self._account.totals.unpriced:
                    return read(self._account)
        with LOCK:
            return read(self._account)

    # --- events ----------------------------------------------------------------------------

    @property
    def llm_token_counts(self) -> list[TokenCountingEvent]:
        """One event per call to a language model, oldest first; edit it, and totals follow."""
        self._catch_up()
        return self._account.llm.events

    @llm_token_counts.setter
    def llm_token_counts(self, events: Iterable[TokenCountingEvent]) -> None:
        self._account.llm.replace(events)

    @property
    def embedding_token_counts(self) -> list[TokenCountingEvent]:
        """One event per embedded text, oldest first; edit it, and totals follow."""
        self._catch_up()
        return self._account.embedding.events

    @embedding_token_counts.setter
    def embedding_token_counts(self, events: Iterable[TokenCountingEvent]) -> None:
        self._account.embedding.replace(events)

    @property
    def failed_calls(self) -> list[TokenCountingEvent]:
        """The last thousand calls that failed before anything was billed: zero tokens."""
        self._catch_up()
        with LOCK:
            return list(self._account.failed)

    @property
    def uncounted(self) -> dict[str, int]:
        """How many calls to providers were seen and couldn't be counted, by where they went.

        They are in no other figure: while this isn't empty, totals are less than the bill.
        """
        with LOCK:
            return dict(self._account.uncounted)

    @property
    def pending_calls(self) -> int:
        """How many calls were begun whose answers haven't been retrieved, as of a background job.

        They are in no other figure until then, or until `close()`, which records them as
        `unanswered`.
        """
        self._catch_up()
        return self._account.pending_calls

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a call that is still listed, oldest first; what failed for nothing included."""
        self._catch_up()
        with LOCK:
            lists = (self._account.llm.events, self._account.embedding.events, self._account.failed)
            # By identity, as a failed call may be in two of them.
            events = {id(event): event for one in lists for event in one}
        # Outside the lock: looking up a price takes time.
        return rows_of(events.values())

    # --- tokens ----------------------------------------------------------------------------

    @property
    def total_llm_token_count(self) -> int:
        """Tokens of all LLM calls, in and out."""
        self._catch_up()
        with LOCK:
            return self._account.llm.pair.total

    @property
    def prompt_llm_token_count(self) -> int:
        """Tokens that went into LLM calls, cache reads and writes included."""
        self._catch_up()
        return self._account.llm.pair.prompt

    @property
    def completion_llm_token_count(self) -> int:
        """Tokens that came out of LLM calls, reasoning included."""
        self._catch_up()
        return self._account.llm.pair.completion

    @property
    def total_embedding_token_count(self) -> int:
        """Tokens of all embedded texts."""
        self._catch_up()
        return self._account.embedding.pair.total

    @property
    def usage(self) -> Usage:
        """All tokens by bucket, embeddings included."""
        self._catch_up()
        with LOCK:
            return self._account.totals.all().usage

    def totals(self) -> dict[Kind, Row]:
        """Rows by operation, provider, model, source and status at once.

        Their costs are as far as somebody has asked for costs before.
        """
        self._catch_up()
        with LOCK:
            return self._account.totals.kinds()

    # --- money -----------------------------------------------------------------------------

    def _priced(self) -> Row:
        return self._read(lambda account: account.totals.all())

    @property
    def total_cost_usd(self) -> Decimal | None:
        """What all calls cost in US dollars; `None` if that is known of none of them.

        A sum leaves out `unpriced_calls`, whose price is unknown.
        """
        return self._priced().cost_usd

    @property
    def unpriced_calls(self) -> int:
        """How many calls `total_cost_usd` leaves out, because their price is unknown."""
        return self._priced().unpriced_calls

    @property
    def unpriced_tokens(self) -> int:
        """How many tokens those used."""
        return self._priced().unpriced_tokens

    @property
    def estimated_cost_usd(self) -> Decimal:
        """The part of `total_cost_usd` that isn't surely what was billed.

        It stands for calls whose tokens weren't all reported or priced, or that were abandoned
        or failed.
        """
        return self._priced().estimated_usd

    @property
    def cache_savings_usd(self) -> Decimal:
        """What tokens that were read from a cache would have cost more without it."""
        return self._priced().cache_savings_usd

    @property
    def unread_cache_write_usd(self) -> Decimal:
        """What those writes to a cache cost, at the least, that nobody has read so far.

        Providers don't say which write a read goes back to. But a model that has read fewer
        tokens than it has written can't have read the rest.
        """
        models = self._read(lambda account: account.totals.by("model"))
        return sum((_unread(row) for row in models.values()), start=Decimal(0))

    @property
    def accounts(self) -> tuple[Accounts, ...]:
        """Its budgets' accounts, which say what was spent: `accounts[0].spent()`."""
        self._catch_up()
        return self._budgets

    # --- tables ----------------------------------------------------------------------------

    def by(self, name: str) -> Rows:
        """Calls, tokens and cost, split by what calls have in common.

        Args:
            name: `"model"`, `"provider"`, `"operation"`, `"source"`, `"status"`, `"scope"`, or
                the name of any tag. A tag that bears one of these names isn't reached.

        Returns:
            Rows by value, those with the most tokens first; `None` holds the calls without
            any, `"(other)"` those of all values beyond the first thousand. The rows add up
            to the totals. A scope's own row leaves out the scopes within it.
        """
        rows, known = self._read(lambda account: (account.totals.by(name), account.totals.names))
        if rows and name not in known:
            consequence = f"all are under None; known are {', '.join(map(printable, known))}"
            notice("by() was asked for what no call has: {}", name, consequence, printable(name))
        return Rows(name, sorted(rows.items(), key=lambda item: -item[1].total_tokens))

    # --- to look at ------------------------------------------------------------------------

    @property
    def _title(self) -> str:
        """Whose calls these are."""
        return type(self).__name__

    def _card(self) -> Card:
        return self._read(Snapshot.of).card(self._title, self._budgets)

    def summary(self) -> str:
        """The most important figures as text of at most 80 columns; `print(...)` shows it too."""
        # Late: rich takes longer to load than all the rest, and not everybody prints.
        with LOADING:
            from llama_token_tracker.views import text

        return text.safely(lambda: text.card(self._card()), self._title)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        with LOADING:
            from llama_token_tracker.views import text

        name = plain(type(self).__name__, _LONGEST_NAME)
        return text.safely(lambda: f"<{name}: {text.short(self._card())}>", name)

    def _repr_html_(self) -> str:
        """The same figures as HTML, for a notebook."""
        return html.safely(lambda: html.card(self._card()), self._title)


def _unread(row: Row) -> Decimal:
    written = row.counts.get("cache_write_tokens", 0)
    unread = written - row.counts.get("cache_read_tokens", 0)
    return row.cache_write_usd * unread / written if unread > 0 else Decimal(0)

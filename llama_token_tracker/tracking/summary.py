"""Figures of one moment as views show them: `Snapshot` as a card, `Rows` as a table."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, Self

from llama_token_tracker._lock import LOADING
from llama_token_tracker._log_once import notice
from llama_token_tracker._printable import plain
from llama_token_tracker.budgets import Accounts, Budget, Spent
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.tracking.account import Account, Entries
from llama_token_tracker.tracking.row import Row
from llama_token_tracker.views import html
from llama_token_tracker.views.card import (
    LABEL_LENGTH,
    RECENT,
    TITLE_LENGTH,
    TOP,
    Call,
    Card,
    Line,
    Standing,
    label_of,
    notes_of,
    parts_of,
)
from llama_token_tracker.views.figures import dollars, plural

_MOST_ROWS: Final = 40
"""So many rows of a table are shown; the rest share one."""

_TOP_ACCOUNTS: Final = 4
"""So many accounts of a budget have lines of their own: those that have used up most."""

ADDED_BY_HAND: Final = "(added by hand)"
"""What events of LlamaIndex's own class are filed under, which name neither model nor source."""


class Snapshot(NamedTuple):
    """Copies of an account's rows and of its last events.

    Attributes:
        llm: All calls to language models, those added by hand included.
        embedding: All embeddings, the same.
        by_hand: Those of both that were added by hand.
        models: Rows by model.
        scopes: Rows by scope.
        events: The last events of each list, newest first.
        uncounted: Calls that were seen and couldn't be counted, by where they went.
        pending: How many calls wait for their answers to be retrieved.
    """

    llm: Row
    embedding: Row
    by_hand: Row
    models: dict[str | None, Row]
    scopes: dict[str | None, Row]
    events: list[TokenCountingEvent]
    uncounted: dict[str, int]
    pending: int

    @classmethod
    def of(cls, account: Account) -> Self:
        """Copy an account's figures; the caller holds the lock."""
        operations = account.totals.by("operation")
        embedding = operations.pop("embedding", Row())
        llm = Row.of(operations.values())
        by_hand = [_added_by_hand(account.llm, llm), _added_by_hand(account.embedding, embedding)]
        lists = [account.llm.newest(RECENT), account.embedding.newest(RECENT)]
        if not account.include_failed:
            lists.append(list(account.failed)[-RECENT:])
        return cls(
            llm=Row.of([llm, by_hand[0]]),
            embedding=Row.of([embedding, by_hand[1]]),
            by_hand=Row.of(by_hand),
            models=account.totals.by("model"),
            scopes=account.totals.by("scope"),
            events=[event for events in lists for event in reversed(events)],
            uncounted=dict(account.uncounted),
            pending=account.pending_calls,
        )

    def card(self, title: str, budgets: Iterable[Accounts] = ()) -> Card:
        """Put the figures together. No lock is needed; foreign objects may be read here.

        Args:
            title: Whose calls these are.
            budgets: What limits them.
        """
        total = Row.of([self.llm, self.embedding])
        by_hand: dict[str | None, Row] = {ADDED_BY_HAND: self.by_hand} if self.by_hand.calls else {}
        calls, earlier = self._recent(total)
        llm = Line("LLM calls", self.llm)
        return Card(
            title=plain(title, TITLE_LENGTH),
            total=Line("All", total),
            llm=llm,
            parts=parts_of(self.llm.usage, llm.input, llm.output),
            embedding=Line("Embeddings", self.embedding) if self.embedding.calls else None,
            cache_savings_usd=total.cache_savings_usd,
            models=_top({**self.models, **by_hand}, "unknown model"),
            scopes=_top({**self.scopes, **by_hand}, "outside of any scope")
            if self.scopes.keys() - {None}
            else (),
            recent=tuple(calls),
            budgets=tuple(line for accounts in budgets for line in _standings(accounts)),
            uncounted=sum(self.uncounted.values()),
            pending=self.pending,
            earlier=Line(plural(earlier.calls, "earlier call"), earlier) if earlier.calls else None,
        )

    def _recent(self, total: Row) -> tuple[list[Call], Row]:
        """The last calls, newest first, and the row of all others, so that they add up."""
        calls: list[Call] = []
        rest = Row.of([total])
        known = [event for event in self.events if isinstance(event, TokenCountingEvent)]  # pyright: ignore[reportUnnecessaryIsInstance]
        for event in sorted(known, key=_start, reverse=True)[:RECENT]:
            try:
                call, used = Call.of(event), _row_of(event)
            except Exception as error:  # noqa: BLE001 - somebody has edited it into nonsense
                notice("an event could not be shown", error, "it has no line on the card")
                continue
            calls.append(call)
            rest.merge(used, -1)
        return calls, rest


class Rows(dict[str | None, Row]):
    """Rows by what their calls have in common: a dict that prints, and shows, as a table.

    Attributes:
        name: What they're split by.
    """

    def __init__(self, name: str = "", rows: Iterable[tuple[str | None, Row]] = ()) -> None:
        super().__init__(rows)
        self.name = name

    def _lines(self) -> tuple[tuple[Line, ...], tuple[tuple[str, str], ...]]:
        """The table's lines, and the legend of their marks."""
        lines = _top(self, f"no {plain(self.name, LABEL_LENGTH)}", _MOST_ROWS)
        return lines, notes_of(lines)

    def __repr__(self) -> str:
        # Late: see `Report.summary`.
        with LOADING:
            from llama_token_tracker.views import text

        name = plain(self.name, LABEL_LENGTH)
        return text.safely(lambda: text.rows(name, *self._lines()), f"by {name}")

    def _repr_html_(self) -> str:
        """The same as HTML, for a notebook."""
        name = plain(self.name, LABEL_LENGTH)
        return html.safely(lambda: html.rows(name, *self._lines()), f"by {name}")


def _added_by_hand(entries: Entries, known: Row) -> Row:
    """The row of a list's events of LlamaIndex's own class, whose buckets are unknown.

    Args:
        entries: The list and its sums.
        known: The row of all other events that were ever in it.
    """
    row = Row()
    prompt = entries.pair.prompt - known.counts.get("input_tokens", 0)
    completion = entries.pair.completion - known.counts.get("output_tokens", 0)
    if prompt or completion:
        row.calls = sum(
            not isinstance(event, TokenCountingEvent)  # pyright: ignore[reportUnnecessaryIsInstance]
            for event in entries.listed()
        )
        row.counts = {"input_tokens": prompt, "output_tokens": completion}
        row.unreported = {"estimated": dict(row.counts)}
        row.unpriced_calls, row.unpriced_tokens = row.calls, prompt + completion
    return row


def _row_of(event: TokenCountingEvent) -> Row:
    """The row of one call, as it's in the totals."""
    row = Row()
    row.add(event)
    cost = event.cost
    if cost is not None and not event.is_free:
        row.add_cost(event, cost, event.total_token_count)
    return row


def _top(rows: Mapping[str | None, Row], missing: str, most: int = TOP) -> tuple[Line, ...]:
    """Lines of the rows with the most tokens, and one of all others together.

    Args:
        rows: Rows by value.
        missing: What calls without any value are called.
        most: So many rows have lines of their own.
    """
    ranked = sorted(rows.items(), key=lambda item: -item[1].total_tokens)
    # One more has a line of its own rather than one that says "and 1 more".
    shown = most if len(ranked) > most + 1 else len(ranked)
    lines = [Line(label_of(value, missing), row) for value, row in ranked[:shown]]
    rest = [row for _, row in ranked[shown:]]
    if rest:
        lines.append(Line(f"and {len(rest):,} more", Row.of(rest)))
    return tuple(lines)


def _standings(accounts: Accounts) -> Iterator[Standing]:
    """Lines of the accounts of a budget that have used up most of it."""
    budget = accounts.budget
    fullest, count = accounts.fullest(_TOP_ACCOUNTS)
    if budget.per is None:
        fullest = fullest or [(None, accounts.spent())]
    elif not fullest:
        yield Standing(f"each {plain(budget.per, LABEL_LENGTH)}", *_NOTHING, _limits(budget), "")
    for key, spent in fullest:
        yield from _standing(_account_label(budget, key), budget, spent)
    if count > len(fullest):
        rest = plural(count - len(fullest), "more account")
        yield Standing(f"and {rest}", *_NOTHING, _limits(budget), "")


_NOTHING: Final = ("", "")


def _account_label(budget: Budget, key: str | None) -> str:
    if budget.per is None:
        return "all calls"
    name = plain(budget.per, LABEL_LENGTH)
    return f"calls without {name}" if key is None else f"{name} {plain(key, LABEL_LENGTH)}"


def _limits(budget: Budget) -> str:
    usd = "" if budget.usd is None else dollars(budget.usd)
    return ", ".join(filter(None, (usd, "" if budget.tokens is None else _tokens(budget.tokens))))


def _standing(label: str, budget: Budget, spent: Spent) -> Iterator[Standing]:
    """A line for each of a budget's limits."""
    until = "" if spent.until is None else f"until {spent.until:%Y-%m-%d %H:%M} UTC"
    if (usd := budget.usd) is not None:
        left = usd - spent.usd - spent.reserved_usd
        figures = dollars(spent.usd), dollars(spent.reserved_usd), dollars(usd), dollars(left)
        yield Standing(label, *figures, until, left <= 0)
    if (limit := budget.tokens) is not None:
        rest = limit - spent.tokens - spent.reserved_tokens
        counts = (
            _tokens(spent.tokens),
            _tokens(spent.reserved_tokens),
            _tokens(limit),
            _tokens(rest),
        )
        yield Standing(label, *counts, until, rest <= 0)


def _tokens(count: int) -> str:
    return plural(count, "token")


def _start(event: TokenCountingEvent) -> float:
    return event.started_s if isinstance(event.started_s, int | float) else 0

"""`Snapshot`: an account's figures of one moment, put together as the card that views show."""

from collections.abc import Mapping
from typing import Final, NamedTuple, Self

from llama_token_tracker._log_once import notice
from llama_token_tracker._printable import plain
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.tracking.account import Account, Entries
from llama_token_tracker.tracking.row import Row
from llama_token_tracker.views.card import (
    RECENT,
    TITLE_LENGTH,
    TOP,
    Call,
    Card,
    Line,
    label_of,
    parts_of,
)
from llama_token_tracker.views.figures import plural

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

    def card(self, title: str) -> Card:
        """Put the figures together. No lock is needed; foreign objects may be read here.

        Args:
            title: Whose calls these are.
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


def _top(rows: Mapping[str | None, Row], missing: str) -> tuple[Line, ...]:
    """Lines of the rows with the most tokens, and one of all others together.

    Args:
        rows: Rows by value.
        missing: What calls without any value are called.
    """
    ranked = sorted(rows.items(), key=lambda item: -item[1].total_tokens)
    # One more has a line of its own rather than one that says "and 1 more".
    shown = TOP if len(ranked) > TOP + 1 else len(ranked)
    lines = [Line(label_of(value, missing), row) for value, row in ranked[:shown]]
    rest = [row for _, row in ranked[shown:]]
    if rest:
        lines.append(Line(f"and {len(rest):,} more", Row.of(rest)))
    return tuple(lines)


def _start(event: TokenCountingEvent) -> float:
    return event.started_s if isinstance(event.started_s, int | float) else 0

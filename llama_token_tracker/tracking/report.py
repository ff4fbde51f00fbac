"""What can be read of recorded calls: the same of a handler, of a tracker and of a scope.

Nothing is kept here; every figure comes out of a book.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker.budgets import Accounts
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.tracking.account import Book, Series
from llama_token_tracker.tracking.totals import CostSum, Kind, Sum, merged
from llama_token_tracker.usage import Usage
from llama_token_tracker.views import html
from llama_token_tracker.views.card import RECENT, TOP, Call, Card, Line, lines_of, parts_of
from llama_token_tracker.views.figures import many, tokens

ADDED_BY_HAND: Final = "(added by hand)"
"""What events of LlamaIndex's own class are filed under, which say neither model nor source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What calls used that have something in common: one row of a table.

    Attributes:
        calls: How many there were.
        usage: Their tokens by bucket, embeddings included.
        counted: The part of input and output that was counted, not reported.
        estimated: The part of them that was estimated.
        cost_usd: What they cost in US dollars, as far as that is known; `None` if it's known
            of none of them.
        estimated_usd: The part of it that isn't surely what was billed.
        unpriced_calls: How many calls `cost_usd` leaves out, because their price is unknown.
        unpriced_tokens: How many tokens those used.
        cache_savings_usd: What tokens that were read from a cache would have cost more
            without it.
    """

    calls: int
    usage: Usage
    counted: Usage
    estimated: Usage
    cost_usd: Decimal | None
    estimated_usd: Decimal
    unpriced_calls: int
    unpriced_tokens: int
    cache_savings_usd: Decimal

    @property
    def total_tokens(self) -> int:
        """Input plus output tokens."""
        return self.usage.total_tokens

    @classmethod
    def of(cls, total: Sum) -> "Row":
        """Make one of a running sum."""
        return cls(
            calls=total.calls,
            usage=total.usage,
            counted=total.part("counted"),
            estimated=total.part("estimated"),
            cost_usd=_known(total.cost, total.usage),
            estimated_usd=total.cost.estimated_usd,
            unpriced_calls=total.cost.unpriced_calls,
            unpriced_tokens=total.cost.unpriced_tokens,
            cache_savings_usd=total.cost.cache_savings_usd,
        )


def _known(cost: CostSum, usage: Usage) -> Decimal | None:
    """The sum, or `None` if every token in it is without a price."""
    return None if cost.unpriced_tokens and cost.unpriced_tokens == usage.total_tokens else cost.usd


def price(book: Book) -> None:
    """Look up what the calls of a book cost that came since the last time."""
    with LOCK:
        waiting = book.totals.unpriced
    # Outside the lock: looking the first one up loads all prices.
    for event in waiting:
        _ = event.cost
    with LOCK:
        book.totals.price()


class Readings:
    """Figures of recorded calls."""

    _book: Book
    """The account that is read."""

    _accounts: tuple[Accounts, ...]
    """Those of its budgets."""

    def _catch_up(self) -> None:
        """Bring the account up to date."""
        raise NotImplementedError

    def _sum_up(self) -> None:
        """Bring at least its sums of LLM calls and embeddings up to date."""
        self._catch_up()

    # --- events ----------------------------------------------------------------------------

    @property
    def llm_token_counts(self) -> list[TokenCountingEvent]:
        """One event per call to a language model, oldest first; edit it, and totals follow."""
        self._catch_up()
        return self._book.llm.events

    @llm_token_counts.setter
    def llm_token_counts(self, events: Iterable[TokenCountingEvent]) -> None:
        self._book.llm.replace(events)

    @property
    def embedding_token_counts(self) -> list[TokenCountingEvent]:
        """One event per embedded text, oldest first; edit it, and totals follow."""
        self._catch_up()
        return self._book.embedding.events

    @embedding_token_counts.setter
    def embedding_token_counts(self, events: Iterable[TokenCountingEvent]) -> None:
        self._book.embedding.replace(events)

    @property
    def failed_calls(self) -> list[TokenCountingEvent]:
        """The last thousand calls that failed before anything was billed: zero tokens."""
        self._catch_up()
        with LOCK:
            return list(self._book.failed)

    # --- tokens ----------------------------------------------------------------------------

    @property
    def total_llm_token_count(self) -> int:
        """Tokens of all LLM calls, in and out."""
        self._sum_up()
        with LOCK:
            return self._book.llm.pair.total

    @property
    def prompt_llm_token_count(self) -> int:
        """Tokens that went into LLM calls, cache reads and writes included."""
        self._sum_up()
        return self._book.llm.pair.prompt

    @property
    def completion_llm_token_count(self) -> int:
        """Tokens that came out of LLM calls, reasoning included."""
        self._sum_up()
        return self._book.llm.pair.completion

    @property
    def total_embedding_token_count(self) -> int:
        """Tokens of all embedded texts."""
        self._sum_up()
        return self._book.embedding.pair.total

    @property
    def usage(self) -> Usage:
        """All tokens by bucket, embeddings included."""
        return self._sum().usage

    def totals(self) -> dict[Kind, Sum]:
        """A copy of the running sums, by operation, provider, model, source and status."""
        self._catch_up()
        with LOCK:
            return self._book.totals.kinds()

    def _sum(self) -> Sum:
        self._catch_up()
        with LOCK:
            return self._book.totals.all()

    # --- money -----------------------------------------------------------------------------

    def _priced(self) -> Row:
        self._catch_up()
        price(self._book)
        return Row.of(self._sum())

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
        self._catch_up()
        price(self._book)
        with LOCK:
            split = self._book.totals.by("model")
        return sum((_unread(total) for total in split.values()), start=Decimal(0))

    @property
    def accounts(self) -> tuple[Accounts, ...]:
        """Its budgets' accounts, which say how they stand: `accounts[0].spent()`."""
        self._catch_up()
        return self._accounts

    # --- tables ----------------------------------------------------------------------------

    def by(self, name: str) -> dict[str | None, Row]:
        """Calls, tokens and cost, split by what calls have in common.

        Args:
            name: `"model"`, `"provider"`, `"operation"`, `"source"`, `"status"`, `"scope"`, or
                the name of any tag. A tag that bears one of these names isn't reached.

        Returns:
            Rows by value, those with the most tokens first; `None` holds the calls without
            any, `"(other)"` those of all values beyond the first thousand. The rows add up
            to the totals. A scope's own row leaves out the scopes within it.
        """
        self._catch_up()
        price(self._book)
        with LOCK:
            split = self._book.totals.by(name)
        rows = {value: Row.of(total) for value, total in split.items()}
        return dict(sorted(rows.items(), key=lambda item: -item[1].total_tokens))

    # --- to look at ------------------------------------------------------------------------

    @property
    def _title(self) -> str:
        """Whose calls these are."""
        return type(self).__name__

    def _card(self) -> Card:
        """What all views show, as it stands at one moment."""
        self._catch_up()
        price(self._book)
        with LOCK:
            # What has come since then: all figures are to be of one moment.
            self._book.totals.price()
            return _card_of(self._book, self._title)

    def summary(self) -> str:
        """All that counts, as a table of at most 80 columns; `print(...)` shows the same."""
        # Late: rich takes longer to load than all the rest, and not everybody prints.
        from llama_token_tracker.views import text

        return text.drawn(lambda: text.card(self._card()), self._title)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        from llama_token_tracker.views import text

        name = type(self).__name__
        return text.drawn(lambda: f"<{name}: {_in_short(self._card())}>", name)

    def _repr_html_(self) -> str:
        """What a notebook shows where this is a cell's last line."""
        return html.drawn(lambda: html.card(self._card()), self._title)


def _in_short(card: Card) -> str:
    total = card.total
    return f"{many(total.calls, 'call')}, {tokens(*total.total)} tokens"


def _card_of(book: Book, title: str) -> Card:
    """Put the figures of a book together; the caller holds the lock."""
    by_operation = book.totals.by("operation")
    embedding = by_operation.pop("embedding", None)
    spoken = merged(by_operation.values())
    by_hand = [_by_hand(book.llm, spoken), _by_hand(book.embedding, embedding or Sum())]
    llm, embedded = merged([spoken, by_hand[0]]), merged([embedding or Sum(), by_hand[1]])
    total = merged([llm, embedded])
    models, scopes = book.totals.by("model"), book.totals.by("scope")
    for sums in (models, scopes):
        if any(one.calls for one in by_hand):
            sums[ADDED_BY_HAND] = merged(by_hand)
    named = scopes.keys() - {None, ADDED_BY_HAND}
    recent, rest = _recent(book, total)
    llm_line = Line.of("LLM calls", Row.of(llm))
    return Card(
        title=title,
        total=Line.of("All", Row.of(total)),
        llm=llm_line,
        parts=parts_of(llm.usage, llm_line.input, llm_line.output),
        embedding=Line.of("Embeddings", Row.of(embedded)) if embedded.calls else None,
        cache_savings_usd=total.cost.cache_savings_usd,
        models=_top(models, "unknown model"),
        scopes=_top(scopes, "outside of any scope") if named else (),
        recent=tuple(recent),
        earlier=Line.of(many(rest.calls, "earlier call"), Row.of(rest)) if rest.calls else None,
    )


def _by_hand(series: Series, known: Sum) -> Sum:
    """What a list was given in events of LlamaIndex's own class, whose buckets are unknown."""
    prompt = series.pair.prompt - known.counts.get("input_tokens", 0)
    completion = series.pair.completion - known.counts.get("output_tokens", 0)
    if not prompt and not completion:
        return Sum()
    calls = sum(not isinstance(event, TokenCountingEvent) for event in series.events.held())  # pyright: ignore[reportUnnecessaryIsInstance]
    counts = {"input_tokens": prompt, "output_tokens": completion}
    return Sum(
        calls=calls,
        counts=counts,
        unreported={"estimated": dict(counts)},
        cost=CostSum(unpriced_calls=calls, unpriced_tokens=prompt + completion),
    )


def _top(sums: Mapping[str | None, Sum], missing: str) -> tuple[Line, ...]:
    """Lines of those with the most tokens, and of all others together."""
    split = sorted(sums.items(), key=lambda item: -item[1].usage.total_tokens)
    # One more has a line of its own rather than one that says "and 1 more".
    shown = TOP if len(split) > TOP + 1 else len(split)
    rest = [total for _, total in split[shown:]]
    return lines_of(
        {value: Row.of(total) for value, total in split[:shown]},
        Row.of(merged(rest)) if rest else None,
        len(rest),
        missing,
    )


def _newest(book: Book) -> list[TokenCountingEvent]:
    """The last calls, newest first."""
    lists = (book.llm.events.newest(RECENT), book.embedding.events.newest(RECENT))
    newest = [event for events in lists for event in reversed(events)]
    if not book.include_failed:
        newest.extend(list(book.failed)[: -RECENT - 1 : -1])
    newest = [event for event in newest if isinstance(event, TokenCountingEvent)]  # pyright: ignore[reportUnnecessaryIsInstance]
    return sorted(newest, key=_start, reverse=True)[:RECENT]


def _start(event: TokenCountingEvent) -> float:
    return event.started_s if isinstance(event.started_s, int | float) else 0


def _recent(book: Book, total: Sum) -> tuple[list[Call], Sum]:
    """The last calls, newest first, and all others, so that they add up."""
    calls: list[Call] = []
    rest = merged([total])
    for event in _newest(book):
        try:
            call, used = Call.of(event), _alone(event)
        except Exception as error:  # noqa: BLE001 - somebody has edited it into nonsense
            notice("an event could not be shown", error, "it has no line on the card")
            continue
        calls.append(call)
        rest.merge(used, -1)
    return calls, rest


def _alone(event: TokenCountingEvent) -> Sum:
    """What one call used, as the totals take it."""
    used = Sum()
    used.add(event, 1)
    if event.total_token_count:
        used.cost.add(event, 1)
    return used


def _unread(total: Sum) -> Decimal:
    written = total.counts.get("cache_write_tokens", 0)
    unread = written - total.counts.get("cache_read_tokens", 0)
    return total.cost.cache_write_usd * unread / written if unread > 0 else Decimal(0)

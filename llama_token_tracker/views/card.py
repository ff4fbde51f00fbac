"""The content of cards, without their layout: the summary of many calls, and that of one call.

Every figure that a view shows is here, added up; the views only render them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Final, NamedTuple, Self

from llama_token_tracker._printable import exact, is_text, plain
from llama_token_tracker.usage import Source, Usage, weaker
from llama_token_tracker.views.figures import MARKS, dollars, plural, seconds, tokens
from llama_token_tracker.views.protocols import Event, Row

TOP: Final = 8
"""So many models and scopes have lines of their own; the rest share one."""

RECENT: Final = 8
"""So many of the last calls are shown."""

TITLE_LENGTH: Final = 80
LABEL_LENGTH: Final = 60
EXCERPT_LENGTH: Final = 100
TEXT_LENGTH: Final = 600
_MOST_TAGS: Final = 12
_MOST_TAGS_IN_A_LINE: Final = 3

_USER: Final = "\nuser: "
_OTHERS: Final = ("\nassistant: ", "\ntool: ", "\nsystem: ", "\nfunction: ")
"""How messages begin in an event's prompt."""

PLUS_UNKNOWN: Final = "+?"
"""The mark behind an amount that leaves out calls of unknown price."""

_PARTLY_KNOWN: Final = (PLUS_UNKNOWN, "and what calls cost whose price isn't known")

NOT_COUNTED: Final = "!"
"""The mark before how many calls are in no figure."""

MARK_MEANINGS: Final = {
    "counted": "counted here with the model's own tokenizer, or yours; not reported",
    "estimated": "estimated here: a stand-in tokenizer counted all or part of it",
}
"""The legend below a card that bears one of the marks."""

COMPLETE: Final = "complete"
"""The usual status."""

ENDING_MEANINGS: Final = {
    "abandoned": "the reader left early; the prompt and what came through count",
    "failed": "an error ended the call; what came through before it counts",
    "unanswered": "no answer was seen; the prompt counts, as it may have been billed",
}
"""The legend for each status but the usual one."""


class Figure(NamedTuple):
    """A number of tokens.

    Attributes:
        tokens: How many; `None` if that wasn't reported.
        source: Where it comes from; of a sum, the weakest of its sources.
    """

    tokens: int | None
    source: Source = "reported"


class Money(NamedTuple):
    """What something cost.

    Attributes:
        usd: US dollars, as far as they're known; `None` if nothing is known.
        estimated_usd: The part that isn't surely what was billed.
        unpriced_calls: How many calls are left out, because their price is unknown.
        unpriced_tokens: How many tokens those used.
    """

    usd: Decimal | None
    estimated_usd: Decimal
    unpriced_calls: int
    unpriced_tokens: int

    @property
    def is_partly_known(self) -> bool:
        """Whether there is an amount, and something is missing from it."""
        return self.usd is not None and self.unpriced_calls > 0

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is left out of the amount, and what part of it is estimated."""
        doubts: list[str] = []
        if self.unpriced_calls:
            calls = plural(self.unpriced_calls, "call")
            doubts.append(f"no price known for {calls} ({plural(self.unpriced_tokens, 'token')})")
        if self.estimated_usd:
            doubts.append(f"{dollars(self.estimated_usd)} of it estimated")
        return tuple(doubts)


class Line(NamedTuple):
    """A row of a table, with its label, and its figures as they're shown."""

    label: str
    row: Row

    @property
    def input(self) -> Figure:
        """What went in."""
        counted, estimated = self.row.counted.input_tokens, self.row.estimated.input_tokens
        return Figure(self.row.usage.input_tokens or 0, _weakest_of(counted, estimated))

    @property
    def output(self) -> Figure:
        """What came out."""
        counted, estimated = self.row.counted.output_tokens, self.row.estimated.output_tokens
        return Figure(self.row.usage.output_tokens or 0, _weakest_of(counted, estimated))

    @property
    def total(self) -> Figure:
        """Both."""
        return Figure(self.row.total_tokens, weaker(self.input.source, self.output.source))

    @property
    def money(self) -> Money:
        """What it cost."""
        row = self.row
        return Money(row.cost_usd, row.estimated_usd, row.unpriced_calls, row.unpriced_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of what language models used; all parts together are all of it.

    Attributes:
        name: What it's called.
        is_input: Whether it went in.
        figure: How many tokens.
        share: Of all tokens, from 0 to 1.
    """

    name: str
    is_input: bool
    figure: Figure
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call in a list of calls.

    Attributes:
        model: The model's id.
        operation: What was asked for.
        said: The last user message, or all that was sent; of a long one its beginning and its
            end, for there stands a question behind its context. Empty if it wasn't kept.
        prompt: The beginning of all that was sent, if that's more.
        started_at: When it started.
        whose: Its scope, and the first of its tags.
        took: How long it took; empty if that isn't known.
        input: What went in.
        output: What came out.
        total: Both.
        source: Where the figures come from: the weaker of the two sources.
        status: How it ended.
        money: What it cost.
    """

    model: str
    operation: str
    said: str
    prompt: str
    started_at: datetime | None
    whose: tuple[str, ...]
    took: str
    input: Figure
    output: Figure
    total: Figure
    source: str
    status: str
    money: Money

    @classmethod
    def of(cls, event: Event) -> Self:
        """Make one of an event."""
        tokens, cost = event.total_token_count, event.cost
        is_sure = (
            cost is not None
            and cost.is_whole
            and event.source == "reported"
            and event.status == "complete"
        )
        usd = Decimal(0) if event.is_free else None if cost is None else cost.usd
        is_unpriced = usd is None
        return cls(
            model=label_of(event.model, "unknown model"),
            operation=plain(event.operation, LABEL_LENGTH),
            said=_excerpt(_last_message(event.prompt), EXCERPT_LENGTH),
            prompt=_more_than(EXCERPT_LENGTH, event.prompt),
            started_at=_moment(event),
            whose=tuple(_whose(event)),
            took="" if event.duration_s is None else seconds(event.duration_s),
            input=Figure(event.prompt_token_count, event.prompt_source),
            output=Figure(event.completion_token_count, event.completion_source),
            total=Figure(tokens, event.source),
            source=event.source,
            status=plain(event.status, LABEL_LENGTH),
            money=Money(
                usd,
                Decimal(0) if usd is None or is_sure else usd,
                int(is_unpriced),
                tokens if is_unpriced else 0,
            ),
        )

    @property
    def origin(self) -> tuple[str, ...]:
        """When it started, how long it took, and whose it is."""
        moment = "" if self.started_at is None else f"{self.started_at:%Y-%m-%d %H:%M:%S} UTC"
        return tuple(word for word in (moment, self.took, *self.whose) if word)

    def __str__(self) -> str:
        """The call in one line."""
        pieces = (
            f"{tokens(*self.input)} in, {tokens(*self.output)} out",
            f"cost {dollars(self.money.usd)}",
            self.source,
            self.status,
            *self.origin,
        )
        return f"{self.model}: {', '.join(pieces)}" + (f": {self.said}" if self.said else "")


class Standing(NamedTuple):
    """What one of a budget's accounts has spent of a limit.

    Attributes:
        label: Whose account it is.
        spent: Tokens or US dollars, as they're shown; so are the others.
        reserved: What calls under way have reserved.
        limit: How much may be spent.
        left: How much that leaves.
        until: When the window ends; empty if never.
        is_over: Whether nothing is left.
    """

    label: str
    spent: str
    reserved: str
    limit: str
    left: str
    until: str = ""
    is_over: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """All that views show of a handler, a tracker or a scope.

    Attributes:
        title: Whose calls these are.
        total: All of them.
        llm: Those to language models.
        parts: What those used, split.
        embedding: Embeddings, if there were any.
        cache_savings_usd: What reading from caches has saved.
        models: By model, the most tokens first, and a line for those that don't fit.
        scopes: By scope, the same; empty if there were none.
        recent: The last calls, newest first.
        earlier: All others, if there are any.
        budgets: How its budgets stand.
        uncounted: How many calls were seen and couldn't be counted.
        pending: How many calls were begun whose answers haven't been retrieved.
    """

    title: str
    total: Line
    llm: Line
    parts: tuple[Part, ...]
    embedding: Line | None
    cache_savings_usd: Decimal
    models: tuple[Line, ...]
    scopes: tuple[Line, ...]
    recent: tuple[Call, ...]
    earlier: Line | None
    budgets: tuple[Standing, ...] = ()
    uncounted: int = 0
    pending: int = 0

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """Each mark and each unusual status that is shown, with its meaning."""
        shown = notes(
            {self.total.input.source, self.total.output.source, self.total.total.source}
            | {call.source for call in self.recent},
            {call.status for call in self.recent},
        )
        if self.uncounted:
            calls = plural(self.uncounted, "call")
            shown = (*shown, (NOT_COUNTED, f"{calls} could not be counted: see `uncounted`"))
        if self.pending:
            calls = plural(self.pending, "call")
            shown = (*shown, (NOT_COUNTED, f"{calls} not retrieved yet: see `pending_calls`"))
        return (*shown, _PARTLY_KNOWN) if self.total.money.is_partly_known else shown


@dataclass(frozen=True, slots=True, kw_only=True)
class EventCard:
    """All that views show of one call.

    Attributes:
        call: Its figures.
        parts: What it used, split.
        about: What else is known of it: names and values.
        prompt: The beginning of what was sent.
        completion: The beginning of what came back.
        ending: Of a long completion its beginning and its end; else empty.
    """

    call: Call
    parts: tuple[Part, ...]
    about: tuple[tuple[str, str], ...]
    prompt: str
    completion: str
    ending: str

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """Each mark and each unusual status that is shown, with its meaning."""
        call = self.call
        return notes({call.input.source, call.output.source, call.source}, {call.status})

    @classmethod
    def of(cls, event: Event) -> Self:
        """Make one of an event."""
        call = Call.of(event)
        return cls(
            call=call,
            parts=parts_of(event.usage, call.input, call.output),
            about=tuple(_about(event)),
            prompt=plain(event.prompt, TEXT_LENGTH),
            completion=plain(event.completion, TEXT_LENGTH),
            ending=_excerpt(event.completion, EXCERPT_LENGTH)
            if _more_than(EXCERPT_LENGTH, event.completion)
            else "",
        )


def amount(money: Money) -> str:
    """Dollars, with a sign behind them if some are missing."""
    return dollars(money.usd) + (PLUS_UNKNOWN if money.is_partly_known else "")


def label_of(value: object, missing: str) -> str:
    """The label of a line: a value's own text, or, where there is none, what is missing."""
    return f"({missing})" if value is None else plain(value, LABEL_LENGTH) or "(empty)"


def parts_of(usage: Usage, went_in: Figure, came_out: Figure) -> tuple[Part, ...]:
    """Split what language models used into parts that don't overlap.

    Args:
        usage: The tokens by bucket.
        went_in: All that went in, cached tokens included.
        came_out: All that came out, reasoning included.
    """
    cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    uncached = Figure((went_in.tokens or 0) - cached, went_in.source)
    spoken = Figure((came_out.tokens or 0) - (usage.reasoning_tokens or 0), came_out.source)
    total = (went_in.tokens or 0) + (came_out.tokens or 0)
    named = (
        ("Uncached input", True, uncached),
        ("Cache read", True, Figure(usage.cache_read_tokens)),
        ("Cache write", True, Figure(usage.cache_write_tokens)),
        ("Output", False, spoken),
        ("Reasoning", False, Figure(usage.reasoning_tokens)),
    )
    return tuple(
        Part(
            name=name,
            is_input=is_input,
            figure=figure,
            share=max(0, figure.tokens or 0) / total if total > 0 else 0.0,
        )
        for name, is_input, figure in named
    )


def notes_of(lines: Iterable[Line]) -> tuple[tuple[str, str], ...]:
    """The legend for the marks of these lines."""
    listed = list(lines)
    shown = notes({line.total.source for line in listed}, set())
    is_partly_known = any(line.money.is_partly_known for line in listed)
    return (*shown, _PARTLY_KNOWN) if is_partly_known else shown


def notes(sources: set[str], statuses: set[str]) -> tuple[tuple[str, str], ...]:
    """The legend for these sources and statuses.

    Args:
        sources: The sources that are shown.
        statuses: The statuses that are shown.
    """
    marks = [(MARKS[word], text) for word, text in MARK_MEANINGS.items() if word in sources]
    endings = [(word, text) for word, text in ENDING_MEANINGS.items() if word in statuses]
    return (*marks, *endings)


def _weakest_of(counted: int | None, estimated: int | None) -> Source:
    """The weakest source of a sum, by how many of its tokens were counted or estimated."""
    return "estimated" if estimated else "counted" if counted else "reported"


def _moment(event: Event) -> datetime | None:
    try:
        return event.started_at
    except (ValueError, OverflowError, OSError, TypeError):
        return None  # put in by hand: no time that can be


def _last_message(prompt: str) -> str:
    """The last message of a user in a prompt, or all of it where there's none."""
    if not is_text(prompt):
        return prompt
    text = "\n" + exact(prompt)
    start = text.rfind(_USER)
    if start < 0:
        return exact(prompt)
    start += len(_USER)
    ends = [end for other in _OTHERS if (end := text.find(other, start)) >= 0]
    return text[start : min(ends, default=len(text))]


def _excerpt(text: str, limit: int) -> str:
    """A text, or its beginning and its end."""
    if not is_text(text) or len(text) <= limit:
        return plain(text, limit)
    start, end = text[: limit // 3], text[-2 * limit // 3 :]
    return f"{plain(start, limit)} \N{HORIZONTAL ELLIPSIS} {plain(end, limit)}"


def _more_than(shown: int, text: str) -> str:
    """The beginning of a text that is longer than what is shown of it anyway; else nothing."""
    return plain(text, TEXT_LENGTH) if is_text(text) and str.__len__(text) > shown else ""


def _whose(event: Event) -> list[str]:
    whose = [] if event.scope is None else [plain(event.scope, LABEL_LENGTH)]
    tags = islice(event.tags.items(), _MOST_TAGS_IN_A_LINE)
    whose.extend(
        f"{plain(name, LABEL_LENGTH)}={plain(value, LABEL_LENGTH)}" for name, value in tags
    )
    return whose


def _about(event: Event) -> list[tuple[str, str]]:
    about = [("Provider", label_of(event.provider, "unknown"))]
    moment = _moment(event)
    if moment is not None:
        about.append(("Started", f"{moment:%Y-%m-%d %H:%M:%S} UTC"))
    if event.duration_s is not None:
        about.append(("Took", seconds(event.duration_s)))
    if event.scope is not None:
        about.append(("Scope", plain(event.scope, EXCERPT_LENGTH)))
    if event.not_understood:
        about.append(("Not understood", plain(", ".join(event.not_understood), EXCERPT_LENGTH)))
    tags = list(event.tags.items())
    about.extend(
        (plain(name, LABEL_LENGTH), plain(value, EXCERPT_LENGTH))
        for name, value in tags[:_MOST_TAGS]
    )
    if len(tags) > _MOST_TAGS:
        about.append(("", f"and {plural(len(tags) - _MOST_TAGS, 'more tag')}"))
    return about

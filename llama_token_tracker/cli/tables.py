"""Tables of a terminal: tokens and dollars by step of a run, and by file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from llama_token_tracker._printable import cleaned
from llama_token_tracker.views.figures import dollars, mark
from llama_token_tracker.views.protocols import Event

_FIGURES: Final = ("Embed", "Prompt", "Answer", "Total", "Cost")

SOURCE_MEANINGS: Final = {
    "reported": "the provider's own figure",
    "counted": "no figure from the provider: counted with the model's tokenizer, or yours",
    "estimated": "the provider gave no figure: counted with a stand-in tokenizer",
}
"""The legend below a table that names one of the sources."""

STATUS_MEANINGS: Final = {
    "abandoned": "the reader left early; the prompt and what came through still count",
    "failed": "an error ended the call; what came through before it counts",
    "unanswered": "no answer was seen; the prompt counts, as it may have been billed",
}
"""The legend for each status but the usual one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """The tokens of one step, or a sum of steps.

    Attributes:
        label: What the tokens went into.
        embedding: Tokens embedded; `None` where nothing was to embed.
        prompt: Tokens sent to the LLM; `None` where none was called.
        completion: Tokens that the LLM answered with; `None` where none was called.
        total: The sum of the three.
        sources: Where the counts come from, each once, in order of appearance.
        statuses: How the calls ended, each once, in order of appearance.
        usd: What the calls cost, in US dollars; `None` if that isn't known.
        is_whole: Whether the cost is what was billed, and no estimate.
    """

    label: str
    embedding: int | None = None
    prompt: int | None = None
    completion: int | None = None
    total: int
    sources: tuple[str, ...] = ()
    statuses: tuple[str, ...] = ()
    usd: Decimal | None = None
    is_whole: bool = True

    @classmethod
    def of_embeddings(cls, label: str, events: Sequence[Event]) -> Self:
        """Add up the embeddings of one step."""
        total = sum(event.total_token_count for event in events)
        return cls(
            label=label,
            embedding=total,
            total=total,
            sources=_distinct(event.prompt_source for event in events),
            statuses=_distinct(event.status for event in events),
        )

    @classmethod
    def of_calls(cls, label: str, events: Sequence[Event]) -> Self:
        """Add up the LLM calls of one step."""
        usd, is_whole = _cost([event for event in events if not event.is_free])
        return cls(
            label=label,
            prompt=sum(event.prompt_token_count for event in events),
            completion=sum(event.completion_token_count for event in events),
            total=sum(event.total_token_count for event in events),
            sources=_distinct(
                source
                for event in events
                for source in (event.prompt_source, event.completion_source)
            ),
            statuses=_distinct(event.status for event in events),
            usd=usd,
            is_whole=is_whole,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTable:
    """Tokens by step of a run.

    Attributes:
        heading: Lines that say what was counted.
        rows: One a step, in the order in which they ran.
        totals: The handler's own running totals, not a sum of the rows.
    """

    heading: tuple[str, ...]
    rows: tuple[Step, ...]
    totals: Step

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """Each source and each unusual status that the rows name, with its meaning."""
        named = {word for row in self.rows for word in (*row.sources, *row.statuses)}
        meanings = SOURCE_MEANINGS | STATUS_MEANINGS
        return tuple((word, meaning) for word, meaning in meanings.items() if word in named)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTable:
    """Tokens by file.

    Attributes:
        heading: Lines that say what counted.
        rows: Each file's name, its tokens and what they cost as input, in the order in which they
            were counted. The cost is `None` where no price is known.
    """

    heading: tuple[str, ...]
    rows: tuple[tuple[str, int, Decimal | None], ...]

    @property
    def total(self) -> int:
        """The tokens of all files."""
        return sum(tokens for _, tokens, _ in self.rows)

    @property
    def usd(self) -> Decimal | None:
        """What all files cost as input; `None` where no price is known."""
        known = [usd for *_, usd in self.rows if usd is not None]
        return sum(known, Decimal()) if len(known) == len(self.rows) else None


def show(table: StepTable, console: Console) -> None:
    """Print a table.

    Args:
        table: What to show.
        console: Where to; without a terminal behind it, the text is plain.
    """
    # No highlighting: it would colour digits by their shape, not by what they mean.
    console.print(_render(table), highlight=False)


def show_files(table: FileTable, console: Console) -> None:
    """Print the tokens of files.

    Args:
        table: What to show.
        console: Where to; without a terminal behind it, the text is plain.
    """
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    grid.add_column("File", overflow="fold")
    grid.add_column("Tokens", justify="right", no_wrap=True)
    grid.add_column("As input", justify="right", no_wrap=True)
    for name, count, usd in table.rows:
        # A file's name may hold anything, line breaks included.
        grid.add_row(Text(cleaned(name)), f"{count:,}", dollars(usd))
    grid.add_section()
    total = (f"{len(table.rows):,} in all", f"{table.total:,}", dollars(table.usd))
    grid.add_row(*total, style="bold")
    heading = [Text(cleaned(line)) for line in table.heading]
    console.print(Group(*heading, grid), highlight=False)


def _render(table: StepTable) -> RenderableType:
    heading = [Text(cleaned(line)) for line in table.heading]
    notes = Grid.grid(padding=(0, 1))
    for word, meaning in table.notes:
        notes.add_row(Text(f"{word}:", style="dim"), Text(meaning, style="dim"))
    return Group(*heading, _grid(table), Padding(notes, (0, 1), expand=False))


def _grid(table: StepTable) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, show_footer=False)
    grid.add_column("Step")
    for name in _FIGURES:
        grid.add_column(name, justify="right", no_wrap=True)
    grid.add_column("Source")
    grid.add_column("Status")
    for row in table.rows:
        grid.add_row(*_cells(row))
    grid.add_section()
    grid.add_row(*_cells(table.totals), style="bold")
    return grid


def _cells(row: Step) -> list[Text]:
    figures = (row.embedding, row.prompt, row.completion, row.total)
    cost = (
        "" if row.prompt is None else mark("" if row.is_whole else "estimated") + dollars(row.usd)
    )
    return [
        Text(cleaned(row.label)),
        *(Text("" if figure is None else f"{figure:,}") for figure in figures),
        Text(cost),
        Text("\n".join(row.sources)),
        Text("\n".join(row.statuses)),
    ]


def _distinct(words: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def _cost(events: Sequence[Event]) -> tuple[Decimal | None, bool]:
    """What calls cost, `None` if that isn't known of one; and whether it's what was billed."""
    costs = [event.cost for event in events if event.cost is not None]
    usd = sum((cost.usd for cost in costs), Decimal()) if len(costs) == len(events) else None
    is_reported = all(event.source == "reported" for event in events)
    return usd, is_reported and all(cost.is_whole for cost in costs)

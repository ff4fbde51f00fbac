"""Sums of a ledger as people and programs read them: a table, Markdown, CSV, JSON."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Column
from rich.table import Table as Grid
from rich.text import Text

from llama_token_tracker._printable import cleaned
from llama_token_tracker.cli.output import usd_text
from llama_token_tracker.views.figures import dollars, mark, plural

if TYPE_CHECKING:
    from llama_token_tracker.sinks.ledger.sums import Sum, Sums

NOBODY: Final = "(none)"
"""Stands for the calls that have no value of what is grouped by."""

_WIDE: Final = 100
_UNBOUNDED: Final = 10_000
_LONGEST_GROUP: Final = 26
"""So wide a group is at the most on a terminal that isn't wide; more goes on in the next line."""


class Figure(NamedTuple):
    """One column: its title and what a sum has there."""

    title: str
    of: Callable[["Sum"], str]


def _measure(name: str) -> Callable[["Sum"], str]:
    def show(total: "Sum") -> str:
        value = total.measures[name]
        return "" if value is None else f"{value:,}"

    return show


def _number(name: str) -> Callable[["Sum"], str]:
    def show(total: "Sum") -> str:
        return f"{getattr(total, name):,}"

    return show


def _certain(total: "Sum") -> str:
    return dollars(total.certain_usd)


def _cost(total: "Sum") -> str:
    if total.cost_usd is None:
        return dollars(None if total.calls else Decimal(0))
    is_sure = total.cost_usd == total.certain_usd and not total.unpriced
    return mark("reported" if is_sure else "estimated") + dollars(total.cost_usd)


FIGURES: Final[dict[str, Figure]] = {
    "calls": Figure("Calls", _number("calls")),
    "failed": Figure("Failed", _number("failed")),
    "unanswered": Figure("Unanswered", _number("unanswered")),
    "input": Figure("Input", _measure("input_tokens")),
    "cache_read": Figure("Cache read", _measure("cache_read_tokens")),
    "cache_write": Figure("Cache write", _measure("cache_write_tokens")),
    "output": Figure("Output", _measure("output_tokens")),
    "reasoning": Figure("Reasoning", _measure("reasoning_tokens")),
    "cost": Figure("Cost", _cost),
    "certain": Figure("Certain", _certain),
}

_DROPPED: Final = (
    "unanswered",
    "reasoning",
    "cache_write",
    "failed",
    "certain",
    "cache_read",
    "calls",
)
"""Which columns a narrow terminal does without, the first one first."""


@dataclass(frozen=True, slots=True)
class LedgerTable:
    """What a report shows.

    Attributes:
        heading: Lines that say what was asked.
        sums: The answer.
        said: The question, as JSON has it.
    """

    heading: tuple[str, ...]
    sums: "Sums"
    said: dict[str, Any]

    # --- a table -----------------------------------------------------------------------------

    def render(self, console: Console) -> RenderableType:
        """A table of what there is room for, and what it leaves out."""
        heading = [Text(cleaned(line)) for line in self.heading]
        if not self.sums.total.calls:
            return Group(*heading, Text("No calls."))
        groups = [[_said(value) for value in group] for group, _ in self.sums.rows]
        widest = _UNBOUNDED if console.width >= _WIDE else _LONGEST_GROUP
        wanted = self._groups(groups)
        is_short = max(map(_width, wanted), default=0) <= widest
        columns = [replace(column, width=min(_width(column), widest)) for column in wanted]
        names, rows, has_room = self._figures(console, columns)
        lay_out = _unfolded if has_room and is_short else _folded
        left_out = [figure.title for name, figure in FIGURES.items() if name not in names]
        notes = [*self._notes()]
        if left_out:
            notes.append(f"{console.width} columns leave no room for: {', '.join(left_out)}")
        dim = (Text(cleaned(note), style="dim") for note in notes)
        return Group(*heading, lay_out(columns, groups, rows), *dim)

    def _groups(self, groups: Sequence[Sequence[str]]) -> list[Column]:
        """A column of what is grouped by, as wide as it would like to be."""
        columns: list[Column] = []
        for place, name in enumerate(self.sums.by):
            title = Text(_title(name))
            said = map(cell_len, (title.plain, "Total", *(group[place] for group in groups)))
            columns.append(Column(title, overflow="fold", width=max(said)))
        return columns

    def _figures(
        self, console: Console, columns: Sequence[Column]
    ) -> tuple[Sequence[str], Sequence[str], bool]:
        """Which figures there's room for beside groups, them in lines, and whether there's room."""
        names = list(FIGURES)
        texts = {name: self._column(name) for name in names}
        widths = {name: max(map(cell_len, said)) for name, said in texts.items()}
        # What there's nothing of goes first.
        dropped = sorted(_DROPPED, key=lambda name: texts[name][-1] not in ("", "0"))
        wide = console.options.update(max_width=_UNBOUNDED)
        while True:
            figures = Column(no_wrap=True, width=sum(widths[name] + 1 for name in names) - 1)
            needed = Measurement.get(console, wide, _frame([*columns, figures])).maximum
            if needed <= console.width or not dropped:
                break
            names.remove(dropped.pop(0))
        padded = ([one.rjust(widths[name]) for one in texts[name]] for name in names)
        return names, [*map(" ".join, zip(*padded, strict=True))], needed <= console.width

    def _column(self, name: str) -> list[str]:
        """A figure's title, what it is for each group, and for all."""
        figure = FIGURES[name]
        totals = (*(total for _, total in self.sums.rows), self.sums.total)
        return [figure.title, *map(figure.of, totals)]

    def _notes(self) -> Iterator[str]:
        yield from self.sums.notes
        total = self.sums.total
        if total.unpriced:
            yield f"{plural(total.unpriced, 'call')} of unknown price: the cost is without them"
        if total.cost_usd is not None and total.cost_usd != total.certain_usd:
            yield f"{mark('estimated')} not all of it is surely the bill"

    # --- for programs ------------------------------------------------------------------------

    def markdown(self) -> str:
        """A table in Markdown."""
        titles = [*map(_title, self.sums.by), *(figure.title for figure in FIGURES.values())]
        lines = [
            [_escaped(title) for title in titles],
            ["---"] * len(self.sums.by) + ["---:"] * len(FIGURES),
            *(
                [*(_escaped(NOBODY if value is None else value) for value in group), *_texts(total)]
                for group, total in self.sums.rows
            ),
        ]
        if self.sums.by:
            total = ["**Total**", *[""] * (len(self.sums.by) - 1), *_texts(self.sums.total)]
            lines.append(total)
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def records(self) -> Iterator[dict[str, Any]]:
        """A dict a row, for CSV; a total would be added up with the rest."""
        for group, total in self.sums.rows:
            yield {**dict(zip(self.sums.by, group, strict=True)), **_plain(total)}

    def json(self) -> str:
        """All of it."""
        rows = [
            {"group": dict(zip(self.sums.by, group, strict=True)), **_plain(total)}
            for group, total in self.sums.rows
        ]
        total = _plain(self.sums.total)
        answer = {**self.said, "rows": rows, "total": total, "notes": [*self._notes()]}
        return json.dumps(answer, indent=2)


PLAIN: Final = (
    "calls",
    "failed",
    "unanswered",
    "unpriced_calls",
    "input_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_usd",
    "certain_usd",
)
"""The figures of a row, for programs."""


def _plain(total: "Sum") -> dict[str, Any]:
    said = {
        "calls": total.calls,
        "failed": total.failed,
        "unanswered": total.unanswered,
        "unpriced_calls": total.unpriced,
        "cost_usd": usd_text(total.cost_usd),
        "certain_usd": usd_text(total.certain_usd),
    }
    return {name: said[name] if name in said else total.measures[name] for name in PLAIN}


def _title(name: str) -> str:
    return cleaned(name).capitalize() if name.islower() else cleaned(name)


def _said(value: str | None) -> str:
    return NOBODY if value is None else cleaned(value)


def _unfolded(
    columns: Sequence[Column], groups: Sequence[Sequence[str]], figures: Sequence[str]
) -> Grid:
    """All rows in one cell, as rich takes its time for each and there may be thousands of rows."""
    widths = [*map(_width, columns)]

    def line(group: Sequence[str], row: str) -> str:
        return " ".join((*map(set_cell_size, group, widths), row))

    title, *rows, total = figures
    heading = line([str(column.header) for column in columns], title)
    grid = _frame([Column(Text(heading), no_wrap=True, width=cell_len(heading))])
    grid.add_row(Text("\n".join(map(line, groups, rows))))
    grid.add_section()
    grid.add_row(Text(line(_totals(columns), total)), style="bold")
    return grid


def _folded(
    columns: Sequence[Column], groups: Sequence[Sequence[str]], figures: Sequence[str]
) -> Grid:
    """What is grouped by goes on in the next line, as there's no room."""
    title, *rows, total = figures
    folded = [replace(column, width=None, max_width=column.width) for column in columns]
    grid = _frame([*folded, Column(title, no_wrap=True, width=cell_len(title))])
    for group, row in zip(groups, rows, strict=True):
        grid.add_row(*map(Text, group), Text(row))
    grid.add_section()
    grid.add_row(*map(Text, (*_totals(columns), total)), style="bold")
    return grid


def _width(column: Column) -> int:
    return column.width or 0


def _totals(columns: Sequence[Column]) -> list[str]:
    return ["Total", *[""] * (len(columns) - 1)][: len(columns)]


def _texts(total: "Sum") -> list[str]:
    return [figure.of(total) for figure in FIGURES.values()]


def _frame(columns: Iterable[Column]) -> Grid:
    return Grid(*columns, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", cleaned(text))

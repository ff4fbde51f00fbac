"""Tables and cards as text, for a terminal or a file, at most 80 columns wide."""

import io
import sys
from collections.abc import Callable, Iterable
from typing import Final

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from llama_token_tracker._printable import cleaned, plain
from llama_token_tracker.views.card import Call, Card, Figure, Line, amount
from llama_token_tracker.views.figures import dollars, mark, plural, tokens, with_fallback
from llama_token_tracker.views.table import FileTable, Step, StepTable

COLUMNS: Final = 80
"""How wide a card is at the most."""

_LONGEST_FIGURE: Final = 10**12

_FIGURES = ("Embedding", "Prompt", "Completion", "Total")


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
    for name, count in table.rows:
        # A file's name may hold anything, line breaks included.
        grid.add_row(Text(cleaned(name)), f"{count:,}")
    grid.add_section()
    grid.add_row(f"{len(table.rows):,} in all", f"{table.total:,}", style="bold")
    heading = [Text(cleaned(line)) for line in table.heading]
    console.print(Group(*heading, grid), highlight=False)


def _render(table: StepTable) -> RenderableType:
    heading = [Text(cleaned(line)) for line in table.heading]
    notes = Grid.grid(padding=(0, 1))
    for word, meaning in table.notes:
        notes.add_row(Text(f"{word}:", style="dim"), Text(meaning, style="dim"))
    return Group(*heading, _grid(table), Padding(notes, (0, 1), expand=False))


def _grid(table: StepTable) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_footer=False)
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
    return [
        Text(cleaned(row.label)),
        *(Text("" if figure is None else f"{figure:,}") for figure in figures),
        Text("\n".join(row.sources)),
        Text("\n".join(row.statuses)),
    ]


def safely(draw: Callable[[], str], title: str) -> str:
    """Draw something, or, if that fails, a line that says so.

    Args:
        draw: What draws it.
        title: What was to be shown.
    """
    return with_fallback(draw, lambda why: f"<{plain(title, COLUMNS)} {why}>")


def card(card: Card) -> str:
    """Draw a card, with no sign in it that standard output can't encode.

    Args:
        card: What to show.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, errors="replace", newline="\n")
    console = Console(
        file=file, width=COLUMNS, color_system=None, force_terminal=False, force_jupyter=False
    )
    console.print(Group(*_pieces(card)), highlight=False)
    file.flush()
    lines = raw.getvalue().decode(encoding).split("\n")
    return "\n".join(line.rstrip() for line in lines).rstrip()


def short(card: Card) -> str:
    """How many calls a card is of, and how many tokens they used.

    Args:
        card: What to show.
    """
    return f"{plural(card.total.row.calls, 'call')}, {tokens(*card.total.total)} tokens"


def _pieces(card: Card) -> Iterable[RenderableType]:
    yield Text(f"{card.title}: {short(card)}, {_cost(card)}")
    yield _sums(card)
    if card.recent:
        yield _calls(card)
    notes = Grid.grid(padding=(0, 1))
    for sign, meaning in card.notes:
        notes.add_row(Text(sign), Text(meaning))
    yield Padding(notes, (0, 1), expand=False)


def _cost(card: Card) -> str:
    money = card.total.money
    if not card.total.row.calls:
        return "no cost"
    cost = [f"cost {dollars(money.usd)}", *money.doubts]
    if card.cache_savings_usd:
        cost.append(f"{dollars(card.cache_savings_usd)} saved by caches")
    return ", ".join(cost)


def _new_grid(first: str, *names: str) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    grid.add_column(first, overflow="fold", ratio=1)
    for name in names:
        grid.add_column(name, justify="right", no_wrap=True)
    return grid


def _sums(card: Card) -> Grid:
    grid = _new_grid("Tokens", "Calls", "Input", "Output", "Total", "Cost")
    grid.add_row(*_line(card.llm))
    for part in card.parts:
        shown = _figure(part.figure)
        cells = (shown, "") if part.is_input else ("", shown)
        grid.add_row(f"  {part.name.lower()}", "", *cells, "", "")
    if card.embedding is not None:
        grid.add_row(*_line(card.embedding))
        grid.add_row(*_line(card.total))
    for heading, lines in (("By model", card.models), ("By scope", card.scopes)):
        if lines:
            grid.add_section()
            grid.add_row(heading)
            for line in lines:
                grid.add_row(*_line(line, indent="  "))
    return grid


def _line(line: Line, indent: str = "") -> list[Text]:
    return [
        Text(f"{indent}{line.label}"),
        Text(f"{line.row.calls:,}"),
        *(Text(_figure(figure)) for figure in (line.input, line.output, line.total)),
        Text(amount(line.money)),
    ]


def _figure(figure: Figure) -> str:
    shown = tokens(*figure)
    if figure.tokens is None or abs(figure.tokens) < _LONGEST_FIGURE:
        return "-" if figure.tokens is None else shown
    return f"{mark(figure.source)}{figure.tokens:.3e}"


def _calls(card: Card) -> Grid:
    grid = _new_grid("Last calls", "Input", "Output", "Cost", "Source", "Status")
    for call in card.recent:
        grid.add_row(*_call(call))
    if card.earlier is not None:
        earlier = card.earlier
        figures = (_figure(earlier.input), _figure(earlier.output), amount(earlier.money))
        grid.add_row(Text(earlier.label), *figures, "", "")
    return grid


def _call(call: Call) -> list[Text]:
    figures = (_figure(call.input), _figure(call.output), amount(call.money))
    return [Text(cell) for cell in (call.model, *figures, call.source, call.status)]

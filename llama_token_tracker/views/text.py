"""Tables of steps and of files as text, for a terminal or a file."""

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from llama_token_tracker._printable import cleaned
from llama_token_tracker.views.table import FileTable, Step, StepTable

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

"""The table of steps as text."""

import io

import pytest
from rich.console import Console

from llama_token_tracker.cli import tables
from llama_token_tracker.cli.tables import Step, StepTable
from llama_token_tracker.events.event import TokenCountingEvent


def table(*rows: Step, heading: tuple[str, ...] = ()) -> StepTable:
    """A table of these rows."""
    return StepTable(heading=heading, rows=rows, totals=Step(label="Running totals", total=0))


def printed(table: StepTable, **options: object) -> str:
    """What a file would hold."""
    file = io.StringIO()
    tables.show(table, Console(file=file, width=80, **options))
    return file.getvalue()


def event(prompt: int, completion: int, **fields: object) -> TokenCountingEvent:
    """An event with these counts."""
    return TokenCountingEvent("", "", completion, prompt, **fields)


def test_a_row_adds_its_events_up():
    """Figures are sums; sources and endings are named once, in order of appearance."""
    row = Step.of_calls(
        "Ask",
        [
            event(3, 2, prompt_source="reported", completion_source="reported"),
            event(30, 20, prompt_source="reported", status="abandoned"),
        ],
    )
    assert (row.prompt, row.completion, row.total) == (33, 22, 55)
    assert row.embedding is None
    assert row.sources == ("reported", "estimated")
    assert row.statuses == ("complete", "abandoned")


def test_an_embedding_has_one_figure():
    """What was embedded is neither prompt nor completion."""
    row = Step.of_embeddings("Index", [event(3, 0, prompt_source="counted"), event(4, 0)])
    assert (row.embedding, row.prompt, row.completion, row.total) == (7, None, None, 7)
    assert row.sources == ("counted", "estimated")


def test_large_figures_stay_whole_in_80_columns():
    """A billion tokens and every word for them: words are wrapped, figures never are."""
    row = Step(
        label="Running totals",
        embedding=1_234_567_890,
        prompt=1_234_567_890,
        completion=1_234_567_890,
        total=3_703_703_670,
        sources=("reported", "counted", "estimated"),
        statuses=("complete", "abandoned", "failed"),
    )
    lines = printed(table(row)).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.count("1,234,567,890") for line in lines) == 3
    assert sum(line.count("3,703,703,670") for line in lines) == 1


@pytest.mark.parametrize("words", ["[bold]not bold[/bold]", "[/]", ":smile:", "12 34"])
def test_text_is_shown_as_it_is(words: str):
    """What looks like rich's markup is a file's or a model's own name."""
    shown = printed(table(Step(label=words, total=1), heading=(words,)), force_terminal=True)
    assert shown.count(words) == 2


def test_only_what_occurs_is_explained():
    """Below the table stand the sources and the unusual endings that it names, no others."""
    row = Step(label="Ask", total=1, sources=("reported",), statuses=("complete",))
    notes = printed(table(row)).split("Running totals")[1]
    assert "reported:" in notes
    assert "complete" not in notes
    assert "estimated" not in notes


def test_a_terminal_without_unicode_gets_ascii():
    """Where box-drawing characters can't be encoded, the table does without."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    tables.show(table(Step(label="Ask", total=1)), Console(file=file, width=80))
    file.flush()
    assert b"Ask" in raw.getvalue()

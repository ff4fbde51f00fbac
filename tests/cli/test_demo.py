"""The demo: its figures, added up again here, and what it prints."""

import gc
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from llama_index.core.utils import get_tokenizer

from llama_token_tracker import Usage, cli
from llama_token_tracker.cli import demo
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.needs import needs

COMMAND = (sys.executable, "-m", "llama_token_tracker", "demo")

REAL_MODELS = {
    "anthropic": "claude-3-haiku-20240307",
    "bedrock": "anthropic.claude-3-haiku-20240307-v1:0",
    "bedrock-converse": "anthropic.claude-3-haiku-20240307-v1:0",
    "openai": "gpt-4o-mini",
}

LINE = re.compile(r"^ ?(\w[\w-]*: \w+|Running totals) +(\d[\d, ]*)", re.MULTILINE)


def figures(printed: str) -> dict[str, list[int]]:
    """Read the table back: the figures of each line, by the step's name."""
    return {
        step: [int(figure.replace(",", "")) for figure in columns.split()]
        for step, columns in LINE.findall(printed)
    }


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> demo.Demo:
    """A run with MockLLM that has ended: there is no integration for what has a price."""
    monkeypatch.setitem(sys.modules, "llama_index.llms.bedrock_converse", None)
    with demo.open_model(None) as model:
        run = demo.Demo(demo.read_pages([]), model, "What is a tally?")
        assert len(list(run.tasks())) == run.task_count
    return run


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackProvider]:
    """A provider on this machine, to which the environment leads every client."""
    with LoopbackProvider() as provider:
        for name, value in provider.environment().items():
            monkeypatch.setenv(name, value)
        yield provider
        # Now, while the filter of the test still holds: the SDKs leave sockets to the collector.
        gc.collect()


LEAVES_SOCKETS = pytest.mark.filterwarnings("ignore::ResourceWarning")


def test_the_totals_are_the_texts_counted_again(offline: demo.Demo):
    """What the run counted is what LlamaIndex's bundled tokenizer gives for the same texts."""
    tokens = get_tokenizer()
    embedded = sum(len(tokens(event.prompt)) for event in offline.handler.embedding_token_counts)
    sent = sum(len(tokens(event.prompt)) for event in offline.handler.llm_token_counts)
    received = sum(len(tokens(event.completion)) for event in offline.handler.llm_token_counts)
    totals = offline.table().totals
    assert (totals.embedding, totals.prompt, totals.completion) == (embedded, sent, received)
    assert totals.total == embedded + sent + received


def test_the_rows_add_up_to_the_running_totals(offline: demo.Demo):
    """Rows are added up from events, totals are the handler's own: they agree."""
    table = offline.table()
    for figure in ("embedding", "prompt", "completion", "total"):
        assert sum(getattr(row, figure) or 0 for row in table.rows) == getattr(table.totals, figure)


def test_a_stream_that_is_left_counts_what_came(offline: demo.Demo):
    """The third answer is left half-way: its prompt counts in full, its text as far as it came."""
    asked, streamed, left = offline.handler.llm_token_counts
    assert [event.status for event in (asked, streamed, left)] == [
        "complete",
        "complete",
        "abandoned",
    ]
    assert left.prompt_token_count == streamed.prompt_token_count == asked.prompt_token_count
    assert left.completion.split() == streamed.completion.split()[: len(left.completion.split())]
    assert 0 < left.completion_token_count <= streamed.completion_token_count / 2 + 1


def test_without_a_price_it_says_how_to_see_dollars(offline: demo.Demo):
    """Where nothing with a price can be asked, costs are unknown, and an extra is named."""
    table = offline.table()
    assert 'pip install ".[bedrock]"' in table.heading[1]
    assert table.totals.usd is None


@LEAVES_SOCKETS
@needs("llama_index.llms.bedrock_converse")
def test_offline_it_shows_reported_figures_and_dollars():
    """A model with a price answers on this machine; what is left half-way is an estimate."""
    with demo.open_model(None) as model:
        run = demo.Demo(demo.read_pages([]), model, "What is a tally?")
        list(run.tasks())
    asked, streamed, left = (row for row in run.table().rows if row.prompt is not None)
    for row in (asked, streamed):
        assert (row.sources, row.is_whole) == (("reported",), True)
        # $15 and $75 per million.
        assert float(row.usd or 0) == pytest.approx((550 * 15 + 104 * 75) / 1e6)
    assert (left.statuses, left.is_whole) == (("abandoned",), False)
    totals = run.table().totals
    assert totals.usd == sum(row.usd or 0 for row in (asked, streamed, left))
    assert not totals.is_whole


@LEAVES_SOCKETS
def test_the_command_prints_what_was_counted(capsys: pytest.CaptureFixture[str]):
    """The printed rows add up to the printed totals, and nothing goes to stderr."""
    assert cli.main(["demo"]) == 0
    output = capsys.readouterr()
    rows = figures(output.out)
    totals = rows.pop("Running totals")
    embeddings = [row for row in rows.values() if len(row) == 2]
    answers = [row for row in rows.values() if len(row) == 3]
    assert len(embeddings) == 4
    assert len(answers) == 3
    assert totals == [
        sum(tokens for tokens, _ in embeddings),
        sum(prompt for prompt, _, _ in answers),
        sum(completion for _, completion, _ in answers),
        sum(row[-1] for row in rows.values()),
    ]
    assert output.err == ""


@LEAVES_SOCKETS
@pytest.mark.slow
def test_the_real_command_prints_the_same(capsys: pytest.CaptureFixture[str]):
    """A process of its own prints the same table: plain text, at most 80 columns wide."""
    done = subprocess.run(COMMAND, capture_output=True, text=True, encoding="utf-8", check=True)
    cli.main(["demo"])
    assert done.stdout == capsys.readouterr().out
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert done.stderr == ""


@LEAVES_SOCKETS
def test_your_own_pages_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Files of any suffix and folders, subfolders included, are read as they are named."""
    (tmp_path / "notes" / "old").mkdir(parents=True)
    (tmp_path / "notes" / "old" / "a.md").write_text("\ufeffEins.", encoding="utf-8")
    (tmp_path / "notes" / "b.rst").write_text("Zwei.", encoding="utf-8")
    (tmp_path / "notes" / "c.png").write_bytes(b"\x89PNG")
    (tmp_path / "d.log").write_text("Drei.", encoding="utf-8")
    paths = [str(tmp_path / "notes"), str(tmp_path / "d.log")]
    assert cli.main(["demo", *paths, "--question", "Wie viele?"]) == 0
    assert "Pages:      3, 15 characters" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_sees_progress():
    """Progress goes to stderr, where a terminal is, and leaves stdout to the table."""
    terminal, end = os.openpty()
    # A few bytes at a time, while it runs: the terminal holds no more than it must.
    with subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=end) as process:
        os.close(end)
        seen = b""
        while chunk := _read(terminal):
            seen += chunk
        assert process.stdout is not None
        table = process.stdout.read().decode()
    os.close(terminal)
    assert b"Starting" in seen
    assert "Running totals" in table
    assert "Starting" not in table


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that the other end has closed
        return b""


@LEAVES_SOCKETS
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(one.module)) for name, one in demo.INTEGRATIONS.items()]
)
def test_a_real_integration_is_counted_as_billed(
    name: str, provider: LoopbackProvider, capsys: pytest.CaptureFixture[str]
):
    """With `--llm` the real integration runs, and what it printed is what was billed."""
    provider.script(
        Reply(usage=Usage(input_tokens=22_734, output_tokens=56)),
        Reply(usage=Usage(input_tokens=4_321, output_tokens=65)),
        Reply(usage=Usage(input_tokens=1_111, output_tokens=99), chunks=40),
    )
    assert cli.main(["demo", "--llm", f"{name}:{REAL_MODELS[name]}"]) == 0
    output = capsys.readouterr().out
    rows = figures(output)
    assert len(provider.settle()) == 3
    assert rows["Ask: answer"] == [22_734, 56, 22_790]
    if name == "openai" or (name, version("llama-index-llms-anthropic")[:4]) == (
        "anthropic",
        "0.8.",
    ):
        # OpenAI reports nothing of a stream without `stream_options`, and the older
        # llms-anthropic, which llms-bedrock needs, drops what Anthropic reports.
        assert re.search("Stream: answer .* (counted|estimated)", output)
    else:
        assert rows["Stream: answer"] == [4_321, 65, 4_386]
    assert f"LLM:        {name}:{REAL_MODELS[name]}" in output
    assert "Embeddings: MockEmbedding (offline)" in output
    assert "abandoned" in output


@LEAVES_SOCKETS
def test_a_refused_call_is_one_line_and_what_was_counted_is_shown(
    provider: LoopbackProvider, capsys: pytest.CaptureFixture[str]
):
    """A provider's refusal ends the run with code 1, and the embeddings so far are printed."""
    provider.script(*[Reply(status=401)] * 3)
    assert cli.main(["demo", "--llm", "openai:gpt-4o-mini"]) == 1
    output = capsys.readouterr()
    assert output.err.startswith("llama-token-tracker: error: a call to openai:gpt-4o-mini failed")
    assert output.err.count("\n") == 1
    rows = figures(output.out)
    assert rows["Running totals"][1:3] == [0, 0]
    assert rows["Index: embed"][0] + rows["Ask: embed"][0] == rows["Running totals"][0]
    assert re.search("Ask: answer .* failed", output.out)

"""The notebooks: run from scratch they show what is stored, and their figures are the bill's."""

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.needs import needs

notebooks = pytest.importorskip(
    "tests.notebooks", reason="needs nbclient: pip install nbclient ipykernel"
)
pytest.importorskip("ipykernel", reason="needs ipykernel")

PATHS = re.compile(r"/tmp/|/home/|/Users/|/root/|site-packages|[A-Z]:\\\\|127\.0\.0\.1|localhost")
README = notebooks.ROOT / "README.md"
INSTALL = re.compile(r"pip install ([^`\n]*\bjupyterlab\b[^`\n]*)")
WORD = re.compile(r"[\w-]+")
QUESTIONS = {
    "01_token_counting.ipynb": {
        "billed": (
            "[(c.billed.input_tokens, c.billed.output_tokens, c.reported is not None)"
            " for c in provider.calls]"
        ),
        "events": (
            "[(e.prompt_token_count, e.completion_token_count, e.source, e.status)"
            " for e in token_counter.llm_token_counts]"
        ),
        "embeddings": "{e.source for e in token_counter.embedding_token_counts}",
        "cached": "[e.usage.cache_read_tokens for e in token_counter.llm_token_counts]",
        "scopes": "[ada.total_llm_token_count, ben.total_llm_token_count]",
        "cost": "[str(total), str(token_counter.cache_savings_usd)]",
    },
    "02_bedrock_claude.ipynb": {
        "billed": "[c.billed and c.billed.total_tokens for c in provider.calls]",
        "chain": (
            "[(e.prompt_token_count, e.completion_token_count, e.source)"
            " for e in chain_counter.llm_token_counts]"
        ),
        "plain": "[e.total_token_count for e in tracker.llm_token_counts]",
        "cached": (
            "[(e.usage.cache_write_tokens, e.usage.cache_read_tokens)"
            " for e in tracker.llm_token_counts[:2]]"
        ),
        "cost": "[str(tracker.total_cost_usd), str(tracker.cache_savings_usd)]",
        "embeddings": (
            "[(e.total_token_count, e.source) for e in token_counter.embedding_token_counts]"
        ),
        "llama": "[e.total_token_count for e in token_counter.llm_token_counts]",
        "refused": "request.total_llm_token_count, len(request.llm_token_counts)",
    },
}

pytestmark = [
    pytest.mark.notebook,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@cache
def executed(name: str) -> Any:
    """A notebook, run once for all tests."""
    return notebooks.run(name, **QUESTIONS[name])


def runs(name: str) -> pytest.MarkDecorator:
    """Leave a test out where a notebook can't be run."""
    return needs(*notebooks.NEEDS[name])


def outputs(notebook: Any) -> list[Any]:
    """What each code cell shows, in its order."""
    return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_is_tested():
    """None lies in the folder that no test runs."""
    assert {file.name for file in notebooks.FOLDER.glob("*.ipynb")} == set(QUESTIONS)
    assert set(notebooks.NEEDS) == set(QUESTIONS)


@pytest.mark.parametrize("name", QUESTIONS)
def test_each_says_how_to_install_what_it_needs(name: str):
    """Its first cell has the line, and README's line installs all of that for both."""
    found = INSTALL.search(notebooks.read(name).cells[0].source)
    assert found is not None
    readme = INSTALL.search(README.read_text(encoding="utf-8"))
    assert readme is not None
    assert set(WORD.findall(found[1])) <= set(WORD.findall(readme[1]))


@pytest.mark.parametrize("name", [pytest.param(name, marks=runs(name)) for name in QUESTIONS])
def test_stored_outputs_are_what_the_cells_show(name: str):
    """What is stored can't be older than the code: `python -m tests.notebooks` makes it new."""
    stored, fresh = notebooks.read(name), executed(name).notebook
    for cell, again in zip(stored.cells, fresh.cells, strict=True):
        assert cell.source == again.source
        if cell.cell_type == "code":
            assert cell.outputs == again.outputs, cell.source
            assert cell.execution_count == again.execution_count


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_stored_output_is_an_error_or_tells_of_a_machine(name: str):
    """No path, port, time of a run or version of Python is kept."""
    stored = notebooks.read(name)
    assert any(outputs(stored))
    for output in (one for shown in outputs(stored) for one in shown):
        assert output.output_type != "error"
        assert not PATHS.search(str(output)), output
        assert str(Path(sys.prefix)) not in str(output)
    assert all(not cell.metadata for cell in stored.cells)
    assert stored.metadata.language_info == {"name": "python"}


@runs("01_token_counting.ipynb")
def test_01_counts_what_openai_bills():
    """Each finished call is an event with the bill's figures; the one that was left is counted."""
    asked = executed("01_token_counting.ipynb").asked
    said = [was_said for *_, was_said in asked["billed"]]
    assert said == [True, True, False, True, True, True, True]
    bills = sorted((sent, came) for sent, came, was_said in asked["billed"] if was_said)
    reported = [(sent, came) for sent, came, source, _ in asked["events"] if source == "reported"]
    assert sorted(reported) == bills
    [(sent, came, *_, status)] = [one for one in asked["events"] if one[2] == "counted"]
    assert (status, came) == ("abandoned", 3)
    assert sent > 0


@runs("01_token_counting.ipynb")
def test_01_tells_cached_tokens_scopes_and_cost():
    """Figures that LlamaIndex's own handler has no place for."""
    asked = executed("01_token_counting.ipynb").asked
    assert [cached for cached in asked["cached"] if cached] == [1_920]
    assert asked["scopes"] == [901 + 3, 877 + 4]
    assert asked["embeddings"] == {"estimated"}
    # 1,920 tokens at half of $0.15 per million.
    assert [float(usd) for usd in asked["cost"]] == [0.000582, 0.000144]


@runs("02_bedrock_claude.ipynb")
def test_02_counts_claude_as_the_how_to_does():
    """4, 16, 8 and 20, by Claude's own tokenizer and in LangChain's chain."""
    run = executed("02_bedrock_claude.ipynb")
    [[shown], *_] = [one for one in outputs(run.notebook) if one]
    assert [int(line.split()[0]) for line in shown.text.splitlines()] == [4, 16, 8, 20]
    assert run.asked["chain"] == [(8, 20, "counted"), (14, 20, "reported")]


@runs("02_bedrock_claude.ipynb")
def test_02_counts_what_aws_bills():
    """boto3's and LlamaIndex's calls, embeddings included, are the bill; one was never sent."""
    asked = executed("02_bedrock_claude.ipynb").asked
    embedded = [tokens for tokens, _ in asked["embeddings"]]
    assert {source for _, source in asked["embeddings"]} == {"reported"}
    _silent, chain, *rest = asked["billed"]
    assert chain == 34
    assert sorted(rest) == sorted(asked["plain"] + embedded + asked["llama"])
    assert asked["refused"] == (17, 1)


@runs("02_bedrock_claude.ipynb")
def test_02_prices_the_cache():
    """Claude 3.5 Sonnet at $3 and $15 per million, $3.75 to write a cache and $0.30 to read it."""
    asked = executed("02_bedrock_claude.ipynb").asked
    assert asked["cached"] == [(1_698, None), (None, 1_698)]
    total, saved = (float(usd) for usd in asked["cost"])
    calls = (14 * 3 + 1_698 * 3.75 + 6 * 15) + (13 * 3 + 1_698 * 0.3 + 5 * 15)
    stream = 21 * 3 + 9 * 15
    assert total == pytest.approx((calls + stream) / 1e6)
    assert saved == pytest.approx(1_698 * 2.7 / 1e6)

"""README and docs: every Python block runs and prints what stands below it; every link leads on."""

import gc
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from llama_index.core import Settings

from llama_token_tracker import cli
from tests.needs import is_installed, needs

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, [<\d.,]+ m?s")
FRAMEWORK = re.compile(r"^from (flask|django)\b", re.MULTILINE)
"""What no locked environment has; such a block is a whole program."""

DEMO = "-m llama_token_tracker demo\n"


def named(page: Path) -> str:
    """What a page is called in a test's name."""
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def _settings() -> Iterator[None]:
    """Leave LlamaIndex's global settings as they were."""
    before = dict(vars(Settings))
    yield
    vars(Settings).update(before)


# LlamaIndex's agents look at what pydantic has deprecated, and so do its integrations.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecationWarning")
# And they never close the database of their memory, nor do readers close boto3's clients.
@pytest.mark.filterwarnings("ignore:.*aiosqlite.* was deleted before being closed:ResourceWarning")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_runs_and_prints_what_is_shown(
    page: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """A page's blocks run one after the other, as its reader would run them."""
    monkeypatch.chdir(tmp_path)
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    names: dict[str, object] = {"__name__": "__main__"}
    for (language, code), (following, shown) in pairwise([*blocks, ("", "")]):
        if language == "python" and FRAMEWORK.search(code):
            continue
        if language == "python":
            exec(compile(code, named(page), "exec"), names)
        elif language == "bash" and code.endswith(DEMO):
            assert cli.main(["demo"]) == 0
            if not is_installed("ctok"):
                # What is left half-way is counted otherwise where Claude's tokenizer is missing.
                capsys.readouterr()
                continue
        else:
            continue
        if following == "text":
            assert lines(capsys.readouterr().out) == lines(shown)
    # What a page leaves open belongs to it, not to whichever test comes when it's collected.
    names.clear()
    gc.collect()


def frameworks() -> Iterator[pytest.param]:
    """Each block for a web framework, with what is shown below it."""
    for page in PAGES:
        blocks = FENCE.findall(page.read_text(encoding="utf-8"))
        for (_, code), (_, shown) in pairwise([*blocks, ("", "")]):
            for name in FRAMEWORK.findall(code)[:1]:
                yield pytest.param(code, shown, id=f"{named(page)}-{name}", marks=needs(name))


@pytest.mark.slow
@pytest.mark.parametrize(("code", "shown"), list(frameworks()))
def test_a_frameworks_block_runs_alone(code: str, shown: str, tmp_path: Path):
    """Saved as a file and run, it prints what is shown."""
    script = tmp_path / "app.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert (lines(done.stdout), done.returncode) == (lines(shown), 0), done.stderr


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_inside_leads_to_a_file(page: Path):
    """No link between the pages is broken."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def lines(text: str) -> list[str]:
    """The lines, without the spaces and empty lines that only pad them, and without times."""
    return [MOMENT.sub("(when)", line).rstrip() for line in text.strip("\n").splitlines()]

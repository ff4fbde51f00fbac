"""README and docs: every Python block runs and prints what stands below it; every link leads on."""

import gc
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from llama_index.core import Settings

from llama_token_tracker import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")
MOMENT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, [<\d.,]+ m?s")
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
def test_every_block_runs_and_prints_what_is_shown(page: Path, capsys: pytest.CaptureFixture[str]):
    """A page's blocks run one after the other, as its reader would run them."""
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    names: dict[str, object] = {"__name__": "__main__"}
    for (language, code), (following, shown) in pairwise([*blocks, ("", "")]):
        if language == "python":
            exec(compile(code, named(page), "exec"), names)
        elif language == "bash" and code.endswith(DEMO):
            assert cli.main(["demo"]) == 0
        else:
            continue
        if following == "text":
            assert lines(capsys.readouterr().out) == lines(shown)
    # What a page leaves open belongs to it, not to whichever test comes when it's collected.
    names.clear()
    gc.collect()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_inside_leads_to_a_file(page: Path):
    """No link between the pages is broken."""
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def lines(text: str) -> list[str]:
    """The lines, without the spaces and empty lines that only pad them, and without times."""
    return [MOMENT.sub("(when)", line).rstrip() for line in text.strip("\n").splitlines()]

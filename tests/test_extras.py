"""Extras: whoever lacks one is told its name, and how it's installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llama_token_tracker.cli.demo import INTEGRATIONS

ROOT = Path(__file__).parents[1]

EXTRAS = {
    "langchain": ("llama_token_tracker.langchain", ["langchain_core"]),
    "httpx": ("llama_token_tracker.wire.httpx", ["httpx", "httpx2"]),
    "notebook": ("llama_token_tracker.cli.notebook", ["IPython"]),
}
"""The module that needs an extra, and what the extra brings."""

WITHOUT = "import sys; sys.modules.update(dict.fromkeys({}))\nimport {}"


def imported(module: str, lacking: list[str]) -> str:
    """The last line of what is said of an import where packages are lacking."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(lacking, module)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_names_itself(extra: str):
    """The error is the one that Python raises, with the command that helps."""
    said = imported(*EXTRAS[extra])
    assert said.startswith("ModuleNotFoundError: ")
    assert said.endswith(f'isn\'t installed; pip install ".[{extra}]" in a clone of this project.')


def test_another_missing_module_is_told_as_it_is():
    """What an extra's own package lacks isn't brought by installing it again."""
    assert "pip install" not in imported("llama_token_tracker.langchain", ["asyncio"])


def test_the_extras_that_are_named_are_the_projects():
    """pyproject.toml has each of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {*EXTRAS, *(integration.extra for integration in INTEGRATIONS.values())}
    assert named <= set(project["optional-dependencies"])


def test_no_error_names_an_index_that_lacks_the_package():
    """Before a release `pip install llama-token-tracker[…]` can't work."""
    texts = [file.read_text(encoding="utf-8") for file in ROOT.glob("llama_token_tracker/**/*.py")]
    assert not [text for text in texts if "llama-token-tracker[" in text]

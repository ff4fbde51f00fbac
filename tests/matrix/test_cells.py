"""No integration drops out of the matrix unnoticed: what is locked is there, and has its cells."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from pathlib import Path

import pytest

from tests.langchain import integrations as langchain
from tests.langchain import test_matrix as langchain_matrix
from tests.needs import is_installed, left_out_if, needs, release

from . import test_matrix
from .clients import ALL

ROOT = Path(__file__).parents[2]
AT_LEAST = {
    "bedrock-claude": 70,
    "bedrock-titan": 64,
    "bedrock-llama": 65,
    "bedrock-mistral": 65,
    "bedrock-converse": 109,
    "anthropic": 113,
    "openai": 117,
    "openai-default": 117,
    "openai-completions": 103,
    "openai-responses": 109,
    "gemini": 111,
    "ollama": 101,
    "mistral": 101,
    "cohere": 70,
    "bedrock-titan-embedding": 1,
    "bedrock-cohere-embedding": 1,
    "openai-embedding": 1,
    "BedrockLLM": 15,
    "ChatBedrock": 19,
    "ChatBedrockConverse": 15,
    "ChatAnthropic": 19,
    "ChatOpenAI": 19,
}
"""The cells of each integration, in whichever environment has the fewest; more may be added."""

INTEGRATIONS = [*ALL, *langchain.INTEGRATIONS]


def lock() -> Path | None:
    """The lock file that this environment was made from, or `None` if it's neither."""
    for name in ("bedrock", "anthropic"):
        file = ROOT / f"{name}.lock.txt"
        pin = re.search(rf"^llama-index-llms-{name}==([\d.]+)", file.read_text(), re.MULTILINE)
        if pin and tuple(map(int, pin[1].split("."))) == release(f"llama-index-llms-{name}"):
            return file
    return None


LOCK = lock()


def cells() -> Counter[str]:
    """How many cells of each integration are run here, other parameters aside."""
    found = Counter[str]()
    for test in chain(vars(test_matrix).values(), vars(langchain_matrix).values()):
        for mark in getattr(test, "pytestmark", ()):
            if mark.name == "parametrize" and "integration" in mark.args[0]:
                found.update(
                    cell.values[0].name
                    for cell in mark.args[1]
                    if not any(condition for condition, _ in (one.args for one in cell.marks))
                )
    return found


@left_out_if(LOCK is None, "neither of the two locked environments")
def test_each_locked_integration_is_installed() -> None:
    """What the lock file names can't be taken for something that this environment lacks."""
    assert LOCK is not None
    pinned = set(re.findall(r"^([\w-]+)==", LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    locked = {one.module for one in INTEGRATIONS if re.sub(r"[._]", "-", one.module) in pinned}
    assert len(locked) >= 9
    assert [module for module in sorted(locked) if not is_installed(module)] == []


@pytest.mark.parametrize(
    "name", [pytest.param(one.name, marks=needs(one.module)) for one in INTEGRATIONS]
)
def test_each_integration_has_its_cells(name: str) -> None:
    """No table of exceptions leaves an integration with fewer cells than it had."""
    assert cells()[name] >= AT_LEAST[name]

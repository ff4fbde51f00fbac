"""The fixture, and what importing it costs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = 'pytest_plugins = ["llama_token_tracker.testing.plugin"]\n'
TESTS = """
import httpx

def ask(provider):
    return httpx.post(provider.url("openai") + "/embeddings", json={"input": "a"}).json()

def test_first(loopback_provider):
    tokens = ask(loopback_provider)["usage"]["prompt_tokens"]
    assert tokens == loopback_provider.billed[0].input_tokens

def test_second(loopback_provider):
    assert loopback_provider.calls == []
"""
FOREIGN = ("aiohttp", "anthropic", "boto3", "botocore", "httpx", "llama_index", "openai", "pytest")


@pytest.mark.slow
def test_the_fixture_is_a_fresh_provider(tmp_path: Path):
    """Named in `pytest_plugins`, it gives each test a provider of its own."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "."]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_importing_it_loads_nothing_foreign():
    """The provider needs no SDK, no LlamaIndex and no pytest, and the package not the provider."""
    script = (
        "import sys, llama_token_tracker\n"
        "assert not [name for name in sys.modules if name.startswith('llama_token_tracker.test')]\n"
        "import llama_token_tracker.testing\n"
        f"print([name for name in {FOREIGN} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"

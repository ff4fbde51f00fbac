"""For every test: which apply here and which are quick, no credentials, and a provider."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from types import FunctionType

import httpx
import pytest
from hypothesis import settings

from llama_token_tracker.testing import LoopbackProvider
from tests.needs import leave_out, summary
from tests.servers import postgres_uri, postgres_url, redis_server, redis_url

__all__ = ["postgres_uri", "postgres_url", "redis_server", "redis_url"]

# The machines of CI stall now and then: a slow example is no failure there.
settings.register_profile("ci", deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

_LEFT_OUT = pytest.StashKey[Counter[str]]()
_NOT_QUICK = ("browser", "matrix", "notebook", "slow")
_LONG_S = 3.0
_CREDENTIALS = ("ANTHROPIC_", "AWS_", "COHERE_", "GEMINI_", "GOOGLE_", "MISTRAL_", "OPENAI_")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark what is quick: every test without a mark that says otherwise."""
    if not any(item.get_closest_marker(name) for name in _NOT_QUICK):
        item.add_marker("quick")


# After `-k` and `-m`, so that nothing is told of tests that nobody asked for.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that don't apply to this environment."""
    left_out, config.stash[_LEFT_OUT] = leave_out(items)
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    """Let no collection of garbage walk through what was imported for good: tests ask for many."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell what was left out, and why; and which tests should be marked slow."""
    for line in summary(config.stash.get(_LEFT_OUT, Counter())):
        terminalreporter.write_line(line)
    for report in terminalreporter.getreports("passed"):
        is_slow = report.when == "call" and report.duration > _LONG_S
        if is_slow and "quick" in report.keywords and "matrix" not in report.keywords:
            terminalreporter.write_line(f"quick, but took {report.duration:.1f} s: {report.nodeid}")


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what could reach a real provider."""
    for name in [name for name in os.environ if name.startswith(_CREDENTIALS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    # Without this, boto3 asks a host on the local network who it is.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(autouse=True)
def _no_watch_is_left() -> Iterator[None]:
    """Let no test go on listening to the process, and so to the tests after it."""
    yield
    assert isinstance(httpx.Client.send, FunctionType), "this test has begun a watch: stop it"


@pytest.fixture(scope="session")
def server() -> Iterator[LoopbackProvider]:
    """One provider for all tests that need no other."""
    with LoopbackProvider() as server:
        yield server


@pytest.fixture
def provider(server: LoopbackProvider) -> LoopbackProvider:
    """The provider, knowing of no call."""
    server.reset()
    return server

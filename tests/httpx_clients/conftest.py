"""Real SDKs on httpx, and a provider on this machine that knows what it billed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_token_tracker import TokenCountingHandler, Tracker
from llama_token_tracker.testing import LoopbackProvider
from tests.foreign import collected, tolerate  # noqa: F401 - used by being here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the SDKs as they are, unmodified, with the warnings they cause."""
    tolerate(items, Path(__file__).parent)


@pytest.fixture(scope="session")
def server() -> Iterator[LoopbackProvider]:
    """One provider for all tests."""
    with LoopbackProvider() as server:
        yield server


@pytest.fixture
def provider(server: LoopbackProvider) -> LoopbackProvider:
    """The provider, knowing of no call."""
    server.reset()
    return server


@pytest.fixture
def tracker() -> Tracker:
    """A tracker that has counted nothing."""
    return Tracker()


@pytest.fixture
def handler() -> TokenCountingHandler:
    """A handler that has counted nothing."""
    return TokenCountingHandler()

"""Real SDKs on httpx, and a provider on this machine that knows what it billed."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_token_tracker import TokenCountingHandler, Tracker
from llama_token_tracker.testing import LoopbackProvider
from tests.foreign import tolerate


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the SDKs as they are, unmodified, with the warnings they cause."""
    tolerate(items, Path(__file__).parent)


@pytest.fixture(scope="package")
def server() -> Iterator[LoopbackProvider]:
    """One provider for all tests."""
    with LoopbackProvider() as server:
        yield server
    # Now, while the filters of the last test still hold.
    gc.collect()


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

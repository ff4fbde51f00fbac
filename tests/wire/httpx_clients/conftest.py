"""Real SDKs on httpx, and a provider on this machine that knows what it billed."""

from pathlib import Path

import pytest

from llama_token_tracker import TokenCountingHandler, Tracker
from tests.foreign import collected, tolerate  # noqa: F401 - used by being here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the SDKs as they are, unmodified, with the warnings they cause."""
    tolerate(items, Path(__file__).parent)


@pytest.fixture
def tracker() -> Tracker:
    """A tracker that has counted nothing."""
    return Tracker()


@pytest.fixture
def handler() -> TokenCountingHandler:
    """A handler that has counted nothing."""
    return TokenCountingHandler()

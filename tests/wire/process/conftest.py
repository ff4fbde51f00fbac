"""Real SDKs as they are, and a provider on this machine that knows what it billed."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_token_tracker import Tracker, watch
from tests.foreign import collected, tolerate  # noqa: F401 - used by being here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the SDKs as they are, unmodified, with the warnings they cause."""
    tolerate(items, Path(__file__).parent)


@pytest.fixture
def tracker() -> Iterator[Tracker]:
    """A tracker that hears the whole process."""
    tracker = Tracker()
    with watch(tracker):
        yield tracker

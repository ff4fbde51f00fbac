"""Real SDKs against answers that are written down."""

from pathlib import Path

import pytest

from tests.foreign import collected, tolerate  # noqa: F401 - used by being here


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the SDKs as they are, unmodified, with the warnings they cause."""
    tolerate(items, Path(__file__).parent)

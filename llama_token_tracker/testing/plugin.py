"""A fixture for pytest: `pytest_plugins = ["llama_token_tracker.testing.plugin"]`.

It isn't an entry point, since pytest would then load it in every run wherever this package is
installed.
"""

from collections.abc import Iterator

import pytest

from llama_token_tracker.testing import LoopbackProvider


@pytest.fixture
def loopback_provider() -> Iterator[LoopbackProvider]:
    """A provider that listens during the test and knows of no call yet."""
    with LoopbackProvider() as provider:
        yield provider

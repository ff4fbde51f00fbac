"""What tests of others' SDKs and integrations put up with, and ours may not cause."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

_TOLERATED = [
    # SDKs leave sockets to the garbage collector.
    "ignore::ResourceWarning",
    # The integrations call what their dependencies have deprecated; ours may not.
    "ignore::DeprecationWarning",
    r"error::DeprecationWarning:llama_token_tracker(\..*)?",
]


def tolerate(items: list[pytest.Item], folder: Path) -> None:
    """Take SDKs and integrations as they are, unmodified, with the warnings they cause.

    Args:
        items: The tests of the whole run.
        folder: Where those are that use them.
    """
    for item in items:
        if folder in item.path.parents:
            for warning_filter in _TOLERATED:
                item.add_marker(pytest.mark.filterwarnings(warning_filter))


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """Let go of what SDKs have left, while the filters of the last test still hold."""
    yield
    gc.collect()

"""One loopback provider for the whole run, and a fresh handler for each test."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager

from .clients import bedrock_client
from .server import LoopbackProvider

if TYPE_CHECKING:
    from llama_token_tracker import TokenCountingHandler

    from .styles import Run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the SDKs leave sockets to the garbage collector: that's how they are, unmodified."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore::ResourceWarning"))


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all tests: clients collected late still find it open."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def run(runner: asyncio.Runner) -> Run:
    """Run a coroutine to its end."""
    return runner.run


@pytest.fixture(scope="session")
def server(runner: asyncio.Runner) -> Iterator[LoopbackProvider]:
    """One provider for all tests; it's torn down before the loop, whose threads may wait for it."""
    del runner
    with LoopbackProvider() as server:
        yield server
    bedrock_client.cache_clear()
    # Now, while the filters of the last test still hold.
    gc.collect()


@pytest.fixture
def provider(server: LoopbackProvider) -> LoopbackProvider:
    """The provider, knowing of no call."""
    server.reset()
    return server


@pytest.fixture
def handler() -> TokenCountingHandler:
    """A handler that has counted nothing."""
    from llama_token_tracker import TokenCountingHandler

    return TokenCountingHandler()


@pytest.fixture
def manager(handler: TokenCountingHandler) -> Iterator[CallbackManager]:
    """A callback manager with that handler, in Settings too: engines take theirs from there."""
    manager = CallbackManager([handler])
    Settings.callback_manager = manager
    yield manager
    Settings.callback_manager = CallbackManager([])

"""One loopback provider for the whole run, and a fresh handler for each test."""

from __future__ import annotations

import asyncio
import gc
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.testing import LoopbackProvider
from tests.foreign import tolerate
from tests.needs import is_installed

from .clients import ALL, bedrock_client

if TYPE_CHECKING:
    from .styles import Run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the SDKs and integrations as they are, unmodified, with the warnings they cause."""
    tolerate(items, Path(__file__).parent)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop for all tests, and garbage collected only between them, in that loop.

    Of an asynchronous OpenAI client that is dropped, the collector closes the sockets; a moment
    later the client closes them itself, by number, in whichever loop runs. A connection that was
    made in between has one of these numbers and is never read again: gathered calls would hang.
    """
    for integration in ALL:
        if is_installed(integration.module):
            importlib.import_module(integration.module)
    # What these modules hold is there for good; no collection has to walk through it.
    gc.collect()
    gc.freeze()
    gc.disable()
    with asyncio.Runner() as runner:
        yield runner
    gc.enable()


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
def provider(server: LoopbackProvider, runner: asyncio.Runner) -> Iterator[LoopbackProvider]:
    """The provider, knowing of no call."""
    server.reset()
    yield server
    runner.run(_collect())


async def _collect() -> None:
    gc.collect(1)
    # What is still closing would run into the next test's connections.
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=1)


@pytest.fixture
def handler() -> TokenCountingHandler:
    """A handler that has counted nothing."""
    return TokenCountingHandler()


@pytest.fixture
def manager(handler: TokenCountingHandler) -> Iterator[CallbackManager]:
    """A callback manager with that handler, in Settings too: engines take theirs from there."""
    manager = CallbackManager([handler])
    Settings.callback_manager = manager
    yield manager
    # A new manager without handlers takes those of Settings.
    manager.handlers = []
    Settings.callback_manager = CallbackManager([])

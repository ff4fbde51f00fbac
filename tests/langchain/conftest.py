"""One loopback provider and one event loop for all of LangChain's tests, and a fresh handler."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from llama_token_tracker.langchain import TokenCountingCallbackHandler
from llama_token_tracker.testing import LoopbackProvider
from tests.foreign import collected, tolerate  # noqa: F401 - used by being here
from tests.langchain.integrations import forget_models


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the SDKs and integrations as they are, unmodified, with the warnings they cause."""
    tolerate(items, Path(__file__).parent)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    """One event loop: an asynchronous client stays with the first that it meets."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def server(runner: asyncio.Runner) -> Iterator[LoopbackProvider]:
    """One provider for all tests; it's torn down before the loop, whose threads may wait for it."""
    del runner
    with LoopbackProvider() as server:
        yield server
    forget_models()


@pytest.fixture
def token_counter() -> TokenCountingCallbackHandler:
    """A handler that has counted nothing."""
    return TokenCountingCallbackHandler()

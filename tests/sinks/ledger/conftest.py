"""Settings of these tests."""

import gc
from collections.abc import Iterator

import pytest

from llama_token_tracker._background import run_late
from llama_token_tracker._log_once import forget_notices


@pytest.fixture(autouse=True)
def _connections_closed() -> Iterator[None]:
    """Have what a test has dropped be closed before the next one."""
    forget_notices()
    yield
    gc.collect()
    run_late()

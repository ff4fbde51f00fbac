"""Settings of these tests."""

import sys
from collections.abc import Iterator

import pytest

from llama_token_tracker._log_once import forget_notices


@pytest.fixture
def _switching() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(autouse=True)
def _notices_anew() -> Iterator[None]:
    """Let every test hear its own notices."""
    forget_notices()
    yield
    forget_notices()

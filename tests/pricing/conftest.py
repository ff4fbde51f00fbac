"""Settings of these tests."""

import pytest

from llama_token_tracker._log_once import forget_notices


@pytest.fixture(autouse=True)
def _fresh_notices() -> None:
    """Let each test see what is logged once."""
    forget_notices()

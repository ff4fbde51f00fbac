"""Settings of these tests."""

import pytest
from hypothesis import settings

from llama_token_tracker._log_once import forget_notices

# Vocabularies load on first use, whichever example that is; time is no law.
settings.register_profile("tokenizers", deadline=None)
settings.load_profile("tokenizers")


@pytest.fixture(autouse=True)
def _fresh_notices() -> None:
    """Let each test see what is logged once."""
    forget_notices()

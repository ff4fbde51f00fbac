"""For every test: no credentials of whoever runs it, a patient hypothesis and a provider."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from llama_token_tracker.testing import LoopbackProvider

# The machines of CI stall now and then: a slow example is no failure there.
settings.register_profile("ci", deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

_CREDENTIALS = ("ANTHROPIC_", "AWS_", "COHERE_", "GEMINI_", "GOOGLE_", "MISTRAL_", "OPENAI_")


@pytest.fixture(autouse=True)
def _no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what could reach a real provider."""
    for name in [name for name in os.environ if name.startswith(_CREDENTIALS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    # Without this, boto3 asks a host on the local network who it is.
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def server() -> Iterator[LoopbackProvider]:
    """One provider for all tests that need no other."""
    with LoopbackProvider() as server:
        yield server


@pytest.fixture
def provider(server: LoopbackProvider) -> LoopbackProvider:
    """The provider, knowing of no call."""
    server.reset()
    return server

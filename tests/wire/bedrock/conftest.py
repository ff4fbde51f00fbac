"""Real clients of boto3 and aioboto3, and a provider on this machine that knows what it billed."""

import json
from pathlib import Path
from typing import Any

import boto3
import pytest
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingHandler, Tracker
from llama_token_tracker.testing import LoopbackProvider
from tests.foreign import collected, tolerate  # noqa: F401 - used by being here

CLAUDE = "anthropic.claude-3-5-sonnet-20241022-v2:0"
TITAN = "amazon.titan-embed-text-v2:0"
COHERE = "cohere.embed-english-v3"
PROMPT = "What is the capital of Australia?"
MESSAGES = [{"role": "user", "content": [{"text": PROMPT}]}]
BODY = json.dumps(
    {
        "anthropic_version": "bedrock-2023-05-31",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": PROMPT}],
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the SDKs and integrations as they are, unmodified, with the warnings they cause."""
    tolerate(items, Path(__file__).parent)


@pytest.fixture
def client(server: LoopbackProvider) -> Any:
    """A real client, which nobody watches yet."""
    from botocore.config import Config

    config = Config(retries={"total_max_attempts": 1}, max_pool_connections=32)
    return boto3.client("bedrock-runtime", config=config, **server.arguments("bedrock"))


@pytest.fixture
def tracker() -> Tracker:
    """A tracker that has counted nothing."""
    return Tracker()


@pytest.fixture
def handler() -> TokenCountingHandler:
    """A handler that has counted nothing."""
    return TokenCountingHandler()


@pytest.fixture
def manager(handler: TokenCountingHandler) -> CallbackManager:
    """A callback manager with that handler."""
    return CallbackManager([handler])

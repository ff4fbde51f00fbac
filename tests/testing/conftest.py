"""Clients of the provider that are closed when they are done with."""

from collections.abc import Iterator
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config

from llama_token_tracker.testing import LoopbackProvider


@pytest.fixture(scope="module")
def boto_client(server: LoopbackProvider) -> Iterator[Any]:
    """A real boto3 client, which asks once; they're slow to make and safe to share."""
    config = Config(retries={"total_max_attempts": 1})
    client: Any = boto3.client("bedrock-runtime", config=config, **server.arguments("bedrock"))
    yield client
    client.close()


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    """A plain HTTP client."""
    with httpx.Client(timeout=30) as client:
        yield client

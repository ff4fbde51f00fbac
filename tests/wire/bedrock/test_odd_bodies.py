"""Odd requests of boto3: a budget alone stops one, and each is counted."""

import json
import sys
from typing import Any

import pytest
from botocore.exceptions import ClientError

from llama_token_tracker import Budget, Tracker, Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import watch
from tests.wire.bedrock.conftest import CLAUDE, MESSAGES

BILL = Usage(input_tokens=73, output_tokens=29)


@pytest.mark.parametrize("most", [1, 10**9, sys.maxsize, 10**30])
def test_any_limit_that_botocore_sends(most: int, client: Any, provider: LoopbackProvider):
    """With "warn" nothing stops it."""
    tracker = Tracker(budget=Budget(tokens=1, usd=1, on_exceed="warn"))
    provider.script(Reply("Yes.", BILL))
    watch(tracker, client)
    client.converse(modelId=CLAUDE, messages=MESSAGES, inferenceConfig={"maxTokens": most})
    [accounts] = tracker.accounts
    assert (accounts.spent().tokens, accounts.spent().reserved_tokens) == (102, 0)


BODY = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": sys.maxsize, "messages": MESSAGES}


@pytest.mark.parametrize(
    "body", [json.dumps(BODY), b"\xff", bytearray(b"{}"), json.dumps([BODY]), "null"]
)
def test_any_body_that_botocore_sends(body: Any, client: Any, provider: LoopbackProvider):
    """What isn't understood is sent, whatever comes of it, and nothing stays reserved."""
    tracker = Tracker(budget=Budget(tokens=1, on_exceed="warn"))
    provider.script(Reply("Yes.", BILL))
    watch(tracker, client)
    try:
        client.invoke_model(modelId=CLAUDE, body=body)["body"].read()
    except ClientError:
        assert tracker.failed_calls
    else:
        assert tracker.total_llm_token_count == BILL.total_tokens
    assert tracker.accounts[0].spent().reserved_tokens == 0

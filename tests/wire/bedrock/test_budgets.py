"""Budgets of a plain boto3 program: a request that would pass the limit isn't sent."""

import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from llama_token_tracker import Budget, BudgetExceededError, Tracker, Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.wire import watch
from tests.wire.bedrock.conftest import CLAUDE, MESSAGES, TITAN

BILL = Usage(input_tokens=73, output_tokens=29)


def ask(client: Any, max_tokens: int = 100) -> None:
    """Converse."""
    client.converse(modelId=CLAUDE, messages=MESSAGES, inferenceConfig={"maxTokens": max_tokens})


def test_a_request_that_would_pass_the_limit_is_not_sent(client: Any, provider: LoopbackProvider):
    """What AWS billed for those before is what is spent."""
    tracker = Tracker(budget=Budget(tokens=250))
    provider.script(Reply("Yes.", BILL), Reply("Yes.", BILL))
    watch(tracker, client)
    ask(client)
    ask(client)
    with pytest.raises(BudgetExceededError) as refused:
        ask(client)
    assert refused.value.spent.tokens == 2 * BILL.total_tokens == 204
    assert len(provider.calls) == 2
    [accounts] = tracker.accounts
    assert (accounts.spent().tokens, accounts.spent().reserved_tokens) == (204, 0)


def test_streams_settle_when_they_are_read(client: Any, provider: LoopbackProvider):
    """Until then they hold what they reserved."""
    tracker = Tracker(budget=Budget(tokens=10_000))
    provider.script(Reply("Yes.", BILL))
    watch(tracker, client)
    answer = client.converse_stream(
        modelId=CLAUDE, messages=MESSAGES, inferenceConfig={"maxTokens": 100}
    )
    [accounts] = tracker.accounts
    assert accounts.spent().reserved_tokens > 100
    for _ in answer["stream"]:
        pass
    assert tracker.total_llm_token_count == BILL.total_tokens
    assert (accounts.spent().tokens, accounts.spent().reserved_tokens) == (102, 0)


def test_a_refused_request_gives_its_reservation_back(client: Any, provider: LoopbackProvider):
    """It cost nothing."""
    tracker = Tracker(budget=Budget(tokens=10_000))
    provider.script(Reply(status=400))
    watch(tracker, client)
    with pytest.raises(ClientError):
        ask(client)
    [accounts] = tracker.accounts
    assert (accounts.spent().tokens, accounts.spent().reserved_tokens) == (0, 0)


@pytest.mark.slow
def test_embeddings_settle_for_what_aws_billed(client: Any, provider: LoopbackProvider):
    """By the header of the answer."""
    tracker = Tracker(budget=Budget(tokens=60))
    provider.script(Reply(embedding=[0.5], usage=Usage(input_tokens=41)))
    watch(tracker, client)
    body = json.dumps({"inputText": "one two three"})
    client.invoke_model(modelId=TITAN, body=body)["body"].read()
    assert tracker.total_embedding_token_count == 41
    assert tracker.accounts[0].spent().tokens == 41
    with pytest.raises(BudgetExceededError):
        client.invoke_model(modelId=TITAN, body=json.dumps({"inputText": "word " * 40}))
    assert len(provider.calls) == 1

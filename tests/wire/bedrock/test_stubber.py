"""Answers of botocore's Stubber count as what they say, as in the unit tests of a program."""

import json
import sys
from io import BytesIO
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.response import StreamingBody
from botocore.stub import Stubber

from llama_token_tracker import Tracker
from llama_token_tracker.wire import watch
from tests.wire.bedrock.conftest import BODY, CLAUDE, MESSAGES, PROMPT, TITAN

USAGE = {"inputTokens": 1_234, "outputTokens": 56, "totalTokens": 1_290}
CONVERSED = {
    "output": {"message": {"role": "assistant", "content": [{"text": "Canberra."}]}},
    "stopReason": "end_turn",
    "usage": USAGE,
    "metrics": {"latencyMs": 1},
}
INVOKED = {
    "content": [{"type": "text", "text": "Canberra."}],
    "usage": {"input_tokens": 1_234, "cache_read_input_tokens": 0, "output_tokens": 56},
}


def _invoked(**fields: Any) -> dict[str, Any]:
    content = json.dumps(fields).encode()
    body = StreamingBody(BytesIO(content), len(content))
    return {"body": body, "contentType": "application/json"}


@pytest.mark.parametrize("is_watched_first", [True, False])
def test_a_stubbed_answer_is_counted(is_watched_first: bool, client: Any, tracker: Tracker):
    """Converse and InvokeModel, with model and texts, whoever came first."""
    if is_watched_first:
        watch(tracker, client)
    with Stubber(client) as stubber:
        watch(tracker, client)
        stubber.add_response("converse", CONVERSED)
        stubber.add_response("invoke_model", _invoked(**INVOKED))
        client.converse(modelId=CLAUDE, messages=MESSAGES)
        body = client.invoke_model(modelId=CLAUDE, body=BODY)["body"]
        assert json.loads(body.read()) == INVOKED
        stubber.assert_no_pending_responses()
    for event in tracker.llm_token_counts:
        assert (event.prompt_token_count, event.completion_token_count) == (1_234, 56)
        assert (event.source, event.status, event.model) == ("reported", "complete", CLAUDE)
        assert (event.prompt, event.completion) == (f"user: {PROMPT}", "assistant: Canberra.")
    assert len(tracker.llm_token_counts) == 2


def test_a_stubbed_answer_is_counted_from_the_first_on(client: Any, tracker: Tracker):
    """In a process that is watched, where a client is heard once it asks."""
    with watch(tracker), Stubber(client) as stubber:
        for _ in range(2):
            stubber.add_response("converse", CONVERSED)
            client.converse(modelId=CLAUDE, messages=MESSAGES)
    assert [event.model for event in tracker.llm_token_counts] == [CLAUDE, CLAUDE]
    assert {event.prompt for event in tracker.llm_token_counts} == {f"user: {PROMPT}"}
    assert tracker.total_llm_token_count == 2 * 1_290


def test_a_stubber_that_is_imported_later_is_known_all_the_same(
    client: Any, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
):
    """By its answer alone: what was asked for isn't known."""
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "botocore.stub")
        watch(tracker, client)
    with Stubber(client) as stubber:
        stubber.add_response("converse", CONVERSED)
        client.converse(modelId=CLAUDE, messages=MESSAGES)
    [event] = tracker.llm_token_counts
    assert (event.total_token_count, event.model, event.prompt) == (1_290, "", "")


def test_a_stubbed_embedding_is_counted(client: Any, tracker: Tracker):
    """By the figure in its body."""
    watch(tracker, client)
    with Stubber(client) as stubber:
        stubber.add_response("invoke_model", _invoked(embedding=[0.5], inputTextTokenCount=7))
        client.invoke_model(modelId=TITAN, body=json.dumps({"inputText": "one"}))["body"].read()
    [event] = tracker.embedding_token_counts
    assert (event.prompt_token_count, event.source, event.prompt) == (7, "reported", "one")


def test_a_stubbed_error_is_free(client: Any, tracker: Tracker):
    """As one of AWS is."""
    watch(tracker, client)
    with Stubber(client) as stubber:
        stubber.add_client_error("converse", "ThrottlingException", http_status_code=429)
        with pytest.raises(ClientError):
            client.converse(modelId=CLAUDE, messages=MESSAGES)
    assert tracker.llm_token_counts == []
    assert len(tracker.failed_calls) == 1


def test_what_no_stub_was_made_for_is_no_call(client: Any, tracker: Tracker):
    """Nothing has left."""
    watch(tracker, client)
    with Stubber(client), pytest.raises(Exception, match="stub"):
        client.converse(modelId=CLAUDE, messages=MESSAGES)
    assert tracker.llm_token_counts == tracker.failed_calls == []


def test_a_stubbed_stream_is_counted(client: Any, tracker: Tracker):
    """The Stubber refuses lists of events; what a handler of one's own answers with is read."""
    events = [
        {"contentBlockDelta": {"delta": {"text": "Canberra."}}},
        {"metadata": {"usage": USAGE}},
    ]
    watch(tracker, client)
    with Stubber(client) as stubber:
        stubber._validate_response = lambda *_: None
        stubber.add_response("converse_stream", {"stream": events})
        stream = client.converse_stream(modelId=CLAUDE, messages=MESSAGES)["stream"]
    assert list(stream) == events
    [event] = tracker.llm_token_counts
    assert (event.total_token_count, event.status) == (1_290, "complete")
    assert event.completion == "assistant: Canberra."

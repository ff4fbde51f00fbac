"""Bedrock's formats, as boto3 and Anthropic's SDK read them."""

import json
from typing import Any

import anthropic
import pytest
from botocore.exceptions import ClientError

from llama_token_tracker import Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.testing.samples import ADDS, ASK, CACHED, PLAIN, TEXT, THOUGHT, UNCACHED

CLAUDE = "anthropic.claude-3-haiku-20240307-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc123"
MODELS = {
    "claude": CLAUDE,
    "command": "cohere.command-text-v14",
    "llama": "meta.llama3-8b-instruct-v1:0",
    "mistral": "mistral.mistral-7b-instruct-v0:2",
    "nova": "us.amazon.nova-lite-v1:0",
    "titan": "amazon.titan-text-express-v1",
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
CONVERSE: Any = {"modelId": CLAUDE, "messages": [{"role": "user", "content": [{"text": "Which?"}]}]}


def invoke(client: Any, model: str, **fields: object) -> tuple[Any, dict[str, str]]:
    """Give the body of an InvokeModel and the counts in its headers."""
    response = client.invoke_model(modelId=model, body=json.dumps(fields))
    headers = response["ResponseMetadata"]["HTTPHeaders"]
    counts = {
        name.removeprefix("x-amzn-bedrock-").removesuffix("-token-count"): count
        for name, count in headers.items()
        if name.endswith("-token-count")
    }
    return json.loads(response["body"].read()), counts


def invoke_stream(client: Any, model: str, **fields: object) -> list[Any]:
    """Give the chunks of an InvokeModelWithResponseStream."""
    response = client.invoke_model_with_response_stream(modelId=model, body=json.dumps(fields))
    return [json.loads(event["chunk"]["bytes"]) for event in response["body"]]


# --- InvokeModel -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", [CLAUDE, PROFILE], ids=["by name", "by an opaque ARN"])
def test_claudes_body_and_headers_agree(model: str, boto_client: Any, provider: LoopbackProvider):
    """Both leave the cache out of the input."""
    provider.script(Reply(TEXT, CACHED))
    body, counts = invoke(boto_client, model, messages=ASK)
    assert body["content"] == [{"type": "text", "text": TEXT}]
    assert body["usage"]["input_tokens"] == UNCACHED
    assert body["usage"]["cache_creation"]["ephemeral_5m_input_tokens"] == 501
    assert counts == {
        "input": str(UNCACHED),
        "output": "1256",
        "cache-read-input": "21500",
        "cache-write-input": "701",
    }
    [call] = provider.calls
    assert (call.api, call.model) == ("bedrock.invoke", model)
    assert call.reported == CACHED


def test_claude_answers_a_prompt_with_a_completion(boto_client: Any, provider: LoopbackProvider):
    """The older form's body says nothing of tokens; the headers do."""
    provider.script(Reply(TEXT, PLAIN), Reply(TEXT, PLAIN))
    ask: Any = {"model": "anthropic.claude-v2:1", "prompt": "\n\nHuman: Which?\n\nAssistant:"}
    body, counts = invoke(boto_client, **ask)
    assert body["completion"] == TEXT
    assert "usage" not in body
    assert counts == {"input": "20011", "output": "3001"}
    chunks = invoke_stream(boto_client, **ask)
    assert "".join(chunk["completion"] for chunk in chunks) == TEXT


def test_titan_counts_the_input_at_the_top(boto_client: Any, provider: LoopbackProvider):
    """Titan counts the input at the top and the output in its results."""
    provider.script(Reply(TEXT, PLAIN))
    body, counts = invoke(boto_client, MODELS["titan"], inputText="Which?")
    assert body["inputTextTokenCount"] == 20_011
    [result] = body["results"]
    assert (result["tokenCount"], result["outputText"]) == (3_001, TEXT)
    assert counts == {"input": "20011", "output": "3001"}


def test_llama_counts_beside_the_text(boto_client: Any, provider: LoopbackProvider):
    """Llama counts prompt and generation beside the text."""
    provider.script(Reply(TEXT, PLAIN))
    body, _ = invoke(boto_client, MODELS["llama"], prompt="Which?")
    assert body["generation"] == TEXT
    assert (body["prompt_token_count"], body["generation_token_count"]) == (20_011, 3_001)


def test_mistral_and_command_count_in_headers_alone(boto_client: Any, provider: LoopbackProvider):
    """Their bodies say nothing of tokens."""
    provider.script(*[Reply(TEXT, PLAIN)] * 2)
    body, counts = invoke(boto_client, MODELS["mistral"], prompt="Which?")
    assert body == {"outputs": [{"text": TEXT, "stop_reason": "stop"}]}
    assert counts["output"] == "3001"
    body, counts = invoke(boto_client, MODELS["command"], prompt="Which?")
    assert body["generations"][0]["text"] == TEXT
    assert counts["output"] == "3001"


def test_nova_speaks_as_converse_does(boto_client: Any, provider: LoopbackProvider):
    """But its cache keys end in `Count`."""
    provider.script(Reply(TEXT, CACHED))
    body, _ = invoke(boto_client, MODELS["nova"], messages=CONVERSE["messages"])
    assert body["output"]["message"]["content"] == [{"text": TEXT}]
    assert body["usage"]["inputTokens"] == UNCACHED
    assert body["usage"]["cacheReadInputTokenCount"] == 21_500


def test_a_model_of_no_known_dialect_is_refused(boto_client: Any, provider: LoopbackProvider):
    """Rather than answered in words that it would never use; the error says which are known."""
    for ask in (invoke, invoke_stream):
        with pytest.raises(ClientError, match=r"no body of 'ai21.jamba.*claude.*Converse works"):
            ask(boto_client, "ai21.jamba-1-5-mini-v1:0", messages=ASK)
    assert [(call.status, call.billed) for call in provider.calls] == [(400, None)] * 2


@every_model
def test_a_response_stream_ends_with_metrics(
    model: str, boto_client: Any, provider: LoopbackProvider
):
    """The frames have checksums that botocore accepts, and the last chunk carries the metrics."""
    provider.script(Reply(TEXT, CACHED, terse=True))
    *chunks, last = invoke_stream(boto_client, model)
    assert not [chunk for chunk in chunks if "amazon-bedrock-invocationMetrics" in chunk]
    metrics = last["amazon-bedrock-invocationMetrics"]
    assert metrics["inputTokenCount"] == UNCACHED
    assert metrics["outputTokenCount"] == 1_256
    assert metrics["cacheReadInputTokenCount"] == 21_500
    assert TEXT[:5] in json.dumps(chunks)
    [call] = provider.settle()
    assert (call.model, call.ended, call.streamed) == (model, "finished", True)
    assert call.billed == CACHED
    assert call.reported is not None
    assert call.reported.cache_read_tokens == 21_500


@every_model
def test_a_silent_answer_is_billed_all_the_same(
    model: str, boto_client: Any, provider: LoopbackProvider
):
    """With `usage=None` nothing is on the wire, and the provider still knows what it bills."""
    provider.script(*[Reply(TEXT, None)] * 2)
    body, counts = invoke(boto_client, model)
    assert counts == {}
    assert "oken" not in json.dumps(body)
    assert "oken" not in json.dumps(invoke_stream(boto_client, model))
    for call in provider.settle():
        assert call.billed is not None
        assert call.reported is None


def test_anthropics_own_client_for_bedrock_is_answered(provider: LoopbackProvider):
    """`AnthropicBedrock` calls InvokeModel over HTTP, and reads its stream too."""
    provider.script(*[Reply(TEXT, CACHED)] * 2)
    with anthropic.AnthropicBedrock(
        base_url=provider.url("bedrock"),
        aws_region="us-east-1",
        aws_access_key="none",
        aws_secret_key="none",
    ) as client:
        message = client.messages.create(model=CLAUDE, max_tokens=9, messages=ASK)
        with client.messages.stream(model=CLAUDE, max_tokens=9, messages=ASK) as stream:
            assert stream.get_final_message().usage.output_tokens == 1_256
    assert message.usage.input_tokens == UNCACHED
    assert [call.api for call in provider.settle()] == ["bedrock.invoke", "bedrock.invoke_stream"]


# --- Guardrails ------------------------------------------------------------------------------


@every_model
def test_a_guardrail_is_named_in_the_body(model: str, boto_client: Any, provider: LoopbackProvider):
    """Once in an answer and once in a stream, whose headers and metrics still count."""
    provider.script(*[Reply("I can't say.", PLAIN, guardrail=True)] * 2)
    body, counts = invoke(boto_client, model)
    assert body["amazon-bedrock-guardrailAction"] == "INTERVENED"
    assert "I can't say." in json.dumps(body)
    assert counts == {"input": "20011", "output": "3001"}
    *_, last = invoke_stream(boto_client, model)
    assert last["amazon-bedrock-guardrailAction"] == "INTERVENED"
    assert last["amazon-bedrock-invocationMetrics"]["inputTokenCount"] == 20_011


def test_a_guardrail_speaks_in_claudes_place(boto_client: Any, provider: LoopbackProvider):
    """Its answer has neither an id nor a usage in the body, as Bedrock's own logs show."""
    provider.script(Reply("I can't say.", PLAIN, guardrail=True))
    body, _ = invoke(boto_client, CLAUDE, messages=ASK)
    assert set(body) == {"type", "role", "content", "amazon-bedrock-guardrailAction"}


def test_a_guardrail_is_converses_stop_reason(boto_client: Any, provider: LoopbackProvider):
    """The usage stands beside it: nothing, if the prompt never reached the model."""
    nothing = Usage(input_tokens=0, output_tokens=0)
    provider.script(*[Reply("I can't say.", nothing, guardrail=True)] * 2)
    response = boto_client.converse(**CONVERSE)
    assert response["stopReason"] == "guardrail_intervened"
    assert response["usage"] == {"inputTokens": 0, "outputTokens": 0, "totalTokens": 0}
    *_, stop, metadata = boto_client.converse_stream(**CONVERSE)["stream"]
    assert stop == {"messageStop": {"stopReason": "guardrail_intervened"}}
    assert metadata["metadata"]["usage"]["totalTokens"] == 0


# --- Converse --------------------------------------------------------------------------------


def test_converse_leaves_the_cache_out_of_the_input(boto_client: Any, provider: LoopbackProvider):
    """Converse's three input buckets are apart, and its total is all of them."""
    provider.script(Reply(TEXT, CACHED, tool_calls=ADDS, thinking="Hm."))
    response = boto_client.converse(**CONVERSE)
    usage = response["usage"]
    assert usage["inputTokens"] == UNCACHED
    assert usage["cacheReadInputTokens"] == 21_500
    assert usage["cacheWriteInputTokens"] == 701
    assert usage["totalTokens"] == 22_734 + 1_256
    thought, text, tool = response["output"]["message"]["content"]
    assert thought["reasoningContent"]["reasoningText"]["text"] == "Hm."
    assert text == {"text": TEXT}
    assert tool["toolUse"]["input"] == {"a": 20, "b": 22}
    assert response["stopReason"] == "tool_use"


def test_converse_streams_end_with_metadata(boto_client: Any, provider: LoopbackProvider):
    """A ConverseStream sends text, tool input as partial JSON, and last of all its usage."""
    provider.script(Reply(TEXT, CACHED, tool_calls=ADDS))
    events = list(boto_client.converse_stream(**CONVERSE)["stream"])
    deltas = [e["contentBlockDelta"]["delta"] for e in events if "contentBlockDelta" in e]
    assert "".join(delta.get("text", "") for delta in deltas) == TEXT
    tool = "".join(delta["toolUse"]["input"] for delta in deltas if "toolUse" in delta)
    assert json.loads(tool) == {"a": 20, "b": 22}
    assert events[-1]["metadata"]["usage"]["inputTokens"] == UNCACHED
    [call] = provider.settle()
    assert call.reported == CACHED


def test_converse_has_no_word_for_reasoning(boto_client: Any, provider: LoopbackProvider):
    """It's billed within the output, and the call says that it wasn't reported."""
    provider.script(Reply(TEXT, THOUGHT))
    boto_client.converse(**CONVERSE)
    [call] = provider.calls
    assert call.billed == THOUGHT
    assert call.reported is not None
    assert call.reported.reasoning_tokens is None


# --- The rest --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["v1", "v2:0"])
def test_titans_embedding_counts_in_body_and_header(
    version: str, boto_client: Any, provider: LoopbackProvider
):
    """The second version also gives the vector by its type."""
    provider.script(Reply(usage=PLAIN))
    body, counts = invoke(boto_client, f"amazon.titan-embed-text-{version}", inputText="Which?")
    vector = [0.25, 0.5, 0.75]
    by_type = {"embeddingsByType": {"float": vector}} if version == "v2:0" else {}
    assert body == {"embedding": vector, "inputTextTokenCount": 20_011} | by_type
    assert counts == {"input": "20011"}
    assert provider.billed == [Usage(input_tokens=20_011)]


def test_coheres_embeddings_count_in_the_header(boto_client: Any, provider: LoopbackProvider):
    """One vector a text, in a list or by type as it was asked for; the body counts nothing."""
    provider.script(*[Reply(usage=PLAIN)] * 2)
    body, counts = invoke(boto_client, "cohere.embed-english-v3", texts=["a", "b"])
    assert body["embeddings"] == [[0.25, 0.5, 0.75]] * 2
    assert counts == {"input": "20011"}
    ask: Any = {"texts": ["a"], "embedding_types": ["float"]}
    body, _ = invoke(boto_client, "us.cohere.embed-v4:0", **ask)
    assert body["embeddings"] == {"float": [[0.25, 0.5, 0.75]]}
    assert body["response_type"] == "embeddings_by_type"
    assert {call.api for call in provider.calls} == {"bedrock.embed"}


def test_count_tokens_is_free(boto_client: Any, provider: LoopbackProvider):
    """CountTokens answers with the scripted input, and nothing is billed."""
    provider.script(Reply(usage=PLAIN))
    ask = {"converse": {"messages": CONVERSE["messages"]}}
    assert boto_client.count_tokens(modelId=CLAUDE, input=ask)["inputTokens"] == 20_011
    assert provider.billed == []


def test_every_answer_has_a_request_id(boto_client: Any):
    """Who tells calls apart by AWS's request id can."""
    ids = {boto_client.converse(**CONVERSE)["ResponseMetadata"]["RequestId"] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "ValidationException"),
        (401, "UnrecognizedClientException"),
        (429, "ThrottlingException"),
        (500, "InternalServerException"),
    ],
)
def test_an_error_carries_its_type(
    status: int, code: str, boto_client: Any, provider: LoopbackProvider
):
    """The header names the error's type, botocore reads it, and the call isn't billed."""
    provider.script(Reply(status=status))
    with pytest.raises(ClientError) as caught:
        boto_client.converse(**CONVERSE)
    assert caught.value.response["Error"]["Code"] == code
    assert provider.billed == []
    assert len(provider.calls) == 1

"""`count_messages(via=…)` asks the real endpoints through the real SDKs, and outlives a refusal."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import boto3
import pytest
from botocore.config import Config
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, ToolCallBlock

from llama_token_tracker import CountRefusedError, Usage, count_messages
from llama_token_tracker.testing import LoopbackProvider, Reply

CLAUDE = "claude-sonnet-4-5"
ON_BEDROCK = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
BARE = ON_BEDROCK.removeprefix("us.")
COUNTED = Reply(usage=Usage(input_tokens=4_321, output_tokens=0))
TOOLS = [{"name": "add", "description": "Add.", "input_schema": {"properties": {}}}]
MESSAGES = [
    ChatMessage(role="system", content="Be brief."),
    ChatMessage(role="user", content="What is 1 + 2?"),
    ChatMessage(
        role="assistant", blocks=[ToolCallBlock(tool_name="add", tool_kwargs={"a": 1, "b": 2})]
    ),
    ChatMessage(role="tool", content="3"),
]
DICTS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]


@pytest.fixture
def claude(provider: LoopbackProvider) -> anthropic.Anthropic:
    """Anthropic's own client."""
    return anthropic.Anthropic(**provider.arguments("anthropic"))


@pytest.fixture
def bedrock(provider: LoopbackProvider) -> Any:
    """boto3's client, which doesn't try again."""
    return boto3.client(
        "bedrock-runtime",
        **provider.arguments("bedrock"),
        config=Config(retries={"total_max_attempts": 1}, read_timeout=1),
    )


@pytest.fixture(params=["anthropic", "bedrock"])
def asked(request: pytest.FixtureRequest) -> tuple[Any, str]:
    """A client, and what it calls the model."""
    if request.param == "anthropic":
        return request.getfixturevalue("claude"), CLAUDE
    return request.getfixturevalue("bedrock"), ON_BEDROCK


@pytest.mark.parametrize("messages", [MESSAGES, DICTS], ids=["chat messages", "dicts"])
def test_the_providers_figure_is_reported(
    messages: Any, asked: tuple[Any, str], provider: LoopbackProvider
):
    """Where the provider counts, its figure stands."""
    via, model = asked
    provider.script(COUNTED)
    count = count_messages(messages, model=model, tools=TOOLS, via=via, strict=True)
    assert (count.tokens, count.source, count.estimates) == (4_321, "reported", ())


def test_anthropic_is_sent_what_a_call_would_send(
    claude: anthropic.Anthropic, provider: LoopbackProvider
):
    """System text, calls of tools, their results and the tools all go along."""
    count_messages(MESSAGES, model=CLAUDE, tools=TOOLS, via=claude, strict=True)
    [call] = provider.calls
    assert call.body["system"] == "Be brief."
    assert [turn["role"] for turn in call.body["messages"]] == ["user", "assistant", "user"]
    use, result = (turn["content"][0] for turn in call.body["messages"][1:])
    assert use["id"] == result["tool_use_id"]
    assert call.body["tools"][0]["name"] == "add"


def test_anthropics_own_dicts_are_sent_as_they_are(
    claude: anthropic.Anthropic, provider: LoopbackProvider
):
    """A picture, whose bytes a count here would not keep, reaches the provider."""
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is it?"}]
    message = {"role": "user", "content": content}
    count_messages([message], model=CLAUDE, via=claude, strict=True)
    assert provider.calls[0].body["messages"] == [message]


def test_bedrock_is_asked_in_each_form(bedrock: Any, provider: LoopbackProvider):
    """Converse with the id as given, without its prefix, then InvokeModel; the first that works."""
    invalid = Reply(status=400)
    provider.script(invalid, invalid, invalid, COUNTED)
    count = count_messages(MESSAGES, model=ON_BEDROCK, via=bedrock, strict=True)
    assert count.tokens == 4_321
    assert [(call.model, *call.body["input"]) for call in provider.calls] == [
        (ON_BEDROCK, "converse"),
        (BARE, "converse"),
        (ON_BEDROCK, "invokeModel"),
        (BARE, "invokeModel"),
    ]
    assert json.dumps(provider.calls[0].body).count("Be brief.") == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503, 529])
def test_a_refusal_leaves_the_local_count(
    status: int, asked: tuple[Any, str], provider: LoopbackProvider
):
    """Whatever the provider answers, there is a count, and it says why it's ours."""
    via, model = asked
    provider.script(*[Reply(status=status)] * 4)
    count = count_messages(MESSAGES, model=model, via=via)
    assert count.tokens == count_messages(MESSAGES, model=model).tokens > 0
    assert count.source == "estimated"
    assert "the provider gave no count" in count.estimates[0]
    provider.reset()
    provider.script(*[Reply(status=status)] * 4)
    with pytest.raises(CountRefusedError, match=model):
        count_messages(MESSAGES, model=model, via=via, strict=True)


def test_a_provider_that_is_slow_is_left(asked: tuple[Any, str], provider: LoopbackProvider):
    """A count isn't worth a long wait."""
    via, model = asked
    provider.script(Reply(delay_s=3))
    count = count_messages(MESSAGES, model=model, via=via, timeout_s=0.2)
    assert "ime" in count.estimates[0]  # ReadTimeoutError, APITimeoutError


def test_what_cannot_be_sent_is_counted_here(asked: tuple[Any, str], provider: LoopbackProvider):
    """A picture behind a URL isn't fetched, so the provider isn't asked."""
    via, model = asked
    image = ChatMessage(role="user", blocks=[ImageBlock(url="http://127.0.0.1:9/a.png")])
    assert count_messages([image], model=model, via=via).source == "estimated"
    assert provider.calls == []


@pytest.mark.parametrize(
    "make",
    [
        object,
        lambda: anthropic.AnthropicBedrock(
            aws_region="us-east-1", aws_access_key="none", aws_secret_key="none"
        ),
        lambda: anthropic.AsyncAnthropic(api_key="none"),
    ],
    ids=["object", "AnthropicBedrock", "asynchronous"],
)
def test_a_client_that_cannot_count_leaves_the_local_count(make: Any):
    """Anthropic's client for Bedrock has the method, but raises; it's a refusal like others."""
    count = count_messages(DICTS, model=CLAUDE, via=make())
    assert count.source == "estimated"
    with pytest.raises(CountRefusedError):
        count_messages(DICTS, model=CLAUDE, via=make(), strict=True)

"""What every format has in common, whatever the figures."""

import json
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llama_token_tracker import Usage, extract_usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from llama_token_tracker.testing.formats import ROUTES

COUNTS = st.integers(0, 10**9)
PATHS = {
    "anthropic": "/anthropic/v1/messages",
    "vertex claude": "/anthropic/v1/projects/acme/locations/us-east5/publishers/anthropic/models/"
    "claude-sonnet-4-5:rawPredict",
    "bedrock claude": "/bedrock/model/anthropic.claude-3-haiku-20240307-v1:0/invoke",
    "bedrock converse": "/bedrock/model/m/converse",
    "bedrock llama": "/bedrock/model/meta.llama3-8b-instruct-v1:0/invoke",
    "bedrock mistral": "/bedrock/model/mistral.mistral-7b-instruct-v0:2/invoke",
    "bedrock nova": "/bedrock/model/amazon.nova-lite-v1:0/invoke",
    "bedrock titan": "/bedrock/model/amazon.titan-text-express-v1/invoke",
    "bedrock titan embedding": "/bedrock/model/amazon.titan-embed-text-v2:0/invoke",
    "bedrock cohere embedding": "/bedrock/model/cohere.embed-english-v3/invoke",
    "cohere": "/cohere/v1/chat",
    "cohere generate": "/cohere/v1/generate",
    "gemini": "/gemini/v1beta/models/m:generateContent",
    "mistral": "/mistral/v1/chat/completions",
    "ollama": "/ollama/api/chat",
    "openai": "/openai/v1/chat/completions",
    "openai completions": "/openai/v1/completions",
    "openai embedding": "/openai/v1/embeddings",
    "openai responses": "/openai/v1/responses",
}
IN_THE_HEADERS = {
    "bedrock cohere embedding",
    "bedrock llama",
    "bedrock mistral",
    "bedrock titan",
}
"""Whose bodies say nothing of tokens, or nothing of a cache."""


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Any usage that a provider could bill."""
    read, short, hour, uncached, said, thought = (draw(COUNTS) for _ in range(6))
    return Usage(
        input_tokens=read + short + hour + uncached,
        output_tokens=said + thought,
        cache_read_tokens=read,
        cache_write_tokens=short + hour,
        cache_write_5m_tokens=short,
        cache_write_1h_tokens=hour,
        reasoning_tokens=thought,
    )


@pytest.mark.parametrize("name", PATHS)
@settings(
    max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(usage=usages())
def test_what_a_format_writes_is_what_was_scripted(
    name: str, usage: Usage, provider: LoopbackProvider, http: httpx.Client
):
    """Read back from the wire, a usage is the one that the call says it reported."""
    provider.reset()
    provider.script(Reply(usage=usage))
    response = http.post(provider.url() + PATHS[name], json={"stream": False})
    [call] = provider.calls
    said: Any = dict(response.headers) if name in IN_THE_HEADERS else response.json()
    read = extract_usage(said)
    assert read is not None
    assert call.reported is not None
    for bucket, count in call.reported.reported().items():
        # Some formats leave a zero out.
        assert (getattr(read, bucket) or 0) == count, bucket
    assert read.input_tokens == usage.input_tokens
    assert (read.output_tokens or 0) == ((call.billed and call.billed.output_tokens) or 0)


@pytest.mark.parametrize("name", PATHS)
def test_a_silent_format_says_nothing(name: str, provider: LoopbackProvider, http: httpx.Client):
    """With `usage=None` there is no figure to be found, in no format."""
    provider.script(Reply(usage=None))
    response = http.post(provider.url() + PATHS[name], json={"stream": False})
    assert response.status_code == 200
    found = extract_usage(response.json())
    assert found is None or found == Usage()
    assert not [header for header in response.headers if "token-count" in header]
    assert provider.calls[0].reported is None


@given(text=st.text(st.characters(exclude_categories=["Cs"])), chunks=st.integers(1, 50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_stream_loses_no_letter(
    text: str, chunks: int, provider: LoopbackProvider, http: httpx.Client
):
    """However it's cut, the pieces of a text are the text; special tokens are text like any."""
    provider.reset()
    text += "<|endoftext|>"
    provider.script(Reply(text, chunks=chunks))
    lines = http.post(provider.url("ollama") + "/api/chat", json={"model": "m"}).text.split("\n")
    parts = [json.loads(line)["message"]["content"] for line in lines if line]
    assert "".join(parts) == text
    assert len(parts) <= chunks + 1


def test_every_format_is_verified_here():
    """No route that reports is left out of the law above."""
    root = set(PATHS.values())
    asked = [next(route.api for route in ROUTES if route.pattern.fullmatch(path)) for path in root]
    streams = {"bedrock.converse_stream", "bedrock.invoke_stream", "gemini.stream"}
    reporting = {route.api for route in ROUTES if route.kind != "count"}
    assert set(asked) | streams == reporting

"""Which requests are counted, and whose they are."""

import re

import pytest

from llama_token_tracker.wire.operations import OPERATIONS, find

COUNTED = [
    ("https://api.openai.com/v1/chat/completions", "openai", "chat", ""),
    ("https://api.openai.com/v1/completions", "openai", "completion", ""),
    ("https://api.openai.com/v1/responses", "openai", "chat", ""),
    ("https://api.openai.com/v1/embeddings", "openai", "embedding", ""),
    (
        "https://me.openai.azure.com/openai/deployments/mine/chat/completions",
        "azure.ai.openai",
        "chat",
        "mine",
    ),
    ("https://me.openai.azure.com/openai/responses", "azure.ai.openai", "chat", ""),
    ("https://api.groq.com/openai/v1/chat/completions", "groq", "chat", ""),
    ("https://api.deepseek.com/chat/completions", "deepseek", "chat", ""),
    ("https://my.gateway/any/v1/chat/completions", "openai", "chat", ""),
    ("https://api.anthropic.com/v1/messages", "anthropic", "chat", ""),
    (
        "https://us-east5-aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/anthropic"
        "/models/claude-sonnet-4@20250514:streamRawPredict",
        "gcp.vertex_ai",
        "chat",
        "claude-sonnet-4@20250514",
    ),
    ("https://api.mistral.ai/v1/chat/completions", "mistral_ai", "chat", ""),
    ("https://api.mistral.ai/v1/fim/completions", "mistral_ai", "completion", ""),
    ("https://api.mistral.ai/v1/agents/completions", "mistral_ai", "chat", ""),
    ("https://api.mistral.ai/v1/embeddings", "mistral_ai", "embedding", ""),
    ("https://api.cohere.com/v2/chat", "cohere", "chat", ""),
    ("https://api.cohere.com/v1/chat", "cohere", "chat", ""),
    ("https://api.cohere.com/v1/generate", "cohere", "completion", ""),
    ("https://api.cohere.com/v2/embed", "cohere", "embedding", ""),
    (
        "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-pro:generateContent",
        "gcp.gemini",
        "chat",
        "gemini-2.5-pro",
    ),
    (
        "https://generativelanguage.googleapis.com/v1beta/models/g:streamGenerateContent",
        "gcp.gemini",
        "chat",
        "g",
    ),
    (
        "https://generativelanguage.googleapis.com/v1beta/models/e:batchEmbedContents",
        "gcp.gemini",
        "embedding",
        "e",
    ),
    ("http://localhost:11434/api/chat", "ollama", "chat", ""),
    ("http://localhost:11434/api/generate", "ollama", "completion", ""),
    ("http://localhost:11434/api/embed", "ollama", "embedding", ""),
    ("http://localhost:11434/api/embeddings", "ollama", "embedding", ""),
]


def parts(url: str) -> tuple[str, str]:
    """Host and path."""
    found = re.fullmatch(r"https?://([^/:]+)(?::\d+)?(/.*)", url)
    assert found is not None
    return found[1], found[2]


@pytest.mark.parametrize(("url", "provider", "operation", "model"), COUNTED)
def test_a_request_is_known_by_its_url(url: str, provider: str, operation: str, model: str):
    """Its host says whose it is, and its path what is asked for."""
    host, path = parts(url)
    found = find(host, "POST", path)
    assert found is not None
    assert (found.provider, found.kind, found.model) == (provider, operation, model)


@pytest.mark.parametrize(
    "url",
    [
        "https://api.anthropic.com/v1/messages/count_tokens",
        "https://api.anthropic.com/v1/messages/batches",
        "https://generativelanguage.googleapis.com/v1beta/models/g:countTokens",
        "https://x-aiplatform.googleapis.com/v1/publishers/anthropic/models/count-tokens:rawPredict",
        "https://api.openai.com/v1/responses/resp_1/cancel",
        "https://api.openai.com/v1/files",
        "https://api.cohere.com/v2/rerank",
        "https://example.org/survey/responses",
        "http://localhost:11434/api/tags",
    ],
)
def test_what_uses_no_tokens_is_not_counted(url: str):
    """Counts of tokens are free, and so are files."""
    host, path = parts(url)
    assert find(host, "POST", path) is None


def test_every_row_says_where_it_comes_from():
    """And when it was compared with that."""
    for api in OPERATIONS:
        assert api.source.startswith("https://"), api
        assert api.checked.year >= 2026

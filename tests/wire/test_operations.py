"""Which requests are counted, and whose they are."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from llama_token_tracker.errors import WireFormatError
from llama_token_tracker.wire import Dialect, WireOperation, dialects, register_operation
from llama_token_tracker.wire.operations import OPERATIONS, find, forget_operations

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
    ("https://my.gateway/any/v1/chat/completions", None, "chat", ""),
    ("https://notapi.openai.com.evil.example/v1/chat/completions", None, "chat", ""),
    ("https://fakeapi.openai.com/v1/chat/completions", None, "chat", ""),
    ("https://my.gateway/v1/messages", None, "chat", ""),
    ("https://my.gateway/v2/chat", None, "chat", ""),
    ("https://openrouter.ai/api/v1/chat/completions", "openrouter", "chat", ""),
    ("https://api.moonshot.ai/v1/chat/completions", "moonshot_ai", "chat", ""),
    ("https://api.together.xyz/v1/chat/completions", "together", "chat", ""),
    ("https://a.services.ai.azure.com/models/chat/completions", "azure.ai.inference", "chat", ""),
    ("https://a.cognitiveservices.azure.com/openai/responses", "azure.ai.openai", "chat", ""),
    ("https://east.api.cognitive.microsoft.com/openai/responses", "azure.ai.openai", "chat", ""),
    (
        "https://aiplatform.eu.rep.googleapis.com/v1/projects/p/locations/eu/publishers/google"
        "/models/gemini-2.5-pro:generateContent",
        "gcp.vertex_ai",
        "chat",
        "gemini-2.5-pro",
    ),
    ("https://api.cohere.com/v2/rerank", "cohere", "rerank", ""),
    ("https://api.openai.com/v1/images/generations", "openai", "image", ""),
    ("https://api.openai.com/v1/audio/transcriptions", "openai", "transcription", ""),
    ("https://api.openai.com/v1/audio/speech", "openai", "speech", ""),
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
    ("https://api.mistral.ai/v1/conversations", "mistral_ai", "chat", ""),
    ("https://api.mistral.ai/v1/conversations/conv_1", "mistral_ai", "chat", ""),
    ("https://api.mistral.ai/v1/conversations/conv_1/restart", "mistral_ai", "chat", ""),
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
def test_a_request_is_known_by_its_url(url: str, provider: str | None, operation: str, model: str):
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


BEDROCK = {
    "Converse": dialects.CONVERSE,
    "ConverseStream": dialects.CONVERSE,
    "InvokeModel": dialects.INVOKE,
    "InvokeModelWithResponseStream": dialects.INVOKE_STREAM,
}


@pytest.mark.parametrize("name", BEDROCK)
def test_bedrocks_operations_are_found_where_botocore_sends_them(name: str):
    """Its own description of the service says so."""
    boto3 = pytest.importorskip("boto3")
    client = boto3.client("bedrock-runtime", region_name="us-east-1")
    http = client.meta.service_model.operation_model(name).http
    arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-v2:1"
    for model, kind in ((arn, "chat"), ("amazon.titan-embed-text-v2:0", "embedding")):
        path = http["requestUri"].replace("{modelId}", quote(model, safe=""))
        found = find("bedrock-runtime", http["method"], path)
        assert found is not None
        assert found[1:4] == (kind, "aws.bedrock", model)
        assert found.dialect is BEDROCK[name]
    over_httpx = find("bedrock-runtime.us-east-1.amazonaws.com", http["method"], path)
    # Converse is read as botocore parses it alone; over HTTP it is uncounted.
    assert (over_httpx is None) == name.startswith("Converse")
    assert over_httpx is None or over_httpx.sent.region == "us-east-1"


def test_only_requests_of_the_right_method_are_found():
    """A list of stored completions costs nothing."""
    assert find("api.openai.com", "GET", "/v1/chat/completions") is None


@pytest.fixture
def _forgotten() -> Iterator[None]:
    """Leave no operation behind."""
    yield
    forget_operations()


def row(**changes: Any) -> WireOperation:
    """An operation of Acme's."""
    given: dict[str, Any] = {
        "paths": ("/v9/talk",),
        "kind": "chat",
        "dialect": Dialect(),
        "provider": "acme",
        "source": "https://acme.example/docs",
    }
    return WireOperation(**given | changes)


@pytest.mark.usefixtures("_forgotten")
def test_a_registered_operation_is_found_from_then_on():
    """Also where its path was looked for before; registered twice, it's there once."""
    assert find("acme.example", "POST", "/v9/talk") is None
    register_operation(row())
    register_operation(row())
    found = find("acme.example", "POST", "/v9/talk")
    assert found is not None
    assert found[1:4] == ("chat", "acme", "")
    assert find("api.openai.com", "POST", "/v9/talk")[2] == "openai"  # type: ignore[index]


@pytest.mark.usefixtures("_forgotten")
def test_a_registered_operation_comes_before_all_others():
    """At its own host; elsewhere nothing has changed."""
    register_operation(row(paths=("/models/{model}/chat/completions",), host="acme.example"))
    found = find("eu.acme.example", "POST", "/v1/models/a-1/chat/completions")
    assert found is not None
    assert found[1:4] == ("chat", "acme", "a-1")
    found = find("my.gateway", "POST", "/v1/models/a-1/chat/completions")
    assert found is not None
    assert found.provider is None


@pytest.mark.parametrize(
    ("url", "region"),
    [
        ("https://api.openai.com/v1/responses", None),
        ("https://eu.api.openai.com/v1/responses", "eu"),
        ("https://eastus2.api.cognitive.microsoft.com/openai/v1/responses", "eastus2"),
        ("https://acme.openai.azure.com/openai/v1/responses", None),
        ("https://us-east5-aiplatform.googleapis.com/v1/models/g:generateContent", "us-east5"),
        ("https://aiplatform.googleapis.com/v1/models/g:generateContent", None),
        ("https://aiplatform.eu.rep.googleapis.com/v1/models/g:generateContent", "eu"),
    ],
)
def test_a_host_tells_the_region(url: str, region: str | None):
    """Where its name has one; the name of a resource is none."""
    host, path = parts(url)
    found = find(host, "POST", path)
    assert found is not None
    assert found.sent.region == region


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": "/v9/talk"}, "paths is '/v9/talk'; give a tuple"),
        ({"paths": ()}, r"paths is \(\); give a tuple"),
        ({"paths": ("v9/talk",)}, "begins with no slash"),
        ({"kind": "talk"}, "kind is 'talk'; give one of chat, completion, embedding"),
        ({"dialect": {"texts": ()}}, "its dialect is a dict; give a Dialect"),
    ],
)
def test_an_operation_that_no_request_fits_is_refused(changes: dict[str, Any], message: str):
    """When it's made, with what was found and the way out."""
    with pytest.raises(WireFormatError, match=message):
        row(**changes)


def test_what_is_no_operation_is_not_registered():
    """The message says what to give."""
    with pytest.raises(WireFormatError, match="a tuple can't be registered; give a WireOperation"):
        register_operation(("/v9/talk",))  # type: ignore[arg-type]

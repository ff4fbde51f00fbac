"""Which requests are counted, and how each is read: one row an operation of a provider's API."""

import re
from datetime import date
from functools import lru_cache
from typing import Final, NamedTuple

from llama_token_tracker.events.event import Operation
from llama_token_tracker.wire.httpx import dialects as forms
from llama_token_tracker.wire.httpx.dialects import Form

_CHECKED: Final = date(2026, 11, 22)


class Api(NamedTuple):
    """An operation that uses tokens.

    Attributes:
        path: How the paths of its requests end; a group called `model` names the model.
        operation: What is asked for.
        form: How its requests and answers are worded.
        provider: Whose API it is, for hosts that aren't in `HOSTS`.
        source: Where that is documented.
        checked: When it was compared with that.
    """

    path: str
    operation: Operation
    form: Form
    provider: str
    source: str
    checked: date = _CHECKED


_OPENAI: Final = "https://platform.openai.com/docs/api-reference/"
_MISTRAL: Final = "https://docs.mistral.ai/api/"
_COHERE: Final = "https://docs.cohere.com/"
_GEMINI: Final = "https://ai.google.dev/api/"
_OLLAMA: Final = "https://docs.ollama.com/api/"
_MODEL: Final = r"/(?:models|tunedModels|endpoints)/(?P<model>[^/:]+)"

APIS: Final = (
    Api(r"/chat/completions", "chat", forms.CHAT, "openai", _OPENAI + "chat"),
    Api(r"/agents/completions", "chat", forms.CHAT, "mistral_ai", _MISTRAL + "endpoint/agents"),
    Api(r"/fim/completions", "completion", forms.COMPLETIONS, "mistral_ai", _MISTRAL + "fim"),
    Api(r"/completions", "completion", forms.COMPLETIONS, "openai", _OPENAI + "completions"),
    Api(r"/(?:v1|openai)/responses", "chat", forms.RESPONSES, "openai", _OPENAI + "responses"),
    Api(r"/api/embed(?:dings)?", "embedding", forms.OLLAMA_EMBED, "ollama", _OLLAMA + "embed"),
    Api(r"/embeddings", "embedding", forms.EMBEDDINGS, "openai", _OPENAI + "embeddings"),
    Api(
        r"/v1/messages",
        "chat",
        forms.MESSAGES,
        "anthropic",
        "https://docs.anthropic.com/en/api/messages",
    ),
    Api(
        r"/publishers/anthropic/models/(?P<model>(?!count-tokens)[^/:]+):(?:r|streamR)awPredict",
        "chat",
        forms.MESSAGES,
        "gcp.vertex_ai",
        "https://docs.anthropic.com/en/api/claude-on-vertex-ai",
    ),
    Api(r"/v2/chat", "chat", forms.COHERE_CHAT, "cohere", _COHERE + "reference/chat"),
    Api(r"/v1/chat", "chat", forms.COHERE_V1_CHAT, "cohere", _COHERE + "v1/reference/chat"),
    Api(
        r"/v1/generate",
        "completion",
        forms.COHERE_GENERATE,
        "cohere",
        _COHERE + "v1/reference/generate",
    ),
    Api(r"/v[12]/embed", "embedding", forms.COHERE_EMBED, "cohere", _COHERE + "reference/embed"),
    Api(
        _MODEL + r":(?:g|streamG)enerateContent",
        "chat",
        forms.GEMINI,
        "gcp.gemini",
        _GEMINI + "generate-content",
    ),
    Api(
        _MODEL + r":(?:embedContent|batchEmbedContents)",
        "embedding",
        forms.GEMINI_EMBED,
        "gcp.gemini",
        _GEMINI + "embeddings",
    ),
    Api(r"/api/chat", "chat", forms.OLLAMA_CHAT, "ollama", _OLLAMA + "chat"),
    Api(r"/api/generate", "completion", forms.OLLAMA_GENERATE, "ollama", _OLLAMA + "generate"),
)
"""The first row whose path fits is taken. What is in no row, as `count_tokens`, isn't counted."""

HOSTS: Final[dict[str, str]] = {
    "api.anthropic.com": "anthropic",
    "api.cohere.ai": "cohere",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.openai.com": "openai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "openai.azure.com": "azure.ai.openai",
}
"""By the end of a host's name, who is behind it: many speak OpenAI's dialect.

Source: OpenTelemetry semantic conventions, `gen_ai.provider.name` (checked 2026-11-22).
"""

_PATHS: Final = [(api, re.compile(f".*{api.path}")) for api in APIS]
_DEPLOYMENT: Final = re.compile(r".*/deployments/(?P<model>[^/]+)/")


class Found(NamedTuple):
    """What a URL says of a request.

    Attributes:
        api: The row that it fits.
        provider: Whom it's sent to.
        model: The model, or "" if the body alone names it.
    """

    api: Api
    provider: str
    model: str


@lru_cache(maxsize=256)
def find(host: str, path: str) -> Found | None:
    """Find out what a request asks for; `None` for one that isn't counted."""
    for api, pattern in _PATHS:
        fits = pattern.fullmatch(path)
        if fits is not None:
            named = fits if "model" in fits.groupdict() else _DEPLOYMENT.match(path)
            return Found(api, _provider(host) or api.provider, named["model"] if named else "")
    return None


def _provider(host: str) -> str | None:
    # Regional hosts have a prefix: `eu.`, `us-central1-`.
    return next((name for ending, name in HOSTS.items() if host.endswith(ending)), None)

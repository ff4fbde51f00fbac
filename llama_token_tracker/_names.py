"""Names of providers and of models: what frameworks, hosts, price lists and Bedrock call them.

They stand here and nowhere else. Providers are named as OpenTelemetry's GenAI conventions spell
them; a table of this module leads from somebody's name for a provider to that one, or from it.

Source: OpenTelemetry semantic conventions, `gen_ai.provider.name` (checked 2026-11-22).
"""

import re
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

ANTHROPIC: Final = "anthropic"
AZURE_AI: Final = "azure.ai.inference"
AZURE_OPENAI: Final = "azure.ai.openai"
BEDROCK: Final = "aws.bedrock"
COHERE: Final = "cohere"
GEMINI: Final = "gcp.gemini"
MISTRAL: Final = "mistral_ai"
OLLAMA: Final = "ollama"
OPENAI: Final = "openai"
OPENROUTER: Final = "openrouter"
PERPLEXITY: Final = "perplexity"
VERTEX_AI: Final = "gcp.vertex_ai"
XAI: Final = "x_ai"

PROVIDERS: Final[dict[str, str]] = {
    "Anthropic_LLM": ANTHROPIC,
    "azure_openai_llm": AZURE_OPENAI,
    "AzureOpenAIEmbedding": AZURE_OPENAI,
    "Bedrock_LLM": BEDROCK,
    "Bedrock_Converse_LLM": BEDROCK,
    "BedrockEmbedding": BEDROCK,
    "Cohere_LLM": COHERE,
    "CohereEmbedding": COHERE,
    "GenAI": GEMINI,
    "GoogleGenAIEmbedding": GEMINI,
    "MistralAI_LLM": MISTRAL,
    "MistralAIEmbedding": MISTRAL,
    "Ollama_llm": OLLAMA,
    "OllamaEmbedding": OLLAMA,
    "openai_llm": OPENAI,
    "openai_responses_llm": OPENAI,
    "OpenAIEmbedding": OPENAI,
}
"""By LlamaIndex's names of its classes."""

LANGCHAIN_PROVIDERS: Final[dict[str, str]] = {
    "amazon_bedrock": BEDROCK,
    "anthropic": ANTHROPIC,
    "anthropic-bedrock": BEDROCK,
    "anthropic-mantle": BEDROCK,
    "azure": AZURE_OPENAI,
    "cohere": COHERE,
    "deepseek": "deepseek",
    "google_genai": GEMINI,
    "google_vertexai": VERTEX_AI,
    "groq": "groq",
    "mistral": MISTRAL,
    "ollama": OLLAMA,
    "openai": OPENAI,
    "openai-codex": OPENAI,
    "openai-mantle": BEDROCK,
    "openrouter": OPENROUTER,
    "perplexity": PERPLEXITY,
    "together": "together",
    "xai": XAI,
}
"""By what LangChain's integrations say in their runs' metadata, as `ls_provider`."""

XAI_HOST: Final = "api.x.ai"

HOSTS: Final[dict[str, str]] = {
    "api.anthropic.com": ANTHROPIC,
    "api.cerebras.ai": "cerebras",
    "api.cohere.ai": COHERE,
    "api.cohere.com": COHERE,
    "api.deepseek.com": "deepseek",
    "api.fireworks.ai": "fireworks",
    "api.groq.com": "groq",
    "api.mistral.ai": MISTRAL,
    "api.moonshot.ai": "moonshot_ai",
    "api.moonshot.cn": "moonshot_ai",
    "api.openai.com": OPENAI,
    "api.perplexity.ai": PERPLEXITY,
    "api.together.ai": "together",
    "api.together.xyz": "together",
    "api.voyageai.com": "voyageai",
    XAI_HOST: XAI,
    "openrouter.ai": OPENROUTER,
    # Google's: with regions, and those of data residency.
    "aiplatform.googleapis.com": VERTEX_AI,
    "rep.googleapis.com": VERTEX_AI,
    "generativelanguage.googleapis.com": GEMINI,
    # Azure's: of its own resources, of Foundry's, and behind API Management.
    "openai.azure.com": AZURE_OPENAI,
    "openai.azure.us": AZURE_OPENAI,
    "azure-api.net": AZURE_OPENAI,
    "cognitiveservices.azure.com": AZURE_OPENAI,
    "services.ai.azure.com": AZURE_AI,
    "api.cognitive.microsoft.com": AZURE_OPENAI,
}
"""By the end of a host's name, before which a region or a resource may stand.

Source: each provider's API reference, and `api_pattern` in `genai_prices.data` (checked
2026-11-29).
"""

ASKED_FOR_USAGE: Final = frozenset({OPENAI, AZURE_OPENAI})
"""Providers whose streams report a usage only if they are asked for it.

Source: https://platform.openai.com/docs/api-reference/chat/create, `stream_options` (checked
2026-11-29).
"""

_REGIONAL: Final = frozenset(
    {
        "aiplatform.googleapis.com",
        "api.anthropic.com",
        "api.cognitive.microsoft.com",
        "api.openai.com",
        XAI_HOST,
        "rep.googleapis.com",
    }
)
"""Hosts before whose name a region stands: `eu.`, `us-central1-`."""

_VERTEX_SERVICE: Final = "aiplatform"

SPOKEN_BY_OTHERS: Final = frozenset({ANTHROPIC, COHERE, OPENAI})
"""Whose formats others speak as well, so that they tell nobody's name."""

OWN_NAMES: Final[dict[str, tuple[str, ...]]] = {
    "moonshot_ai": ("cached_tokens",),
    PERPLEXITY: ("citation_tokens",),
    "together": ("cached_tokens",),
}
"""What providers who speak as OpenAI does say of tokens under names that OpenAI has not.

Source: https://platform.moonshot.ai/docs/api/chat, https://docs.together.ai/reference,
https://docs.perplexity.ai/api-reference (checked 2026-11-30).
"""

STATE_COSTS: Final = frozenset({OPENROUTER, PERPLEXITY, XAI})
"""Who states in each answer what was billed for it, in US dollars.

Source: OpenRouter's "Usage accounting", xAI's "Cost tracking", Perplexity's API reference (checked
2026-11-29).
"""


_BEDROCK_HOST: Final = re.compile(
    r"(?:.+\.)?bedrock-(?:runtime|mantle)(?:-fips)?\.(?P<region>[a-z0-9-]+)\."
    r"(?:vpce\.)?(?:amazonaws\.com(?:\.cn)?|api\.aws)"
)
"""Source: AWS General Reference, "Amazon Bedrock endpoints" (checked 2026-11-29)."""


HOLD_CLIENTS: Final = frozenset(
    {"openai", "anthropic", "google", "mistralai", "cohere", "ollama"}
    | {"llama_index", "langchain_openai", "langchain_anthropic", "langchain_aws"}
    | {"langchain_google_genai", "langchain_mistralai", "langchain_cohere", "langchain_ollama"}
)
"""Packages whose objects may hold an HTTP client, or a client that does."""


def at_host(host: str) -> tuple[str | None, str | None]:
    """The provider that answers at a host, and in which region; each `None` if unknown."""
    bedrock = _BEDROCK_HOST.fullmatch(host)
    if bedrock:
        return BEDROCK, bedrock["region"]
    for ending, provider in HOSTS.items():
        before = host.removesuffix(ending)
        if before != host and before[-1:] in ("", ".", "-"):
            region = before.rstrip(".-").removeprefix(_VERTEX_SERVICE).lstrip(".-")
            return provider, (region or None) if ending in _REGIONAL else None
    return None, None


@lru_cache(maxsize=64)
def is_elsewhere(url: str) -> bool:
    """Whether a base URL is none of those whose formats others speak as well."""
    return at_url(url, None) not in SPOKEN_BY_OTHERS


def at_url(url: object, named: str | None) -> str | None:
    """The provider of a client that was made for a base URL.

    Args:
        url: The URL, if it's known.
        named: Whose client it is.
    """
    host = urlsplit(url).hostname if isinstance(url, str) else None
    if not host:
        return named
    return at_host(host)[0] or (None if named in SPOKEN_BY_OTHERS else named)


BEDROCK_SERVICE: Final = "bedrock-runtime"
"""What boto3 calls the service of Bedrock that answers prompts."""

LISTED_PROVIDERS: Final[dict[str, str]] = {
    BEDROCK: "aws",
    AZURE_AI: "azure",
    AZURE_OPENAI: "azure",
    GEMINI: "google",
    "gcp.gen_ai": "google",
    VERTEX_AI: "google",
    MISTRAL: "mistral",
    "moonshot_ai": "moonshotai",
    XAI: "x-ai",
}
"""What genai-prices calls providers, where that isn't OpenTelemetry's name.

Source: `genai_prices.data` of release 0.2.3 (checked 2026-11-22).
"""

SDK_ERRORS: Final = (("openai", "OpenAIError"), ("anthropic", "AnthropicError"))
"""SDKs that hand on errors of a class of their own as they are, and wrap all others.

Source: `_base_client.py` of openai from 2.31 and of anthropic from 0.100 on (checked 2026-11-29).
"""

SENDS_NO_LINE_ENDS: Final = frozenset(
    {"AzureOpenAIEmbedding", "OpenAIEmbedding", "OpenAILikeEmbedding"}
)
"""Classes that send spaces in the place of line ends: llama-index-embeddings-openai's."""

RETURNS_USERS_OBJECT: Final = ("structured_llm",)
"""Classes whose `raw` is an object of the user's own, whatever its fields are called.

No set, for what is looked for here may have no hash.
"""


def install_line(extra: str) -> str:
    """How an extra of this package is installed; no index has the package yet."""
    return f'pip install ".[{extra}]" in a clone of this project'


@contextmanager
def from_extra(extra: str, package: str) -> Generator[None]:
    """Have an import of a package that isn't installed name the extra that brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0].lower() != package.replace("-", "_"):
            raise
        msg = f"{package} isn't installed; {install_line(extra)}."
        raise ModuleNotFoundError(msg, name=error.name) from error


# --- models --------------------------------------------------------------------------------

# Source: the Bedrock user guide, "Supported foundation models", "Geographic cross-Region
# inference" and "Amazon Bedrock ARNs" (checked 2026-11-22).
ARN: Final = re.compile(r"^arn:(?:[^:/\n]*:)*(?P<kind>[^:/\n]*)/")
"""An ARN, up to the resource: arn:aws:bedrock:REGION:ACCOUNT:KIND/ID."""

_GEOGRAPHY: Final = r"[a-z]{2,6}(?:-[a-z]+)?\."

GEOGRAPHY: Final = re.compile(rf"^{_GEOGRAPHY}(?=[a-z0-9]+\.)")
"""us. eu. apac. jp. global. us-gov. …, before a vendor."""

GLOBAL: Final = "global."
"""The geography that is everywhere."""

BEDROCK_VENDORS: Final = (
    "ai21",
    "amazon",
    "anthropic",
    "cohere",
    "deepseek",
    "google",
    "luma",
    "meta",
    "minimax",
    "mistral",
    "moonshot",
    "moonshotai",
    "nvidia",
    "openai",
    "qwen",
    "stability",
    "twelvelabs",
    "writer",
    "zai",
)
"""Whose models Bedrock serves."""

BEDROCK_MODEL: Final = re.compile(
    rf"arn:aws[^:]*:bedrock:|(?:{_GEOGRAPHY})?(?:{'|'.join(BEDROCK_VENDORS)})\."
)
"""How ids of models begin that only Bedrock knows: vendors' own interfaces take no such ids."""

# GovCloud and China.
PARTITIONS_APART: Final = re.compile(r"arn:aws-|us-gov\.")
"""How ids of models begin in those parts of AWS that are apart from the others."""

REGIONS_APART: Final = re.compile(r"us-gov-|us-iso|cn-")
"""How their regions begin."""

LISTED_REGIONS: Final[dict[str, re.Pattern[str]]] = {
    ANTHROPIC: re.compile(r"global$|not_available$"),
    # Claude costs the same in all of them, other models don't.
    BEDROCK: re.compile(r"us-(?:east|west)-\d+$"),
    OPENAI: re.compile(r"global$"),
    VERTEX_AI: re.compile(r"global$"),
}
"""In which regions prices are those of the list; who isn't here has one price everywhere.

Source: the providers' pages on prices and on data residency (checked 2026-11-29).
"""

MAY_INCLUDE_CACHE: Final = re.compile(r"(^|[./])openai\.")
"""Models for which Converse reports cached tokens within `inputTokens`, against its documentation.

Source: https://github.com/maximhq/bifrost/pull/6942, of streams at least (checked 2026-11-29).
"""

CLAUDE_ON_BEDROCK: Final = "anthropic."
"""How Bedrock's ids of Claude's models begin, geography aside."""

PUBLISHER: Final = re.compile(r"^(?:anthropic|openai)\.")
"""Who makes a model, before its bare name, as Bedrock has it."""

GOOGLE_PATH: Final = re.compile(r"^(?:.*/)?models/")
"""What Google writes before the name of a model."""

OPENAI_PATHS: Final = re.compile(
    r"^(?:[^/]+/)*(?:openai|azure|azure_ai|models|deployments|github|foundation-model)/$"
)
"""Paths under which OpenAI's own names are OpenAI's models; elsewhere, for example on a model hub,
`gpt-4-…` may be anybody's.

Source: the names of LiteLLM, OpenRouter, Azure and GitHub Models (checked 2026-11-22).
"""

CLAUDE: Final = "claude"
"""How bare names of Anthropic's models begin."""

CLAUDE_VERSION: Final = re.compile(
    r"^claude-?(?:(?P<tier>[a-z]{2,})-)?v?(?P<major>\d{1,2})(?!\d)"
    r"(?:[-.](?P<minor>\d{1,2})(?!\d))?"
)
"""Tier and version in such a name: claude-3-5-sonnet, claude-sonnet-4@…, claude-v2.1."""

CLAUDE_INSTANT: Final = "claude-instant"

EMBEDS: Final = "embed"
"""What the names of models that embed have in them on Bedrock: Amazon's, Cohere's, Marengo."""

RERANKS: Final = "rerank"
"""What the names of models that rank documents have in them on Bedrock."""

DRAWS: Final = re.compile(r"titan-image|nova-canvas|(?:^|\.)stability\.")
"""What the names of models that draw have in them on Bedrock."""


def bare_bedrock_id(model: str) -> str:
    """The id without an ARN and a geography; an ARN that names no model stays as it is."""
    bare = GEOGRAPHY.sub("", ARN.sub("", model))
    return bare if "." in bare else model

"""Names of providers and of models: what frameworks, hosts, price lists and Bedrock call them.

They stand here and nowhere else. Providers are named as OpenTelemetry's GenAI conventions spell
them; a table of this module leads from somebody's name for a provider to that one, or from it.

Source: OpenTelemetry semantic conventions, `gen_ai.provider.name` (checked 2026-11-22).
"""

import re
from typing import Final

ANTHROPIC: Final = "anthropic"
AZURE_OPENAI: Final = "azure.ai.openai"
BEDROCK: Final = "aws.bedrock"
COHERE: Final = "cohere"
GEMINI: Final = "gcp.gemini"
MISTRAL: Final = "mistral_ai"
OLLAMA: Final = "ollama"
OPENAI: Final = "openai"
VERTEX_AI: Final = "gcp.vertex_ai"

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
    "perplexity": "perplexity",
    "xai": "x_ai",
}
"""By what LangChain's integrations say in their runs' metadata, as `ls_provider`."""

HOSTS: Final[dict[str, str]] = {
    "api.anthropic.com": ANTHROPIC,
    "api.cohere.ai": COHERE,
    "api.cohere.com": COHERE,
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": MISTRAL,
    "api.openai.com": OPENAI,
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "aiplatform.googleapis.com": VERTEX_AI,
    "generativelanguage.googleapis.com": GEMINI,
    "openai.azure.com": AZURE_OPENAI,
}
"""By the end of a host's name; regional hosts have a prefix: `eu.`, `us-central1-`.

Source: each provider's API reference (checked 2026-11-22).
"""

ASKED_FOR_USAGE: Final = frozenset({OPENAI, AZURE_OPENAI})
"""Providers whose streams report a usage only if they are asked for it.

Source: https://platform.openai.com/docs/api-reference/chat/create, `stream_options` (checked
2026-11-29).
"""

BEDROCK_SERVICE: Final = "bedrock-runtime"
"""What boto3 calls the service of Bedrock that answers prompts."""

LISTED_PROVIDERS: Final[dict[str, str]] = {
    BEDROCK: "aws",
    "azure.ai.inference": "azure",
    AZURE_OPENAI: "azure",
    GEMINI: "google",
    "gcp.gen_ai": "google",
    VERTEX_AI: "google",
    MISTRAL: "mistral",
    "moonshot_ai": "moonshotai",
    "x_ai": "x-ai",
}
"""What genai-prices calls providers, where that isn't OpenTelemetry's name.

Source: `genai_prices.data` of release 0.2.3 (checked 2026-11-22).
"""

RETURNS_USERS_OBJECT: Final = frozenset({"structured_llm"})
"""Classes whose `raw` is an object of the user's own, whatever its fields are called."""

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


def bare_bedrock_id(model: str) -> str:
    """The id without an ARN and a geography; an ARN that names no model stays as it is."""
    bare = GEOGRAPHY.sub("", ARN.sub("", model))
    return bare if "." in bare else model

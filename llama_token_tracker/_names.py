"""Names of providers and of models: what frameworks, hosts and Bedrock call them.

Providers are named as OpenTelemetry's GenAI conventions spell them.

Source: OpenTelemetry semantic conventions, `gen_ai.provider.name` (checked 2026-11-22).
"""

import re
from typing import Final

PROVIDERS: Final[dict[str, str]] = {
    "Anthropic_LLM": "anthropic",
    "azure_openai_llm": "azure.ai.openai",
    "AzureOpenAIEmbedding": "azure.ai.openai",
    "Bedrock_LLM": "aws.bedrock",
    "Bedrock_Converse_LLM": "aws.bedrock",
    "BedrockEmbedding": "aws.bedrock",
    "Cohere_LLM": "cohere",
    "CohereEmbedding": "cohere",
    "GenAI": "gcp.gemini",
    "GoogleGenAIEmbedding": "gcp.gemini",
    "MistralAI_LLM": "mistral_ai",
    "MistralAIEmbedding": "mistral_ai",
    "Ollama_llm": "ollama",
    "OllamaEmbedding": "ollama",
    "openai_llm": "openai",
    "openai_responses_llm": "openai",
    "OpenAIEmbedding": "openai",
}
"""By LlamaIndex's names of its classes."""

LANGCHAIN_PROVIDERS: Final[dict[str, str]] = {
    "amazon_bedrock": "aws.bedrock",
    "anthropic": "anthropic",
    "anthropic-bedrock": "aws.bedrock",
    "anthropic-mantle": "aws.bedrock",
    "azure": "azure.ai.openai",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "groq": "groq",
    "mistral": "mistral_ai",
    "ollama": "ollama",
    "openai": "openai",
    "openai-codex": "openai",
    "openai-mantle": "aws.bedrock",
    "perplexity": "perplexity",
    "xai": "x_ai",
}
"""By what LangChain's integrations say in their runs' metadata, as `ls_provider`."""

RETURNS_USERS_OBJECT: Final = frozenset({"structured_llm"})
"""Classes whose `raw` is an object of the user's own, whatever its fields are called."""

# Source: the Bedrock user guide, "Supported foundation models", "Geographic cross-Region
# inference" and "Amazon Bedrock ARNs" (checked 2026-11-22).
ARN: Final = re.compile(r"^arn:(?:[^:/\n]*:)*(?P<kind>[^:/\n]*)/")
"""An ARN, up to the resource: arn:aws:bedrock:REGION:ACCOUNT:KIND/ID."""

GEOGRAPHY: Final = re.compile(r"^[a-z]{2,6}(?:-[a-z]+)?\.(?=[a-z0-9]+\.)")
"""us. eu. apac. jp. global. us-gov. …, before a vendor."""

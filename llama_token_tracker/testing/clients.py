"""Where the SDKs are told which server to speak to: as arguments, and in the environment."""

from typing import Any, Final, Literal, TypeAlias, get_args

from llama_token_tracker.errors import LoopbackError

Provider: TypeAlias = Literal[
    "anthropic", "bedrock", "cohere", "gemini", "mistral", "ollama", "openai"
]
"""The providers whose formats are spoken."""

_KEY: Final = "none"
_REGION: Final = "us-east-1"


def base_url(root: str, provider: Provider) -> str:
    """Give the URL that a provider's own client takes for its base.

    Args:
        root: The server's.
        provider: Whose format is to be spoken.

    Raises:
        LoopbackError: Nobody here speaks as that provider.
    """
    if provider not in get_args(Provider):
        known = ", ".join(get_args(Provider))
        msg = f"the loopback provider doesn't speak as {provider!r}; it speaks as {known}."
        raise LoopbackError(msg)
    # OpenAI's clients, and only they, expect the version in the base.
    return f"{root}/{provider}" + ("/v1" if provider == "openai" else "")


# `Any`, since SDKs' constructors type each of their arguments differently.
def arguments(root: str, provider: Provider) -> dict[str, Any]:
    """Give what a provider's own client is to be made with.

    Args:
        root: The server's URL.
        provider: Whose client it is.

    Raises:
        LoopbackError: Nobody here speaks as that provider.
    """
    url = base_url(root, provider)
    keyed = {"base_url": url, "api_key": _KEY}
    # No retries, so that one call is one request.
    table: dict[Provider, dict[str, Any]] = {
        "anthropic": keyed | {"max_retries": 0},
        "bedrock": {
            "endpoint_url": url,
            "region_name": _REGION,
            "aws_access_key_id": _KEY,
            "aws_secret_access_key": _KEY,
        },
        "cohere": keyed,
        "gemini": {"api_key": _KEY, "http_options": {"base_url": url}},
        "mistral": {"api_key": _KEY, "server_url": url},
        "ollama": {"host": url},
        "openai": keyed | {"max_retries": 0},
    }
    return table[provider]


def environment(root: str) -> dict[str, str]:
    """Give the variables from which SDKs and LlamaIndex's integrations read the same.

    Source:
        The SDKs' own code (checked 2026-11-22).
    """
    return {
        "ANTHROPIC_API_KEY": _KEY,
        "ANTHROPIC_BASE_URL": base_url(root, "anthropic"),
        "ANTHROPIC_BEDROCK_BASE_URL": base_url(root, "bedrock"),
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_DEFAULT_REGION": _REGION,
        # Without this, boto3 asks a host on the local network who it is.
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": base_url(root, "bedrock"),
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_REGION": _REGION,
        "AWS_SECRET_ACCESS_KEY": _KEY,
        "CO_API_KEY": _KEY,
        "CO_API_URL": base_url(root, "cohere"),
        "GOOGLE_API_KEY": _KEY,
        "GOOGLE_GEMINI_BASE_URL": base_url(root, "gemini"),
        "MISTRAL_API_KEY": _KEY,
        "MISTRAL_ENDPOINT": base_url(root, "mistral"),
        "OLLAMA_HOST": base_url(root, "ollama"),
        "OPENAI_API_BASE": base_url(root, "openai"),
        "OPENAI_API_KEY": _KEY,
        "OPENAI_BASE_URL": base_url(root, "openai"),
    }

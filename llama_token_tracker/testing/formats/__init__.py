"""One module or package a provider: how it words an answer, a stream, its usage, its errors."""

from typing import Final

from llama_token_tracker.testing.formats import (
    anthropic,
    bedrock,
    cohere,
    gemini,
    mistral,
    ollama,
    openai,
)

ROUTES: Final = (
    *anthropic.ROUTES,
    *bedrock.ROUTES,
    *cohere.ROUTES,
    *gemini.ROUTES,
    *mistral.ROUTES,
    *ollama.ROUTES,
    *openai.ROUTES,
)
"""All that is answered; the first route whose pattern fits a path takes it."""

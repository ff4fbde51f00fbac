"""One module a provider: how it words an answer, a stream, its usage and its errors."""

from __future__ import annotations

from . import anthropic, bedrock, cohere, gemini, mistral, ollama, openai
from .base import Answer, Frame, Request, Route

__all__ = ["ROUTES", "Answer", "Frame", "Request", "Route"]

ROUTES: list[Route] = [
    *anthropic.ROUTES,
    *bedrock.ROUTES,
    *cohere.ROUTES,
    *gemini.ROUTES,
    *mistral.ROUTES,
    *ollama.ROUTES,
    *openai.ROUTES,
]

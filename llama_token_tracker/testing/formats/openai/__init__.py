"""OpenAI's formats, one a module."""

from typing import Final

from llama_token_tracker.testing.formats.openai import chat, completions, embeddings, responses

ROUTES: Final = (chat.ROUTE, completions.ROUTE, responses.ROUTE, embeddings.ROUTE)

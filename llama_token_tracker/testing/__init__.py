"""A provider on this machine, to test your own accounting of tokens against.

It speaks the formats of Bedrock, Anthropic, OpenAI, Gemini, Cohere, Mistral and Ollama, answers
as scripted, and knows what each call was billed. Importing this loads no SDK.
"""

from llama_token_tracker.errors import LoopbackError
from llama_token_tracker.testing.provider import LoopbackProvider
from llama_token_tracker.testing.replies import Call, Reply, ToolCall

__all__ = ["Call", "LoopbackError", "LoopbackProvider", "Reply", "ToolCall"]

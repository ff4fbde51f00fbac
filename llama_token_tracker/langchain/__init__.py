"""LangChain's callbacks in, events out; with the extra `langchain`."""

from llama_token_tracker.langchain.handler import TokenCountingCallbackHandler

__all__ = ["TokenCountingCallbackHandler"]

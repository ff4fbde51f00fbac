"""LangChain's callbacks in, events out; with the extra `langchain`."""

from llama_token_tracker._names import from_extra

with from_extra("langchain", "langchain-core"):
    from llama_token_tracker.langchain.handler import TokenCountingCallbackHandler

__all__ = ["TokenCountingCallbackHandler"]

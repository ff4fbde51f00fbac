"""What the installed LlamaIndex does that older ones don't: their tests leave out what needs it."""

import inspect
from typing import Final

from llama_index.core import async_utils
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.callbacks import TokenCountingHandler

from tests.needs import left_out_if

BOUNDS_TOKENS: Final = "token_budget" in inspect.signature(TokenCountingHandler).parameters

needs_their_budget: Final = left_out_if(
    not BOUNDS_TOKENS, "this LlamaIndex's own handler has no token_budget"
)
needs_context_in_threads: Final = left_out_if(
    not hasattr(async_utils, "contextvars"),
    "this LlamaIndex starts threads for coroutines without their context",
)
needs_names_in_metadata: Final = left_out_if(
    not hasattr(BaseLLM, "to_payload"),
    "this LlamaIndex doesn't tell callbacks of a model's metadata",
)
needs_unread_streams_freed: Final = left_out_if(
    not hasattr(BaseLLM, "to_payload"),
    "this LlamaIndex keeps the handlers of a stream that nobody has read",
)

"""Tokens of texts, messages and tools, counted offline.

`get_tokenizer(model)` gives a model's own tokenizer or a stand-in that says so;
`count_tokens` counts texts and `count_messages` prompts with it.
"""

from llama_token_tracker.tokenizers.base import TextTokenizer, Tokenizer
from llama_token_tracker.tokenizers.custom import as_tokenizer
from llama_token_tracker.tokenizers.message_rules import MessageCount, count_messages
from llama_token_tracker.tokenizers.resolve import count_tokens, get_tokenizer, is_known, stand_in

__all__ = [
    "MessageCount",
    "TextTokenizer",
    "Tokenizer",
    "as_tokenizer",
    "count_messages",
    "count_tokens",
    "get_tokenizer",
    "is_known",
    "stand_in",
]

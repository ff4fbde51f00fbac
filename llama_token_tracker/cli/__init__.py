"""The command line: `llama-token-tracker`, or `python -m llama_token_tracker`.

Loading this package loads no LlamaIndex; `demo` does so once its arguments are read.
"""

from llama_token_tracker.cli.commands import main

__all__ = ["main"]

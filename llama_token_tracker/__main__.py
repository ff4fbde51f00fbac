"""`python -m llama_token_tracker`."""

import sys

from llama_token_tracker.cli import main

if __name__ == "__main__":
    sys.exit(main())

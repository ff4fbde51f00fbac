"""LlamaIndex's callbacks and instrumentation in, events out."""

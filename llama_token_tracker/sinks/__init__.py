"""Where events go beyond memory: a sink is a callable that takes one event."""

from llama_token_tracker.sinks.delivery import BatchingSink, Delivery, Sink

__all__ = ["BatchingSink", "Delivery", "Sink"]

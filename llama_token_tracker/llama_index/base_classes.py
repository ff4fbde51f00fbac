"""What is LlamaIndex's own, and stands elsewhere by version or by what users have replaced.

Its handler and event class, which ours derive from, are looked up once, when this is imported:
people put our classes in their place
(`token_counting.TokenCountingHandler = llama_token_tracker.TokenCountingHandler`), and then
LlamaIndex's names lead to ours.
"""

from typing import TYPE_CHECKING, Any

from llama_index.core.callbacks import token_counting

__all__ = ["CoreEvent", "CoreHandler", "active_instrument_tags", "get_dispatcher"]


def _original(name: str, otherwise: Any) -> Any:
    """LlamaIndex's class of this name, or the one that a class put in its place derives from.

    Args:
        name: The class's name in LlamaIndex's module.
        otherwise: What to return if the class in its place doesn't derive from it.
    """
    bases: tuple[type, ...] = getattr(token_counting, name).__mro__
    return next((base for base in bases if base.__module__ == token_counting.__name__), otherwise)


if TYPE_CHECKING:
    from llama_index.core.callbacks.token_counting import TokenCountingEvent as CoreEvent
    from llama_index.core.callbacks.token_counting import TokenCountingHandler as CoreHandler
    from llama_index_instrumentation import get_dispatcher
    from llama_index_instrumentation.dispatcher import active_instrument_tags
else:
    # Every version has them here; the package that they're from came with 0.12.42.
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.dispatcher import active_instrument_tags

    # Our plain event class may be in its place before our handler's module is imported.
    CoreEvent = _original("TokenCountingEvent", object)
    CoreHandler = _original("TokenCountingHandler", token_counting.TokenCountingHandler)

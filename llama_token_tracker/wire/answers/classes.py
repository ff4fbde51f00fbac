"""Classes of others, with methods of ours: objects stay of the kind they were."""

from importlib import import_module
from typing import Any, Final

_ITERATED: Final = ("__aiter__", "iter_any", "iter_chunked", "iter_chunks")


def derived(kind: Any, **methods: Any) -> Any:
    """Derive a class, for whose objects its own pass, with other methods where it has them."""
    own = {name: method for name, method in methods.items() if hasattr(kind, name)}
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names | own)


def content_class(**methods: Any) -> Any:
    """What stands for aiohttp's `StreamReader`, which has no room for more, with other methods."""

    def iterating(name: str) -> Any:
        def iterate(self: Any, *args: Any) -> Any:
            # By aiohttp's own method, which reads by those above.
            return getattr(self.__class__, name)(self, *args)

        return iterate

    iterators = {name: iterating(name) for name in _ITERATED}
    # With LlamaIndex comes wrapt, and with aiobotocore. A proxy keeps what begins with `_self_`.
    return type("Content", (import_module("wrapt").ObjectProxy,), methods | iterators)

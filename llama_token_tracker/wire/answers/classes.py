"""Classes of others, with a method that reads along: objects stay of the kind they were."""

from typing import Any


def derived(kind: Any, **methods: Any) -> Any:
    """Derive a class, for whose objects its own pass, with other methods where it has them."""
    own = {name: method for name, method in methods.items() if hasattr(kind, name)}
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), names | own)

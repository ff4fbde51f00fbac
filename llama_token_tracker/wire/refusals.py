"""A budget's refusal, made an error that SDKs hand on as it is.

An SDK tries again after whatever its HTTP client raises, and wraps it at last; errors of its own
kind it raises at once. So a refusal that is raised within its client is one of those, too.
"""

import sys
from functools import cache
from typing import Any

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import SDK_ERRORS
from llama_token_tracker.errors import BudgetExceededError


def hand_on(error: BudgetExceededError) -> None:
    """Have a refusal be an error of the SDKs that are loaded, too."""
    if type(error) is not BudgetExceededError:
        return  # one of the user's own, or that was here before
    for module, name in SDK_ERRORS:
        own: Any = type(error)
        kind = getattr(sys.modules.get(module), name, None)
        if kind is None:
            continue
        try:
            error.__class__ = _also(own, kind)
        except Exception as problem:  # noqa: BLE001 - an SDK may be of any version
            notice("{} wraps a budget's refusal", problem, "look for it in `__cause__`", module)


@cache
def _also(own: Any, kind: Any) -> Any:
    """A class that is both, by the name of ours, and that is copied and pickled as ours."""
    names = {"__module__": own.__module__, "__doc__": own.__doc__, "__reduce__": _reduce}
    return type(own.__name__, (own, kind), names)


def _reduce(error: BudgetExceededError) -> tuple[Any, ...]:
    return BudgetExceededError, error.args, error.__dict__

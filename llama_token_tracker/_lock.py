"""The one lock around everything that is counted.

One for all trackers, so that no two can be taken in two orders; re-entrant, as a signal handler
may read totals. It is held for additions and moves within lists alone: never while a tokenizer, a
price, a clock, a sink, a log or any other object of the user's runs.
"""

import os
import threading
from typing import Any, Final

LOCK: Final = threading.RLock()

if hasattr(os, "register_at_fork"):
    # Taken for the fork, so that a child finds nothing half-done; and fresh in the child.
    _fork: Any = LOCK
    os.register_at_fork(
        before=_fork.acquire,
        after_in_parent=_fork.release,
        after_in_child=_fork._at_fork_reinit,  # as the standard library does with its own
    )

"""The one lock around everything that is counted.

One for all trackers, because the garbage collector may close a stream of one handler, and so
record it, while this very thread is recording a call of another: with a lock each, two threads
that meet this way would wait for each other for ever. Re-entrant for the same reason. It is
held for a few additions at a time.
"""

import threading
from typing import Final

LOCK: Final = threading.RLock()

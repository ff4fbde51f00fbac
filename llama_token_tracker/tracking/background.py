"""One thread that counts what has piled up, so that nobody's event loop has to.

It is started when there is work and ends when there is none; most programs never see it.
"""

import threading
from collections.abc import Callable
from typing import Final

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice

Task = Callable[[], object]


class Worker:
    """Runs tasks one after the other, on a thread of its own."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._thread: threading.Thread | None = None

    def ask(self, task: Task) -> None:
        """Have a task run soon; one that waits already isn't added again."""
        with LOCK:
            if task in self._tasks:
                return
            self._tasks.append(task)
            # A fork takes the tasks along, but not the thread.
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(target=self._run, name="llama-token-tracker", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:
                # The interpreter is going down, or may start no thread: whoever reads counts.
                self._tasks.clear()
                self._thread = None

    def _run(self) -> None:
        while True:
            with LOCK:
                if not self._tasks:
                    self._thread = None
                    return
                task = self._tasks.pop(0)
            try:
                task()
            except Exception as error:  # noqa: BLE001 - nobody is there to hear of it
                notice("counting in the background failed", error, "it is done when it's read")
            # Not kept while waiting for the lock: it may be all that holds a tracker.
            del task


WORKER: Final = Worker()

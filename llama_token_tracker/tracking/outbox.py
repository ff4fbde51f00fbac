"""What follows once an event is counted: sinks get it, and what takes time is done later."""

import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

from llama_token_tracker._background import WORKER, Worker
from llama_token_tracker._lock import Change
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.sinks import BatchingSink, Delivery, Sink
from llama_token_tracker.tracking.account import Account

Flushed: TypeAlias = Delivery | BatchingSink
"""What can be waited for."""


class Outbox:
    """The events that wait for the sinks of one tracker.

    Args:
        sinks: What takes them.

    Attributes:
        has_sinks: Whether there are any.
        batching: Those of them that keep events for a while.

    Raises:
        SinkError: One can't be called.
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        given = list(sinks)
        self._deliveries = [Delivery(sink) for sink in given]
        self.batching = [sink for sink in given if isinstance(sink, BatchingSink)]
        self._pricing: dict[Account, Callable[[Account], object]] = {}
        self.has_sinks = bool(self._deliveries)
        if self.has_sinks:
            key = object()
            # Handed over is all that waits, even if nobody holds the tracker any more. Nothing here
            # may hold a sink, which may hold the tracker.
            workers = (WORKER, *[delivery.worker for delivery in self._deliveries])
            self._stop = weakref.finalize(self, _release, workers, key)
            self._stop.atexit = False
            for worker in workers:
                worker.hold(key)

    def put(self, events: Iterable[TokenCountingEvent], change: Change) -> None:
        """Have all sinks take events, in this order; `start` must follow without the lock."""
        for delivery in self._deliveries:
            for event in events:
                delivery.put(event, change.do)

    def price_soon(self, account: Account, price: Callable[[Account], object]) -> None:
        """Have prices looked up in the background; `start` must follow without the lock."""
        self._pricing[account] = price

    def start(self) -> None:
        """Begin with what was put. Whoever calls this holds no lock."""
        for delivery in self._deliveries:
            delivery.start()
        while self._pricing:
            with suppress(KeyError):  # another thread was quicker
                account, price = self._pricing.popitem()
                WORKER.ask(partial(price, account))

    @property
    def awaited(self) -> list[Flushed]:
        """What the end of a call waits for, until it has kept that for good."""
        sinks = [sink for sink in self.batching if sink.is_sync]
        return [*[one for one in self._deliveries if one.sink in sinks], *sinks] if sinks else []

    def flush(self, timeout_s: float | None, awaited: Iterable[Flushed] = ()) -> bool:
        """Wait until the sinks have taken all that waits; `False` if the time didn't suffice.

        Args:
            timeout_s: How long to wait at the most, in seconds; `None` for as long as it takes.
            awaited: Only for these.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        done = [
            one.flush(None if until is None else max(0.0, until - time.monotonic()))
            for one in awaited or (*self._deliveries, *self.batching)
        ]
        return all(done)

    def close(self) -> None:
        """Give no further events to sinks."""
        if self.has_sinks:
            self._deliveries, self.has_sinks = [], False
            self._stop()


def _release(workers: Iterable[Worker], key: object) -> None:
    """Let threads end that nobody needs any more; a finalizer, so that it waits for no lock."""
    for worker in workers:
        worker.release(key)

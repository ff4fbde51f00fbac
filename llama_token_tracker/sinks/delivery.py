"""Hands events to one sink, one after the other, on a thread of its own."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

from llama_token_tracker._background import Worker
from llama_token_tracker._log_once import notice
from llama_token_tracker._printable import printable
from llama_token_tracker.errors import SinkError
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.pricing import Prices

Sink: TypeAlias = Callable[[TokenCountingEvent], object]
"""Takes each finished call's event, once. What it returns is ignored."""


class BatchingSink:
    """A sink that keeps events for a while, and comes along into other processes.

    Attributes:
        is_sync: Whether the end of a call waits until its event is kept for good.
    """

    is_sync: bool = False

    def __call__(self, event: TokenCountingEvent) -> None:
        """Take one event."""
        raise NotImplementedError

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was taken is kept for good; `False` if the time didn't suffice."""
        raise NotImplementedError

    def news(self, prices: Prices) -> Sequence[TokenCountingEvent]:
        """Events that other processes of this run have kept since this was asked last.

        Args:
            prices: What says how a cost is split between input and output.
        """
        raise NotImplementedError


MAX_WAITING: Final = 100_000
"""So many events wait for a sink that hangs; further ones are dropped, which is said once. One that
keeps events for a while takes them at once, and bounds what it keeps."""


class Delivery:
    """The events that wait for one sink.

    Args:
        sink: What takes them.

    Attributes:
        sink: What takes them.
        worker: The thread.

    Raises:
        SinkError: It can't be called.
    """

    def __init__(self, sink: Sink) -> None:
        if not callable(sink):
            msg = (
                f"sinks= holds {printable(sink)}, which can't be called; give functions that take "
                "one event, such as sinks=[print]."
            )
            raise SinkError(msg)
        self.sink = sink
        self._name = getattr(sink, "__qualname__", type(sink).__qualname__)
        self.worker = Worker(f"llama-token-tracker sink {self._name}"[:60])

    def put(self, event: TokenCountingEvent, do: Callable[..., object]) -> None:
        """Have the sink take an event; `start` must follow once no lock is held.

        Args:
            event: The event.
            do: Has a function be called with arguments, as part of a change.
        """
        if self.worker.waiting >= MAX_WAITING and not isinstance(self.sink, BatchingSink):
            found = f"{MAX_WAITING} that wait"
            notice("the sink {} takes no events", found, "further ones are dropped", self._name)
            return
        do(self.worker.queue, partial(self._hand_over, event))

    def start(self) -> None:
        """See to it that a thread hands over what waits. No lock is held."""
        self.worker.start()

    def flush(self, timeout_s: float | None) -> bool:
        """Wait until the sink has taken all that waits now; `False` if the time didn't suffice."""
        return self.worker.flush(timeout_s)

    def _hand_over(self, event: TokenCountingEvent) -> None:
        try:
            self.sink(event)
        except BaseException as error:  # noqa: BLE001 - a sink is the user's, and may raise anything
            notice("the sink {} raised", error, "its event is left out there", self._name)

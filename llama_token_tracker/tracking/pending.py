"""A call that has ended, and waits to be made into its events."""

from collections.abc import Sequence
from typing import Any, cast

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.events.settle import Ended, settle


class Pending:
    """A call that has ended. Reading its usage, counting and making its events are put off.

    Args:
        ended: All that is needed to make its events; or a function that gives that, and its
            arguments.
        held_bytes: About how much memory its texts take.
        context: The scope and the tags it started in, or `None`.
        reservation: What it holds in budgets, or `None`.

    Attributes:
        held_bytes: About how much memory its texts take; more may come until it's counted.
        is_charged: Whether budgets know what it used.
    """

    __slots__ = ("_ended", "_events", "context", "held_bytes", "is_charged", "reservation")

    def __init__(
        self,
        ended: Ended | tuple[Any, ...] | None,
        held_bytes: int = 0,
        context: Any = None,
        reservation: Any = None,
    ) -> None:
        self._ended = ended
        self._events: Sequence[TokenCountingEvent] | None = None
        self.held_bytes = held_bytes
        self.context = context
        self.reservation = reservation
        self.is_charged = False

    @classmethod
    def of(cls, event: TokenCountingEvent, context: Any = None) -> "Pending":
        """One whose event is complete already."""
        made = cls(None, context=context)
        made._events = (event,)
        return made

    @property
    def is_made(self) -> bool:
        """Whether its events are made."""
        return self._events is not None

    @property
    def needs_counting(self) -> bool:
        """Whether a tokenizer must count it: its provider has not said all of it."""
        ended = self._read()
        return ended is not None and self._events is None and ended.needs_counting

    def _read(self) -> Ended | None:
        ended = self._ended
        if ended is not None and not isinstance(ended, Ended):
            read, *arguments = ended
            ended = self._ended = cast("Ended", read(*arguments))
        return ended

    def events(self) -> Sequence[TokenCountingEvent]:
        """Its events; two threads that ask at once find the same. Never raises.

        Whoever asks holds no lock: this may run the user's tokenizer.
        """
        if self._events is None:
            self._make()
        return self._events or ()

    def _make(self) -> None:
        ended, made = None, list[TokenCountingEvent]()
        try:
            ended = self._read()
            if ended is not None:
                made = settle(ended)
                for event in made:
                    event.price_with(ended.settings.prices)
                    if self.context is not None:
                        self.context.mark(event)
        except Exception as error:  # noqa: BLE001 - a figure is asked for long after the call
            notice("a call could not be counted", error, "it is left out")
        with LOCK:
            if self._events is not None:
                return  # another thread was quicker
            self._events = made
            self._ended = None
        if ended is not None:
            ended.answer.settled(made)

    def take_charge(self) -> bool:
        """Claim to tell budgets of it: `True` for the first who asks."""
        with LOCK:
            is_first, self.is_charged = not self.is_charged, True
        return is_first

"""A call that has ended, and waits to be made into its events."""

from collections.abc import Callable, Sequence
from typing import Any

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker.events.call import Call, Settings
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.events.settle import Ending, settle
from llama_token_tracker.events.transcripts import Transcript
from llama_token_tracker.extraction import Reported


class Pending:
    """A call that has ended. Reading its usage, counting and making its events are put off.

    Args:
        call: The call.
        reported: What its provider said, or what gives that when it's called.
        answer: What was sent and what came back.
        ending: How it ended.
        settings: How whoever counts wants events to be made.
        context: The scope and the tags it started in, or `None`.
        reservation: What it holds in budgets, or `None`.
        events: Its events, if they are made already.

    Attributes:
        held_bytes: About how much memory its texts take; more may come until it's counted.
        is_charged: Whether budgets know what it used.
    """

    __slots__ = (
        "_answer",
        "_call",
        "_ending",
        "_events",
        "_reported",
        "_settings",
        "context",
        "held_bytes",
        "is_charged",
        "reservation",
    )

    def __init__(
        self,
        call: Call,
        reported: Reported | Callable[[], Reported],
        answer: Transcript,
        ending: Ending,
        settings: Settings,
        context: Any = None,
        reservation: Any = None,
    ) -> None:
        self._call = call
        self._reported = reported
        self._answer: Transcript | None = answer
        self._ending = ending
        self._settings = settings
        self._events: Sequence[TokenCountingEvent] | None = None
        self.context = context
        self.reservation = reservation
        self.held_bytes = answer.held_bytes
        self.is_charged = False

    @classmethod
    def of(cls, event: TokenCountingEvent, context: Any = None) -> "Pending":
        """One whose event is complete already."""
        made = cls.__new__(cls)
        made._answer = None
        made._events = (event,)
        made.context = context
        made.reservation = None
        made.held_bytes = 0
        made.is_charged = False
        return made

    @property
    def is_made(self) -> bool:
        """Whether its events are made."""
        return self._events is not None

    @property
    def needs_counting(self) -> bool:
        """Whether a tokenizer must count it: its provider has not said all of it."""
        answer, reported = self._answer, self.reported()
        if self._events is not None or answer is None:
            return False
        if self._call.operation == "embedding":
            return any(group.reported.usage is None for group in answer.embedded())
        return not (reported.covers_call or self._ending.is_free(reported))

    def reported(self) -> Reported:
        """What its provider said."""
        reported = self._reported
        if not isinstance(reported, Reported):
            reported = self._reported = reported()
        return reported

    def events(self) -> Sequence[TokenCountingEvent]:
        """Its events; two threads that ask at once find the same. Never raises.

        Whoever asks holds no lock: this may run the user's tokenizer.
        """
        answer = self._answer
        if self._events is None and answer is not None:
            try:
                made: Sequence[TokenCountingEvent] = settle(
                    self._call, self.reported(), answer, self._ending, self._settings
                )
                for event in made:
                    event.price_with(self._settings.prices)
                    if self.context is not None:
                        self.context.mark(event)
            except Exception as error:  # noqa: BLE001 - a figure is asked for long after the call
                notice("a call could not be counted", error, "it is left out")
                made = ()
            with LOCK:
                is_first = self._events is None
                if is_first:
                    self._events = made
                    self._answer = None
            if is_first:
                answer.settled(made)
        return self._events or ()

    def take_charge(self) -> bool:
        """Claim to tell budgets of it: `True` for the first who asks."""
        with LOCK:
            is_first, self.is_charged = not self.is_charged, True
        return is_first

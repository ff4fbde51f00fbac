"""Calls that have ended, and wait to be made into their events."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, Final

from llama_token_tracker._lock import LOCK, Change, make, pass_on
from llama_token_tracker._log_once import notice, put_off, say_late
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.events.settle import Ended, settle
from llama_token_tracker.tokenizers.estimate import ByteTokenizer
from llama_token_tracker.tokenizers.selection import Tokenizers

MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""Texts that wait to be counted take no more than about this; then they are counted."""

MAX_WAITING: Final = 1_000
"""No more calls than about this wait until somebody asks; then they are counted."""

MAX_BACKLOG_BYTES: Final = 256 * 1024 * 1024
"""Where more waits, since counting can't keep up, calls are estimated by their bytes."""

_BY_BYTES: Final = Tokenizers(ByteTokenizer(), lambda: None)

BYTES_PER_CALL: Final = 1_000
"""About what any call takes beside its texts."""

_LOOKED_AT_EVERY: Final = 256
"""After so many calls, or a long one, it's looked at how much waits."""

_LOOKS: Final = 50
"""No more often than about this is it looked at while calls are counted."""

_LISTED_AT_ONCE: Final = 100
"""So many events are listed before others may have the lock."""


class Pending:
    """A call that has ended. Reading its usage, counting and making its events are put off.

    Args:
        ended: All that is needed to make its events; or a function that gives that, and its
            arguments.
        held_bytes: About how much memory its texts take.
        context: The scope and the tags it started in, or `None`.
        reservation: What it holds in budgets, or `None`.

    Attributes:
        held_bytes: About how much memory its texts take; more may come until it's counted, then
            none.
        is_charged: Whether budgets know what it used.
        is_inherited: Whether it ended before a fork, so that the parent gives it to sinks.
        is_listed: Whether its events are in the lists and sums.
    """

    __slots__ = (
        "_ended",
        "_events",
        "context",
        "held_bytes",
        "is_charged",
        "is_inherited",
        "is_listed",
        "reservation",
    )

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
        self.is_charged = self.is_inherited = self.is_listed = False

    @classmethod
    def of(cls, event: TokenCountingEvent, context: Any = None) -> "Pending":
        """One whose event is complete already."""
        made = cls(None, context=context)
        made._events = (event,)
        return made

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
            made: Ended = read(*arguments)
            self._ended = made
            return made
        return ended

    def events(self, *, is_hasty: bool = False) -> Sequence[TokenCountingEvent]:
        """Its events; two threads that ask at once find the same. Never raises.

        Whoever asks holds no lock: this may run the user's tokenizer.

        Args:
            is_hasty: Whether it's estimated by its bytes what a tokenizer would have to count.
        """
        if self._events is None:
            self._make(is_hasty)
        return self._events or ()

    def _make(self, is_hasty: bool) -> None:
        ended: Ended | None = None
        made: list[TokenCountingEvent] = []
        try:
            ended = self._read()
            if ended is not None:
                if is_hasty and ended.needs_counting:
                    found = f"{MAX_BACKLOG_BYTES >> 20} MiB that wait"
                    notice("counting can't keep up", found, "calls are estimated by their bytes")
                    ended = ended._replace(settings=ended.settings._replace(tokenizers=_BY_BYTES))
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
            self.held_bytes = 0
        if ended is not None:
            ended.answer.settled(made)

    def take_charge(self) -> bool:
        """Claim to tell budgets of it: `True` for the first who asks."""
        with LOCK:
            is_first, self.is_charged = not self.is_charged, True
        return is_first


def _added(
    calls: list[Pending], add: Callable[[Sequence[Pending], Change], object], change: Change
) -> list[Pending]:
    """Have calls be listed; those whose events are odd are left out, and none else."""
    steps = len(change.steps)
    try:
        add(calls, change)
    except Exception as error:
        pass_on(error)
        if len(calls) == 1:
            # By its kind, as the lock is held: a foreign error may do anything when it's printed.
            notice("a call could not be listed", type(error).__name__, "it is left out")
            del change.steps[steps:]
            return []
        listed = [call for call in calls if _added([call], add, Change())]
        if len(listed) == len(calls):
            raise
        del change.steps[steps:]
        add(listed, change)
        return listed
    return calls


class PendingCalls:
    """The calls that wait, in the order in which they ended.

    Args:
        most: About how many may wait until they are to be made into events.

    Attributes:
        is_taken_up: Whether somebody is about to do so.
    """

    def __init__(self, most: int) -> None:
        self._most = min(most, MAX_WAITING)
        # Appended to by anybody, without a lock; taken from its front by who holds it.
        self._calls: deque[Pending] = deque()
        self._has_grown = False
        self.is_taken_up = False

    def __len__(self) -> int:
        """How many calls wait."""
        return len(self._calls)

    def append(self, call: Pending) -> bool:
        """Have a call wait; this takes no lock.

        Returns:
            Whether so much waits that it should be made into events soon.
        """
        self._calls.append(call)
        if (
            not len(self._calls) % _LOOKED_AT_EVERY
            or call.held_bytes + BYTES_PER_CALL > MAX_HELD_BYTES // _LOOKED_AT_EVERY
            or self._has_grown
        ):
            return self._is_much()
        return False

    def _is_much(self) -> bool:
        self._has_grown = False
        # In this order: this is asked in the user's call, and very many may wait.
        return len(self._calls) >= self._most or self._held_bytes() > MAX_HELD_BYTES

    def _held_bytes(self) -> int:
        return sum([call.held_bytes + BYTES_PER_CALL for call in self._calls.copy()])

    def hold_more(self, call: Pending, held_bytes: int) -> None:
        """Note that a call that waits takes so much more memory."""
        call.held_bytes += held_bytes
        self._has_grown |= call.held_bytes > MAX_HELD_BYTES // _LOOKED_AT_EVERY

    def work_off(
        self,
        charge: Callable[[Pending], object],
        add: Callable[[Sequence[Pending], Change], object],
    ) -> None:
        """Make all that wait by now into events, charge them and list them.

        Two threads may do so at once; each call is charged and listed once.

        Args:
            charge: Tells budgets of a call; called without the lock.
            add: Has the events of calls be listed; called with the lock.
        """
        # First: whatever is appended from now on may be taken up again.
        self.is_taken_up = False
        calls = self._calls.copy()
        # So often that little more can come between, and the more wait, the less often.
        every, is_hasty = max(_LISTED_AT_ONCE, len(calls) // _LOOKS), False
        # Backwards, to meet the thread that may be at it already half-way.
        for number, call in enumerate(reversed(calls)):
            if number % every == 0:
                is_hasty = self._held_bytes() > MAX_BACKLOG_BYTES
            call.events(is_hasty=is_hasty)
        for call in calls:
            charge(call)
        for left in range(len(calls), 0, -_LISTED_AT_ONCE):
            with LOCK, put_off():
                change = make(partial(self._list, min(left, _LISTED_AT_ONCE), add))
            say_late()
            del change  # without the lock

    def _list(
        self, most: int, add: Callable[[Sequence[Pending], Change], object], change: Change
    ) -> None:
        """Have the first calls be listed and taken out."""
        front = [self._calls[at] for at in range(min(most, len(self._calls)))]
        # What isn't made, another thread lists, or it came later.
        made = list(takewhile(Pending.is_made, front))
        # One that was recorded again, because that was interrupted, may stand here twice.
        calls = [call for call in dict.fromkeys(made) if not call.is_listed]
        calls = _added(calls, add, change)
        for call in calls:
            change.do(setattr, call, "is_listed", True)
        for _ in made:
            change.do(self._calls.popleft)
        change.dropped.append(made)

    def after_fork(self) -> None:
        """Begin anew in a child process, which has inherited what waited in its parent."""
        for call in self._calls:
            call.is_inherited = True
        self.is_taken_up = False

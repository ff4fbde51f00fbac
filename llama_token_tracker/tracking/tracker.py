"""Where calls go when they end: the accounts of a handler and of scopes, budgets and sinks.

What can wait, waits here: reading a usage, counting tokens, making an event, looking up its price.
"""

import atexit
import os
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from llama_token_tracker._background import WORKER, run_late
from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice, put_off, say_late
from llama_token_tracker.budgets import Accounts, Budget
from llama_token_tracker.events.call import Call
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.pricing import Prices
from llama_token_tracker.sinks import Sink
from llama_token_tracker.tracking.account import Account
from llama_token_tracker.tracking.charging import accounts_of, is_covered, reserve, spend
from llama_token_tracker.tracking.correlation import Owners
from llama_token_tracker.tracking.outbox import Outbox
from llama_token_tracker.tracking.pending import Pending
from llama_token_tracker.tracking.report import Report, price
from llama_token_tracker.tracking.scopes import Context, Scope, context

MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""Texts that wait to be counted take no more than about this; then they are counted."""

MAX_WAITING: Final = 1_000
"""No more calls than about this wait until somebody asks; then they are counted."""

BYTES_PER_CALL: Final = 1_000
"""About what any call takes beside its texts."""

_LOOKED_AT_EVERY: Final = 256
"""After so many calls, or a long one, it's looked at how much waits."""

_LISTED_AT_ONCE: Final = 100
"""So many events are listed before others may have the lock."""


class Tracker(Report):
    """Records events and adds them up, from any number of threads at once.

    Args:
        max_events: How many events each list holds at the most; the oldest go first and
            stay in the totals. `None` keeps all until `reset()`.
        include_failed: Whether calls that failed before anything was billed are listed
            among the others too.
        prices: What tokens cost; by default what genai-prices knows.
        budget: A limit, or several, that calls are held to before they're sent.
        sinks: Functions that take each finished call's event; see `TokenCountingHandler`.

    Attributes:
        is_limited: Whether it has a budget, which all calls are subject to.
        has_sinks: Whether events go to any sink.
        owners: Which frameworks' calls may own what watched clients send.

    Raises:
        ValueError: `max_events` is negative.
        BudgetError: `budget` holds something that is no budget.
        SinkError: `sinks` holds something that can't be called.
    """

    def __init__(
        self,
        *,
        max_events: int | None = None,
        include_failed: bool = False,
        prices: Prices | None = None,
        budget: Budget | Iterable[Budget] | None = None,
        sinks: Iterable[Sink] = (),
    ) -> None:
        if max_events is not None and max_events < 0:
            msg = f"max_events is {max_events}; give a number from 0 on, or None for no limit."
            raise ValueError(msg)
        self.prices = prices or Prices()
        self._accounts: tuple[Accounts, ...] = accounts_of(budget)
        self.is_limited = bool(self._accounts)
        self._outbox = Outbox(sinks)
        self.has_sinks = self._outbox.has_sinks
        self._book = self.new_book(max_events=max_events, include_failed=include_failed)
        # Appended to by anybody, without a lock; taken from its front by who holds it.
        self._pending: deque[Pending] = deque()
        # Whether a call waits to be counted that holds what it has reserved until then.
        self._is_owing = False
        self._is_working = False
        self._has_grown = False
        self.owners = Owners()
        # After a fork: so many calls at the front are the parent's to hand to sinks.
        self._inherited = 0
        _trackers.add(self)

    def after_fork(self) -> None:
        """Begin anew in a child process, which has inherited what waited in its parent."""
        self._inherited = len(self._pending)
        self._is_working = False

    @property
    def book(self) -> Account:
        """The account of all calls."""
        return self._book

    @property
    def max_events(self) -> int | None:
        """How many events each list holds at the most."""
        return self._book.max_events

    @property
    def include_failed(self) -> bool:
        """Whether calls that failed before anything was billed are listed among the others."""
        return self._book.include_failed

    def new_book(self, *, max_events: int | None, include_failed: bool) -> Account:
        """An account of its own for a part of the calls."""
        return Account(self.catch_up, max_events=max_events, include_failed=include_failed)

    # --- where a call starts ---------------------------------------------------------------

    def scope(
        self, name: str, /, *, budget: Budget | Iterable[Budget] | None = None, **tags: object
    ) -> Scope:
        """A part of the program whose calls are counted by themselves, too.

        Args:
            name: What it's called.
            budget: A limit, or several, for the calls in it.
            tags: Whom or what its calls are for: `user="ada"`.

        Raises:
            ValueError: The name is no text, or empty.
        """
        book = self.new_book(
            max_events=self._book.max_events, include_failed=self._book.include_failed
        )
        return Scope(self, book, name, tags, accounts_of(budget))

    def context(self, tags: Mapping[str, Any]) -> Context | None:
        """Where a call is that starts here and now.

        Args:
            tags: What the framework's own tags say.
        """
        return context(self, tags)

    def limits(self, context: Context | None) -> bool:
        """Whether a call with this context is subject to any budget."""
        return self.is_limited or (context is not None and bool(context.accounts))

    def reserve(self, call: Call) -> None:
        """Reserve what a call may use, before it's sent, unless one around it has.

        Args:
            call: The call, which holds it from then on.

        Raises:
            BudgetExceededError: It would pass a limit. Nothing is reserved.
        """
        if not self.limits(call.context) or is_covered(call):
            return
        if self._is_owing:
            # Calls that ended without a figure still hold all that they reserved.
            self.catch_up()
        reserve(call, self._budgets(call.context), self.prices)

    def _budgets(self, context: Context | None) -> tuple[Accounts, ...]:
        return (*self._accounts, *(() if context is None else context.accounts))

    # --- where a call ends -----------------------------------------------------------------

    def record(self, event: TokenCountingEvent, context: Context | None = None) -> None:
        """Take in one call.

        Args:
            event: What is known of it.
            context: Where it started.
        """
        event.price_with(self.prices)
        if context is not None:
            context.mark(event)
        self.add(Pending.of(event, context))

    def add(self, pending: Pending) -> None:
        """Take in a call that has ended; its events are made when somebody asks, or later.

        Nothing is counted here, and no lock is taken unless there is a budget.
        """
        waiting = self._pending
        waiting.append(pending)
        if self.is_limited or pending.context is not None or pending.reservation is not None:
            self._charge_if_reported(pending)
        if self.has_sinks:
            self._work()
        elif (
            len(waiting) % _LOOKED_AT_EVERY == 0
            or pending.held_bytes + BYTES_PER_CALL > MAX_HELD_BYTES // _LOOKED_AT_EVERY
            or self._has_grown
        ):
            self._look_at_what_waits()

    def hold_more(self, pending: Pending, held_bytes: int) -> None:
        """Note that a call that waits takes so much more memory."""
        pending.held_bytes += held_bytes
        self._has_grown |= pending.held_bytes > MAX_HELD_BYTES // _LOOKED_AT_EVERY

    def _charge_if_reported(self, pending: Pending) -> None:
        """Spend what a call used at once, if that needs no counting: the next one may be near."""
        if pending.reservation is None and not self.limits(pending.context):
            return
        if pending.needs_counting:
            self._is_owing = True
        else:
            self._charge(pending)

    def _look_at_what_waits(self) -> None:
        """Have it counted in the background, if it is much."""
        self._has_grown = False
        waiting = self._pending.copy()
        held = sum([pending.held_bytes + BYTES_PER_CALL for pending in waiting])
        most = MAX_WAITING if self.max_events is None else min(MAX_WAITING, self.max_events)
        if held > MAX_HELD_BYTES or len(waiting) >= most:
            self._work()

    def _work(self) -> None:
        """Have the worker take up what waits, if it isn't about to."""
        if not self._is_working:
            self._is_working = True
            WORKER.ask(self.catch_up)

    # --- from calls to events --------------------------------------------------------------

    def _catch_up(self) -> None:
        self.catch_up()

    def catch_up(self) -> None:
        """Make and list the events of all calls that have ended by now.

        Two threads may do so at once; each event is made, charged, listed and delivered once.
        """
        # First: what ends from now on asks again.
        self._is_working = False
        run_late()
        if not self._pending:
            return
        self._is_owing = False
        waiting = self._pending.copy()
        # Backwards, to meet the thread that may be at it already half-way.
        for pending in reversed(waiting):
            pending.events()
        for pending in waiting:
            self._charge(pending)
        left = len(waiting)
        while left > 0:
            with LOCK, put_off():
                left = self._list(left)
            say_late()
        self._outbox.start()

    def _charge(self, pending: Pending) -> None:
        """Tell budgets what a call used, outside of any lock: clocks are users'."""
        reservation, context = pending.reservation, pending.context
        if pending.is_charged or (reservation is None and not self.limits(context)):
            return
        events = pending.events()
        if not pending.take_charge():
            return
        try:
            if reservation is not None:
                reservation.settle(events)
            else:
                for event in events:
                    spend(self._budgets(context), event)
        except Exception as error:  # noqa: BLE001 - called when the answer is there already
            notice("a call could not be charged to its budget", error, "it is left out")

    def _list(self, most: int) -> int:
        """List the events at the front that are ready; the caller holds the lock.

        Returns:
            How many calls are left, out of at most so many.
        """
        for _ in range(min(most, _LISTED_AT_ONCE)):
            if not self._pending or not self._pending[0].is_made:
                return 0  # another thread lists them, or they came later
            pending = self._pending.popleft()
            is_inherited = self._inherited > 0
            self._inherited -= is_inherited
            for event in pending.events():
                self._take(event, pending.context)
                if not is_inherited:
                    self._outbox.put(event)
        return most - _LISTED_AT_ONCE

    def _take(self, event: TokenCountingEvent, context: Context | None) -> None:
        """Add an event to all that it belongs to; the caller holds the lock."""
        self._book.add(event)
        if context is not None and context.scope is not None:
            context.scope.take(event)
        if self.max_events is not None and self._book.totals.is_pricing_due:
            # Their events may be dropped, and nobody has asked for a cost yet.
            self._outbox.later(partial(price, self._book))

    def reset(self) -> None:
        """Start again from nothing. A call that is under way counts when it ends.

        Scopes and budgets go on as they were.
        """
        self.catch_up()
        with LOCK:
            self._book.reset()

    # --- sinks -----------------------------------------------------------------------------

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all calls that have ended by now are counted, and given to all sinks.

        Args:
            timeout_s: How long to wait at the most, in seconds; `None` for as long as it takes.

        Returns:
            Whether that was done in time; `False` if a sink hangs.
        """
        self.catch_up()
        return self._outbox.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """The same, and then give no further events to sinks. Counting goes on."""
        is_done = self.flush(timeout_s)
        self.has_sinks = False
        self._outbox.close()
        return is_done

    # --- copies ----------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """What was counted, as it stands at one moment; sinks and scopes stay behind."""
        self.catch_up()
        with LOCK:
            return {
                "max_events": self._book.max_events,
                "include_failed": self._book.include_failed,
                "prices": self.prices,
                "accounts": self._accounts,
                "book": self._book.state(),
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a tracker of its own, that holds what the pickled one held."""
        self.__init__(  # type: ignore[misc]
            max_events=state["max_events"],
            include_failed=state["include_failed"],
            prices=state["prices"],
        )
        self._accounts = state["accounts"]
        self.is_limited = bool(self._accounts)
        self._book.restore(state["book"])


_trackers: "Final[weakref.WeakSet[Tracker]]" = weakref.WeakSet()

_EXIT_S: Final = 5.0
"""So long the interpreter's end waits for sinks, all together."""


def _after_fork() -> None:
    for tracker in list(_trackers):
        tracker.after_fork()


def _flush_at_exit() -> None:
    until = time.monotonic() + _EXIT_S
    for tracker in list(_trackers):
        if tracker.has_sinks:
            tracker.flush(max(0.0, until - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_flush_at_exit)


class Tracking(Report):
    """What can be read of, and done with, whatever records into a tracker."""

    tracker: Tracker
    """Where its calls are recorded; others may record there too."""

    @property
    def _book(self) -> Account:  # type: ignore[override]  # the tracker's
        return self.tracker.book

    def _catch_up(self) -> None:
        self.tracker.catch_up()

    @property
    def _accounts(self) -> tuple[Accounts, ...]:  # type: ignore[override]  # the tracker's
        return self.tracker.accounts

    def scope(
        self, name: str, /, *, budget: Budget | Iterable[Budget] | None = None, **tags: object
    ) -> Scope:
        """Count the calls of a part of the program by themselves, too.

        Example::

            with token_counter.scope("request-42", user="ada") as request:
                ...
            request.total_llm_token_count

        A call belongs to the scopes in which it starts, wherever and whenever it ends. Scopes
        may be nested, and used in any number of tasks and threads at once.

        Args:
            name: What it's called.
            budget: A limit, or several, for the calls in it.
            tags: Whom or what its calls are for; see `by`.

        Raises:
            ValueError: The name is no text, or empty.
            BudgetError: `budget` holds something that is no budget.
        """
        return self.tracker.scope(name, budget=budget, **tags)

    def reset_counts(self) -> None:
        """Start again from zero. A call that is under way counts when it ends."""
        self.tracker.reset()

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all calls that have ended by now are counted, and given to all sinks.

        Args:
            timeout_s: How long to wait at the most, in seconds; `None` for as long as it takes.

        Returns:
            Whether that was done in time; `False` if a sink hangs.
        """
        return self.tracker.flush(timeout_s)

    def close(self, timeout_s: float | None = None) -> bool:
        """The same, and then give no further events to sinks. Counting goes on."""
        return self.tracker.close(timeout_s)

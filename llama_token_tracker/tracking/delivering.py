"""Where calls go from a tracker: to budgets and sinks, into copies, to other processes and back."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final
from uuid import uuid4

from llama_token_tracker._background import is_worker
from llama_token_tracker._lock import LOCK, is_sent, make
from llama_token_tracker._log_once import notice
from llama_token_tracker.budgets import Accounts
from llama_token_tracker.events.call import Call
from llama_token_tracker.pricing import Prices
from llama_token_tracker.sinks import BatchingSink
from llama_token_tracker.tracking.account import Account
from llama_token_tracker.tracking.charging import is_covered, reserve, spend
from llama_token_tracker.tracking.correlation import DeferredCalls
from llama_token_tracker.tracking.outbox import Outbox
from llama_token_tracker.tracking.pending import Pending, PendingCalls
from llama_token_tracker.tracking.report import Report
from llama_token_tracker.tracking.scopes import Context

_SYNC_S: Final = 60.0
"""So long the end of a call waits at the most until it's written."""


class Charging(Report):
    """Holds calls to the budgets of a tracker: reserved at a call's start, charged at its end."""

    prices: Prices
    is_limited: bool
    _budgets: tuple[Accounts, ...]
    _is_owing: bool

    def catch_up(self) -> None:
        """Make the events of all calls that have ended by now."""
        raise NotImplementedError

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
        reserve(call, self._budgets_of(call.context), self.prices)

    def _budgets_of(self, context: Context | None) -> tuple[Accounts, ...]:
        return (*self._budgets, *(() if context is None else context.accounts))

    def _charge_if_reported(self, pending: Pending) -> None:
        """Spend what a call used at once, if that needs no counting: the next one may be near."""
        if pending.reservation is None and not self.limits(pending.context):
            return
        if pending.needs_counting:
            self._is_owing = True
        else:
            self._charge(pending)

    def _charge(self, pending: Pending) -> None:
        """Tell budgets what a call used, outside of any lock: clocks are users'."""
        reservation, context = pending.reservation, pending.context
        if pending.is_charged or (reservation is None and not self.limits(context)):
            return
        events = pending.events()
        try:
            if not pending.take_charge():
                return
            if reservation is not None:
                reservation.settle(events)
            else:
                for event in events:
                    spend(self._budgets_of(context), event)
        except BaseException as error:
            if is_sent(error):
                pending.is_charged = False  # what is settled already isn't settled again
                raise
            # The answer is there already.
            notice("a call could not be charged to its budget", error, "it is left out")


class Delivering(Charging):
    """Has the events of a tracker reach its sinks, and those of other processes reach it."""

    deferred: DeferredCalls
    has_sinks: bool
    _outbox: Outbox

    @property
    def ledgers(self) -> Sequence[BatchingSink]:
        """The sinks that keep events for good, and that other processes share."""
        return self._outbox.batching

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
        """The same, and then give no further events to sinks. Counting goes on.

        Calls whose answers weren't retrieved by now are recorded as `unanswered`.
        """
        self.deferred.give_up()
        is_done = self.flush(timeout_s)
        self.has_sinks = False
        self._outbox.close()
        return is_done

    def refresh(self) -> int:
        """Take in what other processes of this run have written to the ledger.

        Those are forked children, workers of `multiprocessing` and of whatever else was given a
        pickled copy of the handler. Their calls are listed and added up like those of this
        process, each once, at the cost that the ledger says; scopes that are open here don't get
        them, tags and paths of scopes do. Budgets have been charged for them where they were made.

        Returns:
            How many calls there were.
        """
        self.catch_up()
        found = [event for ledger in self.ledgers for event in ledger.news(self.prices)]
        if found:
            with LOCK:
                make(partial(self._account.add, found))
        return len(found)

    def _keep_for_good(self) -> None:
        """Wait for those sinks that keep a call for good before its end returns."""
        awaited = self._outbox.awaited
        if awaited:
            self.catch_up()
            if not self._outbox.flush(_SYNC_S, awaited):
                found = f"it took longer than {_SYNC_S:g} s"
                notice("a call wasn't written before its end returned", found, "it will be")


class Copied(Delivering):
    """What of a tracker goes along into copies, and into other processes."""

    pending: PendingCalls
    listen_again: Callable[[Any], object] | None = None
    """Has whoever counts hear all of another process, too, if it heard all of this one."""

    origin: str | None = None
    """What its copies in other processes are told by."""

    _account: Account

    is_unseen = False
    """Whether it's in a worker of `multiprocessing`, and no ledger carries its calls home."""

    def in_worker(self) -> None:
        """Go on in a worker of `multiprocessing`."""
        if not self.ledgers:
            # So that its first call is looked at.
            self.is_unseen = self.has_sinks = True

    def _say_unseen(self) -> None:
        self.is_unseen, self.has_sinks = False, self._outbox.has_sinks
        notice(
            "calls are counted in a worker of multiprocessing",
            f"process {os.getpid()}, without a ledger",
            "its parent's totals don't have them; give TokenCountingHandler(ledger=…), and "
            "refresh() there",
        )

    def rejoin(self, token_counter: object) -> None:
        """Have a handler that has come from another process hear what it heard there."""
        listen_again, self.listen_again = self.listen_again, None
        if listen_again is not None and self.origin in _rejoined:
            listen_again(token_counter)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """A copy of its own; in another process all copies are one, if they share a ledger."""
        if self.origin is None:
            self.origin = uuid4().hex
        return _copy_of, (type(self), self.origin, os.getpid(), self.__getstate__())

    def __getstate__(self) -> dict[str, Any]:
        """What was counted, as it stands at one moment; scopes and most sinks stay behind."""
        self.catch_up()
        with LOCK:
            return {
                "max_events": self._account.max_events,
                "include_failed": self._account.include_failed,
                "prices": self.prices,
                "accounts": self._budgets,
                "ledgers": self.ledgers,
                "listen_again": self.listen_again,
                "account": self._account.state(),
            }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a tracker of its own, that holds what the pickled one held."""
        tracker: Any = self
        tracker.__init__(
            max_events=state["max_events"],
            include_failed=state["include_failed"],
            prices=state["prices"],
            sinks=state["ledgers"],
        )
        self._budgets = state["accounts"]
        self.is_limited = bool(self._budgets)
        self._account.restore(state["account"])


_rejoined: "Final[dict[str, Copied]]" = {}
"""Trackers that have come from other processes, and go on with the same ledger; by origin."""


def _copy_of(kind: type[Copied], origin: str, process: int, state: dict[str, Any]) -> Copied:
    """A copy; of one from another process with a ledger the same for all who ask.

    A pool hands its workers the handler anew with each task. Were each counted by itself, a client
    that several hear would be counted as often.
    """
    is_elsewhere = process != os.getpid() and bool(state["ledgers"])
    if is_elsewhere and origin in _rejoined:
        return _rejoined[origin]
    copied = kind.__new__(kind)
    copied.__setstate__(state)
    if is_worker() and process != os.getpid():
        copied.in_worker()
    if is_elsewhere:
        copied.origin = origin
        copied.listen_again = state["listen_again"]
        copied = _rejoined.setdefault(origin, copied)
    return copied

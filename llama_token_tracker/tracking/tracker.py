"""Where calls go when they end: the accounts of a handler and of scopes, budgets and sinks.

What can wait, waits here: reading a usage, counting tokens, making an event, looking up its price.
"""

import atexit
import os
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar
from uuid import uuid4

from llama_token_tracker._background import (
    WORKER,
    after_start_of_worker,
    is_worker,
    run_late,
)
from llama_token_tracker._lock import LOCK, Change, is_sent, make
from llama_token_tracker._log_once import notice
from llama_token_tracker._printable import printable
from llama_token_tracker.budgets import Accounts, Budget
from llama_token_tracker.errors import PriceError
from llama_token_tracker.events.call import Call, Settings
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.pricing import Prices
from llama_token_tracker.sinks import BatchingSink, Sink
from llama_token_tracker.sinks.ledger import LedgerLike, opened
from llama_token_tracker.tracking.account import Account
from llama_token_tracker.tracking.answers import KnownAnswers
from llama_token_tracker.tracking.charging import accounts_of, is_covered, reserve, spend
from llama_token_tracker.tracking.correlation import DeferredCall, DeferredCalls, Owners
from llama_token_tracker.tracking.outbox import Outbox
from llama_token_tracker.tracking.pending import MAX_WAITING, Pending, PendingCalls
from llama_token_tracker.tracking.report import Report, price
from llama_token_tracker.tracking.scopes import Context, Scope, current_context


class _Charging(Report):
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


class _Delivering(_Charging):
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


class _Copied(_Delivering):
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


_rejoined: "Final[dict[str, _Copied]]" = {}
"""Trackers that have come from other processes, and go on with the same ledger; by origin."""


def _copy_of(kind: type[_Copied], origin: str, process: int, state: dict[str, Any]) -> _Copied:
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


class Tracker(_Copied):
    """Records events and adds them up, from any number of threads at once.

    Args:
        max_events: How many events each list holds at the most; the oldest go first and
            stay in the totals. `None` keeps all until `reset()`.
        include_failed: Whether calls that failed before anything was billed are listed
            among the others too.
        prices: What tokens cost; by default what genai-prices knows.
        budget: A limit, or several, that calls are held to before they're sent.
        sinks: Functions that take each finished call's event; see `TokenCountingHandler`.
        ledger: Where each call is written down: a `Ledger`, or its path or URL.

    Attributes:
        is_limited: Whether it has a budget, which all calls are subject to.
        has_sinks: Whether events go to any sink.
        is_watching: Whether it has ever been told of requests by a client, too.
        owners: Which frameworks' calls may own what watched clients send.
        answers: Those that were recorded lately, which another call may hand on.
        pending: The calls that have ended and wait to be made into events.
        deferred: Those that wait for their answers to be retrieved.

    Raises:
        ValueError: `max_events` is negative.
        PriceError: `prices` is none of `Prices`.
        BudgetError: `budget` holds something that is no budget.
        SinkError: `sinks` holds something that can't be called.
        LedgerError: The ledger can't be opened.
    """

    def __init__(
        self,
        *,
        max_events: int | None = None,
        include_failed: bool = False,
        prices: Prices | None = None,
        budget: Budget | Iterable[Budget] | None = None,
        sinks: Iterable[Sink] = (),
        ledger: LedgerLike | None = None,
    ) -> None:
        if max_events is not None and max_events < 0:
            msg = f"max_events is {max_events}; give a number from 0 on, or None for no limit."
            raise ValueError(msg)
        if prices is not None and not isinstance(prices, Prices):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"prices is {printable(prices)}; give Prices({{model: price}})."
            raise PriceError(msg)
        self.prices = prices or Prices()
        self._budgets: tuple[Accounts, ...] = accounts_of(budget)
        self.is_limited = bool(self._budgets)
        self._outbox = Outbox([*sinks, *([] if ledger is None else [opened(ledger)])])
        self.has_sinks = self._outbox.has_sinks
        self.deferred = DeferredCalls()
        self._account = self.new_account(max_events=max_events, include_failed=include_failed)
        self.pending = PendingCalls(MAX_WAITING if max_events is None else max_events)
        # Whether a call waits to be counted that holds what it has reserved until then.
        self._is_owing = False
        self.owners = Owners()
        self.answers = KnownAnswers()
        self.is_watching = False
        _trackers.add(self)

    @property
    def account(self) -> Account:
        """The account of all calls."""
        return self._account

    @property
    def max_events(self) -> int | None:
        """How many events each list holds at the most."""
        return self._account.max_events

    @property
    def include_failed(self) -> bool:
        """Whether calls that failed before anything was billed are listed among the others."""
        return self._account.include_failed

    def new_account(self, *, max_events: int | None, include_failed: bool) -> Account:
        """An account of its own for a part of the calls."""
        return Account(
            self.catch_up, self.deferred, max_events=max_events, include_failed=include_failed
        )

    # --- where a call starts ---------------------------------------------------------------

    def scope(
        self, name: str, /, *, budget: Budget | Iterable[Budget] | None = None, **tags: object
    ) -> Scope:
        """A part of the program whose calls are counted by themselves, too.

        Args:
            name: What it's called.
            budget: A limit, or several, for the calls in it.
            tags: Whom or what its calls are for: `user="ada"`; `None` stands for none.

        Raises:
            ValueError: The name is no text, or empty; or a tag has several values.
        """
        account = self.new_account(
            max_events=self._account.max_events, include_failed=self._account.include_failed
        )
        return Scope(self, account, name, tags, accounts_of(budget))

    def context(self, tags: Mapping[str, Any]) -> Context | None:
        """Where a call is that starts here and now.

        Args:
            tags: What the framework's own tags say.
        """
        return current_context(self, tags)

    # --- where a call ends -----------------------------------------------------------------

    def record(self, event: TokenCountingEvent, context: Context | None = None) -> None:
        """Take in one call.

        Args:
            event: What is known of it.
            context: Where it started.

        Raises:
            TypeError: It's no event.
        """
        if not isinstance(event, TokenCountingEvent):  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"the event to record is {printable(event)}; give a TokenCountingEvent."
            raise TypeError(msg)
        event.price_with(self.prices)
        if context is not None:
            context.mark(event)
        self.add(Pending.of(event, context))

    def add(self, pending: Pending) -> None:
        """Take in a call that has ended; its events are made when somebody asks, or later.

        Nothing is counted here, and no lock is taken unless there is a budget.
        """
        is_much = self.pending.append(pending)
        if self.is_limited or pending.context is not None or pending.reservation is not None:
            self._charge_if_reported(pending)
        if (is_much or self.has_sinks) and not self.pending.is_taken_up:
            self.pending.is_taken_up = True
            try:
                WORKER.ask(self.catch_up)
            except BaseException:
                self.pending.is_taken_up = False
                raise
        if self.has_sinks:
            self._keep_for_good()

    def note_uncounted(self, place: str, context: Context | None) -> None:
        """Note a call to a provider that can't be counted.

        Args:
            place: Where it went, or what made it.
            context: Where it started.
        """
        accounts = self._accounts_of(context)

        def prepare(change: Change) -> None:
            for account in accounts:
                account.note_uncounted(place, change)

        with LOCK:
            make(prepare)

    def defer(self, place: str, call: DeferredCall, context: Context | None) -> None:
        """Have a call wait whose answer is retrieved later.

        Args:
            place: Where that is: a host and a path.
            call: The call.
            context: Where it started.
        """
        self.deferred.add(place, call, self._accounts_of(context))

    def _accounts_of(self, context: Context | None) -> tuple[Account, ...]:
        """The accounts that a call with this context is in."""
        scope = None if context is None else context.scope
        return (self._account, *(() if scope is None else scope.all_accounts()))

    # --- from calls to events --------------------------------------------------------------

    def _catch_up(self) -> None:
        self.catch_up()

    def catch_up(self) -> None:
        """Make and list the events of all calls that have ended by now, each once."""
        run_late()
        if self.pending:
            self._is_owing = False
            self.pending.work_off(self._charge, self._list)
            self._outbox.start()
            if self.is_unseen:
                self._say_unseen()

    def _list(self, calls: Sequence[Pending], change: Change) -> None:
        """Have calls' events be added to all that they belong to; the caller holds the lock."""
        by_account: dict[Account, list[TokenCountingEvent]] = {}
        for pending in calls:
            for account in self._accounts_of(pending.context):
                by_account.setdefault(account, []).extend(pending.events())
            if not pending.is_inherited:
                self._outbox.put(pending.events(), change)
        for account, events in by_account.items():
            account.add(events, change)
            if account.is_pricing_due:
                # Nobody has asked for a cost yet, and their events may be dropped.
                self._outbox.price_soon(account, price)

    def reset(self) -> None:
        """Start again from nothing. A call that is under way counts when it ends.

        Scopes and budgets go on as they were.
        """
        self.catch_up()
        with LOCK:
            change = make(self._account.reset)
        del change  # without the lock: an event's finalizer may be the user's


_trackers: "Final[weakref.WeakSet[Tracker]]" = weakref.WeakSet()

_SYNC_S: Final = 60.0
"""So long the end of a call waits at the most until it's written."""

_EXIT_S: Final = 5.0
"""So long the interpreter's end waits for sinks, all together."""


def _after_fork() -> None:
    for tracker in list(_trackers):
        tracker.pending.after_fork()
        tracker.deferred.after_fork()
        after_start_of_worker(tracker, Tracker.in_worker)


def _flush_at_exit() -> None:
    until = time.monotonic() + _EXIT_S
    for tracker in list(_trackers):
        if tracker.has_sinks:
            tracker.deferred.give_up()
            tracker.flush(max(0.0, until - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_flush_at_exit)


class CallRecorder(Protocol):
    """What takes the calls of a framework to the tracker."""

    settings: Settings
    """How their events are made."""


_Recorder = TypeVar("_Recorder", bound=CallRecorder)


class Tracking(Report, Generic[_Recorder]):
    """What can be read of, and done with, a framework's handler that records into a tracker."""

    tracker: Tracker
    """Where its calls are recorded; others may record there too."""

    _recorder: _Recorder
    """What records them, and holds those that are open."""

    def _listen(self, settings: Settings) -> None:
        """Make the recorder, and have the framework's calls reach it."""
        raise NotImplementedError

    @property
    def settings(self) -> Settings:
        """How its events are made: with which tokenizer and prices, and whether with texts."""
        return self._recorder.settings

    @property
    def keep_text(self) -> bool:
        """Whether events keep prompts and completions, from the next call's end on."""
        return self.settings.keeps_text

    @keep_text.setter
    def keep_text(self, keep_text: bool) -> None:
        self._recorder.settings = self.settings._replace(keeps_text=keep_text)

    @property
    def _account(self) -> Account:  # type: ignore[override]  # the tracker's
        return self.tracker.account

    def _catch_up(self) -> None:
        self.tracker.catch_up()

    @property
    def _budgets(self) -> tuple[Accounts, ...]:  # type: ignore[override]  # the tracker's
        return self.tracker.accounts

    def refresh(self) -> int:
        """Take in what other processes of this run have written to the ledger.

        Those are forked children, workers of `multiprocessing`, and whatever else was given a
        pickled copy of this handler. Their calls are listed and added up like those of this
        process, each once.

        Returns:
            How many calls there were.
        """
        return self.tracker.refresh()

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
            tags: Whom or what its calls are for; see `by`. `None` stands for none.

        Raises:
            ValueError: The name is no text, or empty; or a tag has several values.
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
        """The same, and then give no further events to sinks. Counting goes on.

        Calls whose answers weren't retrieved by now are recorded as `unanswered`.
        """
        return self.tracker.close(timeout_s)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the open calls, which go on in the original."""
        state = {**vars(self), "settings": self.settings}
        del state["_recorder"]
        # What listens to a process stays in it.
        state.pop("watching", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be a handler of its own, that has counted what the original had."""
        settings = state.pop("settings")
        vars(self).update(state)
        self._listen(settings)
        self.tracker.rejoin(self)

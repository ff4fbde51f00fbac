"""Where calls go when they end: the accounts of a handler and of scopes, budgets and sinks.

What can wait, waits here: reading a usage, counting tokens, making an event, looking up its price.
"""

import atexit
import os
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Generic, Protocol, TypeVar

from llama_token_tracker._background import (
    WORKER,
    after_start_of_worker,
    run_late,
)
from llama_token_tracker._lock import LOCK, Change, make
from llama_token_tracker._printable import printable
from llama_token_tracker.budgets import Accounts, Budget
from llama_token_tracker.errors import PriceError
from llama_token_tracker.events.call import Settings
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.pricing import Prices
from llama_token_tracker.sinks import Sink
from llama_token_tracker.sinks.ledger import LedgerLike, opened
from llama_token_tracker.tracking.account import Account
from llama_token_tracker.tracking.answers import KnownAnswers
from llama_token_tracker.tracking.charging import accounts_of
from llama_token_tracker.tracking.correlation import DeferredCall, DeferredCalls, Owners
from llama_token_tracker.tracking.delivering import Copied
from llama_token_tracker.tracking.outbox import Outbox
from llama_token_tracker.tracking.pending import MAX_WAITING, Pending, PendingCalls
from llama_token_tracker.tracking.report import Report, price
from llama_token_tracker.tracking.scopes import Context, Scope, current_context


class Tracker(Copied):
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
        if self.ledgers:
            # Or the first calls would wait for it before they're written.
            self.prices.load()
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
        if is_much or self.has_sinks:
            self._have_made()

    def _have_made(self) -> None:
        """Have the background make the events of what waits, for sinks or as it's much."""
        if not self.pending.is_taken_up:
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

"""Where events go: the books of the handler and of scopes, and the lock around them.

What can wait, waits here: making an event, counting its tokens, looking up its price.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import put_off, say_late
from llama_token_tracker.budgets import Accounts, Budget
from llama_token_tracker.events.event import Operation, TokenCountingEvent
from llama_token_tracker.pricing import Prices
from llama_token_tracker.tracking.account import Book
from llama_token_tracker.tracking.background import WORKER
from llama_token_tracker.tracking.charging import accounts_of, hold, spend
from llama_token_tracker.tracking.correlation import Claim, Claimant
from llama_token_tracker.tracking.report import Readings, price
from llama_token_tracker.tracking.scopes import Context, Scope, context

Recipe: TypeAlias = tuple[Any, ...]
"""A call's input and output tokens, its context, what makes its event, and with which arguments."""

MAX_HELD_BYTES: Final = 8 * 1024 * 1024
"""Texts that wait to be counted take no more than about this; then they are counted."""

BYTES_PER_CALL: Final = 1_000
"""About what any of them takes beside its texts."""

MAX_WAITING: Final = 10_000
"""Where events are limited, no more calls than this wait beyond the limit."""

_UNSUMMED: Final = 256
"""So many calls are put off before their figures are added up, so that reading stays quick."""


class Uncounted(Protocol):
    """A call whose tokens nobody has counted yet."""

    @property
    def held_bytes(self) -> int:
        """About how much memory its texts take until it's counted."""
        ...

    def events(self) -> Iterable[TokenCountingEvent]:
        """Its events; the tokens are counted on the first call."""
        ...


class _Waiting(NamedTuple):
    """A call within a scope that stands in line until it, or one before it, is counted."""

    call: Uncounted
    context: Context


class _Ready:
    """A call whose event is made already."""

    __slots__ = ("_event",)
    held_bytes = 0

    def __init__(self, event: TokenCountingEvent) -> None:
        self._event = event

    def events(self) -> Iterable[TokenCountingEvent]:
        return (self._event,)


def _uncounted(item: Any) -> Uncounted:
    call: Uncounted = item.call if isinstance(item, _Waiting) else item
    return call


class Tracker(Readings):
    """Records events and adds them up, from any number of threads at once.

    Args:
        max_events: How many events each list holds at the most; the oldest go first and
            stay in the totals. `None` keeps all until `reset()`.
        include_failed: Whether calls that failed before anything was billed are listed
            among the others too.
        prices: What tokens cost; by default what genai-prices knows.
        budget: A limit, or several, that calls are held to before they're sent.

    Attributes:
        is_limited: Whether it has a budget, which all calls are subject to.
        claimants: Who may claim what watched clients send; see `let_claim`.
    """

    def __init__(
        self,
        *,
        max_events: int | None = None,
        include_failed: bool = False,
        prices: Prices | None = None,
        budget: Budget | Iterable[Budget] | None = None,
    ) -> None:
        if max_events is not None and max_events < 0:
            msg = f"max_events is {max_events}; give a number from 0 on, or None for no limit."
            raise ValueError(msg)
        self.prices = prices or Prices()
        self._accounts: tuple[Accounts, ...] = accounts_of(budget)
        self.is_limited = bool(self._accounts)
        self._book = self.new_book(max_events=max_events, include_failed=include_failed)
        # Appended to without the lock; taken from its front with it.
        self._pending: list[Recipe | _Waiting | Uncounted] = []
        # What was taken from it, and is being looked at.
        self._taking: deque[Recipe | _Waiting | Uncounted] = deque()
        self._summed = 0
        self._unsummed = _UNSUMMED if max_events is None else min(_UNSUMMED, max_events)
        self._sum_up_at = self._unsummed
        # What calls hold that nobody has counted yet: not zero as long as there are any.
        self._held_bytes = 0
        self._unsettled: deque[tuple[TokenCountingEvent, Context | None]] = deque()
        self.claimants: tuple[Claimant, ...] = ()

    def let_claim(self, listener: Any, claim: Callable[[Any, str], Claim | None]) -> None:
        """Let a framework, whose calls are counted here, claim what watched clients send.

        Args:
            listener: An object that somebody else holds; it's asked as long as that is so.
            claim: Its method, not bound to it.
        """
        with LOCK:
            alive = (claimant for claimant in self.claimants if claimant[0]() is not None)
            self.claimants = (*alive, (weakref.ref(listener), claim))

    @property
    def book(self) -> Book:
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

    def new_book(self, *, max_events: int | None, include_failed: bool) -> Book:
        """An account of its own for a part of the calls."""
        return Book(self.catch_up, max_events=max_events, include_failed=include_failed)

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

    def reserve(
        self,
        context: Context | None,
        *,
        input_tokens: int,
        output_tokens: int | None,
        provider: str | None,
        model: str | None,
        operation: Operation,
    ) -> Context:
        """Reserve what a call may use, before it's sent.

        Args:
            context: Where it started.
            input_tokens: How many tokens will be sent, roughly.
            output_tokens: How many may come back; `None` if the call doesn't say.
            provider: Its provider, for the price.
            model: Its model.
            operation: What is asked for.

        Returns:
            The context to record it with, which settles the reservation.

        Raises:
            BudgetExceededError: It would pass a limit. Nothing is reserved.
        """
        context = context or Context()
        if self._held_bytes:
            # Calls that ended without a figure still hold all that they reserved.
            self.catch_up()
        held = hold(
            (*self._accounts, *context.accounts),
            dict(context.tags),
            context.path,
            self.prices,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            provider=provider,
            model=model,
            operation=operation,
        )
        return context._replace(hold=held)

    def _settle(self) -> None:
        """Settle what calls held; the caller doesn't hold the lock, for clocks are users'."""
        say_late()
        while self._unsettled:
            try:
                event, context = self._unsettled.popleft()
            except IndexError:
                return  # another thread was quicker
            if context is not None and context.hold is not None:
                context.hold.settle(event)
            else:
                inner = () if context is None else context.accounts
                spend((*self._accounts, *inner), event)

    def record(self, event: TokenCountingEvent, context: Context | None = None) -> None:
        """Take in one call.

        Args:
            event: What is known of it.
            context: Where it started.
        """
        with LOCK:
            if self._held_bytes:
                self.record_uncounted(_Ready(event), context)
            else:
                self._take_pending()
                self._take(event, context)
        self._settle()

    def _take(self, event: TokenCountingEvent, context: Context | None) -> None:
        self._mark(event, context)
        self._book.take(event)
        self._share(event, context)
        if self.limits(context):
            self._unsettled.append((event, context))

    def _mark(self, event: TokenCountingEvent, context: Context | None) -> None:
        event.price_with(self.prices)
        if context is not None:
            context.mark(event)

    def _share(self, event: TokenCountingEvent, context: Context | None) -> None:
        if context is not None and context.scope is not None:
            context.scope.take(event)
        if self.max_events is not None and self._book.totals.waits_too_long:
            # Their events may be dropped, and nobody has asked for a cost yet.
            WORKER.ask(self._price)

    def _price(self) -> None:
        price(self._book)

    def record_uncounted(self, call: Uncounted, context: Context | None = None) -> None:
        """Take in a call whose tokens are counted when somebody asks for a figure.

        If too much text waits for that, one thread in the background counts it.
        """
        # No lock, which is dear out of a cold cache. Threads that meet here may lose an addition;
        # but what isn't zero once a call is in line stays so until the line is taken.
        self._pending.append(call if context is None else _Waiting(call, context))
        self._held_bytes += BYTES_PER_CALL + call.held_bytes
        if self._held_bytes > MAX_HELD_BYTES:
            WORKER.ask(self.catch_up)

    def holds_more(self, held_bytes: int) -> None:
        """Note that a call that waits to be counted takes so much more memory."""
        self._held_bytes += held_bytes

    def record_later(self, recipe: Recipe) -> None:
        """Take in one call to a language model, whose event can wait until it's asked for.

        Args:
            recipe: What makes the event. It should hold no more memory than the event will.
                A call that is subject to a budget is recorded at once instead.
        """
        pending = self._pending
        # No lock, which would cost as much as all the rest: adding up waits too.
        pending.append(recipe)
        if len(pending) > self._sum_up_at:
            self._make_room()

    def _catch_up(self) -> None:
        self.catch_up()

    def _sum_up(self) -> None:
        self.sum_up()

    def sum_up(self) -> None:
        """Bring at least the sums of LLM calls and embeddings up to date."""
        if self._held_bytes or self._taking:
            self.catch_up()
        else:
            with LOCK:
                self._add_up()

    def _make_room(self) -> None:
        with LOCK:
            max_events = self._book.max_events
            if max_events is not None and len(self._pending) > max_events:
                if not self._held_bytes:
                    self._take_pending()
                elif len(self._pending) > max_events + MAX_WAITING:
                    WORKER.ask(self.catch_up)
            self._add_up()
        say_late()

    def _add_up(self) -> None:
        """Add up what was put off since the last time; the caller holds the lock."""
        end = len(self._pending)
        prompt = completion = 0
        for call in self._pending[self._summed : end]:
            if type(call) is tuple:
                prompt += call[0]
                completion += call[1]
        pair = self._book.llm.pair
        pair.prompt += prompt
        pair.completion += completion
        self._summed = end
        self._sum_up_at = end + self._unsummed

    def catch_up(self) -> None:
        """Make the events that were put off, if there are any."""
        if not (self._pending or self._taking):
            return
        if self._held_bytes or self._taking:
            with LOCK:
                items = [*self._taking, *self._pending]
                waiting = [_uncounted(item) for item in items if type(item) is not tuple]
            # Outside the lock, for counting takes time; backwards, to meet the thread that
            # may be counting already half-way.
            for call in reversed(waiting):
                call.events()
        with LOCK:
            self._take_pending()
        self._settle()

    def _take_pending(self) -> None:
        # Before the line is looked at: see `record_uncounted`.
        self._held_bytes = 0
        while self._pending or self._taking:
            self._add_up()
            # Taken out before any is looked at: the collector may close a stream meanwhile, and
            # whoever records that comes in here again, with this thread's lock.
            self._taking.extend(self._pending[: self._summed])
            del self._pending[: self._summed]
            self._summed, self._sum_up_at = 0, self._unsummed
            with put_off():
                while self._taking:
                    self._take_waiting(self._taking.popleft())

    def _take_waiting(self, item: Recipe | _Waiting | Uncounted) -> None:
        if type(item) is not tuple:
            context = item.context if isinstance(item, _Waiting) else None
            for event in _uncounted(item).events():
                self._take(event, context)
            return
        _, _, context, make, *arguments = item
        try:
            event = make(*arguments)
        except KeyboardInterrupt:
            # Its tokens are in the sums already.
            self._taking.appendleft(item)
            raise
        self._mark(event, context)
        self._book.list_only(event)
        self._share(event, context)

    def reset(self) -> None:
        """Start again from nothing. A call that is under way counts when it ends.

        Scopes and budgets go on as they were.
        """
        self.catch_up()
        with LOCK:
            self._take_pending()
            self._book.reset()
        self._settle()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock and the open scopes, as it stands at one moment."""
        self.catch_up()
        with LOCK:
            self._take_pending()
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


class Tracking(Readings):
    """What can be read of, and done with, whatever records into a tracker."""

    tracker: Tracker
    """Where its calls are recorded; others may record there too."""

    @property
    def _book(self) -> Book:  # type: ignore[override]  # the tracker's
        return self.tracker.book

    def _catch_up(self) -> None:
        self.tracker.catch_up()

    def _sum_up(self) -> None:
        self.tracker.sum_up()

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

"""Request correlation: which framework's call a request belongs to that a watched client sends.

A watched client asks every framework that its tracker knows for a `RequestOwner` as a request
leaves. One whose call is being made in this very context gives one, and takes what the wire says
into its own event; a request that nobody owns becomes an event of its own.

A call whose answer is deferred is correlated with the request that retrieves that, by its place.
"""

import sys
import weakref
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import Any, Final, Protocol, TypeAlias

from llama_token_tracker._background import soon
from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice
from llama_token_tracker.events.transcripts import SentRequest
from llama_token_tracker.extraction import Reported


class AnsweredRequest(SentRequest, Protocol):
    """A request whose answer has begun, as far as a framework's call needs to know it.

    Attributes:
        is_broken_off: Whether its answer ended well, but before what its format ends with.
        request_id: What its provider calls it, in a header of the answer.
    """

    is_broken_off: bool
    request_id: str | None

    def reported(self) -> Reported:
        """What the wire has said of its tokens so far."""
        ...

    def texts(self) -> Sequence[str]:
        """The texts that it had embedded."""
        ...

    def disown(self) -> None:
        """Say that no event of the framework's tells of it: then it becomes one of its own."""
        ...


class RequestOwner(Protocol):
    """A framework's call that requests belong to.

    Attributes:
        refusal: What a budget raised at its start, where that couldn't stop it: its requests are.
        is_structured: Whether it's a method that gives users' objects, of which no callback tells.
    """

    refusal: Exception | None
    is_structured: bool

    def attach(self, request: AnsweredRequest) -> None:
        """Take in that the request is being answered; called once, or never if it failed."""
        ...

    def lose(self, request: AnsweredRequest) -> Any:
        """Take in that a request wasn't answered, which is an event of its own.

        Returns:
            What the call has reserved for it, if anything.
        """
        ...


class Framework(Protocol):
    """Knows the calls of a framework that are open."""

    def has_open_calls(self) -> bool:
        """Whether there's any, in whatever context."""
        ...

    def find_owner(self, provider: str | None, /) -> RequestOwner | None:
        """Find the one that a request to this provider belongs to, which leaves here and now."""
        ...


Owned: TypeAlias = tuple[RequestOwner | None, bool]
"""The call that a request belongs to, and whether any is open that may hand on its answer."""

NOBODYS: Final[Owned] = (None, False)
"""What is said of a request that's nobody's."""


class Owners:
    """The frameworks whose calls may own requests."""

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Framework], ...] = ()

    def add(self, framework: Framework) -> None:
        """Ask a framework from now on, as long as somebody else holds it."""
        with LOCK:
            alive = (known for known in self._known if known() is not None)
            self._known = (*alive, weakref.ref(framework))

    def find(self, provider: str | None) -> RequestOwner | None:
        """Find the call that a request to this provider belongs to, which leaves here and now."""
        return self.around(provider)[0]

    def around(self, provider: str | None) -> Owned:
        """The same, and whether any call of theirs is open, in whatever context."""
        is_any_open = False
        for reference in self._known:
            framework = reference()
            if framework is not None:
                owner = framework.find_owner(provider)
                if owner is not None:
                    return owner, True
                if framework.has_open_calls():
                    is_any_open = True
        return (None, True) if is_any_open else NOBODYS


class _UnknownOwner:
    """Some call of a framework, which surely sent a request in a thread that knows not which.

    What the provider says of it reaches that call in its answer.
    """

    refusal: Exception | None = None
    is_structured: bool = False

    def attach(self, request: AnsweredRequest) -> None:
        """Leave it to the call."""

    def lose(self, request: AnsweredRequest) -> None:
        """Leave the call as it is."""


UNKNOWN_OWNER: Final = _UnknownOwner()


def is_running(package: str) -> bool:
    """Whether it's the code of such a package that is running here.

    Some integrations ask their provider in a thread that they start without the context of the
    call.

    Args:
        package: How the names of its modules begin.
    """
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # documented, for just this
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(package):
            return True
        frame = frame.f_back
    return False


# --- deferred answers ------------------------------------------------------------------------

MAX_DEFERRED: Final = 1_000
"""So many calls wait for their answers to be retrieved, the newest."""


class DeferredCall(Protocol):
    """A call that was answered with an id alone; its answer is retrieved by that."""

    def give_up(self) -> None:
        """Record it as one whose answer was never seen."""
        ...


def _give_up(call: DeferredCall) -> None:
    consequence = "the oldest call counts as unanswered"
    notice("too many answers were not retrieved", f"{MAX_DEFERRED} that wait", consequence)
    call.give_up()


class DeferredCalls:
    """The calls whose answers haven't been retrieved, by the place where these are.

    Each step is one of a dict's own methods, so that no lock is needed; whoever takes a call out
    records it.
    """

    def __init__(self) -> None:
        self._calls: dict[str, tuple[DeferredCall, Sequence[object]]] = {}

    def __len__(self) -> int:
        """How many there are."""
        return len(self._calls)

    def number(self, account: object) -> int:
        """How many there are that will be in this account."""
        return sum(account in accounts for _, accounts in [*self._calls.values()])

    def add(self, place: str, call: DeferredCall, accounts: Sequence[object]) -> None:
        """Have a call wait; those that have waited longest, of too many, are given up."""
        replaced = self.take(place)
        if replaced is not None:
            # Later: this may be a finalizer.
            soon(replaced.give_up)
        self._calls[place] = call, accounts
        for oldest in [*self._calls][: max(0, len(self._calls) - MAX_DEFERRED)]:
            lost = self.take(oldest)
            if lost is not None:
                soon(partial(_give_up, lost))

    def find(self, place: str) -> DeferredCall | None:
        """The call whose answer is there."""
        return self._calls.get(place, (None,))[0]

    def take(self, place: str) -> DeferredCall | None:
        """Take that call out, to record it."""
        return self._calls.pop(place, (None,))[0]

    def give_up(self) -> None:
        """Record them all as never answered."""
        for place in [*self._calls]:
            call = self.take(place)
            if call is not None:
                call.give_up()

    def after_fork(self) -> None:
        """Leave them to the parent process."""
        self._calls = {}

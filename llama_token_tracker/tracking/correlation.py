"""Request correlation: which framework's call a request belongs to that a watched client sends.

A watched client asks every framework that its tracker knows for a `RequestOwner` as a request
leaves. One whose call is being made in this very context gives one, and takes what the wire says
into its own event; a request that nobody owns becomes an event of its own.
"""

import sys
import weakref
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, Final, Protocol, TypeAlias

from llama_token_tracker._lock import LOCK
from llama_token_tracker.events.transcripts import SentRequest
from llama_token_tracker.extraction import Reported


class AnsweredRequest(SentRequest, Protocol):
    """A request whose answer has begun, as far as a framework's call needs to know it.

    Attributes:
        is_broken_off: Whether its answer ended well, but before what its format ends with.
    """

    is_broken_off: bool

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
    """

    refusal: Exception | None

    def attach(self, request: AnsweredRequest) -> None:
        """Take in that the request is being answered; called once, or never if it failed."""
        ...

    def lose(self, request: AnsweredRequest) -> Any:
        """Take in that a request wasn't answered, which is an event of its own.

        Returns:
            What the call has reserved for it, if anything.
        """
        ...


FindOwner: TypeAlias = Callable[[Any, str | None], RequestOwner | None]
"""A framework's method that says whether a request that leaves here and now, in this context, for
this provider, is one of its calls'."""


class Owners:
    """The frameworks whose calls may own requests."""

    def __init__(self) -> None:
        self._known: tuple[tuple[weakref.ref[Any], FindOwner], ...] = ()

    def add(self, framework: Any, find: FindOwner) -> None:
        """Ask a framework from now on, as long as somebody else holds it.

        Args:
            framework: An object of its.
            find: That object's method, not bound to it.
        """
        with LOCK:
            alive = (known for known in self._known if known[0]() is not None)
            self._known = (*alive, (weakref.ref(framework), find))

    def find(self, provider: str | None) -> RequestOwner | None:
        """Find the call that a request to this provider belongs to, which leaves here and now."""
        for reference, find in self._known:
            framework = reference()
            if framework is not None:
                owner = find(framework, provider)
                if owner is not None:
                    return owner
        return None


class _UnknownOwner:
    """Some call of a framework, which surely sent a request in a thread that knows not which.

    What the provider says of it reaches that call in its answer.
    """

    refusal: Exception | None = None

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

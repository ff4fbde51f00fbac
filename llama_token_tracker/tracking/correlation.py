"""Whose request it is: a framework that counts calls itself may claim what a client sends.

A client that is watched asks every framework that its tracker knows for a `Claim` as a request
leaves. One whose call is being made in this very context gives one, and takes what the wire says
into its own event; where nobody claims a request, the watch records an event of its own.
"""

import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Protocol, TypeAlias

from llama_token_tracker.extraction import Reading


class Heard(Protocol):
    """A request whose answer has begun, as far as a framework's call needs to know it."""

    def reading(self) -> Reading | None:
        """What the wire has said of its tokens so far, or `None`."""
        ...

    def texts(self) -> tuple[str, ...]:
        """The texts that it had embedded."""
        ...

    def disown(self) -> None:
        """Say that no event of the framework's tells of it after all."""
        ...


class Claim(Protocol):
    """What makes a request a part of a framework's call."""

    def hear(self, request: Heard) -> None:
        """Take in that the request is being answered; called once, or never if it failed."""
        ...


Claimant: TypeAlias = tuple[weakref.ref[Any], Callable[[Any, str], Claim | None]]
"""A framework's listener and its method that says whether a request that leaves here and now, in
this context, for this provider, is the framework's."""


class _Untold:
    """A request that some call of a framework surely sent, in a thread that knows not which.

    What the provider says of it reaches that call in its answer.
    """

    def hear(self, request: Heard) -> None:
        """Leave it to the call."""


UNTOLD: Final = _Untold()


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

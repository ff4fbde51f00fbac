"""Parts of a program whose calls are counted by themselves: a request, a user, a step.

A call belongs to the scope in which it starts, wherever and whenever it ends. The scope is
kept in a context variable, so that tasks, and threads that copy their context, inherit it.
"""

import sys
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar, Token
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR
from types import FrameType, MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

from llama_token_tracker._lock import LOCK
from llama_token_tracker.budgets import Accounts
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.tracking.account import Account
from llama_token_tracker.tracking.report import Report

_current: Final[ContextVar["Scope | Block | None"]] = ContextVar(
    "llama_token_tracker_scope", default=None
)

_in_generators: Final[dict[FrameType, "Scope"]] = {}
"""The open scopes that a generator has entered, by its frame.

A web framework may run each step of a generator in another copy of the context, where what the
first step has set is gone. But whatever a step calls has the generator's frame below it.
"""

_LONGEST: Final = 256
_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})
_GENERATORS: Final = CO_GENERATOR | CO_ASYNC_GENERATOR


class Owner(Protocol):
    """What a scope needs of the tracker it belongs to."""

    def catch_up(self) -> None:
        """Take in the calls that were put off."""

    def scope(self, name: str, /) -> "Scope":
        """Make a scope of its own."""
        ...


class Context(NamedTuple):
    """Where a call started.

    Attributes:
        scope: The innermost scope, or `None`.
        tags: What the scopes and LlamaIndex's `instrument_tags` said of it.
    """

    scope: "Scope | None" = None
    tags: Mapping[str, str] = _NO_TAGS

    @property
    def path(self) -> str | None:
        """The path of the innermost scope."""
        return None if self.scope is None else self.scope.path

    @property
    def accounts(self) -> tuple[Accounts, ...]:
        """The accounts of the scopes around it."""
        found: tuple[Accounts, ...] = ()
        scope = self.scope
        while scope is not None:
            found += scope._budgets  # pyright: ignore[reportPrivateUsage]  # within this module
            scope = scope.outer
        return found

    def mark(self, event: TokenCountingEvent) -> None:
        """Say on an event where its call started."""
        event.tags = {**event.tags, **self.tags}
        event.scope = self.path


class Scope(Report):
    """The calls that start within a `with` block, whatever else runs at the same time.

    Made by `token_counter.scope(name, **tags)`. It can be read during the block and after it,
    and counts on while streams that were started in it are drained.

    Attributes:
        name: What it's called.
        path: The names of the scopes around it and its own, with slashes between.
        tags: Whom or what its calls are for, those of the scopes around it included.
        outer: The scope around it, or `None`.
    """

    def __init__(
        self,
        owner: Owner,
        account: Account,
        name: str,
        tags: dict[str, Any],
        accounts: tuple[Accounts, ...] = (),
    ) -> None:
        if not isinstance(name, str) or not name.strip():  # pyright: ignore[reportUnnecessaryIsInstance]
            msg = f"a scope was named {name!r}; give it a name that is a text, such as a request's."
            raise ValueError(msg)
        self._owner = owner
        self._account = account
        self.name = name
        self.path = name[:_LONGEST]
        self.tags: dict[str, str] = {tag: as_tag(value) for tag, value in tags.items()}
        self._budgets = accounts
        self.outer: Scope | None = None
        self._outside: Scope | Block | None = None
        self._frame: FrameType | None = None
        self._token: Token[Any] | None = None
        self._entered = False
        self._left = False

    def __enter__(self) -> Self:
        """Count the calls that start from now on.

        Raises:
            RuntimeError: It was entered before.
        """
        if self._entered:
            msg = f"scope {self.name!r} was entered before; make a new one for each block."
            raise RuntimeError(msg)
        self._entered = True
        self.put_into(current_scope(self._owner))
        self._outside = _by_context()
        self._token = _current.set(self)
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # documented, for just this
        if frame.f_code.co_flags & _GENERATORS:
            self._frame = frame
            _in_generators[frame] = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count no further calls, but those that have started."""
        if self._frame is not None:
            _in_generators.pop(self._frame, None)
            self._frame = None
        self._left = True
        # Out of turn, or in another context, it is undone when it is next met where it was set.
        if _current.get() is self and not self._undo():
            _current.set(self._outside)

    def _undo(self) -> bool:
        """Make what was before it current again; `False` if it was entered in another context."""
        if self._token is None:
            return False
        try:
            _current.reset(self._token)
        except ValueError:
            return False
        self._token = None
        return True

    def put_into(self, outer: "Scope | None") -> None:
        """Lie within another scope, or in none."""
        self.outer = outer
        if outer is not None:
            self.path = f"{outer.path}/{self.name}"[:_LONGEST]
            self.tags = {**outer.tags, **self.tags}

    def of(self, owner: Owner) -> "Scope | None":
        """Itself, for the tracker it belongs to."""
        return self if self._owner is owner else None

    @property
    def outside(self) -> "Scope | Block | None":
        """What was open when it was entered, whosever that is."""
        return self._outside

    @property
    def _title(self) -> str:
        return self.path

    def _catch_up(self) -> None:
        self._owner.catch_up()

    def take(self, event: TokenCountingEvent) -> None:
        """Add a call to this scope and those around it; the caller holds the lock."""
        scope: Scope | None = self
        while scope is not None:
            scope._account.add(event)
            scope = scope.outer

    def __repr__(self) -> str:
        return f"<Scope {self.path!r} {self.tags}>"


class Block:
    """A scope of all trackers at once, also of those that are only made within it.

    Each tracker that hears of a call in it gets a scope of its own there, with the block's name.

    Attributes:
        name: What it's called.
        outside: What was open when it was opened.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.outside: Scope | Block | None = None
        self._scopes: dict[int, Scope] = {}

    def open(self) -> None:
        """Count the calls that start from now on, in this context and those made of it."""
        self.outside = _current.get()
        _current.set(self)

    def close(self) -> None:
        """Count no further calls of this context."""
        # Where its context has ended, as that of a task does, there's nothing to undo.
        if _current.get() is self:
            _current.set(self.outside)

    def of(self, owner: Owner) -> Scope:
        """The scope of a tracker."""
        # A scope holds its owner, so that no other can get the same id.
        scope = self._scopes.get(id(owner))
        if scope is None:
            with LOCK:
                scope = self._scopes.get(id(owner))
                if scope is None:
                    scope = owner.scope(self.name)
                    scope.put_into(_first(self.outside, owner))
                    self._scopes[id(owner)] = scope
        return scope

    def scopes(self) -> list[Scope]:
        """The scopes of all trackers that have heard of a call in it."""
        with LOCK:
            return list(self._scopes.values())


def current_block() -> Block | None:
    """The innermost open block around the caller."""
    around = _current.get()
    while around is not None and not isinstance(around, Block):
        around = around.outside
    return around


def within(block: Block | None) -> Token[Any]:
    """Put this context into a block, or out of any, and out of all scopes.

    Returns:
        What `leave` takes to undo it.
    """
    return _current.set(block)


def leave(token: Token[Any]) -> None:
    """Undo what `within` did."""
    _current.reset(token)


def is_somewhere() -> bool:
    """Whether a call that starts here and now may be in any scope."""
    if _in_generators:
        return True
    return _current.get() is not None


def context(owner: Owner, tags: Mapping[str, Any]) -> Context | None:
    """Where a call is that starts here and now; `None` if there's nothing to say.

    Args:
        owner: The tracker that counts it.
        tags: LlamaIndex's tags.
    """
    if not tags and not is_somewhere():
        return None
    scope = current_scope(owner)
    if scope is None and not tags:
        return None
    known = {as_tag(name): as_tag(value) for name, value in tags.items()}
    # A scope's tags win.
    return Context(scope, known if scope is None else {**known, **scope.tags})


def current_scope(owner: Owner) -> Scope | None:
    """The innermost open scope of this owner that surrounds the caller."""
    around = _by_context()
    if _in_generators:
        around = _innermost(around, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]
    return _first(around, owner)


def _first(around: Scope | Block | None, owner: Owner) -> Scope | None:
    """The first scope of an owner, from one on outwards."""
    while around is not None:
        scope = around.of(owner)
        if scope is not None:
            return scope
        around = around.outside
    return None


def _by_context() -> Scope | Block | None:
    """The innermost scope by context, without those that were left elsewhere."""
    around = _current.get()
    # An asynchronous generator that nobody reads any more is closed in a task of its own. And
    # of two that take turns the first may end before the second.
    while isinstance(around, Scope) and around._left and around._undo():  # pyright: ignore[reportPrivateUsage]  # within this module
        around = _current.get()
    return around


def resume() -> Token[Any] | None:
    """Make the scope of a generator in this stack current, where the context has lost it.

    Then threads and tasks that start here inherit it.

    Returns:
        What `suspend` undoes this with; `None` if there was nothing to do.
    """
    if not _in_generators:
        return None
    by_context = _by_context()
    scope = _innermost(by_context, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]  # documented
    return None if scope is by_context else _current.set(scope)


def suspend(token: Token[Any]) -> None:
    """Undo what `resume` did."""
    # A span may end in another context; this one ends with the step that it was made for.
    with suppress(ValueError):
        _current.reset(token)


def _innermost(by_context: Scope | Block | None, frame: FrameType | None) -> Scope | Block | None:
    """The scope by context, or one that a generator in this very stack has entered."""
    while frame is not None:
        entered = _in_generators.get(frame)
        if entered is not None:
            outer = by_context
            while outer is not None:
                if outer is entered:
                    return by_context
                outer = outer.outside
            return entered
        frame = frame.f_back
    return by_context


def as_tag(value: object) -> str:
    """A tag's value as a text of bounded length, whatever it does when asked."""
    if type(value) is str:
        return value[:_LONGEST]
    try:
        return str(value)[:_LONGEST]
    except Exception:  # noqa: BLE001 - a foreign __str__ may raise anything
        return f"<{type(value).__name__}>"

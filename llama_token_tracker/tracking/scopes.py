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
from typing import Any, Final, NamedTuple, Protocol, Self, TypeAlias

from llama_token_tracker._lock import LOCK, pass_on
from llama_token_tracker._printable import exact, is_text, printable
from llama_token_tracker.budgets import Accounts
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.tracking.account import Account
from llama_token_tracker.tracking.report import Report

_current: Final[ContextVar["AnyScope | None"]] = ContextVar(
    "llama_token_tracker_scope", default=None
)

IN_GENERATORS: Final[dict[FrameType, "Scope"]] = {}
"""The open scopes that a generator has entered, by its frame.

A web framework may run each step of a generator in another copy of the context, where what the
first step has set is gone. But whatever a step calls has the generator's frame below it.
"""

_LONGEST: Final = 256
_NO_TAGS: Final[Mapping[str, str]] = MappingProxyType({})
_GENERATORS: Final = CO_GENERATOR | CO_ASYNC_GENERATOR


class TrackerLike(Protocol):
    """What a scope needs of the tracker it belongs to."""

    def catch_up(self) -> None:
        """Make and list the events of all calls that have ended."""

    def scope(self, name: str, /) -> "Scope":
        """Make a scope of its own."""
        ...


class Context(NamedTuple):
    """The scope and the tags in which a call started.

    Attributes:
        scope: The innermost scope, or `None`.
        tags: The tags of all scopes around it and of LlamaIndex's `instrument_tags`.
    """

    scope: "Scope | None" = None
    tags: Mapping[str, str] = _NO_TAGS

    @property
    def path(self) -> str | None:
        """The path of the innermost scope."""
        return None if self.scope is None else self.scope.path

    @property
    def accounts(self) -> tuple[Accounts, ...]:
        """The budgets' accounts of all scopes around it, innermost first."""
        found: tuple[Accounts, ...] = ()
        scope = self.scope
        while scope is not None:
            found += scope._budgets  # pyright: ignore[reportPrivateUsage]  # within this module
            scope = scope.outer
        return found

    def mark(self, event: TokenCountingEvent) -> None:
        """Set the scope and the tags of an event of the call."""
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
        tracker: TrackerLike,
        account: Account,
        name: str,
        tags: dict[str, Any],
        accounts: tuple[Accounts, ...] = (),
    ) -> None:
        if not is_text(name) or not str.strip(name):
            msg = (
                f"a scope was named {printable(name)}; give it a name that is a text, such as a "
                "request's."
            )
            raise ValueError(msg)
        name = exact(name)
        self._tracker = tracker
        self._account = account
        self.name = name
        self.path = name[:_LONGEST]
        self.tags: dict[str, str] = {
            tag: _one_value(tag, value) for tag, value in tags.items() if value is not None
        }
        self._budgets = accounts
        self.outer: Scope | None = None
        self._enclosing: AnyScope | None = None
        self._frame: FrameType | None = None
        self._token: Token[Any] | None = None
        self._has_begun = False
        self._has_ended = False

    def __enter__(self) -> Self:
        """Count the calls that start from now on.

        Raises:
            RuntimeError: It was entered before.
        """
        if self._has_begun:
            msg = f"scope {printable(self.name)} was entered before; make a new one for each block."
            raise RuntimeError(msg)
        self._has_begun = True
        self.nest_in(current_scope(self._tracker))
        self._enclosing = _context_scope()
        self._token = _current.set(self)
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # documented, for just this
        if frame.f_code.co_flags & _GENERATORS:
            self._frame = frame
            IN_GENERATORS[frame] = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count no further calls, but those that have started."""
        if self._frame is not None:
            IN_GENERATORS.pop(self._frame, None)
            self._frame = None
        self._has_ended = True
        # Out of turn, or in another context, it is undone when it is next met where it was set.
        if _current.get() is self and not self._undo():
            _current.set(self._enclosing)

    def _undo(self) -> bool:
        """Make the scope before it current again; `False` if it was entered in another context."""
        if self._token is None:
            return False
        try:
            _current.reset(self._token)
        except ValueError:
            return False
        self._token = None
        return True

    def nest_in(self, outer: "Scope | None") -> None:
        """Put it within another scope, whose path and tags it takes over, or within none."""
        self.outer = outer
        if outer is not None:
            self.path = f"{outer.path}/{self.name}"[:_LONGEST]
            self.tags = {**outer.tags, **self.tags}

    def for_tracker(self, tracker: TrackerLike) -> "Scope | None":
        """Itself if it belongs to a tracker, or `None`."""
        return self if self._tracker is tracker else None

    @property
    def enclosing(self) -> "AnyScope | None":
        """The scope that was current when it was entered, of whichever tracker."""
        return self._enclosing

    @property
    def _title(self) -> str:
        return self.path

    def _catch_up(self) -> None:
        self._tracker.catch_up()

    def all_accounts(self) -> list[Account]:
        """Its account and those of the scopes around it, innermost first."""
        accounts: list[Account] = []
        scope: Scope | None = self
        while scope is not None:
            accounts.append(scope._account)
            scope = scope.outer
        return accounts

    def __repr__(self) -> str:
        return f"<Scope {printable(self.path, 2 * _LONGEST)} {self.tags}>"


class SharedScope:
    """One scope for all trackers, also for those that are only made while it's open.

    Each tracker that counts a call in it gets a `Scope` of its own there, of the same name.

    Attributes:
        name: What it's called.
        enclosing: The scope that was current when it was opened.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.enclosing: AnyScope | None = None
        self._scopes: dict[int, Scope] = {}

    def open(self) -> None:
        """Count the calls that start from now on, in this context and those made of it."""
        self.enclosing = _current.get()
        _current.set(self)

    def close(self) -> None:
        """Count no further calls of this context."""
        # Where its context has ended, as that of a task does, there's nothing to undo.
        if _current.get() is self:
            _current.set(self.enclosing)

    def for_tracker(self, tracker: TrackerLike) -> Scope:
        """A tracker's own scope in it, made when it's first asked for."""
        # A scope refers to its tracker, so that no other can get the same id.
        scope = self._scopes.get(id(tracker))
        if scope is None:
            with LOCK:
                scope = self._scopes.get(id(tracker))
                if scope is None:
                    scope = tracker.scope(self.name)
                    scope.nest_in(_nearest(self.enclosing, tracker))
                    self._scopes[id(tracker)] = scope
        return scope

    def scopes(self) -> list[Scope]:
        """The scopes of all trackers that have counted a call in it."""
        with LOCK:
            return list(self._scopes.values())


AnyScope: TypeAlias = Scope | SharedScope


def current_shared_scope() -> SharedScope | None:
    """The innermost shared scope that is open where the caller is."""
    around = _current.get()
    while around is not None and not isinstance(around, SharedScope):
        around = around.enclosing
    return around


def set_current(scope: SharedScope | None) -> Token[Any]:
    """Make a shared scope, or none at all, the current scope of this context.

    Returns:
        What `reset_current` undoes it with.
    """
    return _current.set(scope)


def reset_current(token: Token[Any]) -> None:
    """Make the scope current again that was so before."""
    # A span may end in another context; this one ends with the step that it was made for.
    with suppress(ValueError):
        _current.reset(token)


def has_open_scope() -> bool:
    """Whether any scope may be open where the caller is."""
    if IN_GENERATORS:
        return True
    return _current.get() is not None


def current_context(tracker: TrackerLike, tags: Mapping[str, Any]) -> Context | None:
    """The context of a call that starts here and now; `None` if it has no scope and no tags.

    Args:
        tracker: The tracker that counts it.
        tags: The framework's own tags, such as LlamaIndex's.
    """
    if not tags and not has_open_scope():
        return None
    scope = current_scope(tracker)
    if scope is None and not tags:
        return None
    known = {as_tag(name): as_tag(value) for name, value in tags.items()}
    # A scope's tags win.
    return Context(scope, known if scope is None else {**known, **scope.tags})


def current_scope(tracker: TrackerLike) -> Scope | None:
    """A tracker's innermost scope that is open where the caller is."""
    around = _context_scope()
    if IN_GENERATORS:
        around = _innermost(around, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]
    return _nearest(around, tracker)


def _nearest(around: AnyScope | None, tracker: TrackerLike) -> Scope | None:
    """A tracker's innermost scope, from a scope on outwards."""
    while around is not None:
        scope = around.for_tracker(tracker)
        if scope is not None:
            return scope
        around = around.enclosing
    return None


def _context_scope() -> AnyScope | None:
    """The current scope by the context variable, without those that ended in another context."""
    around = _current.get()
    # An asynchronous generator that nobody reads any more is closed in a task of its own. And
    # of two that take turns the first may end before the second.
    while isinstance(around, Scope) and around._has_ended and around._undo():  # pyright: ignore[reportPrivateUsage]  # within this module
        around = _current.get()
    return around


def restore_current() -> Token[Any] | None:
    """Make the scope of a generator in this stack current, where the context has lost it.

    Then threads and tasks that start here inherit it.

    Returns:
        What `reset_current` undoes it with; `None` if there was nothing to do.
    """
    if not IN_GENERATORS:
        return None
    by_context = _context_scope()
    scope = _innermost(by_context, sys._getframe(1))  # pyright: ignore[reportPrivateUsage]  # documented
    return None if scope is by_context else _current.set(scope)


def _innermost(by_context: AnyScope | None, frame: FrameType | None) -> AnyScope | None:
    """The scope by context, or the one that a generator in this stack has entered."""
    while frame is not None:
        entered = IN_GENERATORS.get(frame)
        if entered is not None:
            outer = by_context
            while outer is not None:
                if outer is entered:
                    return by_context
                outer = outer.enclosing
            return entered
        frame = frame.f_back
    return by_context


def _one_value(tag: str, value: object) -> str:
    """A tag's value as a text.

    Raises:
        ValueError: It's several.
    """
    if issubclass(type(value), list | tuple | dict | set | frozenset):
        msg = (
            f"the tag {printable(tag)} is {printable(value)}; give one value, such as a text, or "
            "a tag for each."
        )
        raise ValueError(msg)  # noqa: TRY004 - as for a scope's name
    return as_tag(value)


def as_tag(value: object) -> str:
    """A tag's value as a text of bounded length, whatever it does when asked."""
    if type(value) is str:
        return value[:_LONGEST]
    try:
        return exact(str(value))[:_LONGEST]
    except Exception as error:  # noqa: BLE001 - a foreign __str__ may raise anything
        pass_on(error)
        return f"<{type(value).__name__}>"

"""Who listens to the clients of this process, and where in their libraries they are heard."""

import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from contextvars import ContextVar, Token
from functools import cached_property
from importlib import import_module
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from llama_token_tracker._lock import LOADING, pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.wire.botocore import Listener
from llama_token_tracker.wire.transcript import Recorder


class Point(NamedTuple):
    """A method that all calls pass that a library makes.

    Attributes:
        module: The module that has it.
        name: The class and the method.
        hook: What is put around it: a module within this package, and a function.
    """

    module: str
    name: str
    hook: tuple[str, str]


POINTS: Final = (
    # As Sentry and Datadog do. It sees whatever transport a client has; OpenTelemetry wraps the
    # transports of httpx's own alone.
    Point("httpx", "Client.send", ("httpx.process", "send")),
    Point("httpx", "AsyncClient.send", ("httpx.process", "async_send")),
    Point("httpx2", "Client.send", ("httpx.process", "send")),
    Point("httpx2", "AsyncClient.send", ("httpx.process", "async_send")),
    Point(
        "botocore.hooks",
        "EventAliaser.emit_until_response",
        ("botocore.process", "emit_until_response"),
    ),
    # As Datadog does. What aiohttp tells those who trace it, as OpenTelemetry does, leaves out
    # the pieces of an answer.
    Point("aiohttp.client", "ClientSession._request", ("aiohttp", "request")),
    # As all three do.
    Point("requests.sessions", "Session.send", ("requests", "send")),
)
"""Where each library is heard, synchronous and not, whenever a client was or will be made."""


MADE_LATE: Final = "_aiohttp_session"
"""Where google-genai's clients have the session of aiohttp that they made for this event loop."""


class Listening:
    """One who listens, to all clients or to some.

    Args:
        recorder: Where their requests go.
        clients: The clients; `None` for all.
        asked: Which hosts are asked for the usage of a stream; all of them if it's `True`.
        makers: What makes clients as late as it sends, which are heard then.

    Attributes:
        asked: Which hosts are asked.
        hears_all: Whether it hears all that any client sends.
    """

    def __init__(
        self,
        recorder: Recorder,
        clients: Iterable[Any] | None,
        asked: bool | Collection[str] = False,
        makers: Iterable[Any] = (),
    ) -> None:
        self.recorder = recorder
        self._makers: WeakSet[Any] = WeakSet(makers)
        self._clients: WeakSet[Any] | None = None if clients is None else WeakSet(clients)
        self.hears_all = clients is None and recorder.takes_all
        self.asked = {asked} if isinstance(asked, str) else asked
        self._refusing: set[str] = set()

    def hears(self, client: object) -> bool:
        """Whether this client is one of those, and what it sends here and now is of interest."""
        known = self._clients
        return (known is None or client in known or self._is_made_late(client)) and (
            self.recorder.takes()
        )

    def _is_made_late(self, client: object) -> bool:
        return any(getattr(maker, MADE_LATE, None) is client for maker in self._makers)

    def asks(self, host: str) -> bool:
        """Whether this host is asked for the usage of a stream."""
        asked = self.asked
        return (asked is True or (asked is not False and host in asked)) and (
            host not in self._refusing
        )

    def refuses(self, host: str) -> None:
        """Note that a host refuses to be asked."""
        self._refusing.add(host)

    @cached_property
    def botocore(self) -> Listener:
        """What listens to clients of botocore."""
        return Listener(self.recorder)

    def stop(self) -> None:
        """Hear no more of what clients tell by themselves."""
        self.botocore.stop()


_MOST_WRAPPED: Final = 99
"""Of so many wrappers around one method ours is looked for."""

_listening: tuple[Listening, ...] = ()
_hear_all: Sequence[Listening] | None = ()
"""Who listens to each client, if that's the same for all."""
_ask: Sequence[Listening] = ()
"""Those of them who have hosts be asked."""
_patches: Final[list["_Patch"]] = []


def listeners() -> tuple[Listening, ...]:
    """All who listen; the same object until somebody starts or stops."""
    return _listening


def heard(client: object) -> Sequence[Listening]:
    """Who listens to a client: of those who count into one tracker, one."""
    hear_all = _hear_all
    if hear_all is None:
        return _one_a_tracker(one for one in _listening if one.hears(client))
    return hear_all


def _one_a_tracker(listening: Iterable[Listening]) -> Sequence[Listening]:
    return [*{id(one.recorder.tracker): one for one in listening}.values()]


def asking(client: object) -> list[Listening]:
    """Who listens to a client and has hosts be asked for the usage of a stream."""
    return [one for one in _ask if one.hears(client)]


def start(listening: Listening) -> None:
    """Have somebody listen, to what is imported later, too."""
    with LOADING:
        _tell(*_listening, listening)
        if not _patches:
            _patches.extend(map(_Patch, POINTS))
        for patch in _patches:
            patch.apply()


def stop(listening: Listening) -> None:
    """Have somebody listen no more; after the last, all is as it was."""
    with LOADING:
        _tell(*[one for one in _listening if one is not listening])
        if not _listening:
            for patch in _patches:
                patch.take_back()
    listening.stop()


def _tell(*listening: Listening) -> None:
    """Have these listen, and nobody else."""
    global _listening, _hear_all, _ask
    hear_all = _one_a_tracker(listening) if all(one.hears_all for one in listening) else None
    asking = [one for one in listening if one.asked]
    _listening, _hear_all, _ask = listening, hear_all, asking


class _Patch:
    """What is put around a method as long as anybody listens.

    Args:
        point: Where.
    """

    def __init__(self, point: Point) -> None:
        self._point = point
        self._is_expected = False
        self._wrapper: Any = None

    def apply(self) -> None:
        """Put it there, as soon as the library is imported."""
        if not self._is_expected:
            self._is_expected = True
            # With LlamaIndex comes wrapt, and by it OpenTelemetry patches as well.
            import_module("wrapt").register_post_import_hook(self._wrap, self._point.module)
        elif self._wrapper is None:
            self._wrap()

    def _wrap(self, _module: object = None) -> None:
        module = sys.modules.get(self._point.module)
        with LOADING:
            if module is None or self._wrapper is not None or not _listening:
                return
            try:
                hook = self._hook()
                wrapt = import_module("wrapt")
                self._wrapper = wrapt.wrap_function_wrapper(module, self._point.name, hook)
            except Exception as error:  # noqa: BLE001 - a library may be of any version
                pass_on(error)
                where = f"{self._point.module}.{self._point.name}"
                notice("{} can't be heard", error, "its calls aren't counted", where)

    def _hook(self) -> Callable[..., Any]:
        module, name = self._point.hook
        hook: Callable[..., Any] = getattr(import_module(f"{__package__}.{module}"), name)
        return hook

    def take_back(self) -> None:
        """Take it away, from among those of others, too."""
        wrapper, self._wrapper = self._wrapper, None
        if wrapper is None:
            return
        owner, name = self._point.name.split(".")
        holder: Any = getattr(sys.modules[self._point.module], owner)
        if holder.__dict__[name] is wrapper:
            setattr(holder, name, wrapper.__wrapped__)
            return
        # Somebody has wrapped it meanwhile.
        outer: Any = holder.__dict__[name]
        for _ in range(_MOST_WRAPPED):
            inner: Any = getattr(outer, "__wrapped__", None)
            if inner is wrapper:
                outer.__wrapped__ = wrapper.__wrapped__
                return
            outer = inner


# --- requests within requests ----------------------------------------------------------------

_underway: ContextVar[tuple[tuple[object, str], ...]] = ContextVar("underway", default=())


def set_out(client: object, url: str) -> tuple[list[Recorder], Token[Any] | None]:
    """Note that a client's request to this place is on its way, as it may send it by another.

    Returns:
        Who listens and didn't know of it, and what says that it's there, for `arrived`.
    """
    known = _underway.get()
    recorders: list[Recorder] = []
    for one in heard(client):
        recorder = one.recorder
        way = recorder.tracker, url
        if way not in known:
            recorders.append(recorder)
            known = (*known, way)
    return recorders, _underway.set(known) if recorders else None


def arrived(token: Token[Any]) -> None:
    """Note that an answer has begun to such a request, or won't."""
    _underway.reset(token)

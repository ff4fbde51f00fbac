"""`watch`: counts what this process sends to providers, or some clients alone."""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

from llama_token_tracker._names import HOLD_CLIENTS
from llama_token_tracker.errors import WatchError
from llama_token_tracker.sinks.ledger import LedgerLike
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire.botocore import emitter_of
from llama_token_tracker.wire.listening import MADE_LATE, Listening, start, stop
from llama_token_tracker.wire.transcript import Recorder


class Watch:
    """What listens until it's stopped; as a context manager until the end of the block."""

    def __init__(self, listening: Listening) -> None:
        self._listening = listening

    @property
    def tracker(self) -> Tracker:
        """Who counts: totals, rows and events; `flush()` waits until its ledger has all."""
        return self._listening.recorder.tracker

    def stop(self) -> None:
        """Listen no more; streams that were begun are read to their end."""
        stop(self._listening)
        self._listening.recorder.tracker.listen_again = None

    def __enter__(self) -> Self:
        """Listen until the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self.stop()


def watch(
    token_counter: Any = None,
    *clients: Any,
    ask_for_usage: bool | Collection[str] = False,
    ledger: LedgerLike | None = None,
) -> Watch:
    """Count all that this process sends to a known provider, as the provider reports it.

        token_counter = TokenCountingHandler()
        watch(token_counter)

    Whoever sends it: LlamaIndex, LangChain, an SDK, boto3, any library on httpx, httpx2, botocore,
    aiobotocore, aiohttp or requests, by clients made before or later. A call that a framework
    makes, and that is counted by `token_counter` anyway, is counted once: its event takes the
    provider's figures. Every other request becomes an event of its own. No request is changed,
    unless you `ask_for_usage`.

    Args:
        token_counter: Who counts: a `TokenCountingHandler`, or a `Tracker`. With a `ledger` none
            is needed.
        clients: Only these: clients of boto3, aioboto3 and aiobotocore, or sessions, for the
            clients they make from now on; clients of SDKs, of httpx, aiohttp and requests; models
            of LlamaIndex or LangChain that have one of them. All of the process if none is given.
        ask_for_usage: Whether streams of OpenAI's chat and text completions, and of whoever speaks
            like it, are asked on the way for their usage where the program doesn't say anything of
            it, as they don't report it else. What comes of that is taken out of the answer again.
            The names of hosts ask those alone.
        ledger: Where each call is written down, if nobody else counts: a `Ledger`, or its path or
            URL. What `token_counter` counts, its own ledger gets.

    Returns:
        The watch, to `stop()` it. Whoever watches twice counts once; several may count.

    Raises:
        WatchError: `token_counter` doesn't count, or a client can't be watched.
        LedgerError: The ledger can't be opened.
    """
    if ledger is not None:
        if token_counter is not None:
            msg = "token_counter and ledger were given; give it TokenCountingHandler(ledger=…)."
            raise WatchError(msg)
        token_counter = Tracker(ledger=ledger)
    recorder = Recorder(token_counter)
    if clients:
        return Watch(_listening_to(clients, recorder, ask_for_usage))
    listening = Listening(recorder, None, ask_for_usage)
    start(listening)
    recorder.tracker.listen_again = partial(watch, ask_for_usage=ask_for_usage)
    return Watch(listening)


def _listening_to(
    clients: Iterable[Any], recorder: Recorder, asked: bool | Collection[str]
) -> Listening:
    """Listen to some clients.

    Raises:
        WatchError: One can't be watched.
    """
    found = [inner for client in clients for inner in _clients_in(client)]
    makers = [inner for inner in found if _makes_late(inner)]
    others = [inner for inner in found if _is_heard(inner)]
    listening = Listening(recorder, others, asked, makers)
    for inner in found:
        if not (_is_heard(inner) or _makes_late(inner)):
            is_session = not hasattr(inner, "meta")
            listening.botocore.listen(emitter_of(inner), makes_clients=is_session)
    if others or makers:
        start(listening)
    return listening


def watch_for_budgets(token_counter: Any) -> Callable[[], None]:
    """Hear of LlamaIndex's and LangChain's requests those that only so can be held or refused.

    Args:
        token_counter: Who counts, and finds their calls.

    Returns:
        What ends that.
    """
    listening = Listening(Recorder(token_counter, for_budgets=True), None)
    start(listening)
    return partial(stop, listening)


# --- clients within clients ------------------------------------------------------------------

_HEARD: Final = frozenset(
    {
        ("httpx", "Client"),
        ("httpx", "AsyncClient"),
        ("httpx2", "Client"),
        ("httpx2", "AsyncClient"),
        ("aiohttp", "ClientSession"),
        ("requests", "Session"),
    }
)
"""Libraries, and the classes of theirs that are heard."""

_AWS: Final = frozenset({"boto3", "botocore", "aioboto3", "aiobotocore"})

_CONTAINERS: Final[frozenset[type[Any]]] = frozenset({dict, list, tuple})

_MAKE: Final = ("_get_client", "_get_aclient")
"""By these methods models of LlamaIndex make the clients that they keep."""

_DEPTH: Final = 6


def _clients_in(thing: Any) -> list[Any]:
    """The clients that something is, or holds, and what in it makes some as late as it sends.

    Raises:
        WatchError: It's none, and holds none.
    """
    if emitter_of(thing) is not None:
        return [thing]
    found = [one for one in _within(thing) if _is_client(one) or _makes_late(one)]
    if not found:
        kind = f"{type(thing).__module__}.{type(thing).__qualname__}"
        msg = (
            f"a {kind} can't be watched: it is no client that is known and holds none yet; give a "
            "client of boto3, an SDK, httpx, aiohttp or requests (aioboto3's within its `async "
            "with`), a model that holds one, or none to watch all of this process."
        )
        raise WatchError(msg)
    return found


def _within(thing: Any) -> Iterator[Any]:
    """Something, and what it holds, level by level, but for what is in clients."""
    level, seen = [thing], dict[int, Any]()
    for _ in range(_DEPTH):
        level = [one for one in level if seen.setdefault(id(one), one) is one]
        yield from level
        level = [inner for one in level if not _is_client(one) for inner in _held(one)]
        level = list({id(one): one for one in level if id(one) not in seen}.values())


def _is_client(thing: object) -> bool:
    return _is_heard(thing) or _is_of_bedrock(thing)


def _makes_late(thing: object) -> bool:
    return _root(type(thing)) in HOLD_CLIENTS and hasattr(thing, MADE_LATE)


def _is_heard(thing: object) -> bool:
    return any((_root(kind), kind.__name__) in _HEARD for kind in type(thing).__mro__)


def _is_of_bedrock(thing: object) -> bool:
    if _root(type(thing)) not in _AWS:
        return False
    try:
        return emitter_of(thing) is not None
    except WatchError:
        return False  # of another service


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _held(thing: Any) -> Iterable[Any]:
    """What an object of such a library holds."""
    if _root(thing.__class__) not in HOLD_CLIENTS and thing.__class__ not in _CONTAINERS:
        return ()
    for name in _MAKE:
        make: Any = getattr(thing, name, None)
        if callable(make):
            make()
    held: list[Any] = [*_fields(thing).values()]
    return [one for one in held if not isinstance(one, str | bytes | int | float | None)]


def _fields(thing: Any) -> dict[Any, Any]:
    if thing.__class__ in _CONTAINERS:
        listed: list[Any] = [*thing.values()] if thing.__class__ is dict else [*thing]
        return dict(enumerate(listed))
    hidden: Any = getattr(thing, "__pydantic_private__", None)
    return {**getattr(thing, "__dict__", {}), **(hidden or {})}

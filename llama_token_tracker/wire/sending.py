"""What is noted of a request over HTTP and of its answer, whichever library sends it."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import BudgetExceededError
from llama_token_tracker.events.call import status_after
from llama_token_tracker.wire.answers.answer import Answer
from llama_token_tracker.wire.deferred import Retrieval
from llama_token_tracker.wire.dialects import Dialect
from llama_token_tracker.wire.exchange import Exchange
from llama_token_tracker.wire.listening import heard, is_underway, underway
from llama_token_tracker.wire.operations import find, uncounted_provider
from llama_token_tracker.wire.refusals import hand_on
from llama_token_tracker.wire.transcript import Recorder
from llama_token_tracker.wire.uncounted import UncountedRequest

FIRST_ERROR: Final = 300
_IDS: Final = (b"x-request-id", b"request-id", b"apim-request-id", b"mistral-correlation-id")
"""Where answers say what their provider calls the request."""


class Sent:
    """A request that has left, if it's one that counts, or should."""

    __slots__ = ("_dialect", "_uncounted", "exchange")

    def __init__(
        self,
        exchange: Exchange | None,
        dialect: Dialect | None,
        uncounted: UncountedRequest | None = None,
    ) -> None:
        self.exchange = exchange
        self._dialect = dialect
        self._uncounted = uncounted

    @contextmanager
    def underway(self) -> Generator[None]:
        """Settle a request that isn't answered."""
        try:
            yield
        except BaseException as error:
            status = status_after(error)
            if self.exchange is not None:
                self.exchange.settle(status)
            if self._uncounted is not None:
                self._uncounted.settle(is_free=status == "failed")
            raise

    def answer(
        self, status: int, headers: Mapping[bytes, bytes], *, is_plain: bool = False
    ) -> Answer | None:
        """What is to take in the answer's bytes; `None` if there's nothing to be read of it.

        Args:
            status: The answer's status.
            headers: Its headers, by their names in lower case.
            is_plain: Whether its bytes are handed over decoded.
        """
        exchange, dialect = self.exchange, self._dialect
        if self._uncounted is not None:
            self._uncounted.settle(is_free=status >= FIRST_ERROR)
        if exchange is None or dialect is None:
            return None
        ids = [headers[name] for name in _IDS if name in headers]
        exchange.told_id(ids[0].decode("latin-1") if ids else "")
        if status >= FIRST_ERROR:
            exchange.settle("failed")
            return None
        exchange.answered()
        return Answer(exchange, dialect, headers, is_plain=is_plain)

    def missed(self, error: Exception) -> None:
        """Note that the answer couldn't be read along."""
        notice("an answer could not be read", error, "its figures may be missing")
        if self.exchange is not None:
            self.exchange.settle("complete")


UNCOUNTED: Final = Sent(None, None)
"""One that doesn't count."""


def note(recorder: Recorder, host: str, method: str, path: str, body: bytes | str | None) -> Sent:
    """Note that a request leaves. Only a budget may stop it.

    Args:
        recorder: Where it goes.
        host: The host's name.
        method: The request's method, in capitals.
        path: Its path.
        body: Its body, as far as it's there.

    Raises:
        BudgetExceededError: It would pass a limit.
    """
    try:
        sent, call = _noted(recorder, host, method, path, body)
    except Exception as error:  # noqa: BLE001 - counting must not stop the call
        pass_on(error)
        notice("a request could not be noted", error, "it is not counted")
        return UNCOUNTED
    if call is not None:
        try:
            call.reserve()
        except BudgetExceededError as error:
            hand_on(error)
            raise
    return sent


def _noted(
    recorder: Recorder, host: str, method: str, path: str, body: bytes | str | None
) -> tuple[Sent, Exchange | UncountedRequest | None]:
    found = find(host, method, path)
    if found is not None:
        dialect = found.dialect
        exchange = Exchange(recorder, found.provider, found.model, found.kind, dialect, body)
        exchange.sent = found.sent
        if dialect.deferral is not None:
            exchange.path = f"{host}{path}"
        return Sent(exchange, dialect), exchange
    if recorder.tracker.deferred:
        retrieved = _retrieved(recorder, f"{host}{path}".removesuffix("/cancel"))
        if retrieved is not None:
            return retrieved, None
    provider = uncounted_provider(host, method, path)
    # What a framework's call sends is counted by that.
    if provider is None or recorder.tracker.owners.find(provider) is not None:
        return UNCOUNTED, None
    uncounted = UncountedRequest(recorder, provider, f"{host}{path}", body)
    return Sent(None, None, uncounted), uncounted


def _retrieved(recorder: Recorder, place: str) -> Sent | None:
    """A request that retrieves the answer of a call which was begun before, if it's one."""
    call = recorder.tracker.deferred.find(place)
    if call is None:
        return None
    retrieval = Retrieval(call, place)
    return Sent(retrieval, retrieval.dialect)


@contextmanager
def sending(
    client: object, host: str, method: str, path: str, body: bytes | str | None
) -> Generator[list[Sent]]:
    """Note for all who listen that a client sends a request, and settle what isn't answered.

    Args:
        client: Who sends it.
        host: The host's name.
        method: The request's method, in capitals.
        path: Its path.
        body: Its body, as far as it's there.

    Raises:
        BudgetExceededError: It would pass a limit.
    """
    recorders = [one.recorder for one in heard(client)]
    with all_underway(recorders, f"{host}{path}") as (free, stack):
        all_sent: list[Sent] = []
        for recorder in free:
            sent = note(recorder, host, method, path, body)
            if sent is not UNCOUNTED:
                stack.enter_context(sent.underway())
                all_sent.append(sent)
        yield all_sent


@contextmanager
def all_underway(
    recorders: Iterable[Recorder], url: str
) -> Generator[tuple[list[Recorder], ExitStack]]:
    """Give those who don't know yet that a request to this place is on its way; now they do."""
    with ExitStack() as stack:
        free = [recorder for recorder in recorders if not is_underway(recorder, url)]
        if free:
            stack.enter_context(underway(free, url))
        yield free, stack


def by_name(headers: Iterable[tuple[Any, Any]]) -> dict[bytes, bytes]:
    """Headers by their names in lower case, of bytes or of text."""
    return {_bytes(name).lower(): _bytes(value) for name, value in headers}


def _bytes(text: Any) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("latin-1", "replace")

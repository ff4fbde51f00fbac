"""What is noted of a request over HTTP and of its answer, whichever library sends it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import Token
from functools import partial
from types import TracebackType
from typing import Any, Final

from llama_token_tracker._lock import pass_on
from llama_token_tracker._log_once import notice
from llama_token_tracker.errors import BudgetExceededError
from llama_token_tracker.events.call import status_after
from llama_token_tracker.events.event import Status
from llama_token_tracker.wire.answers.answer import Answer, unread
from llama_token_tracker.wire.deferred import Retrieval
from llama_token_tracker.wire.dialects import Dialect
from llama_token_tracker.wire.exchange import Exchange
from llama_token_tracker.wire.listening import arrived, set_out
from llama_token_tracker.wire.operations import find, uncounted_provider
from llama_token_tracker.wire.plain import PlainRequest, exchange_of, may_be_plain
from llama_token_tracker.wire.refusals import hand_on
from llama_token_tracker.wire.transcript import Recorder
from llama_token_tracker.wire.uncounted import UncountedRequest

FIRST_ERROR: Final = 300
NOTED: Final = "llama_token_tracker.noted"
"""The trackers that know of a request already, by the client that sends it."""
_IDS: Final = (b"x-request-id", b"request-id", b"apim-request-id", b"mistral-correlation-id")
"""Where answers say what their provider calls the request."""


class Sent:
    """A request that has left, if it's one that counts, or should."""

    __slots__ = ("_dialect", "_request", "_uncounted")

    def __init__(
        self,
        request: Exchange | PlainRequest | None,
        dialect: Dialect | None,
        uncounted: UncountedRequest | None = None,
    ) -> None:
        self._request = request
        self._dialect = dialect
        self._uncounted = uncounted

    def lost(self, error: BaseException) -> None:
        """Settle a request that isn't answered, as this was raised."""
        status = status_after(error)
        self.settle(status)
        if self._uncounted is not None:
            self._uncounted.settle(is_free=status == "failed")

    def answer(
        self,
        status: int,
        headers: Mapping[bytes, bytes],
        content: bytes | None = None,
        *,
        is_plain: bool = False,
    ) -> Answer | None:
        """What is to take in the answer's bytes; `None` if there's nothing to be read any more.

        Args:
            status: The answer's status.
            headers: Its headers, by their names in lower case.
            content: The whole body, decoded, if it's there already.
            is_plain: Whether its bytes are handed over decoded.
        """
        request, dialect = self._request, self._dialect
        if self._uncounted is not None:
            self._uncounted.settle(is_free=status >= FIRST_ERROR)
        if request is None or dialect is None:
            return None
        name = next(filter(None, map(headers.get, _IDS)), b"").decode("latin-1")
        document, is_good = b"", status < FIRST_ERROR
        if is_good and content is not None:
            document = unread(request.operation, dialect, headers, content)
        if isinstance(request, PlainRequest):
            request.provider_id = name
            if document:
                request.answered_by(document)
                return None
            request = request.exchange()
        else:
            request.told_id(name)
        if not is_good:
            request.settle("failed")
            return None
        request.answered()
        if content is None:
            return Answer(request, dialect, headers, is_plain=is_plain)
        if document and request.add_unread(document):
            request.settle("complete")
        else:
            answer = Answer(request, dialect, headers, is_plain=True)
            answer.take_in(content)
            answer.end()
        return None

    def settle(self, status: Status) -> None:
        """Note that it's over, if it's one that counts."""
        if self._request is not None:
            self._request.settle(status)

    def missed(self, error: Exception) -> None:
        """Note that the answer couldn't be read along."""
        notice("an answer could not be read", error, "its figures may be missing")
        self.settle("complete")


UNCOUNTED: Final = Sent(None, None)
"""One that doesn't count."""


def note(
    recorder: Recorder,
    host: str,
    method: str,
    path: str,
    body: bytes | str | None,
    *,
    is_streamed: bool = True,
) -> Sent:
    """Note that a request leaves. Only a budget may stop it.

    Args:
        recorder: Where it goes.
        host: The host's name.
        method: The request's method, in capitals.
        path: Its path.
        body: Its body, as far as it's there.
        is_streamed: Whether its answer may not be there yet when it's told of.

    Raises:
        BudgetExceededError: It would pass a limit.
    """
    try:
        sent, call = _noted(recorder, host, method, path, body, is_streamed)
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
    recorder: Recorder,
    host: str,
    method: str,
    path: str,
    body: bytes | str | None,
    is_streamed: bool,
) -> tuple[Sent, Exchange | UncountedRequest | None]:
    found = find(host, method, path)
    if found is not None:
        dialect = found.dialect
        owned = recorder.tracker.owners.around(found.provider)
        if not is_streamed and dialect.deferral is None and may_be_plain(owned, recorder.tracker):
            return Sent(PlainRequest(recorder, found, body, found.sent), dialect), None
        exchange = exchange_of(recorder, found, body, found.sent, owned)
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


class Leaving:
    """A request that leaves, as all who listen note it; one that isn't answered is settled.

    As a context manager it gives what they have noted, until the answer has begun.

    Args:
        client: Who sends it.
        place: The host's name, and the path.
        note: Notes it for one of those who listen. A budget may stop it.
        marks: Where the transports that it passes look who knows of it, if that library has such.
    """

    __slots__ = ("_before", "_marks", "_note", "_sender", "_sent", "_token", "_url")

    def __init__(
        self,
        client: object,
        place: tuple[str, str],
        note: Callable[[Recorder], Sent],
        marks: dict[str, Any] | None = None,
    ) -> None:
        self._sender = client
        self._url = "".join(place)
        self._note = note
        self._marks = marks
        self._before: Any = None
        self._sent: list[Sent] = []
        self._token: Token[Any] | None = None

    def __enter__(self) -> list[Sent]:
        """Have it be noted.

        Raises:
            BudgetExceededError: It would pass a limit.
        """
        recorders, self._token = set_out(self._sender, self._url)
        marks = self._marks
        try:
            for recorder in recorders:
                sent = self._note(recorder)
                if sent is not UNCOUNTED:
                    self._sent.append(sent)
                    if marks is not None:
                        known = marks.get(NOTED, ())
                        if self._before is None:
                            self._before = known
                        marks[NOTED] = (*known, recorder.tracker)
        except BaseException as error:
            self._end(error)
            raise
        return self._sent

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Settle it, if this was raised instead of its answer."""
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        try:
            if self._marks is not None and self._before is not None:
                self._marks[NOTED] = self._before
            if error is not None:
                for sent in self._sent:
                    sent.lost(error)
        finally:
            if self._token is not None:
                arrived(self._token)


def sending(
    client: object,
    host: str,
    method: str,
    path: str,
    body: bytes | str | None,
    *,
    is_streamed: bool = True,
) -> Leaving:
    """Note for all who listen that a client sends a request, and settle what isn't answered.

    Args:
        client: Who sends it.
        host: The host's name.
        method: The request's method, in capitals.
        path: Its path.
        body: Its body, as far as it's there.
        is_streamed: Whether its answer may not be there yet when it's told of.
    """
    noted = partial(note, host=host, method=method, path=path, body=body, is_streamed=is_streamed)
    return Leaving(client, (host, path), noted)


def by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by their names in lower case."""
    names, values = zip(*headers, strict=True) if headers else ((), ())
    return dict(zip(map(bytes.lower, names), values, strict=True))


def as_bytes(headers: Iterable[tuple[object, object]]) -> list[tuple[bytes, bytes]]:
    """Headers of text as they were on the wire."""
    return [(_bytes(name), _bytes(value)) for name, value in headers]


def _bytes(text: object) -> bytes:
    return text if isinstance(text, bytes) else str(text).encode("latin-1", "replace")

"""Requests of a watched client that are nobody's: kept as they left, until somebody asks."""

import sys
from collections.abc import Callable, Sequence
from time import perf_counter, time
from typing import Any, Final

from llama_token_tracker._background import soon
from llama_token_tracker._lock import LOCK
from llama_token_tracker.events.call import status_after
from llama_token_tracker.events.event import Operation, Status
from llama_token_tracker.events.settle import Ended
from llama_token_tracker.pricing import Served
from llama_token_tracker.tracking.correlation import NOBODYS, Owned
from llama_token_tracker.tracking.pending import Pending
from llama_token_tracker.tracking.scopes import has_open_scope
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire.bodies import Pieces
from llama_token_tracker.wire.exchange import BYTES_PER_PIECE, LONGEST_BODY, Exchange, Read
from llama_token_tracker.wire.operations import Match
from llama_token_tracker.wire.transcript import SIZED, Recorder

_SHORT: Final = 4_096
"""Of what takes fewer bytes, how many wait tells enough."""


def exchange_of(
    recorder: Recorder,
    found: Match,
    body: Any,
    sent: Served,
    owned: Owned | None = None,
    since: tuple[float, float] | None = None,
) -> Exchange:
    """The exchange that a request begins.

    Args:
        recorder: Where it goes.
        found: What is known of it by its path.
        body: Its body.
        sent: How it's served, as far as that's known by where it's sent.
        owned: Whose it is, if that was asked already.
        since: When it left, if that was before.
    """
    row, kind, provider, model, _ = found
    exchange = Exchange(recorder, provider, model, kind, row.dialect, body, owned, since)
    exchange.sent = sent
    return exchange


def may_be_plain(owned: Owned, tracker: Tracker) -> bool:
    """Whether a request that leaves here and now, and is whose `owned` says, may be plain."""
    return owned is NOBODYS and not (tracker.is_limited or has_open_scope())


class PlainRequest(Pending):
    """A request that leaves where and when this is made, and that nothing is asked about yet.

    No framework's call owns it or may hand its answer on, no scope is open around it, and no budget
    limits it. Of such a one the user's call need do no more than keep what was sent and came back;
    it becomes an `Exchange` when somebody asks for its figures, or if it isn't answered well.

    Args:
        recorder: Where it goes.
        found: What is known of it by its path.
        body: Its body.
        sent: How it's served, as far as that's known by where it's sent.

    Attributes:
        provider_id: What its provider calls it.
        pieces: The pieces of the answer that have come.
        read_piece: Gives what a piece tells of its tokens, if that's a stream's.
    """

    __slots__ = (
        "_body",
        "_duration_s",
        "_exchange",
        "_found",
        "_is_over",
        "_recorder",
        "_sent",
        "_since",
        "_told",
        "pieces",
        "provider_id",
        "read_piece",
    )

    def __init__(self, recorder: Recorder, found: Match, body: Any, sent: Served) -> None:
        # In a row, as this is done in the user's call: first what any call has that waits.
        self._ended = self._events = self.context = self.reservation = None
        self.is_charged = self.is_inherited = self.is_listed = False
        self.held_bytes = len(body) if type(body) in SIZED else 0
        self._recorder = recorder
        self._found = found
        self._body = body
        self._sent = sent
        self._exchange: Exchange | None = None
        self._told: Any = None
        self.read_piece: Read | None = None
        self.pieces = Pieces()
        self.provider_id = ""
        self._since = time(), perf_counter()
        self._is_over = False

    def __del__(self, is_exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        """Count what nobody waits for any more; a finalizer, so that it waits for no lock."""
        # One that couldn't be made is no request that was lost.
        if not (getattr(self, "_is_over", True) or is_exiting()):
            soon(self._lose)

    def _lose(self) -> None:
        self.settle("abandoned")

    @property
    def operation(self) -> Operation:
        """What is asked for, as far as that can be told."""
        return self._found.kind

    def answered(self, told: Any, held_bytes: int) -> None:
        """Note that it was answered well.

        Args:
            told: What says all of its tokens at once, bytes of a document or fields that nobody may
                change; of a stream, whose pieces say them, `()`.
            held_bytes: About how much memory its answer takes so far.
        """
        self._duration_s = perf_counter() - self._since[1]
        # From here on it's answered, whatever interrupts this.
        self._told = told
        if self.held_bytes > LONGEST_BODY:
            self.exchange().ask()
        self.held_bytes += held_bytes
        self._recorder.tracker.add(self)
        self._is_over = True

    def answered_by(self, document: bytes) -> None:
        """Note that this is all of the answer: a JSON document that says its tokens."""
        if self.operation != "embedding":
            self.pieces.append(document)
        self.answered(document, len(document))

    def take_in(self, piece: bytes, _amount: int | None, /) -> None:
        """Take in bytes of an answer whose figures are known, as they are read."""
        self.pieces.append(piece)
        if self._exchange is None:
            held = self.held_bytes = self.held_bytes + len(piece)
            if held > _SHORT:
                self._recorder.tracker.pending.hold_more(self, 0)
        else:
            self._exchange.came(piece)

    def stopped(self, error: BaseException) -> None:
        """Note that this error has ended the reading of a streamed answer."""
        # Whoever leaves an iteration may go on with another.
        if not isinstance(error, GeneratorExit):
            self.settle(status_after(error))

    def end(self, _last: Sequence[object] = ()) -> None:
        """Note that a streamed answer has ended well; whether that's its end, its pieces tell."""
        if not self._is_over:
            self.answered((), BYTES_PER_PIECE * len(self.pieces))

    def settle(self, status: Status) -> None:
        """Note that it's over; if it was answered already, that stands."""
        if self._is_over:
            return
        if self._told is None:
            self.exchange().settle(status)
        else:
            # Interrupted: what is recorded twice is listed once.
            self._recorder.tracker.add(self)
            self._is_over = True

    def exchange(self) -> Exchange:
        """The same as one whose answer is read along, or that tells what is known of it."""
        exchange = self._exchange
        if exchange is None:
            exchange = self._made()
            with LOCK:
                if self._exchange is None:
                    self._exchange, self._body = exchange, None
                else:
                    exchange = self._exchange
        return exchange

    def _made(self) -> Exchange:
        left = self._recorder, self._found, self._body, self._sent
        exchange = exchange_of(*left, NOBODYS, self._since)
        exchange.told_id(self.provider_id)
        exchange.pieces, exchange.read_piece = self.pieces, self.read_piece
        if self._told is None:
            # It ends as that does.
            self._is_over = True
        else:
            exchange.was_answered(self._told, self._duration_s)
        return exchange

    def _read(self) -> Ended | None:
        if self._ended is None and self._events is None:
            self._ended = self.exchange().ended()
        return super()._read()

"""One request of a watched client, from its leaving to the end of its answer.

What it used is read off the wire. If it belongs to a framework's call, that one's event takes the
figures; else it becomes an event of its own. Figures and texts are read when somebody asks for
them.
"""

import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from time import perf_counter, time
from typing import Any, Final, TypeAlias

from llama_token_tracker._background import soon
from llama_token_tracker._lock import LOCK, is_sent
from llama_token_tracker._log_once import notice
from llama_token_tracker.events.call import Call, status_after
from llama_token_tracker.events.event import Operation, Status, TokenCountingEvent
from llama_token_tracker.events.settle import Ended, Ending
from llama_token_tracker.extraction import (
    SILENT,
    Reported,
    StreamedUsage,
    extract_reported,
    with_parts,
)
from llama_token_tracker.extraction.fields import Fields
from llama_token_tracker.extraction.reader import describes_error
from llama_token_tracker.tracking.charging import reserve_for
from llama_token_tracker.tracking.correlation import Owned, RequestOwner
from llama_token_tracker.tracking.pending import Pending
from llama_token_tracker.tracking.scopes import Context, has_open_scope
from llama_token_tracker.tracking.tracker import Tracker
from llama_token_tracker.wire.bodies import Pieces, decoded
from llama_token_tracker.wire.transcript import SIZED, Dialect, Recorder, WireTranscript

# Pictures stand in a request as text; what is read of them is their size alone.
LONGEST_BODY: Final = 262_144
BYTES_PER_PIECE: Final = 500
_END_OF_JSON: Final = b"}"
_HEAD: Final = 512
_ID: Final = re.compile(rb'"id"\s*:\s*"([^"\\]{,128})"')
"""Near its beginning, what an answer calls itself."""
_NO_TAGS: Final[dict[str, Any]] = {}

Read: TypeAlias = Callable[[Any], object]
"""Gives what a piece of an answer says, as fields, or `None`."""


class _Answer(WireTranscript):
    """What has come of a request's answer, and what that says of its tokens.

    Attributes:
        keeps_pieces: Whether the pieces of the answer are needed for an event.
        pieces: Those that have come, if they are needed.
        read_piece: Gives what a piece tells of its tokens, as fields or `None`, if pieces do so;
            they are looked at when somebody asks for the figures.
        status: How it ended.
        is_settled: Whether it's over, as far as its event goes.
        is_broken_off: Whether it ended well, but before what its format ends with.
    """

    keeps_pieces: bool
    read_piece: Read | None = None
    status: Status = "abandoned"
    is_settled = True
    is_broken_off = False
    _last: Sequence[object] | None = None
    _owner: RequestOwner | None
    _pending: Pending | None = None
    # Whether any framework's call was open as it left: one within which it may have been made.
    _may_be_handed_on = False
    _whole: Reported | None = None
    # Bytes of a document, or fields.
    _unread: Any = None
    _usage: StreamedUsage | None = None
    _put_off: list[tuple[int, Any]]
    _came = 0
    _figures_at = 0

    def embeds(self) -> None:
        """Note that texts are embedded, which the answer alone has told."""
        self.operation, self.keeps_pieces = "embedding", False

    def add(self, fields: object) -> None:
        """Take in a part of the answer that may say something of its tokens."""
        if self._put_off:
            # In the order in which they came.
            self.add_later(fields)
            return
        self._came += 1
        usage = self._usage
        if usage is None:
            usage = self._usage = StreamedUsage()
        if usage.add(fields):
            self._figures_at = self._parts()
        self._note(fields)

    def _parts(self) -> int:
        """A number that grows with every part that comes."""
        return self._came + len(self.pieces) + len(self._put_off)

    def add_later(self, fields: object) -> None:
        """Take in such a part, and look at it when somebody asks for the figures.

        Args:
            fields: They are kept until then, so they should be few, and nobody may change them.
        """
        # Frameworks' calls ask for the figures where nothing may be logged.
        if self._owner is None and self._usage is None:
            self._put_off.append((self._parts() + 1, fields))
        else:
            self.add(fields)

    def add_all(self, fields: object) -> None:
        """Take in an answer that says at once all that it will say of its tokens."""
        self._whole = extract_reported(fields)
        self._note(fields)

    def add_unread(self, document: bytes) -> bool:
        """Take in such an answer as its bytes, and look at them when somebody asks.

        Returns:
            Whether it may wait: what a framework's call has asked for, or hands on, may not.
        """
        if self._owner is not None or self._may_be_handed_on:
            return False
        self._unread = document
        self.keep(document)
        return True

    def is_error(self, fields: Fields) -> bool:
        """Whether a whole answer is the description of an error; beside figures it's a part."""
        return describes_error(fields) and self.reported().usage is None

    def _note(self, fields: object) -> None:
        """Let frameworks know the answer, if nobody knows yet whose request it is."""
        if self._may_be_handed_on and self._owner is None:
            self._recorder.tracker.answers.note(fields, self.began, None)

    def keep(self, piece: object) -> None:
        """Take in a part of the answer that says nothing of them."""
        if self.keeps_pieces:
            self.pieces.append(piece)
        else:
            self.pass_by()

    def take_in(self, piece: bytes, _amount: int | None, /) -> None:
        """Take in bytes of an answer whose figures are known, as they are read."""
        may_be_noted = self._may_be_handed_on and self._owner is None and not self.pieces
        if may_be_noted and (named := _ID.search(piece, 0, _HEAD)):
            self._recorder.tracker.answers.note_id(named[1].decode("latin-1"), self.began)
        self.pieces.append(piece)
        self.came(piece)

    def came(self, piece: bytes) -> None:
        """Note that such bytes are among its pieces."""
        event = self._event
        if event is None:
            if self._pending is not None:
                self._recorder.tracker.pending.hold_more(self._pending, len(piece))
        elif piece.rstrip().endswith(_END_OF_JSON):
            event.completion = self.completion(event.operation)
            if event.completion:
                self.drop_pieces()

    def pass_by(self) -> None:
        """Note such a part, without keeping it."""
        self._came += 1

    def reported(self) -> Reported:
        """What the wire has said of its tokens so far."""
        reported = self._said()
        return reported._replace(served=reported.served.filled(self.sent))

    def _said(self) -> Reported:
        whole = self._whole
        if whole is None and self._unread is not None:
            whole = self._whole = self._read(self._unread)
        if whole is not None:
            return whole
        usage, figures_at = self._streamed()
        reported = SILENT if usage is None else usage.read()
        if self.is_settled and self.status == "complete":
            return reported
        is_newest = figures_at == self._parts()
        return reported._replace(output_is_complete=reported.output_is_complete and is_newest)

    def _read(self, unread: object) -> Reported:
        """Read an answer that has said all at once, and find out whether it's an error's."""
        if not isinstance(unread, bytes):
            return extract_reported(unread)
        fields = decoded(unread)
        if fields is None:
            notice("an answer is no JSON", unread, "its tokens are estimated")
            return SILENT
        reported = extract_reported(fields)
        if reported.usage is None and describes_error(fields):
            self.status = "failed"
        return reported

    def _judge(self) -> None:
        """Find out whether a streamed answer came to its end; unasked for, it waits until read."""
        last = self._last
        is_left = last is None and self.status == "abandoned"
        if last is None and not (is_left and self._ends_with_figures()):
            return
        try:
            is_over = self._dialect.is_over(last or self.pieces.newest())
        except Exception as error:  # noqa: BLE001 - what a provider sends may be anything
            notice("the end of an answer could not be read", error, "it counts as abandoned")
            is_over = False
        if is_left:
            # Whoever has read all of it needn't look for the end behind it.
            self.status = "complete" if is_over else "abandoned"
        elif not is_over:
            what = f"{self.provider} {self.model}"
            notice("a stream ended before its last event", what, "it counts as abandoned")
            self.is_broken_off = True
            self.status = "abandoned"
        # Last, for two threads may ask at once.
        self._last = None

    def _ends_with_figures(self) -> bool:
        """Whether the newest part of a stream has figures, and may say that it's the last."""
        usage, figures_at = self._streamed()
        has_any = usage is not None and bool(self.pieces)
        return has_any and figures_at == self._parts() and bool(self._dialect.finishes)

    def _streamed(self) -> tuple[StreamedUsage | None, int]:
        """The figures that came in parts, and after how many parts the last of them came."""
        # Made anew each time, for two threads may ask at once.
        if self.read_piece is not None and self.pieces:
            return _read_parts(enumerate(self.pieces, 1), self.read_piece)
        if self._put_off:
            return _read_parts(self._put_off, None)
        return self._usage, self._figures_at


def _is_limited(owner: RequestOwner | None, context: Context | None, tracker: Tracker) -> bool:
    if owner is None:
        return tracker.limits(context)
    return owner.refusal is not None or (isinstance(owner, Call) and tracker.limits(owner.context))


class Exchange(_Answer):
    """A request that leaves where and when this is made, and what is known of its answer.

    It ends in `settle`, once and in any case. One that nobody holds any more before it's settled
    was cancelled, or its answer was dropped half-way.

    Args:
        recorder: Where it goes.
        provider: Whom it's sent to.
        model: The model's id; "" if it's only known once the body is read.
        operation: What is asked for, as far as that can be told yet.
        dialect: How its body and its answer are read.
        body: The request's body.
        owned: What `Owners.around` says, if it was asked already.
        since: When it left, by the clock and by `perf_counter`, if that was before; outside of any
            scope.

    Attributes:
        body: The request's body, as long as nobody has read it.
        is_limited: Whether it's subject to any budget, and may use only what it has reserved.
        is_deferred: Whether it was answered with an id, by which its answer is retrieved.
        path: Where it's sent, host and path, if its answer may be deferred.
    """

    # Here rather than in `__init__`, which runs in the user's call: what is set later, or only read
    # then. Until it's made; so one that couldn't be made is no request that was lost.
    is_settled = True
    is_deferred = False
    path = ""

    def __init__(
        self,
        recorder: Recorder,
        provider: str | None,
        model: str,
        operation: Operation,
        dialect: Dialect,
        body: Any,
        owned: Owned | None = None,
        since: tuple[float, float] | None = None,
    ) -> None:
        tracker = recorder.tracker
        owner, self._may_be_handed_on = owned or tracker.owners.around(provider)
        if since is None and has_open_scope():
            self.context = tracker.context(_NO_TAGS)
        # The framework's call that it's part of.
        self._owner: RequestOwner | None = owner
        # Of embeddings nothing but the figures is of interest.
        self.keeps_pieces = owner is None and operation != "embedding"
        if owner is None and self.context is None:
            self.is_limited = tracker.is_limited
        else:
            self.is_limited = _is_limited(owner, self.context, tracker)
        self.provider = provider
        self.model = model
        self.operation = operation
        self.body = body
        self.pieces = Pieces()
        self._recorder = recorder
        self._dialect = dialect
        self._put_off = []
        # Whoever takes it out settles it: of two threads one.
        self._turns = [True]
        self._started_s, self.began = since or (time(), perf_counter())
        self.is_settled = False

    def __del__(self, is_exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        """Count what nobody waits for any more; a finalizer, so that it waits for no lock."""
        # At exit nobody counts any more.
        if not (self.is_settled or is_exiting()):
            soon(partial(self.settle, "abandoned"))

    def reserve(self) -> None:
        """Hold in the budgets what it may use, before it's sent.

        Raises:
            BudgetExceededError: It would pass a limit. A user's `on_exceed` may raise anything.
        """
        if self.is_limited:
            self.is_settled = True  # until it may be sent: so it's none that could be lost
            reserve_for(self._owner, self, self._recorder.tracker.reserve)
            self.is_settled = False

    # --- what the client's watch tells -----------------------------------------------------

    def told_id(self, name: str) -> None:
        """Note what its provider calls the request."""
        self.event_id, self.request_id = name, name or None
        if self._may_be_handed_on and self._owner is None:
            self._recorder.tracker.answers.note_request(name, self.began)

    def answered(self) -> None:
        """Note that the answer has begun."""
        if self._owner is not None:
            self._owner.attach(self)

    def settle(self, status: Status, told: object = None) -> None:
        """Note that the request is over; all but the first time do nothing.

        Args:
            status: How it ended.
            told: What an answer says at once of its tokens, if nothing was read of it before.
                It's looked at when somebody asks for the figures, so it should be small, and
                nobody may change it.
        """
        owner = self._owner
        if told is not None:
            if owner is None:
                self._unread = told
            else:
                self.add_all(told)
                owner.attach(self)
        try:
            self._turns.pop()
            if status == "unanswered" and owner is not None and not self._parts():
                # Another may be sent for the same call.
                self.reservation = owner.lose(self)
                self._owner = None
            self.status = status
            self._duration_s = perf_counter() - self.began
            if self._owner is None:
                # No lock: nobody owns it, so that nobody disowns it.
                self.is_settled = True
            else:
                with LOCK:
                    self.is_settled = True
                    # Whoever disowns it from now on records it.
                    if self._owner is not None:  # pyright: ignore[reportUnnecessaryComparison]  # by another thread
                        return
            self._record()
        except IndexError:
            return
        except BaseException:
            # Interrupted: once more, as what is recorded twice is listed once.
            if self._pending is not None:
                self._recorder.tracker.add(self._pending)
            elif not self._turns:
                self._turns.append(True)
                self.settle(status)
            raise

    def was_answered(self, told: Any, duration_s: float) -> None:
        """Take in what it has told: it was answered well, and is recorded, before this was made."""
        self._turns.clear()
        self.is_settled, self.status, self._duration_s = True, "complete", duration_s
        if self.read_piece is None:
            self._unread = told
        else:
            self._last = told

    def finish(self, status: Status) -> None:
        """Note that the answer itself says that it's over, and how it ended."""
        self.settle(status)

    def defer(self, place: str) -> None:
        """Wait until the answer is retrieved at this place: it was only begun."""
        owner, tracker = self._owner, self._recorder.tracker
        try:
            self._turns.pop()
            if owner is not None:
                self.reservation = owner.lose(self) or self.reservation
                self.context = getattr(owner, "context", None) or self.context
            self._owner, self.is_settled, self.is_deferred = None, True, True
            tracker.defer(place, self, self.context)
        except IndexError:
            return  # it's over
        except BaseException as error:
            if is_sent(error) and not self._turns and tracker.deferred.find(place) is not self:
                self._turns.append(True)
                self.defer(place)
            raise

    def give_up(self) -> None:
        """Record a deferred call whose answer nobody has retrieved."""
        self._turns.append(True)
        self.settle("unanswered")

    def stopped(self, error: BaseException) -> None:
        """Note that this error has ended the reading of a streamed answer."""
        # Whoever leaves an iteration may go on with another.
        if not isinstance(error, GeneratorExit):
            self.settle(status_after(error))

    def end(self, last: Sequence[object] = ()) -> None:
        """Note that a streamed answer has ended well, if not by what its format ends with.

        Args:
            last: Its last pieces, the newest first, if not all were kept.
        """
        if self.is_settled:
            return
        self._last = last
        if self._owner is not None:
            self._judge()
        self.settle("abandoned" if self.is_broken_off else "complete")

    def settled(self, events: Sequence[TokenCountingEvent]) -> None:
        """Let go of what only its events needed."""
        super().settled(events)
        self._put_off.clear()
        self._unread = None

    # --- what a framework's call reads -----------------------------------------------------

    def disown(self) -> None:
        """Record it here after all."""
        with LOCK:
            was_settled, self._owner = self.is_settled, None
        if was_settled:
            self._record()

    # --- from the request to its event -----------------------------------------------------

    def _record(self) -> None:
        try:
            # In a row rather than by methods, as this is done in the user's call.
            body, pieces, unread = self.body, self.pieces, self._unread
            held = len(body) if type(body) in SIZED else 0
            if held > LONGEST_BODY:
                self.ask()
            if unread is not None:
                held += len(unread)
            elif number := len(pieces):
                # To ask each for its length would cost more than all the rest; the last may be
                # the whole answer.
                last = pieces[-1]
                held += BYTES_PER_PIECE * number
                held += len(last) if type(last) in SIZED else 0
            reservation = self.reservation
            if reservation is not None:
                self.reservation = None
            pending = Pending((self.ended,), held, self.context, reservation)
            self._pending = pending
            self._recorder.tracker.add(pending)
        except Exception as error:  # noqa: BLE001 - called from anywhere
            notice("a request could not be counted", error, "it is left out")

    def ended(self) -> Ended:
        """All that is needed to make its event, read when somebody asks."""
        self._judge()
        self.ask()
        reported = with_parts(self.reported(), self.read_answer().reported)
        is_lost = self.is_deferred and self.status == "unanswered"
        has_answer = self.pieces.hold_answer() and not is_lost
        self.is_streamed = len(self.pieces) > 1
        ending = Ending(self.status, self._started_s, self._duration_s, has_answer)
        return Ended(self, reported, self, ending, self._recorder.settings)


def _read_parts(parts: Iterable[tuple[int, Any]], read: Read | None) -> tuple[StreamedUsage, int]:
    """Read the figures of parts, each with its number, and say which part told the last of them."""
    usage, figures_at = StreamedUsage(), 0
    for at, part in parts:
        try:
            fields = part if read is None else read(part)
        except Exception as error:  # noqa: BLE001 - what a provider sends may be anything
            notice("a part of an answer could not be read", error, "its figures are missing")
            continue
        if fields is not None and usage.add(fields):
            figures_at = at
    return usage, figures_at

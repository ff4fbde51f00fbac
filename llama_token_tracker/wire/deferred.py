"""Requests that retrieve the answers of calls which were begun before, and end those calls."""

import json
from typing import Any, Final, cast

from llama_token_tracker.events.event import Status
from llama_token_tracker.wire.bodies import Pieces, decoded
from llama_token_tracker.wire.dialects import Dialect
from llama_token_tracker.wire.exchange import Exchange

_OF_ITS_ANSWER: Final = frozenset(
    ("_whole", "_unread", "_usage", "_last", "_came", "_figures_at", "_answered")
)


class Retrieval(Exchange):
    """One look at the answer of a deferred call; the first that finds it over records the call.

    A look bills nothing. What comes to nothing, or finds no end, leaves the call as it is.

    Args:
        call: The call, as it was begun.
        place: Where its answer is.

    Attributes:
        dialect: How that is worded.
    """

    def __init__(self, call: Any, place: str) -> None:
        known: dict[str, Any] = {**vars(call)}
        vars(self).update({name: known[name] for name in known.keys() - _OF_ITS_ANSWER})
        self.dialect = cast("Dialect", self._dialect)
        self._place, self._begun_by = place, self.event_id
        self.pieces, self._put_off, self._turns = Pieces(), [], [True]
        self.keeps_pieces, self.is_settled = True, False

    def settle(self, status: Status, told: object = None) -> None:
        """Note that nobody looks any more."""
        self.is_settled = True

    def defer(self, place: str) -> None:
        """Note that the answer isn't there yet."""
        self.is_settled = True

    def finish(self, status: Status) -> None:
        """Record the call, unless that was done."""
        self.is_settled = True
        if self._recorder.tracker.deferred.take(self._place) is None:
            return
        # The end of a stream, which may be taken up anywhere, repeats all of the answer.
        last, deferral = decoded(self.pieces[-1]), self.dialect.deferral
        if last is not None and deferral is not None:
            self.pieces.clear()
            self.pieces.append(json.dumps(deferral.body(last)).encode())
        if status == "abandoned" and self.reported().usage is None:
            # What was generated before it was cancelled nobody has seen.
            status = "unanswered"
        self.event_id = self._begun_by
        super().settle(status)

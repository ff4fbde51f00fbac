"""Requests to known providers that no row of the operations' table covers, and that may be billed.

They make no event, for nobody here can read them. They are said, counted in `uncounted`, and
held to budgets as calls whose price isn't known.
"""

from typing import Any, Final

from llama_token_tracker._log_once import notice
from llama_token_tracker.events.call import Call
from llama_token_tracker.wire.transcript import SIZED, Recorder

_BYTES_PER_TOKEN: Final = 4
_NO_TAGS: Final[dict[str, Any]] = {}


class UncountedRequest(Call):
    """A request that leaves and can't be counted.

    Args:
        recorder: Where it's noted.
        provider: Whom it's sent to.
        place: The host and the path, or the operation.
        body: The request's body.
    """

    def __init__(self, recorder: Recorder, provider: str, place: str, body: Any) -> None:
        self._tracker = recorder.tracker
        self._place = place
        self._tokens = len(body) // _BYTES_PER_TOKEN + 1 if type(body) in SIZED else 1
        self.provider = provider
        self.context = self._tracker.context(_NO_TAGS)

    def expected_tokens(self) -> tuple[int, int | None]:
        """Its length, and nothing known of what comes back."""
        return self._tokens, None

    def reserve(self) -> None:
        """Hold in the budgets what it may use.

        Raises:
            BudgetExceededError: It would pass a limit, or has no price where money is limited.
        """
        self._tracker.reserve(self)

    def settle(self, *, is_free: bool = False) -> None:
        """Note how it ended; all but the first time do nothing.

        Args:
            is_free: Whether its provider has refused it.
        """
        place, self._place = self._place, ""
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            reservation.settle_uncounted(0 if is_free else self._tokens)
        if place and not is_free:
            self._tracker.note_uncounted(place, self.context)
            consequence = "it is in `uncounted`, and what it costs is in no figure"
            notice("a request to a provider isn't counted: {}", self.provider, consequence, place)

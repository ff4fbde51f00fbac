"""LangChain's runs of a language model that have started and not ended.

LangChain tells a handler of each run's start and end by the run's id, but some integrations
tell more than once. BedrockLLM announces each answer twice, and of several prompts that were
sent together it announces each first answer under the id of the first; an error it tells twice
as well. Of a cancelled call it tells nothing at all: that it's over is seen by its id, which
LangChain holds until then. Here each of these is found to be the end of one call, or an echo.

This room knows nothing of LangChain.
"""

import weakref
from collections.abc import Callable, Collection, Mapping
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any, Final

from llama_token_tracker._background import run_late, soon
from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import notice, put_off
from llama_token_tracker.events.call import LOOKED_AT_EVERY, Call, is_given_up
from llama_token_tracker.events.event import Operation
from llama_token_tracker.tokenizers.estimate import expected_input, stated_output
from llama_token_tracker.tokenizers.request_fields import NONE, tools_in
from llama_token_tracker.tracking.charging import CallReservation, release, take_reservation
from llama_token_tracker.tracking.correlation import AnsweredRequest
from llama_token_tracker.tracking.pending import Pending

_NOTHING: Final = object()
"""What was told before anything was: an answer may be anything, `None` included."""


class Run(Call):
    """One run: a call to a provider, unless another run is within it.

    Attributes:
        prompt: What was asked: a text, or a tuple of messages.
        options: What else it asks with: tools, and how much comes back at the most.
        maker: The class of the model that is asked.
        chunks: What has come of a stream, as far as that was told.
        asked_another: Whether another run started within it, and so spoke to the provider.
        request: The request that a watched client sent for it, once its answer has begun.
        has_sent: Whether its request has surely left.
        has_lost: Whether one of its requests wasn't answered, and is counted by itself.
        is_settled: Whether its end is known.
        batch: The runs that it started with.
        watch: What tells that LangChain has forgotten it.
        pending: What it is recorded as.
        is_over: Whether nothing more is to be done for it.
    """

    pending: Pending | None = None
    is_over = False

    def __init__(
        self,
        run_id: str,
        operation: Operation,
        prompt: object,
        *,
        model: str | None = None,
        provider: str | None = None,
        options: Mapping[str, Any] = NONE,
        context: Any = None,
        maker: str = "",
    ) -> None:
        self.event_id = run_id
        self.operation = operation
        self.prompt = prompt
        self.model = model
        self.provider = provider
        self.options = options
        self.context = context
        self.maker = maker
        self.began = perf_counter()
        self.chunks: list[Any] = []
        self.asked_another = False
        self.request: AnsweredRequest | None = None
        self.has_sent = self.has_lost = False
        self.is_settled = False
        self.batch = Batch()
        self.watch: weakref.ref[object] | None = None

    def expected_tokens(self) -> tuple[int, int | None]:
        """How many tokens it will send and may get back, roughly."""
        options = self.options
        return expected_input(self.prompt, tools_in(options)), stated_output(options)

    @property
    def is_asking(self) -> bool:
        """Whether its request may be about to leave: one that was answered has sent it."""
        return not (self.is_settled or self.has_sent or self.asked_another or self.request)

    def attach(self, request: AnsweredRequest) -> None:
        """Take in that a request is being answered, which left when this run was asking."""
        with LOCK:
            if self.is_settled:
                return  # answered too late: what it was is told already
            taker = self.batch.asking()
            if taker is not None:
                taker.request = request
        if taker is None:
            request.disown()

    def lose(self, request: AnsweredRequest) -> CallReservation | None:
        """Take in that a request which left when this run was asking is counted by itself."""
        with LOCK:
            loser = next((run for run in self.batch.runs if run.request is request), None)
            loser = loser or self.batch.asking() or self
            loser.has_lost, loser.request = True, None
        return take_reservation(loser)


class Batch:
    """Runs whose prompts were handed to an integration together, in the order of the prompts.

    Attributes:
        runs: The runs.
        told: The newest answer that was told of one of them.
        error: The newest error.
        is_paid_by_first: Whether the first one's usage is that of all.
    """

    __slots__ = ("_asked", "_ended", "_size", "error", "is_paid_by_first", "key", "runs", "told")

    def __init__(self, key: object = None, size: int = 1) -> None:
        # Held, so that no other object takes its identity meanwhile.
        self.key = key
        self._size = size
        self.runs: list[Run] = []
        # How many of the first runs have ended, and have sent their request.
        self._ended = self._asked = 0
        self.told: object = _NOTHING
        self.error: BaseException | None = None
        self.is_paid_by_first = False

    def is_first(self, run: Run) -> bool:
        """Whether its prompt was the first of several."""
        return run is self.runs[0]

    @property
    def is_alone(self) -> bool:
        """Whether it's a single run."""
        return self._size == 1

    @property
    def is_settled(self) -> bool:
        """Whether the ends of all runs are known."""
        return self._first_open() is None

    def asking(self) -> Run | None:
        """The first run that no answer has begun for."""
        for at in range(self._asked, len(self.runs)):
            if self.runs[at].is_asking:
                return self.runs[at]
            self._asked = at + 1
        return None

    def next_open(self) -> Run | None:
        """The first run whose end isn't known; `None` if some were never told of."""
        if len(self.runs) < self._size:
            return None
        return self._first_open()

    def _first_open(self) -> Run | None:
        for at in range(self._ended, len(self.runs)):
            if not self.runs[at].is_settled:
                return self.runs[at]
            self._ended = at + 1
        return None


class OpenRuns:
    """The open runs of one handler.

    Args:
        lost: Called with a run that is over, though LangChain told nothing of its end.
    """

    def __init__(self, lost: Callable[[Run], None]) -> None:
        self._lost = lost
        self._by_id: dict[str, Run] = {}
        self._batches: dict[int, Batch] = {}

    def __len__(self) -> int:
        """How many runs are known, those included that wait for others of their batch."""
        return len(self._by_id)

    def get(self, run_id: str) -> Run | None:
        """The run with this id, if it's open."""
        return self._by_id.get(run_id)

    def take_asking(self, providers: Collection[str | None]) -> Run | None:
        """Any run of these providers whose request hasn't left, which it has from now on."""
        with LOCK:
            for run in self._by_id.values():
                if run.is_asking and run.provider in providers:
                    run.has_sent = True
                    # To the end, so that the next one is found at once.
                    self._by_id[run.event_id] = self._by_id.pop(run.event_id)
                    return run
        return None

    def start(
        self, run: Run, held: object, parent_id: str, batch_key: object, batch_size: int
    ) -> bool:
        """Note that a run has started.

        Args:
            run: The run.
            held: What LangChain holds as long as the run isn't over.
            parent_id: The id of whatever it was started by, be that a model's run or not.
            batch_key: The same object for all runs that start together, or `None`.
            batch_size: How many those are.

        Returns:
            Whether that is news: a handler may be in its manager twice.
        """
        # Runs that LangChain has forgotten need no room.
        run_late()
        if not (len(self._by_id) + 1) % LOOKED_AT_EVERY:
            self._make_room()
        with LOCK, put_off():
            known = self._by_id.get(run.event_id)
            if known is not None and not known.is_settled:
                return False
            if batch_size > 1 and batch_key is not None:
                run.batch = self._batches.setdefault(id(batch_key), Batch(batch_key, batch_size))
            run.batch.runs.append(run)
            self._by_id[run.event_id] = run
            run.watch = weakref.ref(held, partial(_forgotten, weakref.ref(self), run))
            outer = self._by_id.get(parent_id)
            if outer is not None:
                outer.asked_another = True
                run.parent = outer
            return True

    def refuse(self, run: Run) -> None:
        """Forget a run that is not to be sent, and with it those that start together with it."""
        with LOCK:
            for other in run.batch.runs:
                other.is_settled = other.is_over = True
                other.watch = None
                release(other)
            self._forget(run.batch)

    def end(self, run_id: str, answer: object) -> Run | None:
        """Note that an answer was told.

        Returns:
            The run whose answer it is; `None` if it's the echo of one that is known.
        """
        with LOCK:
            run = self._by_id.get(run_id)
            if run is None or run.batch.told is answer:
                return None
            found = self._settled(run)
            # Last: if this is interrupted, it can be told again.
            run.batch.told = answer
            return found

    def fail(self, run_id: str, error: BaseException) -> Run | None:
        """Note that an error was told.

        Returns:
            The run that it ended; `None` if that is known, or if the error of another of its
            batch kept it from being sent at all.
        """
        with LOCK:
            run = self._by_id.get(run_id)
            if run is None:
                return None
            if run.batch.error is error:
                if not run.is_settled:
                    run.is_over = True
                    self._settled(run)
                    release(run)
                return None
            found = self._settled(run)
            run.batch.error = error
            return found

    def unfinished(self, run: Run | None) -> list[Run]:
        """The runs of a batch whose end was interrupted after it had been found to be theirs."""
        if run is None:
            return []
        with LOCK:
            if run.batch.is_settled:
                self._forget(run.batch)
            return [one for one in run.batch.runs if one.is_settled and not one.is_over]

    def _settled(self, run: Run) -> Run | None:
        """Settle this run, or if its end is known, the next of its batch."""
        batch = run.batch
        found = batch.next_open() if run.is_settled else run
        if found is not None:
            found.is_settled, found.watch = True, None
        if batch.is_settled:
            self._forget(batch)
        return found

    def lose(self, run: Run) -> None:
        """Settle a run that LangChain has forgotten."""
        with LOCK:
            if run.is_settled:
                return
            # Of several chats that were sent one by one, those after an error never were.
            was_sent = run.batch.error is None
            self._settled(run)
        if was_sent:
            self._lost(run)
        else:
            run.is_over = True
            release(run)

    def _forget(self, batch: Batch) -> None:
        for run in batch.runs:
            if self._by_id.get(run.event_id) is run:
                del self._by_id[run.event_id]
        self._batches.pop(id(batch.key), None)

    def _make_room(self) -> None:
        """Give up runs whose ends won't come; they are counted as abandoned."""
        with LOCK:
            oldest = list(islice(self._by_id.values(), LOOKED_AT_EVERY))
        for run in oldest:
            if not is_given_up(run, len(self._by_id)):
                return
            notice("too many open runs", len(self._by_id), "the oldest are counted as abandoned")
            self.lose(run)


def _forgotten(runs: "weakref.ref[OpenRuns]", run: Run, _held: object) -> None:
    """Note that LangChain has let go of a run; this may run anywhere, so that it takes no lock."""
    known = runs()
    if known is not None:
        soon(partial(known.lose, run))

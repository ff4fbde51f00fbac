"""Runs of LangChain: each end is found once, whatever order they are told in."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker._background import run_late
from llama_token_tracker.budgets import Reservation
from llama_token_tracker.events import call as call_module
from llama_token_tracker.extraction import SILENT, Reported
from llama_token_tracker.langchain import runs as run_module
from llama_token_tracker.langchain.runs import OpenRuns, Run
from llama_token_tracker.tracking.charging import CallReservation


class Held:
    """What LangChain holds while a run isn't over."""


def started(runs: OpenRuns, count: int, held: list[Held]) -> list[Run]:
    """Start runs together."""
    key = object()
    batch = [Run(str(uuid4()), "completion", f"prompt {number}") for number in range(count)]
    for run in batch:
        held.append(Held())
        runs.start(run, held[-1], "", key, count)
    return batch


@given(
    count=st.integers(1, 5),
    answered=st.integers(0, 5),
    repeats=st.integers(1, 3),
    tells_again=st.booleans(),
)
def test_answers_under_the_first_id_belong_to_the_prompts_in_order(
    count: int, answered: int, repeats: int, tells_again: bool
) -> None:
    """Each once, however often an answer is told, and whatever is told after all."""
    lost: list[Run] = []
    runs, held = OpenRuns(lost.append), list[Held]()
    batch = started(runs, count, held)
    answered = min(answered, count)
    found: list[Run | None] = []
    for _ in range(answered):
        answer = object()
        found += [runs.end(batch[0].event_id, answer) for _ in range(repeats)]
    assert [run for run in found if run is not None] == batch[:answered]
    if answered < count:
        error = ValueError()
        failed = [
            runs.fail(run.event_id, error) for run in [batch[0], *batch] for _ in range(repeats)
        ]
        assert [run for run in failed if run is not None] == [batch[answered]]
    elif tells_again:
        assert [runs.end(run.event_id, object()) for run in batch] == [None] * count
    held.clear()
    run_late()
    assert not lost
    assert len(runs) == 0


@given(order=st.permutations(range(4)))
def test_answers_under_their_own_ids_belong_to_them(order: list[int]) -> None:
    """The order in which tasks end says nothing."""
    runs, held = OpenRuns(lambda run: None), list[Held]()
    batch = started(runs, 4, held)
    assert [runs.end(batch[n].event_id, object()) for n in order] == [batch[n] for n in order]
    assert len(runs) == 0


def test_a_run_that_nobody_holds_is_lost() -> None:
    """LangChain tells nothing of a cancelled call."""
    lost: list[Run] = []
    runs, held = OpenRuns(lost.append), list[Held]()
    [run] = started(runs, 1, held)
    held.clear()
    run_late()
    assert lost == [run]
    assert runs.end(run.event_id, object()) is None
    assert len(runs) == 0


def test_a_run_whose_end_is_known_is_not_lost() -> None:
    """What is dropped afterwards says nothing."""
    lost: list[Run] = []
    runs, held = OpenRuns(lost.append), list[Held]()
    [run] = started(runs, 1, held)
    assert runs.end(run.event_id, object()) is run
    held.clear()
    run_late()
    assert lost == []


def test_an_id_that_is_used_again_is_another_run() -> None:
    """A config may carry the same `run_id` twice."""
    runs, held = OpenRuns(lambda run: None), Held()
    for _ in range(2):
        run = Run("same", "chat", ())
        runs.start(run, held, "", None, 1)
        runs.start(Run("same", "chat", ()), held, "", None, 1)
        assert runs.end("same", object()) is run


def test_open_runs_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest count as abandoned, and their ends, should they come, are known."""
    monkeypatch.setattr(call_module, "MAX_OPEN", 10)
    monkeypatch.setattr(run_module, "LOOKED_AT_EVERY", 1)
    lost: list[Run] = []
    runs, held = OpenRuns(lost.append), list[Held]()
    first, *_ = [started(runs, 1, held)[0] for _ in range(14)]
    assert len(runs) == 11
    assert lost[0] is first
    assert len(lost) == 3
    assert runs.end(first.event_id, object()) is None


def test_an_end_in_a_large_batch_takes_no_longer() -> None:
    """Thirty thousand prompts that are sent together are ended in a second."""
    runs, held = OpenRuns(lambda run: None), list[Held]()
    batch = started(runs, 30_000, held)
    for run in batch:
        asking = run.batch.asking()
        assert asking is run
        assert runs.end(batch[0].event_id, object()) is run
    assert len(runs) == 0


def test_a_refused_run_takes_its_batch_along() -> None:
    """None of them is sent, so none is lost later, and what they hold is let go of."""
    lost: list[Run] = []
    runs, held = OpenRuns(lost.append), list[Held]()
    batch = started(runs, 3, held)
    for run in batch:
        run.reservation = CallReservation(Reservation(), needs_price=False)
    runs.refuse(batch[1])
    held.clear()
    run_late()
    assert (lost, len(runs)) == ([], 0)
    assert [run.reservation for run in batch] == [None] * 3


class Request:
    """A request that a watched client sends."""

    is_disowned = False

    def reported(self) -> Reported:
        """Nothing was said."""
        return SILENT

    def texts(self) -> tuple[str, ...]:
        """It embeds none."""
        return ()

    def disown(self) -> None:
        """Note that no run takes it."""
        self.is_disowned = True


def test_requests_belong_to_the_runs_of_a_batch_in_order() -> None:
    """Each run takes one; what is left over isn't theirs."""
    runs, held = OpenRuns(lambda run: None), list[Held]()
    batch = started(runs, 3, held)
    requests = [Request() for _ in range(4)]
    for request in requests:
        batch[2].attach(request)
    assert [run.request for run in batch] == requests[:3]
    assert [request.is_disowned for request in requests] == [False, False, False, True]
    assert batch[0].batch.asking() is None


def test_any_run_is_asked_once() -> None:
    """As many requests are taken as runs may send."""
    runs, held = OpenRuns(lambda run: None), list[Held]()
    batch = started(runs, 2, held)
    taken = [runs.take_asking((None,)) for _ in range(3)]
    assert taken == [*batch, None]
    assert runs.take_asking(("openai",)) is None

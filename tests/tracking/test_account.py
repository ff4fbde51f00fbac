"""Lists of events that users edit: as any list, with totals that follow at the cost of the edit."""

import itertools
import operator
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.callbacks.token_counting import TokenCountingEvent as PlainEvent

from llama_token_tracker import TokenCountingEvent, TokenCountingHandler, Tracker, Usage
from tests.scripted import HELLO, answer, by_hand


def event(prompt: int = 3, completion: int = 2, **fields: Any) -> TokenCountingEvent:
    """An event with these counts, of a model named after them."""
    usage = Usage(input_tokens=prompt, output_tokens=completion)
    return TokenCountingEvent(
        "", "", completion, prompt, **{"usage": usage, "model": f"model-{prompt}", **fields}
    )


def filled(*events: Any) -> Tracker:
    """A tracker of these events."""
    tracker = Tracker()
    tracker.llm_token_counts.extend(events)
    return tracker


def added_up(events: list[Any]) -> tuple[Any, ...]:
    """What the totals of these events are when they are added up one by one."""
    own = [one for one in events if isinstance(one, TokenCountingEvent)]
    return (
        sum(one.prompt_token_count for one in events),
        sum(one.completion_token_count for one in events),
        sum(one.usage.total_tokens for one in own),
        Counter(one.model for one in own),
    )


def totals(tracker: Tracker) -> tuple[Any, ...]:
    """The same of a tracker, as it says itself."""
    return (
        tracker.prompt_llm_token_count,
        tracker.completion_llm_token_count,
        tracker.usage.total_tokens,
        Counter({kind.model: total.calls for kind, total in tracker.totals().items()}),
    )


def is_counted(tracker: Tracker) -> bool:
    """Whether the totals are those of the list."""
    return totals(tracker) == added_up(list(tracker.llm_token_counts))


def is_free(tracker: Tracker) -> bool:
    """Whether another thread can count and read meanwhile, which it does."""
    other = threading.Thread(
        target=lambda: (tracker.record(event(1_000, 1)), tracker.totals()), daemon=True
    )
    other.start()
    other.join(5)
    return not other.is_alive()


class Broken(Exception):
    """What is raised in the midst of an iteration."""


def breaking(*events: Any) -> Iterator[Any]:
    """An iterator that yields these and breaks."""
    yield from events
    raise Broken


class Number:
    """An index that is no integer."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


# --- as a list does ------------------------------------------------------------------------

NUMBERS = st.integers(-4, 6)
INDICES = NUMBERS | NUMBERS.map(Number) | st.sampled_from([True, "a", None, 1.5, 10**30])
BOUNDS = st.none() | NUMBERS | NUMBERS.map(Number)
SLICES = st.builds(slice, BOUNDS, BOUNDS, st.sampled_from([None, 1, 2, -1, -2, 0])) | st.just(
    slice("a", 2)
)
EVENTS = st.builds(
    lambda kind, number: kind(number),
    st.sampled_from(
        [
            lambda number: event(number, number + 1),
            lambda number: PlainEvent("", "", number + 1, number),
        ]
    ),
    st.integers(0, 5),
)
# Made of the list that is edited, so that each of two lists is edited by its like.
ITERABLES = st.lists(EVENTS, max_size=4).flatmap(
    lambda new: st.sampled_from(
        [
            lambda _: new,
            lambda _: tuple(new),
            lambda _: iter(new),
            lambda _: breaking(*new),
            lambda events: events if len(events) < 50 else new,
            lambda events: [*new, *events[:2], *new],
            # Reads the list when it's read itself, but not for ever.
            lambda events: (events[0] for _ in range(2) if events),
            lambda _: 5,
            lambda _: None,
        ]
    )
)
METHODS = st.one_of(
    st.builds(lambda new: lambda events: events.append(new), EVENTS),
    st.builds(lambda of: lambda events: events.extend(of(events)), ITERABLES),
    st.builds(lambda of: lambda events: operator.iadd(events, of(events)), ITERABLES),
    st.builds(lambda at, new: lambda events: events.insert(at, new), INDICES, EVENTS),
    st.builds(lambda at: lambda events: events.pop(at), INDICES),
    st.just(lambda events: events.pop()),
    st.just(lambda events: events.clear()),
    st.just(lambda events: events.reverse()),
    st.builds(lambda at: lambda events: operator.delitem(events, at), INDICES | SLICES),
    st.builds(lambda at, new: lambda events: operator.setitem(events, at, new), INDICES, EVENTS),
    st.builds(
        lambda at, of: lambda events: operator.setitem(events, at, of(events)), SLICES, ITERABLES
    ),
    st.builds(lambda at: lambda events: events.remove(events[at]), NUMBERS),
    st.builds(lambda new: lambda events: events.remove(new), EVENTS | st.just("a")),
    st.builds(
        lambda times: lambda events: operator.imul(events, times if len(events) < 50 else 1),
        st.integers(-1, 3) | st.sampled_from(["a", 1.5, None, 10**30, Number(2)]),
    ),
    st.builds(
        lambda sign, reverse: (
            lambda events: events.sort(
                key=lambda one: sign * one.prompt_token_count, reverse=reverse
            )
        ),
        st.sampled_from([1, -1, "a", []]),
        st.booleans(),
    ),
    st.just(lambda events: events.sort()),
)


def outcome(edit: Callable[[list[Any]], Any], events: list[Any]) -> tuple[Any, ...]:
    """What an edit returns or raises."""
    try:
        result = edit(events)
    except Exception as error:  # noqa: BLE001 - of any kind a list raises
        return type(error), str(error)
    return ("the list itself",) if result is events else (result,)


@given(st.lists(METHODS | EVENTS, max_size=25))
def test_an_edited_list_is_what_a_list_would_be_and_its_totals_are_its_sum(steps: list[Any]):
    """The same events, results and errors as of a plain list, after each edit and record."""
    tracker, plain = Tracker(), []
    events = tracker.llm_token_counts
    for step in steps:
        if isinstance(step, TokenCountingEvent):
            tracker.record(step)
            plain.append(step)
        elif callable(step):
            assert outcome(step, events) == outcome(step, plain)
        assert len(events) == len(plain)
        assert all(map(operator.is_, events, plain))
        assert totals(tracker) == added_up(plain)
    assert events is tracker.llm_token_counts


@given(st.lists(EVENTS, max_size=5), ITERABLES)
def test_a_list_that_is_assigned_counts_and_the_old_one_stays(
    before: list[Any], make: Callable[[list[Any]], Any]
):
    """Whatever it was made of; one that can't be read changes nothing."""
    tracker = filled(*before)
    old = tracker.llm_token_counts
    new = make(old)
    try:
        expected = list(make(list(old)))
    except (Broken, TypeError) as error:
        with pytest.raises(type(error)):
            tracker.llm_token_counts = new
        expected = before
        assert tracker.llm_token_counts is old
    else:
        tracker.llm_token_counts = new
    assert tracker.llm_token_counts == expected
    assert old == before
    assert totals(tracker) == added_up(expected)


@pytest.mark.parametrize(
    "edit",
    [
        lambda events, odd: events.append(odd),
        lambda events, odd: events.insert(0, odd),
        lambda events, odd: events.extend([event(9), odd]),
        lambda events, odd: operator.iadd(events, [event(9), odd]),
        lambda events, odd: operator.setitem(events, 0, odd),
        lambda events, odd: operator.setitem(events, slice(1), [event(9), odd]),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "odd",
    ["a text", None, event(model=["unhashable"]), event(usage=None)],
    ids=["a text", "none", "odd model", "no usage"],
)
def test_what_cannot_be_counted_is_refused(edit: Callable[[Any, Any], Any], odd: Any):
    """What is no event, or a broken one, is not put in, nor what comes with it."""
    tracker = filled(event(1), event(2))
    before = list(tracker.llm_token_counts)
    with pytest.raises((AttributeError, TypeError)):
        edit(tracker.llm_token_counts, odd)
    assert tracker.llm_token_counts == before
    assert is_counted(tracker)


def test_what_has_become_uncountable_can_be_taken_out(caplog: pytest.LogCaptureFixture):
    """An event that was edited into nonsense leaves the list; what can't be read is logged."""
    tracker = filled(event(1, 1), event(2, 2), event(3, 3))
    tracker.llm_token_counts[1].completion_token_count = None  # type: ignore[assignment]
    del tracker.llm_token_counts[:]
    assert len(tracker.llm_token_counts) == 0
    assert tracker.prompt_llm_token_count == 2
    assert "a removed event could not be read" in caplog.text


# --- at the cost of the edit ---------------------------------------------------------------


class Watched:
    """An event put in by hand that counts how often it is looked at."""

    completion_token_count = 1

    def __init__(self) -> None:
        self.looks = 0

    @property
    def prompt_token_count(self) -> int:
        """One, each time."""
        self.looks += 1
        return 1


@pytest.mark.parametrize(
    ("edit", "touched"),
    [
        (lambda events: events.pop(), {99}),
        (lambda events: events.pop(0), {0}),
        (lambda events: events.remove(events[50]), {50}),
        (lambda events: operator.delitem(events, slice(3, 9)), {3, 4, 5, 6, 7, 8}),
        (lambda events: operator.delitem(events, slice(None, None, 40)), {0, 40, 80}),
        (lambda events: operator.setitem(events, -1, event()), {99}),
        (lambda events: operator.setitem(events, slice(1, 2), [event(), event()]), {1}),
        (lambda events: events.append(event()), set()),
        (lambda events: events.insert(7, event()), set()),
        (lambda events: events.extend([event(), event()]), set()),
        (lambda events: operator.imul(events, 1), set()),
        (lambda events: events.reverse(), set()),
        (lambda events: events.sort(key=id), set()),
        (lambda events: events.clear(), set(range(100))),
    ],
    ids=str,
)
def test_an_edit_touches_only_what_it_removes(edit: Callable[[list[Any]], Any], touched: set[int]):
    """Of a list of a hundred, those events are read that go, and no other."""
    watched = [Watched() for _ in range(100)]
    tracker = filled(*watched)
    for one in watched:
        one.looks = 0
    edit(tracker.llm_token_counts)
    assert {index for index, one in enumerate(watched) if one.looks} == touched
    assert all(one.looks <= 2 for one in watched)
    assert is_counted(tracker)


# --- while others count --------------------------------------------------------------------


class Curious(int):
    """Compares as equal to the second event it is compared to, and lets others count meanwhile."""

    def __new__(cls, tracker: Tracker) -> "Curious":
        """Make one."""
        one = super().__new__(cls)
        one.tracker, one.left = tracker, 2
        return one

    def __eq__(self, other: object) -> bool:
        assert is_free(self.tracker)
        self.left -= 1
        return not self.left

    __hash__ = None  # type: ignore[assignment]


class CuriousNumber(Number):
    """An index that lets others count while it is read."""

    def __init__(self, tracker: Tracker, number: int) -> None:
        super().__init__(number)
        self.tracker = tracker

    def __index__(self) -> int:
        assert is_free(self.tracker)
        return self.number


def curious(tracker: Tracker, *events: Any) -> Iterator[Any]:
    """An iterator that lets others count while it is read."""
    for one in events:
        assert is_free(tracker)
        yield one


@pytest.mark.parametrize(
    ("edit", "left"),
    [
        (lambda t, events: events.remove(Curious(t)), [1, 3, 1_000, 1_000]),
        (lambda t, events: events.pop(CuriousNumber(t, 1)), [1, 3, 1_000]),
        (lambda t, events: operator.delitem(events, CuriousNumber(t, -3)), [1, 3, 1_000]),
        (lambda t, events: operator.delitem(events, slice(CuriousNumber(t, 1), 3)), [1, 1_000]),
        (lambda t, events: events.insert(CuriousNumber(t, 1), event(9)), [1, 9, 2, 3, 1_000]),
        (lambda t, events: events.extend(curious(t, event(9))), [1, 2, 3, 1_000, 9]),
        (lambda t, events: operator.iadd(events, curious(t, event(9))), [1, 2, 3, 1_000, 9]),
        (
            lambda t, events: operator.setitem(events, slice(0, 2), curious(t, event(9))),
            [9, 3, 1_000],
        ),
        (lambda t, events: operator.imul(events, CuriousNumber(t, 2)), [1, 2, 3, 1_000, 1, 2, 3]),
        (
            lambda t, events: events.sort(key=lambda one: (is_free(t), -one.prompt_token_count)),
            [3, 2, 1, 1_000, 1_000, 1_000],
        ),
    ],
    ids=str,
)
def test_code_of_the_caller_holds_nobody_up(edit: Callable[..., Any], left: list[int]):
    """Comparisons, indices, iterators and keys run before the lock is taken; nothing is lost."""
    tracker = filled(event(1), event(2), event(3))
    edit(tracker, tracker.llm_token_counts)
    assert [one.prompt_token_count for one in tracker.llm_token_counts] == left
    assert is_counted(tracker)


def test_an_event_is_finalized_without_the_lock():
    """What its finalizer does holds nobody up, either."""
    seen: list[bool] = []

    class Final(Watched):
        def __del__(self) -> None:
            seen.append(is_free(tracker))

    tracker = Tracker()
    tracker.llm_token_counts += [Final(), Final(), Final(), Final()]
    del tracker.llm_token_counts[0]
    tracker.llm_token_counts.pop()
    tracker.llm_token_counts[0] = event(1)
    tracker.llm_token_counts = [event(1)]
    assert seen == [True] * 4
    assert is_counted(tracker)


def test_a_tokenizer_runs_before_an_edit_takes_the_lock():
    """Calls that wait to be counted are counted first, and nobody waits for it."""

    def split(text: str) -> list[str]:
        free.append(is_free(other))
        return text.split()

    free: list[bool] = []
    other = Tracker()
    handler = TokenCountingHandler(tokenizer=split)
    events = handler.llm_token_counts
    for edit in (
        lambda: events.append(event(1)),
        lambda: events.pop(0),
        events.clear,
        lambda: setattr(handler, "llm_token_counts", []),
    ):
        free.clear()
        by_hand(handler, answer(f"one two {edit}"), HELLO)
        edit()
        assert free
        assert all(free)
    assert is_counted(handler.tracker)


def test_a_list_that_is_replaced_while_it_is_edited_counts_no_more():
    """An edit that began before a reset ends in the old list, and leaves the new totals alone."""
    tracker = filled(event(1), event(2))
    old = tracker.llm_token_counts

    def resetting() -> Iterator[Any]:
        tracker.reset()
        yield event(3)

    old.extend(resetting())
    assert [one.prompt_token_count for one in old] == [1, 2, 3]
    old.remove(event(2))
    old.sort(key=lambda one: -one.prompt_token_count)
    assert [one.prompt_token_count for one in old] == [3, 1]
    assert tracker.llm_token_counts == []
    assert is_counted(tracker)


@pytest.mark.parametrize("max_events", [None, 50])
def test_edits_and_records_of_many_threads_at_once_lose_nothing(max_events: int | None):
    """What was recorded, less what edits took out, is what the totals say."""
    tracker = Tracker(max_events=max_events)
    taken: list[TokenCountingEvent] = []

    def record() -> None:
        for number in range(400):
            tracker.record(event(number % 7, 1))

    def pop() -> None:
        for _ in range(200):
            try:
                taken.append(tracker.llm_token_counts.pop(0))
            except IndexError:
                continue

    def sort() -> None:
        for _ in range(60):
            tracker.llm_token_counts.sort(key=lambda one: one.prompt_token_count)
            tracker.llm_token_counts.reverse()

    def remove() -> None:
        for _ in range(60):
            try:
                tracker.llm_token_counts.remove(event(3, 1))
            except ValueError:
                continue
            taken.append(event(3, 1))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=one) for one in (record, record, record, pop, sort, remove)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(before)
    recorded = [event(number % 7, 1) for number in range(400)] * 3
    assert tracker.prompt_llm_token_count == sum(one.prompt_token_count for one in recorded) - sum(
        one.prompt_token_count for one in taken
    )
    assert sum(total.calls for total in tracker.totals().values()) == 1_200 - len(taken)
    if max_events is None:
        assert is_counted(tracker)


# --- when it is interrupted ----------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        lambda events: operator.delitem(events, slice(1, 4)),
        lambda events: operator.setitem(events, slice(1, 4), [event(1, 0), event(2, 0)]),
        lambda events: events.pop(),
        lambda events: events.extend([event(1, 0), event(2, 0)]),
    ],
    ids=str,
)
def test_an_interrupted_edit_leaves_list_and_totals_together(edit: Callable[[list[Any]], Any]):
    """Wherever it comes, the edit is made or not; one event at the most is half counted."""
    whole = filled(*[event(1, 0) for _ in range(6)]).llm_token_counts
    edit(whole)
    for place in itertools.count():
        tracker = filled(*[event(1, 0) for _ in range(6)])
        events = tracker.llm_token_counts
        calls = itertools.count()

        def interrupt(frame: Any, kind: str, _: Any, calls: Any = calls, at: int = place) -> None:
            is_ours = "llama_token_tracker" in frame.f_code.co_filename
            if kind == "call" and is_ours and next(calls) == at:
                raise KeyboardInterrupt

        sys.setprofile(interrupt)
        try:
            edit(events)
        except KeyboardInterrupt:
            sys.setprofile(None)
        else:
            sys.setprofile(None)
            assert place > 10
            break
        assert len(list(events)) in (6, len(whole))
        pairs = zip(totals(tracker)[:3], added_up(list(events))[:3], strict=True)
        assert all(abs(ours - theirs) <= 2 for ours, theirs in pairs)

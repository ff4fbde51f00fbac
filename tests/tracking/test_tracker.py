"""Where events go: lists and running totals that never disagree."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import TokenCountingEvent, Tracker, Usage
from llama_token_tracker.events.call import Call, Settings
from llama_token_tracker.events.settle import Ended, Ending
from llama_token_tracker.events.transcripts import PlainTranscript
from llama_token_tracker.extraction import Reported
from llama_token_tracker.tracking.pending import Pending


def event(prompt: int = 3, completion: int = 2, **fields: Any) -> TokenCountingEvent:
    """An event with these counts."""
    usage = Usage(input_tokens=prompt, output_tokens=completion)
    return TokenCountingEvent("", "", completion, prompt, **{"usage": usage, **fields})


def embedded(prompt: int = 4) -> TokenCountingEvent:
    """An embedded text."""
    return event(prompt, 0, operation="embedding")


def filled(*events: TokenCountingEvent, **options: Any) -> Tracker:
    """A tracker of these events."""
    tracker = Tracker(**options)
    for one in events:
        tracker.record(one)
    return tracker


def put_off(tracker: Tracker, prompt: int = 10, completion: int = 5) -> None:
    """Record a call whose event is made when it's asked for."""
    tracker.add(later(lambda: event(prompt, completion)))


def later(make: Callable[[], TokenCountingEvent]) -> Pending:
    """A call that has ended, whose event is made like this."""
    settings = Settings(event_class=cast("Any", lambda **_: make()))
    answer = PlainTranscript(("", ""), keeps_text=True)
    return Pending(Ended(Call(), Reported(Usage()), answer, Ending("complete", 0, 0), settings))


def agree(tracker: Tracker) -> bool:
    """Whether totals and lists say the same."""
    listed, texts = tracker.llm_token_counts, tracker.embedding_token_counts
    everything = [*listed, *texts]
    return (
        tracker.prompt_llm_token_count == sum(one.prompt_token_count for one in listed)
        and tracker.completion_llm_token_count == sum(one.completion_token_count for one in listed)
        and tracker.total_embedding_token_count == sum(one.total_token_count for one in texts)
        and tracker.usage.total_tokens == sum(one.usage.total_tokens for one in everything)
        and sum(total.calls for total in tracker.totals().values()) == len(everything)
    )


def test_calls_and_embedded_texts_go_to_lists_of_their_own():
    """The two lists hold events in the order of recording, and each has its totals."""
    calls, texts = [event(1, 2), event(3, 4)], [embedded(5)]
    tracker = filled(calls[0], texts[0], calls[1])
    assert tracker.llm_token_counts == calls
    assert tracker.embedding_token_counts == texts
    assert (tracker.prompt_llm_token_count, tracker.completion_llm_token_count) == (4, 6)
    assert tracker.total_embedding_token_count == 5
    assert tracker.usage == Usage(input_tokens=9, output_tokens=6)


@pytest.mark.parametrize(
    "edit",
    [
        lambda events: events.append(event(7, 8)),
        lambda events: events.extend([event(7, 8), event(9, 1)]),
        lambda events: events.extend(one for one in list(events)),
        lambda events: events.insert(0, event(7, 8)),
        lambda events: events.clear(),
        lambda events: events.pop(),
        lambda events: events.pop(0),
        lambda events: events.remove(events[1]),
        lambda events: events.reverse(),
        lambda events: events.sort(key=lambda one: -one.prompt_token_count),
        lambda events: events.__delitem__(0),
        lambda events: events.__delitem__(slice(0, 2)),
        lambda events: events.__setitem__(0, event(7, 8)),
        lambda events: events.__setitem__(slice(None, None), iter([event(7, 8)])),
        lambda events: events.__iadd__([event(7, 8)]),
        lambda events: events.__iadd__(iter([event(7, 8)])),
        lambda events: events.__imul__(2),
    ],
    ids=str,
)
def test_totals_follow_edits_by_hand(edit: Callable[[list[TokenCountingEvent]], Any]):
    """A list that is edited by hand is what the totals add up, and what a list would be."""
    tracker = filled(event(1, 2), event(3, 4), event(5, 6))
    plain = list(tracker.llm_token_counts)
    edit(tracker.llm_token_counts)
    edit(plain)
    assert tracker.llm_token_counts == plain
    assert agree(tracker)


def test_a_refused_edit_changes_nothing():
    """An edit that a list refuses is refused, and the totals stay."""
    tracker = filled(event(1, 2))
    with pytest.raises(ValueError, match="not in list"):
        tracker.llm_token_counts.remove(event(9, 9))
    with pytest.raises(IndexError):
        tracker.llm_token_counts.pop(5)
    assert agree(tracker)
    assert tracker.total_llm_token_count == 3


def test_totals_are_right_while_an_edit_reads_its_events():
    """A generator that looks at the totals while it fills a list finds them whole."""
    tracker = filled(event(1, 2))
    seen = []

    def more() -> Any:
        seen.append(tracker.total_llm_token_count)
        yield event(3, 4)

    tracker.llm_token_counts.extend(more())
    assert seen == [3]
    assert agree(tracker)


def test_a_list_can_be_put_in_the_place_of_another():
    """Assigning a list makes its events the ones that count; the old list stays as it was."""
    tracker = filled(event(1, 2), event(3, 4))
    old = tracker.llm_token_counts
    tracker.llm_token_counts = [one for one in old if one.prompt_token_count > 1]
    assert (len(old), len(tracker.llm_token_counts)) == (2, 1)
    old.clear()
    assert tracker.total_llm_token_count == 7
    tracker.embedding_token_counts = [embedded(9)]
    assert tracker.total_embedding_token_count == 9
    assert agree(tracker)


def test_adding_to_the_list_in_place_keeps_the_list():
    """`tracker.llm_token_counts += [...]` adds to the list that others may hold."""
    tracker = filled(event(1, 2))
    held = tracker.llm_token_counts
    tracker.llm_token_counts += [event(3, 4)]
    assert held is tracker.llm_token_counts
    assert len(held) == 2
    assert agree(tracker)


@pytest.mark.parametrize(
    "read",
    [
        len,
        bool,
        list,
        lambda events: sorted(events, key=lambda one: one.prompt_token_count),
        lambda events: events[-1],
        lambda events: events[:],
        lambda events: [*events],
        lambda events: [one.prompt_token_count for one in events],
        lambda events: event(10, 5) in events,
        lambda events: events.index(event(10, 5)),
        lambda events: events.count(event(10, 5)),
        lambda events: list(reversed(events)),
        lambda events: events.copy(),
        lambda events: copy.copy(events),
        lambda events: copy.deepcopy(events),
        lambda events: pickle.loads(pickle.dumps(events)),
        lambda events: events.__add__([]),
        lambda events: events * 2,
        lambda events: events == [event(10, 5)],
        lambda events: events != [event(10, 5)],
        repr,
    ],
    ids=str,
)
def test_whoever_holds_a_list_sees_new_events(read: Callable[[list[TokenCountingEvent]], Any]):
    """A list that was taken before a call holds its event after it, as any list would."""
    tracker = Tracker()
    held = tracker.llm_token_counts
    put_off(tracker)
    assert read(held) == read([event(10, 5)])


def test_edits_of_a_held_list_come_after_what_was_recorded_before():
    """Clearing a list that was taken before a call removes that call too."""
    tracker = Tracker()
    held = tracker.llm_token_counts
    put_off(tracker)
    held.append(event(1, 1))
    assert [one.prompt_token_count for one in held] == [10, 1]
    put_off(tracker)
    held.clear()
    assert tracker.llm_token_counts == []
    assert tracker.total_llm_token_count == 0


def test_an_event_that_is_put_off_counts_at_once():
    """Totals know of a call whose event nobody has asked for yet."""
    tracker = Tracker()
    put_off(tracker, 10, 5)
    assert tracker.total_llm_token_count == 15
    put_off(tracker, 1, 1)
    tracker.record(event(100, 100))
    assert [one.prompt_token_count for one in tracker.llm_token_counts] == [10, 1, 100]
    assert agree(tracker)


def test_copies_of_a_list_are_plain_lists():
    """What is copied or pickled belongs to no totals."""
    tracker = filled(event(1, 2))
    for twin in (
        copy.copy(tracker.llm_token_counts),
        copy.deepcopy(tracker.llm_token_counts),
        pickle.loads(pickle.dumps(tracker.llm_token_counts)),
        tracker.llm_token_counts[:],
    ):
        assert type(twin) is list
        twin.clear()
    assert len(tracker.llm_token_counts) == 1


def test_a_reset_starts_a_new_list():
    """Whoever holds the old list keeps it; the totals are zero."""
    tracker = filled(event(1, 2), embedded(3))
    put_off(tracker)
    held = tracker.llm_token_counts
    tracker.reset()
    assert len(held) == 2
    assert (tracker.llm_token_counts, tracker.embedding_token_counts) == ([], [])
    assert (tracker.total_llm_token_count, tracker.total_embedding_token_count) == (0, 0)
    assert tracker.totals() == {}
    held.append(event(5, 5))
    assert tracker.total_llm_token_count == 0


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_a_bounded_list_keeps_the_newest(limit: int):
    """The oldest events go, and stay in the totals."""
    tracker = filled(event(1, 1), event(2, 2), event(3, 3), max_events=limit)
    put_off(tracker, 4, 4)
    put_off(tracker, 5, 5)
    newest = [1, 2, 3, 4, 5][5 - limit :]
    assert [one.prompt_token_count for one in tracker.llm_token_counts] == newest
    assert tracker.prompt_llm_token_count == 15
    assert sum(total.calls for total in tracker.totals().values()) == 5


def test_a_bounded_list_can_be_edited():
    """Edits change the totals by what they add and remove, and by nothing else."""
    tracker = filled(event(1, 1), event(2, 2), event(3, 3), max_events=2)
    tracker.llm_token_counts.pop(0)
    assert tracker.prompt_llm_token_count == 4
    tracker.llm_token_counts.append(event(10, 10))
    assert tracker.prompt_llm_token_count == 14


def test_a_negative_bound_is_refused():
    """A bound below zero makes no sense, and the message says which do."""
    with pytest.raises(ValueError, match="max_events is -1; give a number from 0 on, or None"):
        Tracker(max_events=-1)


def test_a_failed_call_is_kept_apart():
    """A call that failed before anything was billed is counted as a call, and listed apart."""
    failed = event(0, 0, status="failed")
    tracker = filled(failed, event(1, 2))
    assert tracker.failed_calls == [failed]
    assert len(tracker.llm_token_counts) == 1
    assert {kind.status: total.calls for kind, total in tracker.totals().items()} == {
        "failed": 1,
        "complete": 1,
    }


def test_a_failed_call_is_listed_if_asked_for():
    """`include_failed` puts it among the others too."""
    tracker = filled(event(0, 0, status="failed"), include_failed=True)
    assert len(tracker.llm_token_counts) == len(tracker.failed_calls) == 1
    assert agree(tracker)


def test_a_failed_call_that_cost_something_is_listed():
    """A stream that broke after its first words was billed."""
    tracker = filled(event(3, 1, status="failed"))
    assert len(tracker.llm_token_counts) == 1
    assert tracker.failed_calls == []


def test_failed_calls_are_bounded():
    """A provider that is down for a week fills no memory."""
    tracker = filled(*[event(0, 0, status="failed", event_id=str(i)) for i in range(1_100)])
    assert len(tracker.failed_calls) == 1_000
    assert tracker.failed_calls[-1].event_id == "1099"
    assert sum(total.calls for total in tracker.totals().values()) == 1_100


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_copy_holds_what_was_counted_and_goes_its_own_way(twin: Callable[[Tracker], Tracker]):
    """Copies and pickles have the lists, totals and options of the original, not its future."""
    tracker = filled(
        event(1, 2), embedded(3), event(0, 0, status="failed"), event(4, 5), max_events=1
    )
    put_off(tracker)
    other = twin(tracker)
    assert other.llm_token_counts == tracker.llm_token_counts
    assert other.embedding_token_counts == tracker.embedding_token_counts
    assert other.failed_calls == tracker.failed_calls
    assert other.totals() == tracker.totals()
    assert other.total_llm_token_count == tracker.total_llm_token_count
    assert (other.max_events, other.include_failed) == (1, False)
    other.llm_token_counts.clear()
    other.record(event(100, 100))
    assert tracker.prompt_llm_token_count == 15
    assert tracker.totals() != other.totals()


def test_what_is_handed_out_is_a_copy():
    """Changing totals that were read changes nothing that is counted."""
    tracker = filled(event(1, 2))
    for total in tracker.totals().values():
        total.counts["input_tokens"] = 99
    assert tracker.prompt_llm_token_count == 1
    assert tracker.usage.input_tokens == 1


class Editor:
    """Moves that somebody may make, and a plain list that makes the same."""

    moves = st.lists(
        st.tuples(
            st.sampled_from(["record", "put off", "append", "pop", "del", "clear", "double", "+="]),
            st.integers(0, 50),
        ),
        max_size=30,
    )

    def __init__(self) -> None:
        self.tracker = Tracker()
        self.plain: list[TokenCountingEvent] = []

    def make(self, move: str, number: int) -> None:
        """Make one move on both."""
        new = event(number, number + 1)
        if move == "record":
            self.tracker.record(new)
            self.plain.append(new)
        elif move == "put off":
            put_off(self.tracker, number, number + 1)
            self.plain.append(new)
        else:
            self.edit(self.tracker.llm_token_counts, move, number, new)
            self.edit(self.plain, move, number, new)

    @staticmethod
    def edit(
        events: list[TokenCountingEvent], move: str, number: int, new: TokenCountingEvent
    ) -> None:
        """Make one move on a list."""
        if move == "append":
            events.append(new)
        elif move == "pop" and events:
            events.pop(number % len(events))
        elif move == "del":
            del events[: number % 3]
        elif move == "clear":
            events.clear()
        elif move == "double" and len(events) < 100:
            events *= 2
        elif move == "+=":
            events += [new]


@given(Editor.moves)
def test_totals_equal_the_sum_of_the_events_whatever_is_done(moves: list[tuple[str, int]]):
    """Recording and editing in any order leave list and totals in agreement."""
    editor = Editor()
    for move, number in moves:
        editor.make(move, number)
    assert editor.tracker.prompt_llm_token_count == sum(
        one.prompt_token_count for one in editor.plain
    )
    assert editor.tracker.llm_token_counts == editor.plain
    assert agree(editor.tracker)


def test_a_call_that_is_recorded_while_another_is_taken_in_counts_once():
    """The collector may close a stream, and so record it, in the midst of making an event."""
    tracker = Tracker()
    closing = [event(5, 7), event(11, 13)]

    def interrupted(prompt: int, completion: int) -> TokenCountingEvent:
        """Make an event, and record what the collector finds meanwhile."""
        if closing:
            tracker.record(closing.pop())
        return event(prompt, completion)

    for prompt in (1, 2, 3):
        tracker.add(later(partial(interrupted, prompt, 1)))
    assert sorted(one.prompt_token_count for one in tracker.llm_token_counts) == [1, 2, 3, 5, 11]
    assert tracker.prompt_llm_token_count == 22
    assert agree(tracker)


def test_an_interrupted_reading_loses_no_call():
    """What was taken in stays, and the rest is found by whoever reads next."""
    tracker = Tracker()
    errors = [KeyboardInterrupt()]

    def interrupted(prompt: int) -> TokenCountingEvent:
        """Make an event, or be interrupted once."""
        if prompt == 2 and errors:
            raise errors.pop()
        return event(prompt, 1)

    for prompt in (1, 2, 3):
        tracker.add(later(partial(interrupted, prompt)))
    with pytest.raises(KeyboardInterrupt):
        len(tracker.llm_token_counts)
    assert [one.prompt_token_count for one in tracker.llm_token_counts] == [1, 2, 3]
    assert agree(tracker)

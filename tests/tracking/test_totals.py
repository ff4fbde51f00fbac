"""Running sums by kind of call."""

from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import TokenCountingEvent, Usage
from llama_token_tracker._lock import make
from llama_token_tracker.tracking.totals import Kind, Pair, Totals

COUNTS = st.integers(0, 10**6)


@st.composite
def events(draw: st.DrawFn) -> TokenCountingEvent:
    """Any event that a handler could make."""
    prompt, completion = draw(COUNTS), draw(COUNTS)
    return TokenCountingEvent(
        "",
        "",
        completion,
        prompt,
        usage=Usage(
            input_tokens=prompt,
            output_tokens=completion,
            cache_read_tokens=draw(st.none() | st.integers(0, prompt)),
        ),
        prompt_source=draw(st.sampled_from(["reported", "counted", "estimated"])),
        completion_source=draw(st.sampled_from(["reported", "counted", "estimated"])),
        status=draw(st.sampled_from(["complete", "abandoned", "failed"])),
        operation=draw(st.sampled_from(["chat", "completion", "embedding"])),
        provider=draw(st.sampled_from([None, "openai"])),
        model=draw(st.sampled_from([None, "a", "b"])),
    )


def sums(totals: Totals) -> dict[Kind, tuple[int, dict[str, int]]]:
    """Everything that totals hold."""
    return {kind: (total.calls, total.counts) for kind, total in totals.kinds().items()}


def add(totals: Totals, event: TokenCountingEvent, sign: int = 1) -> None:
    """Add an event, or take it back."""
    make(lambda change: totals.change(change, [(event, sign)]))


def added(listed: list[TokenCountingEvent]) -> Totals:
    """Totals of these events."""
    totals = Totals()
    for event in listed:
        add(totals, event)
    return totals


@given(st.lists(events()), st.randoms())
def test_the_order_of_calls_makes_no_difference(listed: list[TokenCountingEvent], random):
    """Totals do not depend on the order in which calls finish."""
    shuffled = list(listed)
    random.shuffle(shuffled)
    assert sums(added(listed)) == sums(added(shuffled))


@given(st.lists(events()))
def test_totals_are_the_sums_of_the_events(listed: list[TokenCountingEvent]):
    """Every kind holds the number of its calls and the sum of their usages."""
    for kind, total in added(listed).kinds().items():
        alike = [
            event
            for event in listed
            if (event.operation, event.provider, event.model, event.source, event.status) == kind
        ]
        assert total.calls == len(alike)
        assert total.usage == sum([event.usage for event in alike], Usage())


@given(st.lists(events()), st.lists(events()))
def test_taking_back_undoes_adding(kept: list[TokenCountingEvent], gone: list[TokenCountingEvent]):
    """Calls that are added and taken back leave no trace, not even a zero."""
    totals = added([*kept, *gone])
    for event in gone:
        add(totals, event, -1)
    remaining = {
        kind: (calls, {name: count for name, count in counts.items() if count})
        for kind, (calls, counts) in sums(totals).items()
    }
    assert remaining == {
        kind: (calls, {name: count for name, count in counts.items() if count})
        for kind, (calls, counts) in sums(added(kept)).items()
    }


def test_a_kind_names_what_its_calls_share():
    """A running sum is found by operation, provider, model, source and status."""
    event = TokenCountingEvent("", "", 2, 3, usage=Usage(input_tokens=3, output_tokens=2))
    ((kind, total),) = added([event]).kinds().items()
    assert kind == Kind("chat", None, None, "estimated", "complete")
    assert kind.status == "complete"
    assert (total.calls, total.usage.total_tokens) == (1, 5)


def test_cleared_totals_hold_nothing():
    """Clearing starts again from nothing."""
    totals = added([TokenCountingEvent("", "", 2, 3)])
    make(totals.clear)
    assert sums(totals) == {}


def test_a_pair_knows_its_total():
    """Prompt and completion tokens add up."""
    assert Pair(3, 4).total == 7

"""Plain SDKs: each request that leaves the process is one event, with the provider's figures."""

from collections.abc import Sequence
from contextlib import suppress

from llama_token_tracker import TokenCountingEvent, Tracker, Usage, watch
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.wire.process.calls import SdkCall, every_call


def events_of(tracker: Tracker) -> list[TokenCountingEvent]:
    """All of them."""
    return [*tracker.llm_token_counts, *tracker.embedding_token_counts]


def equal(events: Sequence[TokenCountingEvent], bills: Sequence[Usage]) -> None:
    """Hold reported events to bills; of an embedding request each text is one, with its share."""
    assert {event.source for event in events} <= {"reported"}
    assert {event.status for event in events} <= {"complete"}
    assert len({event.event_id for event in events}) >= len(bills)
    assert sum(event.usage.input_tokens or 0 for event in events) == sum(
        bill.input_tokens or 0 for bill in bills
    )
    assert sum(event.usage.output_tokens or 0 for event in events) == sum(
        bill.output_tokens or 0 for bill in bills
    )
    if not any(event.operation == "embedding" for event in events):
        assert len(events) == len(bills)


@every_call
def test_a_call_is_one_event_as_billed(call: SdkCall, provider: LoopbackProvider, tracker: Tracker):
    """Of a client that is made while somebody listens."""
    call.run(call.make(provider))
    equal(events_of(tracker), provider.billed)
    assert len(provider.billed) == 1


@every_call
def test_a_client_that_was_there_before_is_heard(call: SdkCall, provider: LoopbackProvider):
    """And no more, once the watch has stopped; asynchronous ones are closed by then."""
    made = call.make(provider)
    tracker = Tracker()
    with watch(tracker):
        call.run(made)
    if call.module not in {"openai", "anthropic", "google.genai", "ollama", "mistralai"}:
        call.run(made)
        assert len(provider.billed) == 2
    equal(events_of(tracker), provider.billed[:1])


@every_call
def test_two_count_each_call_once(call: SdkCall, provider: LoopbackProvider, tracker: Tracker):
    """Whoever watches twice, watches once; others count as well."""
    other = Tracker()
    with watch(tracker), watch(other), watch(other):
        call.run(call.make(provider))
    equal(events_of(tracker), provider.billed)
    equal(events_of(other), provider.billed)


@every_call
def test_an_error_costs_nothing(call: SdkCall, provider: LoopbackProvider, tracker: Tracker):
    """It passes through as it is."""
    provider.script(Reply(status=400))
    with suppress(Exception):  # each SDK has its own, and plain HTTP clients have none
        call.run(call.make(provider))
    assert provider.billed == []
    assert events_of(tracker) == []
    assert tracker.total_llm_token_count == 0

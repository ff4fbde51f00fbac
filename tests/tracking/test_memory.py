"""What is kept of calls whose events are dropped, in programs that run for ever."""

import gc
import tracemalloc

import pytest
from llama_index.core.callbacks import EventPayload

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker._background import WORKER
from llama_token_tracker.tracking import account, pending
from tests.scripted import HELLO, LLM, answer, by_hand, reported

ABOUT = {"class_name": "OpenAI", "model": "gpt-4o"}


def serve(handler: TokenCountingHandler, first: int, calls: int) -> None:
    """Answer requests, each in a scope of its own, and read nothing."""
    for number in range(first, first + calls):
        with handler.scope(f"request-{number}", user=f"user-{number}"):
            started = {EventPayload.MESSAGES: HELLO, EventPayload.SERIALIZED: ABOUT}
            ended = {EventPayload.RESPONSE: answer("hi", reported(3, 2)), **started}
            handler.on_event_start(LLM, started, event_id=f"{number}")
            handler.on_event_end(LLM, ended, event_id=f"{number}")
    for _ in range(2):  # what's counted is priced after that
        assert handler.flush(60)
        assert WORKER.flush(60)
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("max_events", [0, 100])
def test_open_scopes_and_dropped_events_take_no_memory(max_events: int):
    """A handler and a scope that nobody reads keep their sums, and nothing a call."""
    handler = TokenCountingHandler(max_events=max_events)
    with handler.scope("service") as service:
        serve(handler, 0, 2_500)
        tracemalloc.start()
        serve(handler, 2_500, 500)
        before, _ = tracemalloc.get_traced_memory()
        serve(handler, 3_000, 2_000)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (after - before) / 2_000 < 40
    assert handler.total_llm_token_count == service.total_llm_token_count == 5 * 5_000
    assert service.unpriced_calls == 0
    assert service.total_cost_usd == handler.total_cost_usd


def test_a_backlog_without_end_is_estimated_rather_than_kept(monkeypatch: pytest.MonkeyPatch):
    """Where counting can't keep up, no call waits and none is lost: it's marked as estimated."""
    monkeypatch.setattr(pending, "MAX_BACKLOG_BYTES", 300_000)
    counted: list[str] = []

    def tokenizer(text: str) -> list[str]:
        counted.append(text)
        return text.split()

    handler = TokenCountingHandler(tokenizer=tokenizer)
    for number in range(400):
        by_hand(handler, answer("hi"), HELLO, event_id=str(number))
    events = handler.llm_token_counts
    assert len(events) == len({event.event_id for event in events}) == 400
    sources = {event.source for event in events}
    assert "estimated" in sources
    assert all(event.total_token_count for event in events)
    assert len(counted) < 800


def test_prices_are_looked_up_unasked_only_for_events_that_no_list_holds():
    """What a list keeps anyway may wait for its price; what's kept for that alone may not."""
    listing, dropping = TokenCountingHandler(), TokenCountingHandler(max_events=10)
    for handler in (listing, dropping):
        serve(handler, 0, 1_500)
    assert listing.tracker.account.totals.unpriced_events == 1_500
    assert dropping.tracker.account.totals.unpriced_events <= account.MAX_UNPRICED + 10
    assert listing.total_cost_usd == dropping.total_cost_usd
    assert listing.tracker.account.totals.unpriced_events == 0

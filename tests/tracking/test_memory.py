"""What is kept of calls whose events are dropped, in programs that run for ever."""

import gc
import tracemalloc

import pytest
from llama_index.core.callbacks import EventPayload

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker._background import WORKER
from tests.scripted import HELLO, LLM, answer, reported

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
        serve(handler, 0, 4_000)
        tracemalloc.start()
        serve(handler, 4_000, 1_000)
        before, _ = tracemalloc.get_traced_memory()
        serve(handler, 5_000, 4_000)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert (after - before) / 4_000 < 40
    assert handler.total_llm_token_count == service.total_llm_token_count == 5 * 9_000
    assert service.unpriced_calls == 0
    assert service.total_cost_usd == handler.total_cost_usd

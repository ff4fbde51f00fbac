"""Requests that are interrupted at each of the places where Python looks at signals."""

import gc
from collections.abc import Callable
from contextlib import suppress

from llama_token_tracker import Tracker, watch
from llama_token_tracker.testing import LoopbackProvider
from tests.interrupts import TimeLimit, handled, interrupted, raising


def assert_counted_once(
    ask: Callable[[], object],
    provider: LoopbackProvider,
    *clients: object,
    raised: type[Exception] = TimeLimit,
) -> None:
    """Hold that what was billed is one event, wherever an alarm ends a request, and no other is.

    Args:
        ask: Sends a request.
        provider: Who answers it.
        clients: Who is watched; the whole process if there's none.
        raised: What comes of an alarm that's raised in it.
    """

    def known(at: int) -> tuple[int, int, int]:
        tracker, before, places = Tracker(), len(provider.billed), 0
        with watch(tracker, *clients), suppress(raised):
            places = interrupted(ask, at)
        gc.collect()
        events = [*tracker.llm_token_counts, *tracker.embedding_token_counts]
        return len(events), len(provider.billed) - before, places

    known(-1)
    once, billed, places = known(-1)
    assert (once, billed) == (1, 1)
    assert places > 30
    with handled(raising):
        found = [known(at)[:2] for at in range(places)]
    assert {events for events, billed in found if billed} == {1}
    assert {events for events, billed in found if not billed} <= {0, 1}

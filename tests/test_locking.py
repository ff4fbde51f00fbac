"""What is done under the lock: additions and moves, and nothing that may wait or be a user's."""

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import Budget, TokenCountingHandler
from llama_token_tracker.tracking import account
from tests.locking import Violation, watched
from tests.scripted import HELLO, Scripted, answer, by_hand, reported

PLANTED: dict[str, Callable[[], object]] = {
    "a user's function": lambda: user(),
    "a log": lambda: logging.getLogger("anybody").warning("hello"),
    "a wait": lambda: time.sleep(0),
    "another lock": lambda: threading.Lock().acquire(),
    "a thread": lambda: threading.Thread(target=user).start(),
}


def user() -> int:
    """Stand for a user's function."""
    return 1


@pytest.mark.parametrize("what", PLANTED)
def test_what_must_not_run_under_the_lock_is_seen(what: str) -> None:
    """The instrument itself: each kind of offence is seen."""
    with pytest.raises(Violation), watched(), account.LOCK:
        PLANTED[what]()


def test_a_finalizer_that_waits_for_the_lock_is_seen() -> None:
    """By a reference that goes, and by the collector."""

    class Waits:
        def __del__(self) -> None:
            with account.LOCK:
                pass

    with pytest.raises(Violation), watched():
        Waits()

    def collect() -> None:
        ring: list[Any] = [Waits()]
        ring.append(ring)
        del ring
        gc.collect()

    with pytest.raises(Violation), watched():
        collect()


def test_additions_alone_are_no_offence() -> None:
    """Nothing is seen where nothing is done."""
    with watched() as lock, account.LOCK:
        [].append(1)
    assert lock.taken == 1


@pytest.fixture
def _eager_collector() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(50)
    yield
    gc.set_threshold(*before)


@pytest.mark.slow
@pytest.mark.usefixtures("_eager_collector")
def test_a_busy_process_does_nothing_else_under_the_lock() -> None:
    """Threads that call, stream, drop, read, edit, reset, spend, tag and split, and sinks."""
    taken: list[object] = []
    passed: list[object] = []
    handler = TokenCountingHandler(
        tokenizer=str.split,
        budget=[
            Budget(tokens=10**9, per="user"),
            Budget(usd=10**6, window="1 day", on_exceed=passed.append),
        ],
        max_events=50,
        sinks=[taken.append],
        models={"scripted-1": "gpt-4o"},
    )
    model = Scripted(
        raw=reported(7, 3), raws=[reported(7, 0), None], callback_manager=CallbackManager([handler])
    )

    def call(user: str) -> None:
        for number in range(60):
            with handler.scope(f"scope {number % 5}", user=user, number=number):
                model.complete("hello")
                stream = model.stream_complete("hello")
                next(stream)
                del stream
                by_hand(handler, answer("one two"), HELLO, event_id=f"{user}-{number}")

    def read() -> None:
        for number in range(60):
            _ = handler.total_llm_token_count, handler.by("user"), handler.total_cost_usd
            if not number % 7:
                with suppress(IndexError):  # the other one may have reset it
                    handler.llm_token_counts.pop()
            if not number % 20:
                handler.reset_counts()

    with watched() as lock:
        threads = [threading.Thread(target=call, args=(f"user {n}",)) for n in range(4)]
        threads += [threading.Thread(target=read) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert handler.tracker.flush(timeout_s=30)
    assert not any(thread.is_alive() for thread in threads)
    assert lock.taken > 500
    assert len(taken) == 4 * 60 * 3


def test_what_a_reset_removes_is_let_go_of_without_the_lock() -> None:
    """A finalizer on an event may be a user's: it runs when nobody holds the lock."""
    handler = TokenCountingHandler(max_events=2)
    was_free: list[bool] = []

    def finalize() -> None:
        thread = threading.Thread(target=lambda: was_free.append(_is_free()))
        thread.start()
        thread.join()

    for number in range(4):
        by_hand(handler, answer(raw=reported(5, number)), HELLO, event_id=str(number))
        weakref.finalize(handler.llm_token_counts[-1], finalize)
    # Until then they wait for their prices.
    _ = handler.total_cost_usd
    by_hand(handler, answer(raw=reported(5, 4)), HELLO, event_id="4")
    assert len(handler.llm_token_counts) == 2
    gc.collect()
    assert was_free == [True] * 3
    handler.reset_counts()
    gc.collect()
    assert was_free == [True] * 4


def _is_free() -> bool:
    is_free = account.LOCK.acquire(timeout=5)
    if is_free:
        account.LOCK.release()
    return is_free

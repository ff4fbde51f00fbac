"""Forks, exits and stress in small; `python -m tests.faults` does as many as wanted."""

import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from llama_token_tracker import Budget, TokenCountingHandler
from llama_token_tracker._lock import LOADING, LOCK
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.budgets import Accounts
from llama_token_tracker.testing import LoopbackProvider
from tests.faults import ended
from tests.needs import left_out_if
from tests.scripted import HELLO, answer, by_hand, reported
from tests.workers import answers_of_workers

WATCHDOG_S = 60

forks = left_out_if(not hasattr(os, "fork"), "this system doesn't fork")


@forks
@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["forks", "--times", "8"], ["exits", "--times", "5"], ["stress", "--times=1", "--seconds=3"]],
    ids=lambda arguments: arguments[0],
)
def test_nothing_hangs_and_figures_stay_exact(arguments: list[str]) -> None:
    """Under load: forked children, interpreters that end, and threads beside the collector."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-m", "tests.faults"]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=WATCHDOG_S, check=False
    )
    assert "problems: 0" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


# --- forks -----------------------------------------------------------------------------------


@contextmanager
def in_child() -> Iterator[int]:
    """Go on in a forked child until the block ends; give the child's id, and 0 in the child.

    The parent's part of the block is empty: it waits for the child, which must end.
    """
    child = os.fork()
    if child:
        yield child
        assert ended(child) is not None, "the child hung"
        return
    try:
        yield 0
    finally:
        os._exit(0)


@forks
@pytest.mark.parametrize("lock", [LOCK, LOADING], ids=["figures", "loading"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_whoever_forks_under_a_lock_lets_go_of_it_in_the_child(lock: Any) -> None:
    """An import that forks, or a signal handler that comes while a total is read."""
    receiver, sender = os.pipe()
    with lock, in_child() as child:
        if not child:
            lock.release()

            def take() -> None:
                if lock.acquire(timeout=5):
                    lock.release()
                    os.write(sender, b"free")

            thread = threading.Thread(target=take)
            thread.start()
            thread.join()
            lock.acquire()
    os.close(sender)
    assert os.read(receiver, 10) == b"free"
    os.close(receiver)


@forks
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_fork_waits_until_what_is_being_loaded_is_there() -> None:
    """A child would wait for ever for an import that a thread of its parent had begun."""
    handler = TokenCountingHandler()
    loaded: list[float] = []

    def load() -> None:
        with LOADING:
            is_loading.set()
            time.sleep(0.2)
            loaded.append(1)

    is_loading = threading.Event()
    thread = threading.Thread(target=load)
    thread.start()
    is_loading.wait()
    with in_child() as child:
        if not child:
            if not loaded:
                time.sleep(WATCHDOG_S)
            by_hand(handler, answer("one two"), HELLO, event_id="child")
            _ = handler.total_llm_token_count, handler.total_cost_usd
    thread.join()


@pytest.mark.slow
@forks
def test_workers_of_a_server_that_loads_before_it_forks_count_each_request_once() -> None:
    """gunicorn, four workers with two threads each: together they say what the provider billed."""
    with LoopbackProvider() as provider:
        told = answers_of_workers(120, 1, PROVIDER_URL=provider.url("openai"))
        billed = [usage.total_tokens for usage in provider.billed]
    used: defaultdict[int, int] = defaultdict(int)
    for one in told:
        used[one["worker"]] = max(used[one["worker"]], one["used"])
        assert one["by_user"] >= one["inherited"] + one["own"]
    assert len(billed) == 121
    assert len(used) == 4
    assert {one["inherited"] for one in told} == {billed[0]}
    assert sum(used.values()) == sum(billed[1:])
    assert sum(one["own"] for one in told) == sum(billed[1:])


# --- users' code and the locks ---------------------------------------------------------------


def _within(seconds: float, work: Any) -> bool:
    """Whether this ends within so many seconds; if it hangs, its thread is left behind."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


class _Reads(logging.Handler):
    """Reads totals for each record, in a thread of its own, and waits for it."""

    def __init__(self, counter: TokenCountingHandler) -> None:
        super().__init__()
        self._counter = counter
        self.is_free: list[bool] = []

    def handle(self, record: logging.LogRecord) -> bool:
        """Read without the lock of log handlers: the thread may have something to say, too."""
        self.emit(record)
        return True

    def emit(self, _record: logging.LogRecord) -> None:
        """Read."""
        self.is_free.append(_within(5, lambda: self._counter.by("model")))


def test_a_log_handler_may_read_totals() -> None:
    """The 51st name of a tag is said without the lock, and so is what can't be counted."""
    forget_notices()
    counter = TokenCountingHandler()
    reads = _Reads(counter)
    logger = logging.getLogger("llama_token_tracker")
    logger.addHandler(reads)
    try:
        for number in range(60):
            with counter.scope("all", **{f"tag_{number}": "x"}):
                by_hand(counter, answer(raw=reported(5, 1)), HELLO, event_id=str(number))
        assert counter.by("model")
    finally:
        logger.removeHandler(reads)
    assert reads.is_free
    assert all(reads.is_free)


def test_a_tokenizer_may_have_a_lock_of_its_own() -> None:
    """A thread reads totals while it holds that lock, which the tokenizer waits for elsewhere."""
    own = threading.Lock()

    def tokenizer(text: str) -> list[str]:
        with own:
            return text.split()

    counter = TokenCountingHandler(tokenizer=tokenizer)
    for number in range(50):
        by_hand(counter, answer("one two"), HELLO, event_id=str(number))

    def read_while_holding() -> None:
        for _ in range(50):
            with own:
                # Of another handler, which counts nothing: only the lock of figures is wanted.
                _ = other.by("model"), other.llm_token_counts.copy()

    other = TokenCountingHandler()
    by_hand(other, answer(raw=reported(5, 1)), HELLO)
    reader = threading.Thread(target=lambda: counter.total_llm_token_count, daemon=True)
    reader.start()
    assert _within(10, read_while_holding)
    reader.join(10)
    assert not reader.is_alive()


def _held_elsewhere() -> threading.Event:
    """Have the lock of figures be held by a thread of its own, until this is set."""
    held, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with LOCK:
            held.set()
            is_over.wait(WATCHDOG_S)

    threading.Thread(target=hold, daemon=True).start()
    assert held.wait(10)
    return is_over


def test_a_reservation_that_is_dropped_waits_for_no_lock() -> None:
    """The collector may come while another thread holds it; whoever asks next gives it back."""
    accounts = Accounts(Budget(tokens=1_000))
    kept = [accounts.reserve({}, None, input_tokens=10, output_tokens=10, usd=None)]
    assert accounts.spent().reserved_tokens == 20
    is_over = _held_elsewhere()
    try:
        assert _within(10, kept.clear)
    finally:
        is_over.set()
    # A worker that runs already may be about to.
    until = time.monotonic() + WATCHDOG_S
    while accounts.spent().reserved_tokens:
        assert time.monotonic() < until, "it was never given back"
        time.sleep(0.01)


ENDS = """
from llama_token_tracker import Budget
from llama_token_tracker.budgets import Accounts
from tests.test_faults import _held_elsewhere

accounts = Accounts(Budget(tokens=1_000))
reservation = accounts.reserve({}, None, input_tokens=10, output_tokens=10, usd=None)
is_over = _held_elsewhere()
"""


@pytest.mark.slow
def test_a_process_ends_though_a_thread_holds_the_lock_and_a_reservation_is_open() -> None:
    """What a daemon thread holds when the interpreter ends, it never lets go of."""
    done = subprocess.run([sys.executable, "-c", ENDS], timeout=WATCHDOG_S / 2, check=False)
    assert done.returncode == 0


def test_dropped_streams_start_no_thread_under_a_lock() -> None:
    """The collector may come anywhere, also where a thread is being started."""
    counter = TokenCountingHandler(sinks=[lambda _: None])
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        assert _within(30, lambda: _drop(counter, 300))
    finally:
        gc.set_threshold(*before)


def _drop(counter: TokenCountingHandler, streams: int) -> None:
    from llama_index.core.callbacks import CallbackManager

    from tests.scripted import Scripted

    model = Scripted(raws=[reported(7, 1), None], callback_manager=CallbackManager([counter]))
    for _ in range(streams):
        ring: list[Any] = [model.stream_complete("hello")]
        next(ring[0])
        ring.append(ring)
        counter.tracker.flush(timeout_s=5)

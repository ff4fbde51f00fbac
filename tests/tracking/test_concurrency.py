"""Many threads, many tasks, and a garbage collector that runs all the time."""

import asyncio
import gc
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import TokenCountingHandler, Usage
from llama_token_tracker.llama_index.span_tree import SPANS
from tests.scripted import HELLO, Scripted, answer, by_hand, counted, reported

THREADS = 16
CALLS = 2_000


def run(*targets: Any) -> None:
    """Run all of these at once, each in a thread of its own, and wait."""
    barrier = threading.Barrier(len(targets))

    def start(target: Any) -> None:
        barrier.wait()
        target()

    threads = [threading.Thread(target=start, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def _switching() -> Any:
    """Let threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.slow
@pytest.mark.usefixtures("_switching")
def test_threads_lose_no_call():
    """Sixteen threads, two thousand calls each: lists and totals hold every one of them."""
    handler = TokenCountingHandler(tokenizer=str.split)

    def record(thread: int) -> None:
        for number in range(CALLS):
            # Two in three are reported; the third has to be counted.
            raw = reported(number, thread + 1) if number % 3 else None
            by_hand(handler, answer("one two", raw), HELLO, event_id=f"{thread}-{number}")

    run(*[lambda thread=thread: record(thread) for thread in range(THREADS)])
    sums = [0, 0]
    for thread in range(THREADS):
        for number in range(CALLS):
            sums[0] += number if number % 3 else 5
            sums[1] += thread + 1 if number % 3 else 2
    assert [handler.prompt_llm_token_count, handler.completion_llm_token_count] == sums
    assert len({event.event_id for event in handler.llm_token_counts}) == THREADS * CALLS
    assert sum(total.calls for total in handler.tracker.totals().values()) == THREADS * CALLS
    assert handler.tracker.usage == Usage(input_tokens=sums[0], output_tokens=sums[1])
    assert handler.open_calls == 0


@pytest.mark.usefixtures("_switching")
@pytest.mark.parametrize("every", [1, 2, 1_000])
def test_reading_and_resetting_meanwhile_lose_no_call(every: int):
    """What is read at a reset, and what is left at the end, are together all that was recorded.

    Args:
        every: Each call but these is reported; these have to be counted.
    """
    handler = TokenCountingHandler(tokenizer=str.split)
    held: list[Any] = [handler.llm_token_counts]
    done = threading.Event()

    def record(thread: int) -> None:
        for number in range(500):
            raw = reported(1, 1) if number % every else None
            by_hand(handler, answer("hi", raw), HELLO, event_id=f"{thread}-{number}")

    def reset() -> None:
        while not done.is_set():
            assert handler.total_llm_token_count >= 0
            handler.reset_counts()
            held.append(handler.llm_token_counts)

    resetting = threading.Thread(target=reset)
    resetting.start()
    run(*[lambda thread=thread: record(thread) for thread in range(8)])
    done.set()
    resetting.join()
    held.append(handler.llm_token_counts)
    lists = {id(events): events for events in held}.values()
    assert sum(len(events) for events in lists) == 4_000
    left = sum(event.total_token_count for event in handler.llm_token_counts)
    assert handler.total_llm_token_count == left


@pytest.mark.slow
@pytest.mark.usefixtures("_switching")
def test_edits_meanwhile_keep_the_totals_right():
    """Whoever empties a list while others record leaves totals that agree with it."""
    handler = TokenCountingHandler()

    def record(thread: int) -> None:
        for number in range(300):
            by_hand(handler, answer("hi", reported(3, 1)), HELLO, event_id=f"{thread}-{number}")

    def edit() -> None:
        for _ in range(300):
            del handler.llm_token_counts[:2]

    run(*[lambda thread=thread: record(thread) for thread in range(4)], edit, edit)
    events = handler.llm_token_counts
    assert handler.total_llm_token_count == 4 * len(events)
    assert handler.tracker.usage.total_tokens == 4 * len(events)


def test_calls_of_threads_are_no_parts_of_each_other():
    """Models that ask models, in many threads at once, are told apart."""
    handler, model = counted(raw=reported(3, 1), raws=[None, reported(3, 1)])

    def ask() -> None:
        for _ in range(20):
            model.chat(HELLO)
            list(model.stream_chat(HELLO))

    run(*[ask] * 8)
    assert len(handler.llm_token_counts) == 320
    assert handler.total_llm_token_count == 4 * 320
    assert len({event.event_id for event in handler.llm_token_counts}) == 320
    assert handler.open_calls == len(SPANS) == 0


@pytest.mark.slow
def test_tasks_lose_no_call():
    """Five hundred tasks at once, half of which leave their stream in one of three ways."""
    handler, model = counted(raws=[reported(10, 0), None, reported(10, 5)], raw=reported(10, 5))
    assert len(SPANS) == 0

    async def whole(number: int) -> None:
        if number % 4 == 0:
            await model.achat(HELLO)
            return
        async for _ in await model.astream_chat(HELLO):
            await asyncio.sleep(0)

    async def left(number: int) -> None:
        stream = await model.astream_chat(HELLO)
        await anext(stream)
        await asyncio.sleep(0)
        if number % 3 == 0:
            await stream.aclose()
        elif number % 3 == 1:
            asyncio.current_task().cancel()
            await asyncio.sleep(0)

    async def everybody() -> None:
        tasks = [left(number) if number % 2 else whole(number) for number in range(500)]
        random.Random(7).shuffle(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(everybody())
    gc.collect()
    by_status = {"complete": 0, "abandoned": 0}
    for event in handler.llm_token_counts:
        by_status[event.status] += 1
    assert by_status == {"complete": 250, "abandoned": 250}
    assert handler.prompt_llm_token_count == 5_000
    assert handler.total_llm_token_count == sum(
        event.total_token_count for event in handler.llm_token_counts
    )
    assert model.calls == 500
    assert handler.open_calls == 0
    calls = handler._recorder.calls
    assert len(calls._streams) == len(calls._by_span) == 0
    assert len(SPANS) == 0


COLLECTING = '''
import faulthandler, gc, logging, sys, threading

faulthandler.dump_traceback_later({limit}, exit=True)
from llama_index.core.callbacks import CallbackManager
from llama_token_tracker import TokenCountingHandler
from tests.scripted import HELLO, Scripted, answer, by_hand, reported

handlers = [TokenCountingHandler(tokenizer=str.split) for _ in range(2)]
model = Scripted(
    callback_manager=CallbackManager(handlers), raws=[reported(10, 0), None, reported(10, 5)]
)
sys.setswitchinterval(1e-5)
gc.set_threshold(1)
left = read = 0


def leave():
    """Drop streams where only the collector finds them."""
    for number in range(40):
        stream = model.stream_chat(HELLO)
        next(stream)
        cycle = [stream]
        cycle.append(cycle)


def finish():
    for number in range(40):
        list(model.stream_chat(HELLO))


def record(thread):
    for number in range(150):
        # Some of it is odd, and so is logged.
        raw = dict(usage=dict(prompt_tokens=3, completion_tokens=1, **{{f"x{{number}}": object()}}))
        raw["usage"]["total_tokens"] = -number
        by_hand(handlers[0], answer("one", raw), HELLO, event_id=f"{{thread}}-{{number}}")


threads = [threading.Thread(target=leave) for _ in range(3)]
threads += [threading.Thread(target=finish) for _ in range(2)]
threads += [threading.Thread(target=record, args=(number,)) for number in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
gc.collect()
for handler, by_hand_calls in zip(handlers, (450, 0)):
    events = handler.llm_token_counts
    statuses = [event.status for event in events]
    print(len(events), statuses.count("abandoned"), statuses.count("complete"))
    assert len(events) == 200 + by_hand_calls
    assert statuses.count("abandoned") == 120
    assert handler.prompt_llm_token_count == 2000 + 3 * by_hand_calls
    assert handler.total_llm_token_count == sum(event.total_token_count for event in events)
    assert handler.open_calls == 0
print("done")
'''


def printed_by(program: str) -> str:
    """What a program prints that runs in a process of its own, and ends well."""
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr[-5_000:]
    return ran.stdout


@pytest.mark.slow
def test_a_collector_that_runs_all_the_time_locks_nothing_up():
    """Streams that the collector drops while other threads record neither wait nor get lost."""
    assert printed_by(COLLECTING.format(limit=240)).endswith("done\n")


def test_a_handler_is_left_while_its_calls_run():
    """Handlers that come and go in other threads disturb nobody."""
    handler, model = counted(raw=reported(3, 1), raws=[reported(3, 1)])

    def come_and_go() -> None:
        for _ in range(50):
            Scripted(callback_manager=CallbackManager([TokenCountingHandler()])).complete("hello")

    def ask() -> None:
        for _ in range(25):
            model.chat(HELLO)
            list(model.stream_chat(HELLO))

    run(come_and_go, come_and_go, ask, ask)
    assert handler.total_llm_token_count == 4 * 100
    assert handler.open_calls == 0


MEETING = '''
import faulthandler, gc, logging, threading

faulthandler.dump_traceback_later({limit}, exit=True)
from llama_index.core.callbacks import CallbackManager
from llama_token_tracker import TokenCountingHandler
from llama_token_tracker._lock import LOCK
from tests.scripted import HELLO, Scripted, answer, by_hand

gc.disable()
handler = TokenCountingHandler()
model = Scripted(callback_manager=CallbackManager([handler]), raws=[None, None])
stream = model.stream_complete("hello")
next(stream)
cycle = [stream]
cycle.append(cycle)
del stream, cycle

logging_now, counting_now = threading.Event(), threading.Event()


class Log(logging.Handler):
    def emit(self, record):
        if record.name == "app":
            logging_now.set()
            counting_now.wait(5)
            # With the log's own lock held, the collector finds a stream to be counted.
            gc.collect()


class Odd:
    """Is a reason to log, if it's read while everybody else has to wait."""

    def __getattr__(self, name):
        if LOCK._is_owned():
            logging_now.wait(5)
            counting_now.set()
            raise RuntimeError(name)
        raise AttributeError(name)


def count():
    by_hand(handler, answer("hi", Odd()), HELLO)
    counting_now.set()


logging.getLogger().addHandler(Log())
threads = [
    threading.Thread(target=logging.getLogger("app").warning, args=("from the app",)),
    threading.Thread(target=count),
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert [event.status for event in handler.llm_token_counts].count("abandoned") == 1
assert len(handler.llm_token_counts) == 2
print("done")
'''


@pytest.mark.slow
def test_a_log_and_the_collector_lock_nothing_up():
    """A stream that is collected while its thread logs doesn't wait for one that logs it."""
    assert printed_by(MEETING.format(limit=30)) == "done\n"

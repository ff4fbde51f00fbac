"""Scopes: a call counts where it starts, whatever runs at the same time."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.dispatcher import instrument_tags

from llama_token_tracker import TokenCountingHandler
from llama_token_tracker.events.event import TokenCountingEvent
from llama_token_tracker.tracking.scopes import SharedScope, reset_current, set_current
from llama_token_tracker.tracking.totals import MAX_VALUES, OTHER
from llama_token_tracker.usage import Usage
from tests.scripted import Scripted, reported

IN, OUT = 1_201, 77
"""What every call of the scripted model is reported to have used."""


@pytest.fixture
def handler() -> TokenCountingHandler:
    """A handler that has heard nothing."""
    return TokenCountingHandler()


def model(*handlers: TokenCountingHandler) -> Scripted:
    """A model whose calls these hear."""
    raw = reported(IN, OUT)
    return Scripted(raw=raw, raws=[None, None, raw], callback_manager=CallbackManager([*handlers]))


@pytest.fixture
def llm(handler: TokenCountingHandler) -> Scripted:
    """A model whose calls it hears."""
    return model(handler)


def calls(of: Any) -> int:
    """How many calls have counted, by tokens and by events alike."""
    assert of.total_llm_token_count == (IN + OUT) * len(of.llm_token_counts)
    assert of.prompt_llm_token_count == IN * len(of.llm_token_counts)
    return len(of.llm_token_counts)


def test_a_scope_counts_its_own_calls(handler, llm):
    """What runs before and after a scope isn't its."""
    llm.complete("before")
    with handler.scope("request") as request:
        llm.complete("one")
        llm.complete("two")
    llm.complete("after")
    assert (calls(request), calls(handler)) == (2, 4)
    assert request.usage == Usage(input_tokens=2 * IN, output_tokens=2 * OUT)


def test_scopes_add_up_into_those_around_them(handler, llm):
    """A call counts in every scope around it, and is filed under the path of the innermost."""
    with handler.scope("outer", user="ada", plan="pro") as outer:
        llm.complete("one")
        with handler.scope("inner", user="bob") as inner:
            llm.complete("two")
    assert (calls(inner), calls(outer), calls(handler)) == (1, 2, 2)
    assert [event.scope for event in outer.llm_token_counts] == ["outer", "outer/inner"]
    assert inner.llm_token_counts[0].tags == {"user": "bob", "plan": "pro"}
    assert {name: row.calls for name, row in handler.by("user").items()} == {"ada": 1, "bob": 1}


def test_a_scope_goes_on_after_a_reset(handler, llm):
    """The handler's reset is for all; a scope is somebody's own."""
    with handler.scope("request") as request:
        llm.complete("one")
        handler.reset_counts()
        llm.complete("two")
    assert (calls(request), calls(handler)) == (2, 1)


def test_an_error_closes_a_scope(handler, llm):
    """A scope that an exception leaves counts nothing that comes later."""
    with contextlib.suppress(KeyError), handler.scope("request") as request:
        raise KeyError
    llm.complete("later")
    assert (calls(request), calls(handler)) == (0, 1)


def test_handlers_have_scopes_of_their_own(handler):
    """A scope of one handler says nothing to another's, nor hides its scopes."""
    other = TokenCountingHandler()
    llm = model(handler, other)
    with handler.scope("mine") as mine, other.scope("theirs") as theirs:
        llm.complete("one")
    assert (calls(mine), calls(theirs)) == (1, 1)
    assert handler.llm_token_counts[0].scope == "mine"


def test_tasks_have_scopes_of_their_own(handler, llm):
    """Tasks that run at the same time don't mix."""

    async def request(number: int) -> int:
        with handler.scope(f"request-{number}") as scope:
            for _ in range(number):
                await llm.acomplete("x")
                await asyncio.sleep(0)
        return calls(scope)

    async def main() -> list[int]:
        return await asyncio.gather(*[request(number) for number in range(8)])

    assert asyncio.run(main()) == list(range(8))


def test_threads_with_a_copied_context_count_in_their_scope(handler, llm):
    """So do executors that copy it; a thread without it counts for the handler alone."""
    with handler.scope("request") as request:
        context = contextvars.copy_context()
        with ThreadPoolExecutor(1) as pool:
            pool.submit(context.run, llm.complete, "with").result()
            pool.submit(llm.complete, "without").result()
        asyncio.run(asyncio.to_thread(llm.complete, "with"))
    assert (calls(request), calls(handler)) == (2, 3)


def test_a_stream_that_is_drained_later_counts_where_it_started(handler, llm):
    """Even when it's drained in another scope, or in a thread without any."""
    with handler.scope("request") as request:
        stream = llm.stream_complete("x")
        other = llm.stream_complete("y")
    with handler.scope("later") as later:
        assert list(stream)
    thread = threading.Thread(target=list, args=(other,))
    thread.start()
    thread.join()
    assert (calls(request), calls(later), calls(handler)) == (2, 0, 2)


def test_a_generator_in_foreign_contexts_stays_in_its_scope(handler, llm):
    """A web framework may run each step of a generator in another copy of the context."""

    def answer() -> Iterator[str]:
        with handler.scope("request") as request:
            for question in ("one", "two", "three"):
                yield llm.complete(question).text
            with handler.scope("inner"):
                yield llm.complete("four").text
        scopes.append(request)

    scopes: list[Any] = []
    generator = answer()
    context = contextvars.copy_context()
    while context.copy().run(next, generator, None) is not None:
        context.run(llm.complete, "between")  # the framework's own, outside
    assert calls(scopes[0]) == 4
    assert handler.by("scope")["request/inner"].calls == 1
    assert calls(handler) == 8


def test_an_async_generator_that_is_left_closes_its_scope(handler, llm):
    """Whoever stops reading leaves no scope behind."""

    async def answer() -> AsyncIterator[str]:
        with handler.scope("request") as request:
            scopes.append(request)
            for _ in range(3):
                yield (await llm.acomplete("x")).text

    async def main() -> None:
        stream = answer()
        async for _ in stream:
            break
        await stream.aclose()
        await llm.acomplete("after")

    scopes: list[Any] = []
    asyncio.run(main())
    assert (calls(scopes[0]), calls(handler)) == (1, 2)


def test_an_async_generator_that_is_dropped_leaves_no_scope_behind(handler, llm):
    """The loop closes it in a task of its own, but its scope was current in the reader's."""

    async def answer() -> AsyncIterator[str]:
        with handler.scope("request") as request:
            scopes.append(request)
            for _ in range(3):
                yield (await llm.acomplete("x")).text

    async def main() -> None:
        async for _ in answer():
            break
        await asyncio.sleep(0.01)
        await llm.acomplete("after")
        with handler.scope("next"):
            await llm.acomplete("next")

    scopes: list[Any] = []
    asyncio.run(main())
    assert (calls(scopes[0]), calls(handler)) == (1, 3)
    assert [event.scope for event in handler.llm_token_counts] == ["request", None, "next"]


def test_scopes_that_end_out_of_turn_leave_none_behind(handler, llm):
    """Of two generators that take turns the first may end first."""

    def answer(name: str) -> Iterator[str]:
        with handler.scope(name):
            yield llm.complete(name).text

    for names in (("a", "b"), ("c", "d", "e")):
        taking_turns = [answer(name) for name in names]
        for generator in (*taking_turns, *taking_turns):
            next(generator, None)
        llm.complete("after")
        assert handler.llm_token_counts[-1].scope is None


def test_what_outlives_its_scope_still_counts_there(handler, llm):
    """A task that was started in a scope goes on in it, also after scopes of its own."""

    async def work(left: asyncio.Event) -> None:
        await left.wait()
        await llm.acomplete("x")
        with handler.scope("inner"):
            await llm.acomplete("y")
        await llm.acomplete("z")

    async def main() -> Any:
        left = asyncio.Event()
        with handler.scope("request") as request:
            task = asyncio.create_task(work(left))
        left.set()
        await task
        return request

    assert calls(asyncio.run(main())) == 3


def test_a_context_manager_may_open_a_scope(handler, llm):
    """A generator made into a context manager opens it for the block, not for itself."""

    @contextlib.contextmanager
    def request() -> Iterator[Any]:
        with handler.scope("request") as scope:
            yield scope

    with request() as scope:
        llm.complete("x")
    assert calls(scope) == 1


def test_instrument_tags_are_on_the_event(handler, llm):
    """LlamaIndex's own tags need no scope, and a scope's win over them."""
    with instrument_tags({"user": "ada", "plan": 7}):
        llm.complete("one")
        with handler.scope("request", plan="pro"):
            llm.complete("two")
        stream = llm.stream_complete("three")
    list(stream)
    tags = [event.tags for event in handler.llm_token_counts]
    assert tags == [
        {"user": "ada", "plan": "7"},
        {"user": "ada", "plan": "pro"},
        {"user": "ada", "plan": "7"},
    ]


def test_rows_add_up_to_the_totals(handler, llm):
    """Whatever they are split by, with a row for what has no such tag."""
    llm.complete("none")
    for user in ("ada", "bob", "ada"):
        with handler.scope("request", user=user):
            llm.complete("x")
    for name in ("user", "scope", "model", "provider", "operation", "source", "status", "absent"):
        rows = handler.by(name).values()
        assert sum(row.calls for row in rows) == 4
        assert sum(row.total_tokens for row in rows) == handler.total_llm_token_count
    assert handler.by("user")[None].calls == 1
    assert next(iter(handler.by("user"))) == "ada"


def test_the_number_of_values_is_bounded(handler, caplog):
    """Beyond a thousand, further values share one row, which says so."""
    tracker = handler.tracker
    for number in range(MAX_VALUES + 5):
        with tracker.scope("x", user=number):
            tracker.record(
                TokenCountingEvent(
                    "", "", 1, 2, usage=Usage(input_tokens=2, output_tokens=1), operation="chat"
                ),
                tracker.context({}),
            )
    rows = handler.by("user")
    assert len(rows) == MAX_VALUES + 1
    assert rows[OTHER].calls == 5
    assert "too many values of user" in caplog.text


@given(st.recursive(st.just("call"), lambda inner: st.lists(inner, max_size=4), max_leaves=12))
def test_every_scope_holds_what_was_called_in_it(tree):
    """Of any tree of scopes, each holds all calls within it."""
    handler = TokenCountingHandler()
    llm = model(handler)

    def run(node: Any) -> int:
        if node == "call":
            llm.complete("x")
            return 1
        with handler.scope("s") as scope:
            made = sum(run(inner) for inner in node)
        assert calls(scope) == made
        return made

    assert run(tree) == calls(handler)


def test_a_shared_scope_is_one_of_every_handler(handler, llm):
    """Also of one that is only made within it; scopes lie in it as in each other."""
    shared = SharedScope("cell")
    with handler.scope("outer") as outer:
        shared.open()
        llm.complete("one")
        late = TokenCountingHandler()
        with handler.scope("inner") as inner:
            model(handler, late).complete("two")
        shared.close()
        llm.complete("after")
    mine, theirs = shared.scopes()
    assert (calls(mine), calls(theirs), calls(inner), calls(outer)) == (2, 1, 1, 3)
    assert (mine.path, theirs.path, inner.path) == ("outer/cell", "cell", "outer/cell/inner")


def test_many_threads_share_a_shared_scope(handler):
    """The first calls of many threads at once make one scope of a handler."""
    llm = model(handler)
    shared = SharedScope("cell")

    def work() -> None:
        token = set_current(shared)
        llm.complete("x")
        reset_current(token)

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    llm.complete("outside")
    (scope,) = shared.scopes()
    assert (calls(scope), calls(handler)) == (16, 17)


@pytest.mark.parametrize("name", ["", "  ", None, 7])
def test_a_scope_needs_a_name(handler, name):
    """What was given is named, and what to give instead."""
    with pytest.raises(ValueError, match="give it a name"):
        handler.scope(name)


def test_a_scope_is_entered_once(handler):
    """A second block needs a scope of its own."""
    scope = handler.scope("x")
    with scope:
        pass
    with pytest.raises(RuntimeError, match="make a new one"), scope:
        pass


def test_a_tag_may_be_anything(handler, llm):
    """Its text is taken, of bounded length; `None` is no tag."""

    class Odd:
        def __str__(self) -> str:
            raise KeyError

    with handler.scope("x", a=Odd(), b="y" * 1_000, c=None, d=Decimal(3)):
        llm.complete("x")
    tags = handler.llm_token_counts[0].tags
    assert tags == {"a": "<Odd>", "b": "y" * 256, "d": "3"}

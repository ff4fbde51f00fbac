"""All that a handler can do, in any order, against a model that only adds.

More of it: `HYPOTHESIS_PROFILE=long pytest tests/llama_index/test_state_machine.py`.
"""

import copy
import gc
import os
import pickle
import signal
from contextlib import suppress
from typing import Any, TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from llama_index.core.callbacks import CallbackManager, EventPayload

from llama_token_tracker import Budget, TokenCountingHandler
from tests.scripted import LLM, Scripted, answer, by_hand, reported, words

# Drawn examples take their time.
pytestmark = pytest.mark.slow

HAS_FORK = hasattr(os, "fork")
FORK_S = 10
PROMPT = "hello there"
CHUNKS = 3
# Zeros beside an answer are taken for silence.
FIGURES = st.integers(1, 1_000)

Figures: TypeAlias = tuple[int, int]
"""Prompt and completion tokens."""


def total(calls: list[Figures]) -> Figures:
    """The sum of these."""
    return sum(call[0] for call in calls), sum(call[1] for call in calls)


def said(of: Any) -> Figures:
    """The totals that are told."""
    return of.prompt_llm_token_count, of.completion_llm_token_count


def listed(of: Any) -> list[Figures]:
    """The events that are listed."""
    events = of.llm_token_counts
    return [(event.prompt_token_count, event.completion_token_count) for event in events]


class Counting:
    """What one handler or scope should say: all calls, of which the newest are listed."""

    def __init__(self, max_events: int | None) -> None:
        self.max_events = max_events
        self.failed = 0
        self.forgotten: list[Figures] = []
        self.calls: list[Figures] = []

    def add(self, call: Figures) -> None:
        """Add a call; the oldest event may have to go, but stays in the totals."""
        self.calls.append(call)
        while self.max_events is not None and len(self.calls) > self.max_events:
            self.forgotten.append(self.calls.pop(0))

    def check(self, of: Any) -> None:
        """Find the same there: totals, events, and the rows of a table."""
        everything = total([*self.forgotten, *self.calls])
        assert said(of) == everything
        assert of.total_llm_token_count == sum(everything)
        assert listed(of) == self.calls
        rows = of.by("model").values()
        used = [(row.usage.input_tokens or 0, row.usage.output_tokens or 0) for row in rows]
        assert total(used) == everything
        numbers = len(self.forgotten), len(self.calls), self.failed
        assert sum(row.calls for row in rows) == sum(numbers)
        assert len(of.failed_calls) == self.failed


class Handling(RuleBasedStateMachine):
    """One handler, the scopes around its calls, and the calls that are open."""

    @initialize(max_events=st.sampled_from([None, 0, 2]), is_limited=st.booleans())
    def begin(self, max_events: int | None, is_limited: bool) -> None:
        """A handler with or without a bound on its lists, and with or without a budget."""
        self.delivered: list[Figures] = []
        self.handler = TokenCountingHandler(
            tokenizer=words,
            max_events=max_events,
            budget=Budget(tokens=10**12) if is_limited else None,
            sinks=[self.deliver],
        )
        self.manager = CallbackManager([self.handler])
        self.is_attached = True
        self.counting = Counting(max_events)
        self.everything: list[Figures] = []
        self.scopes: list[tuple[Any, Counting]] = []
        self.closed: list[tuple[Any, Counting]] = []
        self.started: dict[str, list[Counting]] = {}
        self.streams: list[tuple[Any, Figures, int, list[Counting] | None]] = []
        self.number = 0

    def deliver(self, event: Any) -> None:
        """The handler's sink."""
        self.delivered.append((event.prompt_token_count, event.completion_token_count))

    @property
    def around(self) -> list[Counting]:
        """Where a call counts that starts now."""
        return [counting for _, counting in self.scopes]

    def counts(self, call: Figures, around: list[Counting]) -> None:
        """Expect a call."""
        self.everything.append(call)
        for counting in (self.counting, *around):
            counting.add(call)

    def counts_failed(self) -> None:
        """Expect a call that failed."""
        for counting in (self.counting, *self.around):
            counting.failed += 1

    def model(self, **fields: Any) -> Scripted:
        """A model whose calls the handler hears while it's attached."""
        return Scripted(callback_manager=self.manager, **fields)

    # --- calls -------------------------------------------------------------------------------

    @rule(figures=FIGURES, more=FIGURES)
    def ask(self, figures: int, more: int) -> None:
        """A call that is answered, with figures."""
        self.model(raw=reported(figures, more)).complete(PROMPT)
        if self.is_attached:
            self.counts((figures, more), self.around)

    @rule()
    def ask_silent(self) -> None:
        """A call whose provider says nothing of tokens: they're counted."""
        self.model().complete(PROMPT)
        if self.is_attached:
            self.counts((2, 1), self.around)

    @rule()
    def fail(self) -> None:
        """A call that never left costs nothing."""
        with suppress(ConnectionRefusedError):
            self.model(fails=ConnectionRefusedError()).complete(PROMPT)
        if self.is_attached:
            self.counts_failed()

    @rule()
    def start(self) -> None:
        """A call that is under way."""
        self.number += 1
        name = str(self.number)
        self.handler.on_event_start(LLM, {EventPayload.PROMPT: PROMPT}, event_id=name)
        self.started[name] = self.around

    @precondition(lambda self: self.started)
    @rule(figures=FIGURES, is_newest=st.booleans())
    def end(self, figures: int, is_newest: bool) -> None:
        """It ends, in its own scopes, whichever are open by now."""
        name = list(self.started)[-1 if is_newest else 0]
        around = self.started.pop(name)
        response = answer("hi", reported(figures, 1))
        by_hand(self.handler, response, PROMPT, event_id=name, start=False)
        self.counts((figures, 1), around)

    @precondition(lambda self: self.started)
    @rule()
    def end_silent(self) -> None:
        """It ends without a word, as LlamaIndex ends a call that raised."""
        name, _ = self.started.popitem()
        self.handler.on_event_end(LLM, None, event_id=name)

    # --- streams -----------------------------------------------------------------------------

    @rule(figures=FIGURES)
    def stream(self, figures: int) -> None:
        """A stream that has begun; its last chunk says what it cost."""
        raws = [*[None] * (CHUNKS - 1), reported(figures, 5)]
        stream = self.model(raws=raws).stream_complete(PROMPT)
        next(stream)
        where = self.around if self.is_attached else None
        self.streams.append((stream, (figures, 5), 1, where))

    @precondition(lambda self: self.streams)
    @rule()
    def go_on(self) -> None:
        """One more chunk, if there's one before the last."""
        stream, figures, chunks, around = self.streams.pop()
        if chunks < CHUNKS - 1:
            next(stream)
            chunks += 1
        self.streams.append((stream, figures, chunks, around))

    @precondition(lambda self: self.streams)
    @rule()
    def drain(self) -> None:
        """A stream that is read to its end."""
        stream, figures, _, around = self.streams.pop()
        assert list(stream)
        if around is not None:
            self.counts(figures, around)

    @precondition(lambda self: self.streams)
    @rule(is_closed=st.booleans())
    def leave(self, is_closed: bool) -> None:
        """A stream that is closed, or only dropped: what has come of it is counted."""
        stream, _, chunks, around = self.streams.pop(0)
        if is_closed:
            stream.close()
        del stream
        gc.collect()
        if around is not None:
            self.counts((2, chunks), around)

    # --- scopes ------------------------------------------------------------------------------

    @rule()
    def enter(self) -> None:
        """A scope within those that are open."""
        scope = self.handler.scope("scope")
        scope.__enter__()
        self.scopes.append((scope, Counting(self.counting.max_events)))

    @precondition(lambda self: self.scopes)
    @rule()
    def leave_scope(self) -> None:
        """The innermost is left; calls that started in it still count in it."""
        scope, counting = self.scopes.pop()
        scope.__exit__(None, None, None)
        self.closed.append((scope, counting))

    # --- what is done with a handler ---------------------------------------------------------

    @rule()
    def reset(self) -> None:
        """From zero again; scopes and budgets go on, and so do calls that are under way."""
        self.handler.reset_counts()
        self.counting = Counting(self.counting.max_events)

    # LlamaIndex tells the end of a stream to whoever is attached by then.
    @precondition(lambda self: not self.streams)
    @rule()
    def toggle(self) -> None:
        """The handler is taken off its manager, or put back."""
        if self.is_attached:
            self.manager.remove_handler(self.handler)
        else:
            self.manager.add_handler(self.handler)
        self.is_attached = not self.is_attached

    @rule()
    def edit(self) -> None:
        """Somebody deletes the oldest event that is listed, and with it what it cost."""
        del self.handler.llm_token_counts[:1]
        del self.counting.calls[:1]

    @rule(twin=st.sampled_from([copy.deepcopy, lambda of: pickle.loads(pickle.dumps(of))]))
    def copy(self, twin: Any) -> None:
        """A copy has what was counted, and counts by itself."""
        other = twin(self.handler)
        self.counting.check(other)
        by_hand(other, answer("hi", reported(3, 4)), PROMPT, event_id="copy's")
        now = said(other)
        assert now == (said(self.handler)[0] + 3, said(self.handler)[1] + 4)

    @rule()
    def flush(self) -> None:
        """Sinks have been given each call once, those that failed included."""
        assert self.handler.flush(FORK_S)
        assert [call for call in self.delivered if any(call)] == [
            call for call in self.everything if any(call)
        ]

    if HAS_FORK:

        @rule()
        def fork(self) -> None:
            """A child has what was counted up to then, and what it counts is its own."""
            self.handler.flush(FORK_S)
            child = os.fork()
            if child == 0:
                signal.alarm(FORK_S)
                with suppress(BaseException):
                    self.counting.check(self.handler)
                    self.ask(10, 20)
                    self.counting.check(self.handler)
                    os._exit(0)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    # --- what must hold at any time ----------------------------------------------------------

    @invariant()
    def nothing_is_lost_and_nothing_doubled(self) -> None:
        """The handler and each scope say what they should."""
        if not hasattr(self, "handler"):
            return
        self.counting.check(self.handler)
        for scope, counting in (*self.scopes, *self.closed):
            counting.check(scope)
        assert self.handler.open_calls == len(self.started) + sum(
            around is not None for _, _, _, around in self.streams
        )
        for accounts in self.handler.accounts:
            assert accounts.spent().tokens == sum(total(self.everything))

    def teardown(self) -> None:
        """Leave nothing: hypothesis keeps its machines, and a handler that lives hears others."""
        if not hasattr(self, "handler"):
            return
        while self.streams:
            self.leave(is_closed=True)
        for scope, _ in reversed(self.scopes):
            scope.__exit__(None, None, None)
        self.flush()
        assert self.handler.close(FORK_S)
        vars(self).clear()


settings.register_profile("long", max_examples=2_000, stateful_step_count=80, deadline=None)

TestHandling = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")(
    Handling.TestCase
)
if os.environ.get("HYPOTHESIS_PROFILE") == "long":
    TestHandling.settings = settings.get_profile("long")
else:
    TestHandling.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)

"""Integration by style by condition: each call is one event, and it carries the provider's bill."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager

from llama_token_tracker import Usage
from llama_token_tracker.testing import LoopbackProvider, Reply
from tests.needs import left_out_if, needs, release

from .cells import (
    CELL,
    IMPOSSIBLE,
    INVISIBLE,
    OUTDATED,
    STYLES,
    broken_cells,
    cells,
    check_totals,
    exercise,
    expect,
    matches,
    replies_for,
    visible,
)
from .clients import EMBEDDINGS, LLMS, Endpoint, Integration, Nobody, each
from .styles import MESSAGES, PLAIN, PROMPT, STREAMS, STRUCTURED, Run, Style

if TYPE_CHECKING:
    from llama_index.core.llms.llm import LLM

    from llama_token_tracker import TokenCountingHandler

pytestmark = pytest.mark.matrix

BY_NAME = {integration.name: integration for integration in LLMS}
READ = Usage(input_tokens=22_739, output_tokens=1_259, cache_read_tokens=21_503)
CACHED = replace(READ, cache_write_tokens=701)
THOUGHT = Usage(input_tokens=22_741, output_tokens=1_277, reasoning_tokens=811)
SPECIAL = "Say <|endoftext|> and <|im_start|>, then [INST] and \u0378."


def failure(action: Callable[[], object]) -> BaseException:
    """Give what an action raises; which class that is differs with every SDK."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - see above
        return error
    pytest.fail("the integration raised nothing")


# --- Every style, as billed ------------------------------------------------------------------


@pytest.mark.parametrize(CELL, cells(STYLES))
def test_a_call_is_one_event_with_its_bill(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """In every style each HTTP call becomes one event with the provider's own figures."""
    llm = integration.llm(provider, manager)
    provider.script(*replies_for(integration, style))
    exercise(integration, style, llm, provider, run)
    expect(handler, provider, reported=visible(integration, style))


@pytest.mark.parametrize(CELL, broken_cells(PLAIN, STRUCTURED))
def test_a_style_that_is_broken_raises_its_own_error(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """Where the integration itself fails, its error comes through and no answer is invented."""
    llm = integration.llm(provider, manager)
    error = failure(lambda: style.run(llm, run))
    assert isinstance(error, AttributeError | NotImplementedError | TypeError)
    # Of an error that doesn't tell it, it isn't known whether anything was sent.
    answered = [event for event in handler.llm_token_counts if event.status != "unanswered"]
    assert len(answered) <= len(provider.billed)
    check_totals(handler)


# --- Buckets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(CELL, cells(PLAIN, condition="cache"))
def test_cached_tokens_are_part_of_the_input(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """However a provider words it, cache reads and writes end up inside the input."""
    llm = integration.llm(provider, manager)
    provider.script(Reply(usage=CACHED if integration.cache_write else READ))
    exercise(integration, style, llm, provider, run)
    expect(handler, provider, reported=visible(integration, style, "cache"))


@pytest.mark.parametrize(CELL, cells(PLAIN, condition="reasoning"))
def test_reasoning_is_part_of_the_output(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """However a provider words it, reasoning ends up inside the output."""
    llm = integration.llm(provider, manager)
    provider.script(Reply(usage=THOUGHT))
    exercise(integration, style, llm, provider, run)
    expect(handler, provider, reported=visible(integration, style, "reasoning"))


@pytest.mark.parametrize(CELL, cells(PLAIN, condition="silent"))
def test_a_silent_provider_leads_to_one_estimate(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """Without usage on the wire an event says that it's an estimate, of prompt and answer both."""
    llm = integration.llm(provider, manager)
    provider.script(Reply(usage=None))
    result = exercise(integration, style, llm, provider, run)
    assert result
    [event] = expect(handler, provider, reported=False)
    assert event.status == "complete"
    assert 0 < event.prompt_token_count < 100
    assert 0 < event.completion_token_count < 100


@pytest.mark.parametrize(CELL, cells(PLAIN, condition="empty"))
def test_an_empty_answer_still_costs_its_prompt(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """A completion without a word is one event with the provider's figures."""
    llm = integration.llm(provider, manager)
    provider.script(Reply(text="", usage=Usage(input_tokens=20_011, output_tokens=3)))
    exercise(integration, style, llm, provider, run)
    expect(handler, provider, reported=visible(integration, style, "empty"))


@pytest.mark.parametrize(
    (*CELL, "silent"),
    [
        *cells(PLAIN, condition="special", more=[("reported", False)]),
        *cells(PLAIN, condition="silent", more=[("silent", True)]),
    ],
)
def test_special_tokens_are_only_text(
    integration: Integration,
    style: Style,
    silent: bool,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`<|endoftext|>` in prompt and answer raises nowhere, with reported figures or without."""
    from . import styles as module

    monkeypatch.setattr(module, "PROMPT", SPECIAL)
    monkeypatch.setattr(module, "MESSAGES", [ChatMessage(role="user", content=SPECIAL)])
    llm = integration.llm(provider, manager)
    provider.script(Reply(text=SPECIAL, usage=None if silent else "drawn"))
    exercise(integration, style, llm, provider, run)
    assert "<|endoftext|>" in str(provider.calls[0].body)
    expect(handler, provider, reported=not silent and visible(integration, style, "special"))


# --- Failures --------------------------------------------------------------------------------


@pytest.mark.parametrize(CELL, cells(PLAIN))
@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_a_refused_call_costs_nothing(
    integration: Integration,
    style: Style,
    status: int,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """An HTTP error reaches the caller and leaves one failed call of zero tokens."""
    llm = integration.llm(provider, manager)
    provider.script(Reply(status=status))
    failure(lambda: style.run(llm, run))
    assert [call.status for call in provider.calls] == [status]
    _expect_one_failed_call(handler)


@pytest.mark.parametrize(CELL, cells(PLAIN, condition="unreachable"))
def test_an_unreachable_provider_costs_nothing(
    integration: Integration,
    style: Style,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """A refused connection reaches the caller and leaves one failed call of zero tokens."""
    nobody: Endpoint = Nobody()
    llm = integration.llm(nobody, manager)
    failure(lambda: style.run(llm, run))
    _expect_one_failed_call(handler)


def _expect_one_failed_call(handler: TokenCountingHandler) -> None:
    assert handler.llm_token_counts == []
    [event] = handler.failed_calls
    assert event.status == "failed"
    assert event.total_token_count == 0
    assert handler.total_llm_token_count == 0


# --- Streams that don't reach their end ------------------------------------------------------


def _open(style: Style, llm: LLM) -> Any:
    """Start a stream without reading it: an iterator, or a coroutine that gives one."""
    argument: Any = PROMPT if style.name.endswith("complete") else MESSAGES
    return getattr(llm, style.name)(argument)


def _read(style: Style, llm: LLM, run: Run, chunks: int, *, collected: bool = False) -> None:
    """Read so many chunks, then close the stream or leave it to the garbage collector."""
    if style.name.startswith("a"):
        run(_read_async(style, llm, chunks, collected=collected))
        return
    stream: Iterator[Any] = _open(style, llm)
    assert len(list(islice(stream, chunks))) == chunks
    if not collected:
        stream.close()  # type: ignore[attr-defined]
        return
    del stream
    gc.collect()


async def _read_async(style: Style, llm: LLM, chunks: int, *, collected: bool) -> None:
    stream: AsyncIterator[Any] = await _open(style, llm)
    for _ in range(chunks):
        await anext(stream)
    if not collected:
        await stream.aclose()  # type: ignore[attr-defined]
        return
    del stream
    gc.collect()
    # The loop closes a collected generator in a task of its own.
    for _ in range(20):
        await asyncio.sleep(0)


def _expect_partial(
    handler: TokenCountingHandler, provider: LoopbackProvider, integration: Integration, status: str
) -> None:
    [event] = handler.llm_token_counts
    [bill] = provider.billed
    assert event.status == status
    assert event.prompt_token_count > 0
    assert event.completion_token_count <= bill.output_tokens
    assert handler.failed_calls == []
    if integration.early and (integration.name, "stream_chat", "normal") not in INVISIBLE:
        assert event.prompt_token_count == bill.input_tokens
        assert (event.prompt_source == "reported") is (integration.early == "reported")
    else:
        assert event.source in {"counted", "estimated"}
        assert event.prompt_token_count < 100
    check_totals(handler)


@pytest.mark.parametrize(CELL, cells(STREAMS))
def test_a_cut_stream_is_one_failed_event(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """A connection lost mid-stream still cost its prompt and what came through."""
    llm = integration.llm(provider, manager)
    provider.script(Reply(cut_after=2))
    failure(lambda: style.run(llm, run))
    [call] = provider.settle()
    assert call.ended == "cut"
    _expect_partial(handler, provider, integration, "failed")


@pytest.mark.parametrize(CELL, cells(STREAMS))
@pytest.mark.parametrize("collected", [False, True], ids=["closed", "collected"])
def test_an_abandoned_stream_is_one_event(
    integration: Integration,
    style: Style,
    collected: bool,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """A stream left after its first piece of text, by `close()` or by dropping it, is one event."""
    llm = integration.llm(provider, manager)
    first = _chunks_until_text(integration, style, llm, run)
    provider.reset()
    handler.reset_counts()
    provider.script(Reply(chunks=4))
    _read(style, llm, run, first, collected=collected)
    _expect_partial(handler, provider, integration, "abandoned")


def _chunks_until_text(integration: Integration, style: Style, llm: LLM, run: Run) -> int:
    """Count the chunks up to the first that carries text; some integrations pass empty ones on."""
    del integration
    chunks: Any = style.run(llm, run)
    return next(n for n, chunk in enumerate(chunks, 1) if chunk.delta)


@pytest.mark.parametrize(CELL, cells(STREAMS))
def test_a_stream_left_at_its_usage_is_as_billed(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """A stream whose every chunk was read but not its end is abandoned, with the whole bill."""
    llm = integration.llm(provider, manager)
    chunks: Any = style.run(llm, run)
    provider.reset()
    handler.reset_counts()
    provider.script(Reply(usage=CACHED if integration.cache_write else "drawn"))
    _read(style, llm, run, len(chunks))
    [event], [bill] = handler.llm_token_counts, provider.billed
    if visible(integration, style, "abandoned"):
        matches(event, bill, "abandoned")
    else:
        assert event.source in {"counted", "estimated"}
        assert event.status == "abandoned"
    check_totals(handler)


@pytest.mark.parametrize(CELL, cells(style for style in STREAMS if style.is_async))
def test_a_cancelled_task_leaves_one_abandoned_event(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """A task cancelled while it waits for the next chunk has paid for the ones before."""
    llm = integration.llm(provider, manager)
    provider.script(Reply(stall_after=1))

    async def cancel() -> None:
        begun = asyncio.Event()

        async def consume() -> None:
            async for chunk in await _open(style, llm):
                if chunk.delta:
                    begun.set()

        task = asyncio.create_task(consume())
        await begun.wait()
        # One more turn, so that the task waits inside the client for what will never come.
        await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    run(cancel())
    _expect_partial(handler, provider, integration, "abandoned")


@pytest.mark.parametrize(CELL, cells(STREAMS))
def test_a_stream_never_read_is_no_call(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """A stream that's opened and dropped unread leaves no event of any kind."""
    llm = integration.llm(provider, manager)
    _read(style, llm, run, 0, collected=True)
    assert handler.llm_token_counts == []
    assert handler.failed_calls == []
    assert handler.total_llm_token_count == 0


# --- Several at once -------------------------------------------------------------------------


@each(LLMS)
def test_interleaved_streams_keep_their_own_bills(
    integration: Integration,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
) -> None:
    """Of A, B and C begun in that order and ended as B, A, C, each keeps its own figures."""
    style = next(style for style in STREAMS if style.name == "stream_chat")
    llm = integration.llm(provider, manager)
    bills = [Usage(input_tokens=20_011 + n, output_tokens=3_001 + n) for n in range(3)]
    # Read one piece at the start, so that the calls go out in this order.
    provider.script(*[Reply(text=f"{n} " * 9, usage=bill) for n, bill in enumerate(bills)])
    a, b, c = (_begin(llm) for _ in range(3))
    for stream in (b, a, c):
        list(stream)
    events = handler.llm_token_counts
    assert len(events) == 3
    if visible(integration, style):
        for event, bill in zip(events, [bills[1], bills[0], bills[2]], strict=True):
            matches(event, bill)
    assert len({event.event_id for event in events}) == 3
    check_totals(handler)


def _begin(llm: LLM) -> Iterator[Any]:
    stream = llm.stream_chat(MESSAGES)
    next(stream)
    return stream


@pytest.mark.parametrize(
    CELL, cells([style for style in PLAIN if style.name in {"complete", "stream_chat"}])
)
def test_threads_share_a_handler_exactly(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """Eight threads with one model and one handler leave one event a call, and exact totals."""
    llm = integration.llm(provider, manager)
    barrier = threading.Barrier(8)

    def work(_: int) -> None:
        barrier.wait()
        for _ in range(3):
            style.run(llm, run)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    _expect_all(handler, provider, 24, reported=visible(integration, style))


@pytest.mark.parametrize(
    CELL, cells([style for style in PLAIN if style.name in {"achat", "astream_chat"}])
)
def test_tasks_share_a_handler_exactly(
    integration: Integration,
    style: Style,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """Twenty tasks gathered in one loop leave one event a call, and exact totals."""
    llm = integration.llm(provider, manager)

    async def one() -> None:
        answer = await _open(style, llm)
        if style.streamed:
            async for _ in answer:
                pass

    async def gather() -> None:
        await asyncio.gather(*(one() for _ in range(20)))

    run(gather())
    _expect_all(handler, provider, 20, reported=visible(integration, style))


def _expect_all(
    handler: TokenCountingHandler, provider: LoopbackProvider, number: int, *, reported: bool
) -> None:
    provider.settle()
    events, bills = handler.llm_token_counts, provider.billed
    assert len(events) == len(bills) == number
    check_totals(handler)
    if not reported:
        assert {event.source for event in events} <= {"counted", "estimated"}
        return
    assert {event.source for event in events} == {"reported"}
    assert sorted((e.prompt_token_count, e.completion_token_count) for e in events) == sorted(
        (bill.input_tokens, bill.output_tokens) for bill in bills
    )


@pytest.mark.slow
def test_five_hundred_tasks_half_of_them_abandoned(
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
    run: Run,
) -> None:
    """Of 500 concurrent streams each is one event, and the half that was read is as billed."""
    llm = BY_NAME["openai"].llm(provider, manager)

    async def one(number: int, turn: asyncio.Semaphore) -> None:
        async with turn:
            stream: Any = await llm.astream_chat(MESSAGES)
            async for chunk in stream:
                if number % 2 and chunk.delta:
                    break
            await stream.aclose()

    async def gather() -> None:
        turn = asyncio.Semaphore(100)
        await asyncio.gather(*(one(number, turn) for number in range(500)))

    run(gather())
    provider.settle()
    events = handler.llm_token_counts
    assert len(events) == len(provider.billed) == 500
    whole = [event for event in events if event.status == "complete"]
    assert len(whole) == 250
    assert {event.source for event in whole} == {"reported"}
    bills = {(bill.input_tokens, bill.output_tokens) for bill in provider.billed}
    assert {(e.prompt_token_count, e.completion_token_count) for e in whole} <= bills
    assert len({event.prompt_token_count for event in whole}) == 250
    left = [event for event in events if event.status == "abandoned"]
    assert len(left) == 250
    check_totals(handler)


# --- Embeddings ------------------------------------------------------------------------------


@each(EMBEDDINGS)
def test_an_embedding_is_one_event_and_an_estimate(
    integration: Integration,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
) -> None:
    """LlamaIndex hands no embedding's usage to anybody, so its one event is an estimate."""
    model = integration.embedding(provider, manager)
    assert model.get_text_embedding(PROMPT) == [0.25, 0.5, 0.75]
    [event] = handler.embedding_token_counts
    assert len(provider.billed) == 1
    assert event.source in {"counted", "estimated"}
    assert event.operation == "embedding"
    assert 0 < event.total_token_count < 100
    assert handler.total_embedding_token_count == event.total_token_count
    assert handler.llm_token_counts == []


# --- What an event says besides --------------------------------------------------------------


@pytest.mark.quick
@each(LLMS)
def test_an_event_names_its_model_and_provider(
    integration: Integration,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
) -> None:
    """An event says which model was asked, whose it is, for what, and when.

    On this machine nobody can say who speaks as OpenAI, Anthropic and Cohere do.
    """
    llm = integration.llm(provider, manager)
    llm.chat(MESSAGES)
    [event] = handler.llm_token_counts
    assert event.model == integration.model
    is_spoken_by_others = integration.name.partition("-")[0] in ("anthropic", "cohere", "openai")
    assert (event.provider is None) == is_spoken_by_others
    assert event.operation == integration.operation
    assert event.started_at is not None
    assert event.started_at.tzinfo is not None
    assert event.duration_s is not None
    assert event.duration_s > 0
    assert PROMPT in event.prompt
    assert "Canberra" in event.completion


@left_out_if(
    release("llama-index-llms-anthropic") < (0, 12),
    "llms-anthropic before 0.12 asks for structured output through tools",
)
def test_structured_output_of_newer_claude_is_an_estimate(
    provider: LoopbackProvider, handler: TokenCountingHandler, manager: CallbackManager, run: Run
) -> None:
    """From Claude 4.5 on llms-anthropic 0.12 calls its SDK directly: one event, and a guess."""
    style = next(style for style in STRUCTURED if style.name == "structured_predict")
    llm = BY_NAME["anthropic"].llm(provider, manager, model="claude-sonnet-4-5-20250929")
    provider.script(*style.replies_without_tools)
    exercise(BY_NAME["anthropic"], style, llm, provider, run)
    expect(handler, provider, reported=False)


@needs(BY_NAME["bedrock-claude"].module)
@pytest.mark.parametrize("terse", [False, True], ids=["full", "terse"])
def test_a_stream_may_say_its_input_only_once(
    terse: bool,
    provider: LoopbackProvider,
    handler: TokenCountingHandler,
    manager: CallbackManager,
) -> None:
    """Claude on Bedrock repeats only the output at the end; the metrics say the rest."""
    integration = BY_NAME["bedrock-claude"]
    llm = integration.llm(provider, manager)
    provider.script(Reply(usage=replace(CACHED, cache_write_1h_tokens=200), terse=terse))
    list(llm.stream_chat(MESSAGES))
    expect(handler, provider, reported=True)


def test_every_exception_to_the_rule_is_exercised() -> None:
    """The tables of exceptions name only integrations and styles that are tested."""
    known = {integration.name for integration in LLMS}
    styles_known = {style.name for style in STYLES}
    named = [*INVISIBLE, *IMPOSSIBLE, *OUTDATED]
    assert {name for name, *_ in named} <= known
    assert {style for _, style, *_ in named} <= styles_known

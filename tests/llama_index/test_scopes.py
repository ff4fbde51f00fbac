"""Scopes hold through whatever LlamaIndex runs its calls in: threads, tasks, loops in threads."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from llama_index.core import Document, MockEmbedding, Settings, SummaryIndex, VectorStoreIndex
from llama_index.core.async_utils import run_jobs
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import (
    CondensePlusContextChatEngine,
    CondenseQuestionChatEngine,
    ContextChatEngine,
    SimpleChatEngine,
)
from llama_index.core.extractors import SummaryExtractor, TitleExtractor
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.query_engine import RetrieverQueryEngine, SubQuestionQueryEngine
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import QueryEngineTool, ToolMetadata
from llama_index.core.tools.function_tool import FunctionTool
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step

from llama_token_tracker import TokenCountingHandler
from tests.features import needs_context_in_threads
from tests.scripted import HELLO, Scripted, reported

IN, OUT = 1_201, 77
"""What every call of the scripted model is reported to have used."""

TEXTS = ["a tally is a record", "a ledger is a book", "a sum is a figure"]


@dataclass
class House:
    """A handler, and what it hears: a model, an embedding model and an index of three texts."""

    handler: TokenCountingHandler
    llm: Scripted
    embedding: MockEmbedding
    index: VectorStoreIndex

    def counted(self) -> tuple[int, int]:
        """How many LLM calls and how many embedded texts the handler has counted."""
        return counted(self.handler)


def counted(of: Any) -> tuple[int, int]:
    """How many LLM calls and how many embedded texts somebody has counted."""
    assert of.total_llm_token_count == (IN + OUT) * len(of.llm_token_counts)
    return len(of.llm_token_counts), len(of.embedding_token_counts)


@pytest.fixture
def house() -> Iterator[House]:
    """One in which nothing has been counted yet."""
    handler = TokenCountingHandler()
    manager = CallbackManager([handler])
    # Engines take theirs from here, and put it on the model.
    before, Settings.callback_manager = Settings.callback_manager, manager
    raw = reported(IN, OUT)
    llm = Scripted(raw=raw, raws=[None, None, raw], callback_manager=manager)
    embedding = MockEmbedding(embed_dim=2, callback_manager=manager)
    nodes = [TextNode(text=text, id_=text) for text in TEXTS]
    index = VectorStoreIndex(nodes, embed_model=embedding, callback_manager=manager)
    handler.reset_counts()
    yield House(handler, llm, embedding, index)
    Settings.callback_manager = before


# --- What LlamaIndex runs --------------------------------------------------------------------


class EachText(BaseQuestionGenerator):
    """Asks each tool the same question, without asking a model for one."""

    def _get_prompts(self) -> dict[str, Any]:
        return {}

    def _update_prompts(self, prompts: dict[str, Any]) -> None:
        """Have none."""

    def generate(self, tools: Any, query: QueryBundle) -> list[SubQuestion]:
        """One question a tool."""
        return [SubQuestion(sub_question=query.query_str, tool_name=tool.name) for tool in tools]

    async def agenerate(self, tools: Any, query: QueryBundle) -> list[SubQuestion]:
        """The same."""
        return self.generate(tools, query)


def found() -> list[NodeWithScore]:
    """Three texts, as a retriever gives them."""
    return [NodeWithScore(node=TextNode(text=text * 500), score=1.0) for text in TEXTS]


def retriever(house: House) -> BaseRetriever:
    """Finds two of the three texts."""
    return house.index.as_retriever(similarity_top_k=2)


def fusion(house: House, *, use_async: bool) -> QueryFusionRetriever:
    """Asks the model for three more ways of asking, and searches for all."""
    return QueryFusionRetriever(
        [retriever(house), retriever(house)],
        llm=house.llm,
        num_queries=4,
        mode=FUSION_MODES.RECIPROCAL_RANK,
        use_async=use_async,
    )


def synthesizer(house: House, mode: ResponseMode, **options: Any) -> Any:
    """Makes one answer of many texts."""
    return get_response_synthesizer(
        response_mode=mode,
        llm=house.llm,
        callback_manager=house.llm.callback_manager,
        **options,
    )


def sub_questions(house: House, *, use_async: bool) -> SubQuestionQueryEngine:
    """One question to each of two engines, and one that sums their answers up."""
    engine = RetrieverQueryEngine.from_args(retriever(house), llm=house.llm)
    tools = [
        QueryEngineTool(engine, metadata=ToolMetadata(name=name, description=name))
        for name in ("one", "two")
    ]
    return SubQuestionQueryEngine.from_defaults(
        tools,
        llm=house.llm,
        question_gen=EachText(),
        response_synthesizer=synthesizer(house, ResponseMode.COMPACT),
        use_async=use_async,
    )


def memory() -> ChatMemoryBuffer:
    """A memory in a list; by default LlamaIndex opens a database that it never closes."""
    return ChatMemoryBuffer.from_defaults(chat_history=list(HELLO))


def simple_engine(house: House) -> SimpleChatEngine:
    """Asks the model, and reads its answer in a thread or a task."""
    return SimpleChatEngine.from_defaults(llm=house.llm, memory=memory())


def context_engine(house: House) -> ContextChatEngine:
    """Looks texts up, and asks the model in a thread or a task."""
    return ContextChatEngine.from_defaults(
        retriever=retriever(house), llm=house.llm, memory=memory()
    )


def condensing(house: House) -> CondensePlusContextChatEngine:
    """Puts the question into words by one call, and answers it by another."""
    return CondensePlusContextChatEngine.from_defaults(
        retriever=retriever(house), llm=house.llm, memory=memory()
    )


def condensed(house: House) -> CondenseQuestionChatEngine:
    """Puts the question into words by one call, and asks another engine by another."""
    engine = house.index.as_query_engine(llm=house.llm, streaming=True)
    return CondenseQuestionChatEngine.from_defaults(
        query_engine=engine, llm=house.llm, memory=memory()
    )


def pipeline(house: House) -> IngestionPipeline:
    """Splits into three, has the model name and sum each up, and embeds them."""
    return IngestionPipeline(
        transformations=[
            SentenceSplitter(chunk_size=40, chunk_overlap=0, include_metadata=False),
            TitleExtractor(llm=house.llm, nodes=3, num_workers=2),
            SummaryExtractor(llm=house.llm, num_workers=2),
            house.embedding,
        ],
        disable_cache=True,
    )


def documents() -> list[Document]:
    """Three, each short enough for one node."""
    return [Document(text="One tally is here. " * 4, doc_id=f"document {n}") for n in range(3)]


class Asked(Event):
    """One question of several."""


class Heard(Event):
    """Its answer."""


class Three(Workflow):
    """Asks three times at once, and a fourth time when all have answered."""

    def __init__(self, house: House) -> None:
        super().__init__(timeout=30)
        self.house = house

    @step
    async def ask(self, ctx: Context, start: StartEvent) -> Asked | None:
        """Send three questions."""
        for _ in range(3):
            ctx.send_event(Asked())
        return None

    @step(num_workers=3)
    async def answer(self, ctx: Context, asked: Asked) -> Heard:
        """Ask the model."""
        await self.house.llm.acomplete("x")
        return Heard()

    @step
    async def finish(self, ctx: Context, heard: Heard) -> StopEvent | None:
        """Wait for three answers, and ask in a thread."""
        if ctx.collect_events(heard, [Heard] * 3) is None:
            return None
        await asyncio.to_thread(self.house.llm.complete, "y")
        return StopEvent()


class InThreads(Workflow):
    """Asks in a step that isn't asynchronous, which runs in a thread."""

    def __init__(self, house: House) -> None:
        super().__init__(timeout=30)
        self.house = house

    @step
    def ask(self, start: StartEvent) -> StopEvent:
        """Ask the model."""
        return StopEvent(result=self.house.llm.complete("x").text)


async def drained(engine: Any) -> None:
    """Chat, and read the answer to its end."""
    answer = await engine.astream_chat("What is a tally?")
    assert [part async for part in answer.async_response_gen()]


async def jobs(house: House) -> None:
    """Seven calls, three at a time."""
    await run_jobs([house.llm.acomplete(str(n)) for n in range(7)], workers=3)


async def tool(house: House) -> None:
    """A tool that isn't asynchronous, called as an agent calls it."""
    called = FunctionTool.from_defaults(lambda: house.llm.complete("x").text, name="ask")
    await called.acall()


def drain_text(engine: Any) -> None:
    """Chat, and read the answer to its end."""
    assert list(engine.stream_chat("What is a tally?").response_gen)


SYNC: dict[str, tuple[Callable[[House], Any], int, int]] = {
    "query engine": (
        lambda house: house.index.as_query_engine(llm=house.llm).query("x"),
        1,
        1,
    ),
    "query engine, streaming": (
        lambda house: list(
            house.index.as_query_engine(llm=house.llm, streaming=True).query("x").response_gen
        ),
        1,
        1,
    ),
    "SimpleChatEngine": (
        lambda house: drain_text(simple_engine(house)),
        1,
        0,
    ),
    "ContextChatEngine": (lambda house: drain_text(context_engine(house)), 1, 1),
    "CondensePlusContextChatEngine": (lambda house: drain_text(condensing(house)), 2, 1),
    "CondenseQuestionChatEngine": (lambda house: drain_text(condensed(house)), 2, 1),
    "fusion": (lambda house: fusion(house, use_async=False).retrieve("x"), 1, 2),
    "fusion, use_async": (lambda house: fusion(house, use_async=True).retrieve("x"), 1, 4),
    "sub-questions": (lambda house: sub_questions(house, use_async=False).query("x"), 3, 2),
    "sub-questions, use_async": (
        lambda house: sub_questions(house, use_async=True).query("x"),
        3,
        2,
    ),
    "tree summary": (
        lambda house: synthesizer(house, ResponseMode.TREE_SUMMARIZE).synthesize("x", found()),
        4,
        0,
    ),
    "tree summary, use_async": (
        lambda house: synthesizer(house, ResponseMode.TREE_SUMMARIZE, use_async=True).synthesize(
            "x", found()
        ),
        4,
        0,
    ),
    "accumulate, use_async": (
        lambda house: synthesizer(house, ResponseMode.ACCUMULATE, use_async=True).synthesize(
            "x", found()
        ),
        3,
        0,
    ),
    "summary index": (
        lambda house: (
            SummaryIndex.from_documents(documents()).as_query_engine(llm=house.llm).query("x")
        ),
        1,
        0,
    ),
    "ingestion": (lambda house: pipeline(house).run(documents=documents()), 9, 3),
}
"""What is run, and how many LLM calls and how many embedded texts that takes."""

ASYNC: dict[str, tuple[Callable[[House], Awaitable[Any]], int, int]] = {
    "query engine": (
        lambda house: house.index.as_query_engine(llm=house.llm).aquery("x"),
        1,
        1,
    ),
    "SimpleChatEngine": (
        lambda house: drained(simple_engine(house)),
        1,
        0,
    ),
    "ContextChatEngine": (lambda house: drained(context_engine(house)), 1, 1),
    "CondensePlusContextChatEngine": (lambda house: drained(condensing(house)), 2, 1),
    "fusion": (lambda house: fusion(house, use_async=True).aretrieve("x"), 1, 4),
    "sub-questions": (lambda house: sub_questions(house, use_async=True).aquery("x"), 3, 2),
    "tree summary": (
        lambda house: synthesizer(house, ResponseMode.TREE_SUMMARIZE).asynthesize("x", found()),
        4,
        0,
    ),
    "ingestion": (lambda house: pipeline(house).arun(documents=documents()), 9, 3),
    "run_jobs": (jobs, 7, 0),
    "tool": (tool, 1, 0),
    "workflow": (lambda house: Three(house).run(), 4, 0),
    "workflow with a thread": (lambda house: InThreads(house).run(), 1, 0),
}


# --- The scopes around it --------------------------------------------------------------------


@contextmanager
def exactly(house: House, llm_calls: int, embedded: int) -> Iterator[None]:
    """A scope that must count just these, and everything that is counted at all."""
    with house.handler.scope("request", user="ada") as request:
        yield
    assert counted(request) == house.counted() == (llm_calls, embedded)
    events = [*house.handler.llm_token_counts, *house.handler.embedding_token_counts]
    assert {event.scope for event in events} == {"request"}
    assert {event.tags["user"] for event in events} == {"ada"}


BORROWING_THREADS = ("tool", "workflow with a thread")
"""What LlamaIndex runs in threads of an event loop."""


def table(rows: dict[str, Any]) -> pytest.MarkDecorator:
    """Run a test once for each row."""
    params = [
        pytest.param(
            work, id=name, marks=needs_context_in_threads if name in BORROWING_THREADS else ()
        )
        for name, work in rows.items()
    ]
    return pytest.mark.parametrize("work", params)


@table(SYNC)
def test_a_scope_holds_through(work: Any, house: House):
    """Whatever threads and loops are started for it, all of it counts in its scope."""
    run, llm_calls, embedded = work
    with exactly(house, llm_calls, embedded):
        run(house)


@needs_context_in_threads
@table(SYNC)
def test_a_scope_holds_inside_a_running_loop(work: Any, house: House):
    """There LlamaIndex runs its coroutines in another thread, with a loop of its own."""
    run, llm_calls, embedded = work

    async def main() -> None:
        run(house)

    with exactly(house, llm_calls, embedded):
        asyncio.run(main())


@table(ASYNC)
def test_a_scope_holds_through_tasks(work: Any, house: House):
    """Tasks inherit it, and so do the threads that they borrow."""
    run, llm_calls, embedded = work

    async def main() -> None:
        with exactly(house, llm_calls, embedded):
            await run(house)

    asyncio.run(main())


@table(SYNC)
def test_threads_do_not_mix(work: Any, house: House):
    """The same in four threads at once: each scope has its own figures, and no other's."""
    run, llm_calls, embedded = work
    barrier = threading.Barrier(4)

    def request(number: int) -> tuple[int, int]:
        with house.handler.scope(f"request-{number}") as scope:
            barrier.wait()
            run(house)
        return counted(scope)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(request, range(4))) == [(llm_calls, embedded)] * 4
    assert house.counted() == (4 * llm_calls, 4 * embedded)


@table(ASYNC)
def test_tasks_do_not_mix(work: Any, house: House):
    """The same in four tasks at once."""
    run, llm_calls, embedded = work

    async def request(number: int) -> tuple[int, int]:
        with house.handler.scope(f"request-{number}") as scope:
            await run(house)
        return counted(scope)

    async def main() -> list[tuple[int, int]]:
        return await asyncio.gather(*map(request, range(4)))

    assert asyncio.run(main()) == [(llm_calls, embedded)] * 4
    assert house.counted() == (4 * llm_calls, 4 * embedded)


@table(SYNC)
def test_a_generator_run_step_by_step_keeps_its_scope(work: Any, house: House):
    """A web framework runs each step in a thread, with a context that knows no scope."""
    run, llm_calls, embedded = work

    def answer() -> Iterator[Any]:
        with house.handler.scope("request") as request:
            yield request
            run(house)
            yield request

    async def main() -> Any:
        steps = answer()
        await asyncio.to_thread(next, steps)
        return await asyncio.to_thread(next, steps)

    assert counted(asyncio.run(main())) == (llm_calls, embedded)


@pytest.mark.parametrize("method", ["stream_chat", "stream_complete"])
def test_a_stream_counts_where_it_was_asked_for(method: str, house: House):
    """Also when another scope, in another thread, reads it."""
    with house.handler.scope("asked") as asked:
        stream = getattr(house.llm, method)(HELLO if method == "stream_chat" else "x")

    def read() -> tuple[int, int]:
        with house.handler.scope("read") as scope:
            assert list(stream)
        return counted(scope)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(read).result() == (0, 0)
    assert counted(asked) == house.counted() == (1, 0)


@needs_context_in_threads
def test_tags_of_workflows_own_are_left_out(house: House):
    """They are new with each run and hold prompts; those of the user's own are kept."""

    async def main() -> None:
        with instrument_tags({"user": "ada"}):
            await InThreads(house).run()

    asyncio.run(main())
    assert [event.tags for event in house.handler.llm_token_counts] == [{"user": "ada"}]

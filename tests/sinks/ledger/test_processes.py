"""A ledger that processes share: forked, spawned, of a pool, of a pipeline, of a server."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from llama_index.core import Document
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

from llama_token_tracker import Ledger, TokenCountingHandler
from llama_token_tracker.testing import LoopbackProvider
from tests.workers import WATCHDOG_S, answers_of_workers

MESSAGES = [ChatMessage(role="user", content="What did the author do?")]
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


def _model(url: str, handler: TokenCountingHandler) -> OpenAI:
    return OpenAI(
        model="gpt-4o-mini",
        api_key="none",
        api_base=url,
        max_retries=0,
        callback_manager=CallbackManager([handler]),
    )


def _ask(handler: TokenCountingHandler, url: str, times: int) -> int:
    """Call a model in a worker, and say what this copy of the handler has counted by then."""
    model = _model(url, handler)
    for _ in range(times):
        model.chat(MESSAGES)
    return handler.total_llm_token_count


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_pool_are_in_their_parents_totals(method: str, tmp_path: Path) -> None:
    """Each call once, whichever way the handler has come to them, and however they end."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this platform")
    handler = TokenCountingHandler(ledger=tmp_path / "usage.db")
    with LoopbackProvider() as provider:
        url = provider.url("openai")
        _ask(handler, url, 2)
        context = multiprocessing.get_context(method)
        with ProcessPoolExecutor(2, mp_context=context) as pool:
            list(pool.map(_ask, [handler] * 4, [url] * 4, [3] * 4))
        # Its `with` block ends its workers at once.
        with context.Pool(2) as workers:
            workers.starmap(_ask, [(handler, url, 3)] * 4)
        billed = [usage.total_tokens for usage in provider.billed]
    assert len(billed) == 26
    assert handler.refresh() == 24
    assert handler.refresh() == 0
    assert handler.total_llm_token_count == sum(billed)
    assert len(handler.llm_token_counts) == 26


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_workers_put_aside_is_in_their_parents_totals(method: str, tmp_path: Path) -> None:
    """They found the file locked, weren't held up by that, and were ended before it was free."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this platform")
    path = tmp_path / "usage.db"
    handler = TokenCountingHandler(ledger=Ledger(path, flush_every_s=0.1))
    with LoopbackProvider() as provider:
        url = provider.url("openai")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with multiprocessing.get_context(method).Pool(2) as workers:
                workers.starmap(_ask, [(handler, url, 3)] * 4)
            other.execute("ROLLBACK")
        billed = [usage.total_tokens for usage in provider.billed]
    assert len(billed) == 12
    assert list(tmp_path.glob("*.spill.jsonl"))
    assert handler.refresh() == 12
    assert handler.total_llm_token_count == sum(billed)
    assert not list(tmp_path.glob("*.spill.jsonl"))


@needs_fork
def test_a_forked_child_writes_what_it_calls_and_nothing_else(tmp_path: Path) -> None:
    """What waited in the parent is the parent's to write."""
    path = tmp_path / "usage.db"
    handler = TokenCountingHandler(ledger=path)
    with LoopbackProvider() as provider:
        url = provider.url("openai")
        _ask(handler, url, 5)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _ask(handler, url, 3)
                code = 0 if handler.flush(30) else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert handler.flush(30)
        billed = sum(usage.total_tokens for usage in provider.billed)
    assert handler.refresh() == 3
    assert handler.total_llm_token_count == billed
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM ledger_calls").fetchone() == (8,)
        assert connection.execute("SELECT count(*) FROM ledger_processes").fetchone() == (2,)
        runs = connection.execute("SELECT count(DISTINCT run) FROM ledger_processes").fetchone()
    assert runs == (1,)


@pytest.mark.slow
def test_a_pipelines_workers_count_what_the_provider_billed(tmp_path: Path) -> None:
    """`IngestionPipeline(num_workers=2)`: a watch goes along, once a worker."""
    handler = TokenCountingHandler(ledger=tmp_path / "usage.db", watch=True)
    assert handler.watching is not None
    with handler.watching, LoopbackProvider() as provider:
        embed_model = OpenAIEmbedding(
            api_key="none",
            max_retries=0,
            api_base=provider.url("openai"),
            embed_batch_size=2,
            callback_manager=CallbackManager([handler]),
        )
        splitter = SentenceSplitter(chunk_size=64, chunk_overlap=0, tokenizer=str.split)
        pipeline = IngestionPipeline(transformations=[splitter, embed_model])
        essay = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
        documents = [Document(text=f"{number}. {essay}") for number in range(4)]
        nodes = pipeline.run(documents=documents, num_workers=2)
        billed = [usage.total_tokens for usage in provider.billed]
    assert handler.total_embedding_token_count == 0
    handler.refresh()
    assert len(billed) > 4
    assert len(handler.embedding_token_counts) == len(nodes)
    assert handler.total_embedding_token_count == sum(billed)
    assert {event.source for event in handler.embedding_token_counts} == {"reported"}


@pytest.mark.slow
@needs_fork
def test_workers_of_a_server_are_in_one_ledger(tmp_path: Path) -> None:
    """gunicorn, four workers under load, forked once the application is loaded."""
    path = tmp_path / "usage.db"
    with LoopbackProvider() as provider:
        told = answers_of_workers(120, 5, PROVIDER_URL=provider.url("openai"), LEDGER=str(path))
        billed = [usage.total_tokens for usage in provider.billed]
    assert len({one["worker"] for one in told}) == 4
    with closing(sqlite3.connect(path)) as connection:
        total = "count(*), sum(input_tokens) + sum(output_tokens), count(DISTINCT process_id)"
        found = connection.execute(f"SELECT {total} FROM ledger_calls").fetchone()
    # The master has called once, before it forked.
    assert found == (121, sum(billed), 5)


@pytest.mark.slow
@needs_fork
def test_without_a_ledger_a_worker_says_that_its_parent_does_not_see_its_calls() -> None:
    """Once, at its first call; and a pool that makes none says nothing."""
    with LoopbackProvider() as provider:
        code = f"""
import multiprocessing
from tests.sinks.ledger.test_processes import _ask, TokenCountingHandler
handler = TokenCountingHandler()
context = multiprocessing.get_context("fork")
with context.Pool(1) as workers:
    workers.map(len, ["none"])
print("first pool done", flush=True)
with context.Pool(1) as workers:
    workers.starmap(_ask, [(handler, {provider.url("openai")!r}, 2)] * 2)
"""
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=WATCHDOG_S
        )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("its parent's totals don't have them") == 1

"""What is written of calls, by real SDKs to a loopback provider, and read again."""

import json
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.llms.openai import OpenAI
from openai import OpenAI as Client
from sqlalchemy import text

from llama_token_tracker import (
    Ledger,
    LedgerError,
    TokenCountingEvent,
    TokenCountingHandler,
    Tracker,
    Usage,
    watch,
)
from llama_token_tracker.sinks.ledger.schema import ROLLUPS
from llama_token_tracker.testing import LoopbackProvider, Reply

MESSAGES = [ChatMessage(role="user", content="What did the author do?")]
USAGE = Usage(input_tokens=7_013, output_tokens=419, cache_read_tokens=3_001, reasoning_tokens=211)


def _model(provider: LoopbackProvider, handler: TokenCountingHandler) -> OpenAI:
    return OpenAI(
        model="gpt-4o-mini",
        api_key="none",
        api_base=provider.url("openai"),
        max_retries=0,
        callback_manager=CallbackManager([handler]),
    )


def _rows(path: Path, sql: str = "SELECT * FROM ledger_events") -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(sql)]


def test_all_that_is_known_of_a_call_is_in_its_row(tmp_path: Path) -> None:
    """Buckets, sources, scope, tags, model, cost and its certain part, host and run."""
    path = tmp_path / "usage.db"
    handler = TokenCountingHandler(ledger=path)
    with LoopbackProvider(Reply(usage=USAGE)) as provider, handler.scope("request", user="ada"):
        _model(provider, handler).chat(MESSAGES)
    assert handler.flush(30)
    (event,) = handler.llm_token_counts
    (row,) = _rows(path)
    assert row["id"] == bytes.fromhex(event.id)
    assert {name: row[name] for name in USAGE.reported()} == USAGE.reported()
    assert (row["input_source"], row["output_source"]) == ("reported", "reported")
    assert (row["status"], row["operation"], row["model"]) == ("complete", "chat", event.model)
    assert row["model_served"] == event.served.model
    assert (row["scope"], json.loads(row["tags"])) == ("request", {"user": "ada"})
    assert event.cost is not None
    assert row["cost_nanodollars"] == round(event.cost.usd * 10**9)
    assert row["certain_nanodollars"] == (row["cost_nanodollars"] if event.cost.is_whole else 0)
    assert row["price_source"] == event.cost.source
    assert row["number"] == 1
    assert row["started_us"] == pytest.approx(event.started_s * 1e6, abs=2)


def test_sums_by_hour_and_day_are_those_of_the_calls(tmp_path: Path) -> None:
    """Whatever was written in how many batches."""
    path = tmp_path / "usage.db"
    handler = TokenCountingHandler(ledger=path)
    with LoopbackProvider(Reply(usage=USAGE)) as provider:
        model = _model(provider, handler)
        for _ in range(5):
            model.chat(MESSAGES)
            assert handler.flush(30)
    names = "sum(input_tokens), sum(output_tokens), sum(cache_read_tokens), sum(cost_nanodollars)"
    with closing(sqlite3.connect(path)) as connection:
        told = [
            connection.execute(f"SELECT {calls}, {names} FROM {table}").fetchall()
            for table, calls in (
                ("ledger_calls", "count(*)"),
                *((rollup.table.name, "sum(calls)") for rollup in ROLLUPS.values()),
            )
        ]
    assert told == [told[0]] * 4
    labels = _rows(path, "SELECT DISTINCT label_id FROM ledger_quarters")
    assert labels == [{"label_id": 0}]
    assert told[0][0][:2] == (5, 5 * 7_013)


def test_a_ledger_outlives_the_handler_and_takes_up_another(tmp_path: Path) -> None:
    """As after a restart: the second one's calls come beside the first one's."""
    path = tmp_path / "usage.db"
    with LoopbackProvider(Reply(usage=USAGE)) as provider:
        for _ in range(2):
            with Ledger(path) as ledger:
                handler = TokenCountingHandler(ledger=ledger)
                _model(provider, handler).chat(MESSAGES)
                assert handler.close(30)
    assert len({row["run"] for row in _rows(path)}) == len(_rows(path)) == 2


def test_a_watch_alone_writes_what_an_sdk_calls(tmp_path: Path) -> None:
    """`watch(ledger=…)`: nobody else counts."""
    path = tmp_path / "usage.db"
    with (
        LoopbackProvider(Reply(usage=USAGE)) as provider,
        watch(ledger=path) as watched,
        Client(**provider.arguments("openai")) as client,
    ):
        client.chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}]
        )
        assert watched.tracker.flush(30)
        (event,) = watched.tracker.llm_token_counts
    (row,) = _rows(path)
    assert row["input_tokens"] == 7_013
    assert row["request_id"] == event.request_id == event.event_id != ""


def test_a_frameworks_call_has_its_requests_id_if_its_client_is_watched(tmp_path: Path) -> None:
    """What the provider said in a header, beside LlamaIndex's own ids."""
    handler = TokenCountingHandler(ledger=tmp_path / "usage.db", watch=True)
    assert handler.watching is not None
    with handler.watching, LoopbackProvider(Reply(usage=USAGE)) as provider:
        _model(provider, handler).chat(MESSAGES)
    assert handler.flush(30)
    (row,) = _rows(tmp_path / "usage.db")
    (event,) = handler.llm_token_counts
    assert row["request_id"] == event.request_id is not None
    assert event.request_id != event.event_id


def test_the_same_event_given_twice_is_written_once(tmp_path: Path) -> None:
    """By its id, within a batch and beyond it; sums don't count it again."""
    path = tmp_path / "usage.db"
    ledger = Ledger(path)
    event = TokenCountingEvent("", "", 5, 7, started_s=1_750_000_000.25)
    for _ in range(2):
        ledger(event)
        ledger(event)
        assert ledger.flush(30)
    assert len(_rows(path)) == 1
    assert [row["calls"] for row in _rows(path, "SELECT calls FROM ledger_hours")] == [1]


def test_texts_are_written_only_if_asked_for(tmp_path: Path) -> None:
    """`keep_text=True` of the ledger, whatever the handler keeps."""
    event = TokenCountingEvent("a prompt", "an answer", 5, 7)
    for name, kept in (("without.db", []), ("with.db", [("a prompt", "an answer")])):
        ledger = Ledger(tmp_path / name, keep_text=bool(kept))
        ledger(event)
        assert ledger.flush(30)
        rows = _rows(tmp_path / name, "SELECT prompt, completion FROM ledger_texts")
        assert [tuple(row.values()) for row in rows] == kept


def test_on_sync_a_call_is_there_when_its_end_returns(tmp_path: Path) -> None:
    """Read by another connection at once, without any flush."""
    path = tmp_path / "usage.db"
    handler = TokenCountingHandler(ledger=Ledger(path, durability="sync"))
    with LoopbackProvider(Reply(usage=USAGE)) as provider:
        model = _model(provider, handler)
        for number in range(1, 4):
            model.chat(MESSAGES)
            assert len(_rows(path)) == number


def test_what_is_read_again_is_the_event_that_was_written(tmp_path: Path) -> None:
    """Another process's events, costs included, but for the texts that weren't kept."""
    path = tmp_path / "usage.db"
    writer, reader = Ledger(path, run="one"), Ledger(path, run="one")
    counting, reading = Tracker(ledger=writer), Tracker(ledger=reader)
    event = TokenCountingEvent(
        prompt="",
        completion="",
        prompt_token_count=7_013,
        completion_token_count=419,
        usage=USAGE,
        prompt_source="reported",
        completion_source="counted",
        status="abandoned",
        provider="openai",
        model="gpt-4o-mini",
        started_s=1_750_000_000.25,
        duration_s=1.5,
        scope="a/b",
        tags={"user": "ada"},
        not_understood=("usage.x",),
    )
    counting.record(event)
    assert counting.flush(30)
    assert reading.close(30)
    assert reading.refresh() == 1
    assert reading.refresh() == 0
    (read,) = reading.llm_token_counts
    assert read == event
    assert read.id == event.id
    assert event.cost is not None
    assert read.cost is not None
    assert read.cost.usd == event.cost.usd
    assert read.cost.is_whole == event.cost.is_whole
    assert reading.total_cost_usd == counting.total_cost_usd


def test_a_copy_in_this_process_shares_the_ledger_and_counts_apart(tmp_path: Path) -> None:
    """Each event is written once, whichever of the two counts it."""
    path = tmp_path / "usage.db"
    tracker = Tracker(ledger=path)
    copied: Tracker = pickle.loads(pickle.dumps(tracker))
    tracker.record(TokenCountingEvent("", "", 5, 7))
    copied.record(TokenCountingEvent("", "", 11, 13))
    assert tracker.flush(30)
    assert copied.flush(30)
    assert sorted(row["number"] for row in _rows(path)) == [1, 2]
    assert tracker.total_llm_token_count == 12


def test_it_is_in_postgresql_as_well(postgres_url: str) -> None:
    """The same code, on a real server: calls, sums, texts, and what another process reads."""
    writer, reader = (
        Ledger(postgres_url, run="one", keep_text=True),
        Ledger(postgres_url, run="one"),
    )
    event = TokenCountingEvent("a", "b", 7_013, 419, usage=USAGE, model="gpt-4o-mini")
    tracker, reading = Tracker(ledger=writer), Tracker(ledger=reader)
    for _ in range(2):
        tracker.record(event)
        assert tracker.flush(30)
    assert reading.refresh() == 1
    (read,) = reading.llm_token_counts
    assert (read.id, read.prompt, read.completion) == (event.id, "a", "b")
    with writer.engine.connect() as connection:
        sums = connection.execute(text("SELECT sum(calls), sum(input_tokens) FROM ledger_days"))
        assert sums.one() == (1, 7_013)
    writer.close()
    reader.close()


def test_two_who_count_are_refused_where_one_is_meant(tmp_path: Path) -> None:
    """A ledger is its counter's, and `watch` says so."""
    with pytest.raises(ValueError, match="nowhere"):
        raise LedgerError("nowhere")  # noqa: EM101 - it's a ValueError, too
    with pytest.raises(TypeError, match="token_counter and ledger"):
        watch(Tracker(), ledger=tmp_path / "usage.db")

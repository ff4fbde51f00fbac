"""Calls as rows and frames, of what has just counted them."""

import subprocess
import sys
from datetime import UTC
from decimal import Decimal

import pytest

from llama_token_tracker import TokenCountingEvent, Tracker
from llama_token_tracker.events.frames import COLUMNS
from tests.needs import needs
from tests.sinks.ledger.filled import START, calls, event


def counted(*events: TokenCountingEvent) -> Tracker:
    """A tracker that has recorded these calls."""
    tracker = Tracker()
    for one in events:
        tracker.record(one)
    return tracker


def test_rows_are_all_calls_oldest_first() -> None:
    """Embeddings and failed ones included, each once."""
    made = calls(50)
    made.append(event(operation="embedding"))
    rows = counted(*made).to_dicts()
    assert [row["id"] for row in rows] == [
        one.id for one in sorted(made, key=lambda one: one.started_s or 0)
    ]
    assert all(tuple(row) == tuple(COLUMNS) for row in rows)


def test_a_row_has_decimals_and_times() -> None:
    """No float holds dollars; what isn't known is None, and what is free costs zero."""
    known, unknown = event(), event(model="nobody's", usage=event().usage)
    free = event(status="failed", usage=type(known.usage)())
    free.prompt_token_count = free.completion_token_count = free.total_token_count = 0
    rows = {row["id"]: row for row in counted(known, unknown, free).to_dicts()}
    row = rows[known.id]
    assert row["started_at"] == START
    assert (row["cost_usd"], row["certain_usd"]) == (known.cost_usd, known.cost_usd)
    assert isinstance(row["cost_usd"], Decimal)
    assert (row["input_tokens"], row["reasoning_tokens"]) == (1_013, None)
    assert (row["tags"], row["scope"]) == ({"user": "ada"}, "request/step")
    assert (rows[unknown.id]["cost_usd"], rows[free.id]["cost_usd"]) == (None, 0)


@pytest.mark.slow
@needs("pandas")
def test_a_frame_of_pandas_has_the_right_types() -> None:
    """Sums of dollars stay exact; a bucket that isn't reported is <NA>."""
    made = calls(200)
    frame = counted(*made).to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert str(frame["started_at"].dtype) == "datetime64[us, UTC]"
    assert str(frame["input_tokens"].dtype) == "Int64"
    costs = frame["cost_usd"].dropna()
    assert costs.sum() == sum(one.cost_usd or 0 for one in made)
    assert isinstance(costs.sum(), Decimal)
    assert frame["reasoning_tokens"].isna().sum() == sum(
        one.usage.reasoning_tokens is None for one in made
    )
    assert counted().to_pandas().empty


@needs("polars")
def test_a_frame_of_polars_has_the_right_types() -> None:
    """The same, dollars to the twelfth place."""
    import polars as pl

    made = calls(200)
    frame = counted(*made).to_polars()
    assert frame.schema["started_at"] == pl.Datetime("us", "UTC")
    assert frame.schema["cost_usd"] == pl.Decimal(38, 12)
    assert frame["cost_usd"].sum() == sum(one.cost_usd or 0 for one in made)
    assert frame["started_at"].max() == max(one.started_at or START for one in made)
    assert frame["tags"].to_list()[0].startswith('{"')
    assert counted().to_polars().is_empty()


def test_frames_of_a_scope_are_its_own() -> None:
    """A scope reads as its tracker does."""
    tracker = Tracker()
    with tracker.scope("request") as scope:
        pass
    tracker.record(event())
    assert scope.to_dicts() == []
    assert len(tracker.to_dicts()) == 1


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_a_missing_package_names_its_extra(package: str) -> None:
    """With the command that installs it."""
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from llama_token_tracker import Tracker\nTracker().to_{package}()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr.splitlines()[-1].endswith(
        f'isn\'t installed; pip install ".[{package}]" in a clone of this project.'
    )


def test_times_are_utc() -> None:
    """Whatever the clock of the machine says."""
    (row,) = counted(event()).to_dicts()
    assert row["started_at"].tzinfo is UTC

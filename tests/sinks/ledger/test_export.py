"""What of a ledger is written to files, read again by others' readers."""

import csv
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llama_token_tracker import Tracker, cli
from llama_token_tracker.sinks.ledger import focus
from llama_token_tracker.sinks.ledger.existing import existing
from llama_token_tracker.sinks.ledger.query import Query
from tests.needs import needs
from tests.sinks.ledger.filled import calls, event, fill

HOSTILE = ("=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1")


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    """A ledger of a few hundred calls."""
    path = str(tmp_path / "usage.db")
    fill(path, calls(300))
    return path


def written(ledger: str, tmp_path: Path, *arguments: str) -> Path:
    """The file that `export` has written."""
    target = tmp_path / "out"
    assert cli.main(["export", ledger, *arguments, "-o", str(target)]) == 0
    assert [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
    return target


def test_a_ledgers_rows_are_those_of_the_tracker_that_wrote_it(tmp_path: Path) -> None:
    """With the same types, to the last nanodollar."""
    tracker = Tracker(ledger=tmp_path / "usage.db")
    for one in calls(200):
        tracker.record(one)
    assert tracker.close(30)
    rows = Query(existing(tmp_path / "usage.db")).to_dicts()
    assert rows == tracker.to_dicts()


@pytest.mark.slow
@needs("pandas", "polars")
def test_frames_of_a_ledger(ledger: str) -> None:
    """The same sums, whichever frame."""
    query = Query(existing(ledger), where={"user": "ada"})
    expected = query.sums().total
    pandas, polars = query.to_pandas(), query.to_polars()
    assert len(pandas) == len(polars) == expected.calls
    assert pandas["cost_usd"].dropna().sum() == polars["cost_usd"].sum() == expected.cost_usd


def test_csv_is_read_by_a_reader_of_csv(ledger: str, tmp_path: Path) -> None:
    """All calls, dollars in full."""
    with written(ledger, tmp_path, "--csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    query = Query(existing(ledger))
    assert [row["id"] for row in rows] == [row["id"] for row in query]
    costs = [Decimal(row["cost_usd"]) for row in rows if row["cost_usd"]]
    assert sum(costs) == query.sums().total.cost_usd
    assert json.loads(rows[0]["tags"])


def test_jsonl_is_an_object_a_line(ledger: str, tmp_path: Path) -> None:
    """Chosen as a report's calls are."""
    target = written(ledger, tmp_path, "--jsonl", "--where", "user=bob", "--since", "2026-03-29")
    rows: list[dict[str, Any]] = [json.loads(line) for line in target.read_text().splitlines()]
    query = Query(existing(ledger), where={"user": "bob"}, since="2026-03-29")
    assert len(rows) == query.sums().total.calls > 0
    assert {row["tags"]["user"] for row in rows} == {"bob"}


@needs("pyarrow")
def test_parquet_has_types(ledger: str, tmp_path: Path) -> None:
    """Decimals and times with a zone, read by pyarrow."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(written(ledger, tmp_path, "--parquet"))
    assert table.schema.field("cost_usd").type == pa.decimal128(38, 9)
    assert table.schema.field("started_at").type == pa.timestamp("us", "UTC")
    costs = [cost for cost in table["cost_usd"].to_pylist() if cost is not None]
    assert sum(costs) == Query(existing(ledger)).sums().total.cost_usd


def test_no_cell_is_a_formula(tmp_path: Path) -> None:
    """A model's or a tag's name is anybody's; JSON has it as it is."""
    path = str(tmp_path / "usage.db")
    fill(path, [event(model=name, scope=name) for name in HOSTILE])
    with written(path, tmp_path, "--csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))] == []
    lines = written(path, tmp_path, "--jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["model"] for line in lines} == set(HOSTILE)


@needs("pyarrow")
def test_focus_has_its_mandatory_columns_and_types(ledger: str, tmp_path: Path) -> None:
    """Its dollars and calls are the ledger's; what isn't known is null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = written(ledger, tmp_path, "--parquet", "--focus", "--billing-account", "1234")
    table = pq.read_table(target)
    assert table.column_names == list(focus.COLUMNS)
    assert table.schema.field("BilledCost").type == pa.decimal128(38, 9)
    rows = table.to_pylist()
    total = Query(existing(ledger)).sums().total
    assert sum(row["BilledCost"] or 0 for row in rows) == total.cost_usd
    assert sum(row["x_Calls"] for row in rows) == total.calls
    assert sum(row["ConsumedQuantity"] for row in rows) == total.tokens
    for row in rows:
        assert row["BillingAccountId"] == "1234"
        assert (row["ChargeCategory"], row["ServiceCategory"]) == (
            "Usage",
            "AI and Machine Learning",
        )
        assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"]
        assert row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
        assert row["BillingPeriodEnd"].day == row["BillingPeriodStart"].day == 1
        assert (row["BilledCost"] is None) == (row["x_UnpricedCalls"] == row["x_Calls"])


def test_focus_without_an_account_says_so(
    ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is made up."""
    row = json.loads(written(ledger, tmp_path, "--jsonl", "--focus").read_text().splitlines()[0])
    assert row["BillingAccountId"] is None
    assert "--billing-account" in capsys.readouterr().err


def test_a_file_is_there_in_whole_or_not_at_all(
    ledger: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ledger itself is never written over."""
    before = Path(ledger).read_bytes()
    assert cli.main(["export", ledger, "--csv", "-o", ledger]) == 2
    assert Path(ledger).read_bytes() == before
    assert cli.main(["export", ledger, "--csv", "--where", "usr=x", "-o", str(tmp_path / "a")]) == 2
    assert cli.main(["export", ledger, "--csv", "-o", str(tmp_path / "no" / "a")]) == 2
    assert capsys.readouterr().err.count("error: ") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["usage.db"]


@pytest.mark.slow
def test_stdout_takes_it_too(ledger: str) -> None:
    """Bytes alone, as a pipe's reader wants them."""
    command = [sys.executable, "-m", "llama_token_tracker", "export", ledger, "--jsonl"]
    done = subprocess.run(command, capture_output=True, timeout=60, check=True)
    assert len(done.stdout.splitlines()) == 300
    assert done.stderr == b""

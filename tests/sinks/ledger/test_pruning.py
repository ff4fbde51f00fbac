"""Old calls deleted: what goes, what stays, and what reports say then."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine, text

from llama_token_tracker import LedgerError, cli
from llama_token_tracker.sinks.ledger.existing import existing
from llama_token_tracker.sinks.ledger.pruning import preview, prune
from llama_token_tracker.sinks.ledger.query import Query
from tests.needs import needs
from tests.sinks.ledger.filled import START, calls, event, fill

MARCH, APRIL, MAY = (datetime(2026, month, 1, tzinfo=UTC) for month in (3, 4, 5))


def us(at: datetime) -> int:
    """A moment as ledgers have it."""
    return round(at.timestamp() * 1e6)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """A ledger of calls in March, April and May, with their texts, that can be changed."""
    url = (
        str(tmp_path / "usage.db")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    fill(url, calls(600, days=60), keep_text=True)
    engine = existing(url, writes=True)
    yield engine
    engine.dispose()


def count(engine: Engine, table: str) -> int:
    """How many rows there are."""
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


def test_calls_and_texts_go_and_their_sums_stay(engine: Engine) -> None:
    """Reports by day, model and tag are as they were; partitions go as a whole."""
    before = [Query(engine).sums(*by).rows for by in (("day", "model"), ("user",), ("hour",))]
    middle = us(APRIL) + 14 * 86_400_000_000
    told = preview(engine, middle)
    assert count(engine, "ledger_calls") == 600
    assert prune(engine, middle, expected=told.calls) == told
    left = count(engine, "ledger_calls")
    assert left == count(engine, "ledger_texts") == 600 - told.calls > 0
    if engine.dialect.name == "postgresql":
        assert told.months == ("ledger_calls_2026_03",)
    after = [Query(engine).sums(*by).rows for by in (("day", "model"), ("user",), ("hour",))]
    assert after == before
    assert prune(engine, middle).calls == 0


def test_a_report_says_what_pruned_calls_can_no_longer_tell(engine: Engine) -> None:
    """Odd minutes, and half hours where tags matter, are whole; runs have none of them."""
    zone = ZoneInfo("Asia/Kolkata")
    exact = Query(engine, zone=zone).sums("day")
    prune(engine, us(APRIL))
    note = "calls before 2026-04-01 were pruned: until then by whole {}, UTC"
    odd = START + timedelta(days=1, minutes=7)
    assert Query(engine, since=odd).sums("day").notes == (note.format("quarters of an hour"),)
    assert Query(engine, since=odd).sums("day", "user").notes == (note.format("hours"),)
    assert Query(engine, zone=zone).sums("day") == exact
    india = Query(engine, zone=zone).sums("day", "user")
    assert (india.total, india.notes) == (exact.total, (note.format("hours"),))
    by_run = Query(engine).sums("run")
    assert by_run.notes == ("calls before 2026-04-01 were pruned, and are left out here",)
    assert by_run.total.calls == count(engine, "ledger_calls") < 600
    assert Query(engine, since=MAY).sums("day").notes == ()


def test_nothing_is_deleted_if_there_are_others_than_were_exported(engine: Engine) -> None:
    """One came meanwhile, and isn't in the file."""
    with pytest.raises(LedgerError, match="nothing was deleted"):
        prune(engine, us(APRIL), expected=preview(engine, us(APRIL)).calls - 1)
    assert count(engine, "ledger_calls") == 600


def test_a_ledger_is_written_on_after_a_month_has_gone(engine: Engine) -> None:
    """A call of that month that comes late has its partition made again."""
    url = engine.url.render_as_string(hide_password=False)
    prune(engine, us(APRIL))
    fill(url, [event()])
    assert Query(engine).sums().total.calls == 601


@needs("pyarrow")
def test_the_command_writes_a_file_first(
    engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new one, which holds all that goes; a dry run changes nothing."""
    import pyarrow.parquet as pq

    url = engine.url.render_as_string(hide_password=False)
    expected = preview(engine, us(APRIL)).calls
    target = tmp_path / "march.parquet"
    command = ["prune", url, "--before", "2026-04-01"]
    assert cli.main([*command, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{expected} calls before 2026-04-01 UTC would be deleted")
    assert cli.main([*command, "--parquet", str(target)]) == 0
    assert pq.read_table(target).num_rows == expected
    assert count(engine, "ledger_calls") == 600 - expected
    assert cli.main([*command, "--parquet", str(target)]) == 2
    assert "is there already" in capsys.readouterr().err

"""What a ledger adds up, beside a plain loop over the same calls; on SQLite and PostgreSQL."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import Engine

from llama_token_tracker import LedgerError, TokenCountingEvent
from llama_token_tracker.sinks.ledger.existing import existing
from llama_token_tracker.sinks.ledger.query import Query
from tests.sinks.ledger.filled import START, calls, event, fill

CALLS = calls(3_000)
HOUR = timedelta(hours=1)

UNITS: dict[str, Callable[[datetime], str]] = {
    "hour": lambda at: f"{at:%Y-%m-%d %H:00}",
    "day": lambda at: f"{at:%Y-%m-%d}",
    "week": lambda at: f"{at:%G-W%V}",
    "month": lambda at: f"{at:%Y-%m}",
}


@pytest.fixture(scope="module")
def sqlite_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A ledger of `CALLS` in a file."""
    path = str(tmp_path_factory.mktemp("sums") / "usage.db")
    fill(path, CALLS)
    engine = existing(path)
    yield engine
    engine.dispose()


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """One of `CALLS` in SQLite or in PostgreSQL."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_engine")
        return
    url = request.getfixturevalue("postgres_url")
    fill(url, CALLS)
    engine = existing(url)
    yield engine
    engine.dispose()


def expected(
    chosen: list[TokenCountingEvent], by: tuple[str, ...], zone: tzinfo
) -> dict[tuple[str | None, ...], dict[str, Any]]:
    """The same sums, by a plain loop."""
    found: dict[tuple[str | None, ...], dict[str, Any]] = {}
    for one in chosen:
        assert one.started_at is not None
        at = one.started_at.astimezone(zone)
        fields = {**one.tags, "model": one.model, "scope": one.scope, "status": one.status}
        key = tuple(UNITS[name](at) if name in UNITS else fields.get(name) for name in by)
        row: dict[str, Any] = found.setdefault(key, Counter())
        row["calls"] += 1
        row["unpriced"] += one.cost is None and not one.is_free
        row["failed"] += one.status == "failed"
        row["unanswered"] += one.status == "unanswered"
        row["tokens"] += (one.usage.input_tokens or 0) + (one.usage.output_tokens or 0)
        row["reasoning"] += one.usage.reasoning_tokens or 0
        row["cost"] += one.cost_usd or Decimal(0)
        if one.cost is not None and one.cost.is_whole and one.status == "complete":
            row["certain"] += one.cost.usd
    return found


def told(query: Query, *by: str) -> dict[tuple[str | None, ...], dict[str, Any]]:
    """The ledger's sums in the same form."""
    return {
        group: Counter(
            calls=one.calls,
            unpriced=one.unpriced,
            failed=one.failed,
            unanswered=one.unanswered,
            tokens=one.tokens,
            reasoning=one.measures["reasoning_tokens"] or 0,
            cost=one.cost_usd or Decimal(0),  # type: ignore[arg-type]
            certain=one.certain_usd,  # type: ignore[arg-type]
        )
        for group, one in query.sums(*by).rows
    }


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
def test_sums_are_those_of_a_plain_loop(engine: Engine) -> None:
    """By any names, in any zone, the clocks' changes and half hours of it included."""
    for zone in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu"):
        clocks = ZoneInfo(zone)
        for by in (
            (),
            ("hour",),
            ("day",),
            ("week", "model"),
            ("month", "user", "status"),
            ("month", "week", "user"),
            ("scope",),
            ("team", "day"),
        ):
            assert told(Query(engine, zone=clocks), *by) == expected(CALLS, by, clocks), (zone, by)


def test_many_weeks_of_a_zone_with_half_hours_are_added_up(tmp_path: Path) -> None:
    """More of them than a query has parts for, or just as many as it has."""
    for days in (625, 637, 1_000):
        path = str(tmp_path / f"{days}.db")
        made = calls(300, days=days)
        fill(path, made)
        engine = existing(path)
        zone = ZoneInfo("Asia/Kolkata")
        by = ("week", "user")
        assert told(Query(engine, zone=zone), *by) == expected(made, by, zone)
        engine.dispose()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
def test_edges_are_exact_to_the_microsecond(engine: Engine) -> None:
    """What began at `since` is in, what began at `until` is out, wherever whole hours lie."""
    moments = [one.started_at for one in CALLS[:6] if one.started_at is not None]
    moments += [START.replace(minute=0) + 30 * HOUR, START + timedelta(minutes=5)]
    spans = [(low, high) for low in moments for high in moments if low < high]
    for since, until in spans:
        within = [one for one in CALLS if since <= (one.started_at or since) < until]
        query = Query(engine, since=since, until=until)
        assert told(query, "day") == expected(within, ("day",), UTC)
        assert len(query.to_dicts()) == len(within)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
def test_calls_are_chosen_by_what_they_have(engine: Engine) -> None:
    """Any value of one name and all names; a scope with those within it; "" is having none."""
    for where, is_meant in (
        ({"user": "ada"}, lambda one: one.tags.get("user") == "ada"),
        (
            {"user": ["ada", "bob"], "model": "gpt-4o"},
            lambda one: "user" in one.tags and one.model == "gpt-4o",
        ),
        ({"user": ""}, lambda one: "user" not in one.tags),
        ({"scope": "request"}, lambda one: one.scope in ("request", "request/step")),
        (
            {"tag:user": "bob", "status": ["failed"]},
            lambda one: one.tags.get("user") == "bob" and one.status == "failed",
        ),
        ({"model": "' OR 1=1 --"}, lambda one: False),
    ):
        chosen = [one for one in CALLS if is_meant(one)]
        query = Query(engine, where=where)
        assert told(query, "model") == expected(chosen, ("model",), UTC), where
        assert {row["id"] for row in query} == {one.id for one in chosen}, where


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
def test_runs_and_hosts_are_told_apart(engine: Engine) -> None:
    """These stand with the calls alone."""
    sums = Query(engine, where={"user": "ada"}).sums("run", "host")
    (((run, host), one),) = sums.rows
    assert run
    assert host
    assert one.calls == sum(call.tags.get("user") == "ada" for call in CALLS)
    assert Query(engine, where={"run": str(run)}).sums("run").total.calls == len(CALLS)


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"], indirect=True)
def test_a_name_that_no_call_has_is_refused_with_those_that_there_are(engine: Engine) -> None:
    """Rather than a report with one row that says (none)."""
    for ask in (
        lambda: Query(engine).sums("usr"),
        lambda: Query(engine, where={"usr": "x"}).sums(),
    ):
        with pytest.raises(LedgerError, match=r"no call has a tag 'usr'.*'team', 'user'"):
            ask()
    with pytest.raises(LedgerError, match="no call has a tag 'usr'"):
        Query(engine, where={"usr": "x"}).to_dicts()
    with pytest.raises(LedgerError, match="--since"):
        Query(engine, where={"day": "2026-03-28"}).sums()


def test_tags_of_any_name_and_value_are_grouped_by(tmp_path: Path) -> None:
    """Quotes, dots, dollars and signs that JSON or SQL know."""
    tags = {'a"b': "1", "$.x": "2", "a.b": "3", "it's": "4", "ключ": "5", "[0]": "6", ":v0": "7"}
    path = str(tmp_path / "usage.db")
    fill(path, [event(tags=tags)])
    query = Query(existing(path))
    for name, value in tags.items():
        assert [group for group, _ in query.sums(name).rows] == [(value,)]
        assert Query(existing(path), where={name: value}).sums().total.calls == 1


def test_what_nobody_reported_and_what_has_no_price_is_none(tmp_path: Path) -> None:
    """Neither is zero."""
    path = str(tmp_path / "usage.db")
    fill(path, [event(model="nobody's")])
    total = Query(existing(path)).sums("day").total
    assert (total.cost_usd, total.certain_usd, total.unpriced) == (None, 0, 1)
    assert total.measures["reasoning_tokens"] is None


def test_a_time_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """With what can be."""
    path = str(tmp_path / "usage.db")
    fill(path, [event()])
    for said in ("yesterdy", "2026-13-01", "9999999999d", "-1d", ""):
        with pytest.raises(LedgerError, match="is no time; give a date"):
            Query(existing(path), since=said)

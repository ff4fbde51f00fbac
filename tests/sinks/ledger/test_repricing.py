"""Costs reckoned anew: what changes, what stays, and the sums by hour and day with it."""

from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, text

from llama_token_tracker import Price, Prices, TokenCountingEvent
from llama_token_tracker.sinks.ledger.existing import existing
from llama_token_tracker.sinks.ledger.query import Query
from llama_token_tracker.sinks.ledger.repricing import Repricing
from llama_token_tracker.sinks.ledger.schema import ROLLUPS
from tests.sinks.ledger.filled import calls, event, fill, own_price

DOUBLE = Prices(prices={"gpt-4o": Price(5, 20), "nobody's": Price(1, 1)})

Opened = Callable[[list[TokenCountingEvent]], Engine]


@pytest.fixture(params=["sqlite", "postgresql"])
def opened(request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[Opened]:
    """Writes calls to a ledger, and opens that to be changed."""
    url = (
        str(tmp_path / "usage.db")
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    engines: list[Engine] = []

    def open_it(events: list[TokenCountingEvent]) -> Engine:
        fill(url, events)
        engines.append(existing(url, writes=True))
        return engines[-1]

    yield open_it
    for engine in engines:
        engine.dispose()


def totals(engine: Engine) -> list[tuple[Any, ...]]:
    """The same sums, of calls and of each rollup."""
    sums = "sum(cost_nanodollars), sum(certain_nanodollars)"
    with engine.connect() as connection:
        return [
            tuple(
                None if value is None else int(value)
                for value in connection.execute(text(f"SELECT {said}, {sums} FROM {table}")).one()
            )
            for table, said in (
                ("ledger_calls", "count(*), count(*) - count(cost_nanodollars)"),
                *(
                    (rollup.table.name, "sum(calls), sum(unpriced_calls)")
                    for rollup in ROLLUPS.values()
                ),
            )
        ]


def repricing(engine: Engine, **options: Any) -> Repricing:
    """Of all calls."""
    return Repricing(engine, **options)


def test_what_changes_is_told_before_it_is_written(opened: Opened) -> None:
    """By model, and the same again by what was written; then nothing is left to change."""
    made = calls(2_500)
    engine = opened(made)
    before = totals(engine)
    told = repricing(engine, prices=DOUBLE).preview()
    assert totals(engine) == before
    assert set(before) == {before[0]}
    for one in made:
        one.price_with(DOUBLE)
        one.__dict__.pop("_cost")
    assert repricing(engine, prices=DOUBLE).write() == told
    after = totals(engine)
    assert set(after) == {after[0]}
    assert Query(engine).sums().total.cost_usd == sum(one.cost_usd or 0 for one in made)
    assert told["nobody's"].unpriced_before > told["nobody's"].unpriced_after == 0
    assert told["gpt-4o-mini"].changed == 0
    assert all(not one.changed for one in repricing(engine, prices=DOUBLE).preview().values())
    rows = Query(engine).to_dicts()
    prices = {one.id: one.cost.source for one in made if one.cost is not None}
    assert {row["id"]: row["price_source"] for row in rows if row["price_source"]} == prices


def test_a_price_that_goes_is_unknown_in_the_sums_too(opened: Opened) -> None:
    """An hour whose calls all lose their price costs None, not 0."""
    engine = opened([own_price(event(model="nobody's"))])
    assert Query(engine).sums().total.cost_usd == Decimal("0.001435")
    repricing(engine, is_all=True).write()
    total = Query(engine).sums("day").total
    assert (total.cost_usd, total.certain_usd, total.unpriced) == (None, 0, 1)
    assert totals(engine)[1] == (1, 1, None, 0)


def test_prices_of_the_users_own_stay_unless_they_are_meant(opened: Opened) -> None:
    """They are counted as kept."""
    engine = opened([own_price(event()), event()])
    change = repricing(engine, prices=DOUBLE).write()["gpt-4o"]
    assert (change.calls, change.kept, change.changed) == (2, 1, 1)
    assert repricing(engine, is_all=True).write()["gpt-4o"].changed == 2


def test_prices_of_a_day_are_that_days(opened: Opened) -> None:
    """As though all calls had been made then."""
    prices = Prices(prices={"gpt-4o": [Price(1, 1), Price(2, 2, since=date(2027, 1, 1))]})
    engine = opened([event()])
    repricing(engine, prices=prices, as_of=date(2027, 5, 1)).write()
    assert Query(engine).sums().total.cost_usd == Decimal("0.002448")
    repricing(engine, prices=prices, as_of=date(2026, 12, 31), is_all=True).write()
    assert Query(engine).sums().total.cost_usd == Decimal("0.001224")


def test_a_call_that_cost_nothing_still_does(opened: Opened) -> None:
    """One that was refused before anything was used."""
    free = event(status="failed", usage=type(event().usage)())
    free.prompt_token_count = free.completion_token_count = free.total_token_count = 0
    engine = opened([free])
    assert repricing(engine, prices=DOUBLE).write()["gpt-4o"].changed == 0
    assert totals(engine)[0] == (1, 0, 0, 0)

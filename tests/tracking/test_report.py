"""What is read of recorded calls: their cost, what it leaves out, and how it follows the lists."""

import logging
import pickle
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker import Cost, Price, Prices, Tracker, Usage
from llama_token_tracker._lock import LOCK
from llama_token_tracker._log_once import forget_notices
from llama_token_tracker.events.event import TokenCountingEvent

PRICES = Prices(
    {
        "cheap": Price(input_mtok=1, output_mtok=2),
        "cached": Price(input_mtok=10, output_mtok=20, cache_read_mtok=1, cache_write_mtok=15),
    }
)


def call(model: str = "cheap", input_tokens: int = 1_000, **fields: Any) -> TokenCountingEvent:
    """A call that reported this input and 500 tokens of output."""
    usage = Usage(input_tokens=input_tokens, output_tokens=500, **fields.pop("parts", {}))
    known = {"prompt_source": "reported", "completion_source": "reported", **fields}
    return TokenCountingEvent("", "", 500, input_tokens, usage=usage, model=model, **known)


def tracked(*events: TokenCountingEvent, **options: Any) -> Tracker:
    """A tracker that has recorded these."""
    tracker = Tracker(prices=PRICES, **options)
    for event in events:
        tracker.record(event)
    return tracker


def test_calls_cost_what_their_prices_say():
    """1,000 tokens in at $1 and 500 out at $2 a million are $0.002."""
    tracker = tracked(call(), call())
    assert tracker.llm_token_counts[0].cost_usd == Decimal("0.002")
    assert tracker.total_cost_usd == Decimal("0.004")
    assert (tracker.unpriced_calls, tracker.unpriced_tokens) == (0, 0)


def test_unknown_is_not_zero():
    """A model without a price costs `None`; a sum says how many calls it leaves out."""
    tracker = tracked(call("nobody's"))
    assert tracker.llm_token_counts[0].cost_usd is None
    assert tracker.total_cost_usd is None
    tracker.record(call())
    assert tracker.total_cost_usd == Decimal("0.002")
    assert (tracker.unpriced_calls, tracker.unpriced_tokens) == (1, 1_500)


def test_unknown_is_not_zero_without_buckets_either():
    """An event that was made by hand may have tokens and no usage."""
    tracker = tracked(TokenCountingEvent("", "", 2, 3))
    assert (tracker.total_cost_usd, tracker.unpriced_tokens) == (None, 5)
    tracker.record(call())
    assert (tracker.total_cost_usd, tracker.unpriced_tokens) == (Decimal("0.002"), 5)


def test_a_call_is_unpriced_until_its_price_was_looked_up():
    """Totals that nobody has asked a cost of don't say that calls were free."""
    tracker = tracked(call())
    (row,) = tracker.totals().values()
    assert (row.cost_usd, row.unpriced_calls, row.unpriced_tokens) == (None, 1, 1_500)
    assert tracker.total_cost_usd == Decimal("0.002")
    (row,) = tracker.totals().values()
    assert (row.cost_usd, row.unpriced_calls, row.unpriced_tokens) == (Decimal("0.002"), 0, 0)


class _Unlocked(Prices):
    """Prices of a class of the user's own, during whose look-ups more calls are recorded."""

    def __init__(self, tracker: Tracker | None = None, more: int = 0) -> None:
        super().__init__({"cheap": Price(input_mtok=1, output_mtok=2)})
        self.tracker = tracker
        self.more = more

    def cost(self, *args: Any, **kwargs: Any) -> Cost | None:
        """Look a price up while others work."""
        assert not LOCK._is_owned()
        if self.tracker is not None and self.more:
            self.more -= 1
            self.tracker.record(call())
            self.tracker.catch_up()
        return super().cost(*args, **kwargs)


@pytest.mark.parametrize("more", [0, 1, 2, 50])
def test_prices_are_looked_up_without_the_lock(more: int):
    """Also of calls that come meanwhile; those that come too quickly are unpriced, not free."""
    tracker = Tracker()
    tracker.prices = _Unlocked(tracker, more)
    tracker.record(call())
    row = tracker.by("model")["cheap"]
    assert row.calls - row.unpriced_calls == min(more, 2) + 1
    assert row.cost_usd == Decimal("0.002") * (row.calls - row.unpriced_calls)
    assert row.unpriced_tokens == 1_500 * row.unpriced_calls
    assert repr(tracker).startswith("<Tracker: ")
    tracker.prices.more = 0
    assert tracker.total_cost_usd == Decimal("0.002") * len(tracker.llm_token_counts)
    assert tracker.unpriced_calls == 0


class _Listener(logging.Handler):
    """A log that notes whether it's written while the lock is held."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line."""
        self.lines.append((record.getMessage(), LOCK._is_owned()))


def test_what_is_logged_of_totals_is_logged_without_the_lock():
    """That there are too many tags, or values of one, and that an event can't be shown."""
    forget_notices()
    listener, logger = _Listener(), logging.getLogger("llama_token_tracker")
    logger.addHandler(listener)
    try:
        tracker = tracked(*[call(tags={f"tag-{n}": "x"}) for n in range(60)])
        tracker.llm_token_counts = [call(tags={"tag-0": str(n)}) for n in range(1_010)]
        tracker.llm_token_counts[-1].status = object()  # type: ignore[assignment]
        tracker.llm_token_counts[-1].usage = None  # type: ignore[assignment]
        assert "ltt" in tracker._repr_html_()
    finally:
        logger.removeHandler(listener)
        forget_notices()
    said = {line.split(":")[0] for line, _ in listener.lines}
    assert {"too many tags", "too many values of tag-0", "an event could not be shown"} <= said
    assert not [line for line, locked in listener.lines if locked]


def test_rows_that_are_handed_out_stay_as_they_are():
    """Whatever is recorded later; and they print what can be read of them."""
    tracker = tracked(call())
    row, same = tracker.by("model")["cheap"], tracker.by("model")["cheap"]
    assert row == same
    tracker.record(call())
    assert (row, row.calls, row.total_tokens) == (same, 1, 1_500)
    assert tracker.by("model")["cheap"] != row
    names = ["calls", "usage", "counted", "estimated", "cost_usd", "estimated_usd"]
    names += ["unpriced_calls", "unpriced_tokens", "cache_savings_usd"]
    assert repr(row) == f"Row({', '.join(f'{name}={getattr(row, name)!r}' for name in names)})"


def test_no_calls_cost_nothing():
    """That is known, so it's 0."""
    assert tracked().total_cost_usd == 0


def test_calls_that_failed_before_anything_was_billed_are_not_unpriced():
    """They used nothing, whatever a token costs."""
    failed = TokenCountingEvent("", "", 0, 0, model="nobody's", status="failed")
    tracker = tracked(failed)
    assert (tracker.total_cost_usd, tracker.unpriced_calls) == (0, 0)


def test_what_is_not_surely_billed_is_told_apart():
    """Calls whose tokens were estimated, or that were abandoned or failed."""
    tracker = tracked(
        call(), call(prompt_source="estimated"), call(status="abandoned"), call(status="failed")
    )
    assert tracker.total_cost_usd == Decimal("0.008")
    assert tracker.estimated_cost_usd == Decimal("0.006")
    assert tracker.by("status")["abandoned"].estimated_usd == Decimal("0.002")


def test_reads_of_a_cache_save_and_writes_cost():
    """800 tokens read at $1 and not $10 a million save $0.0072."""
    read = call("cached", parts={"cache_read_tokens": 800})
    tracker = tracked(read)
    assert tracker.cache_savings_usd == Decimal("0.0072")
    assert tracker.total_cost_usd == Decimal("0.0128")


def test_writes_that_nobody_can_have_read_are_told():
    """Of 900 tokens written only 300 can have been read; a write costs $15 a million."""
    write = call("cached", parts={"cache_write_tokens": 900})
    tracker = tracked(write)
    assert tracker.unread_cache_write_usd == Decimal("0.0135")
    tracker.record(call("cached", parts={"cache_read_tokens": 300}))
    assert tracker.unread_cache_write_usd == Decimal("0.009")
    tracker.record(call("cached", parts={"cache_read_tokens": 700}))
    assert tracker.unread_cache_write_usd == 0
    # Another model's reads are no reads of it.
    other = tracked(call("cached", parts={"cache_write_tokens": 900}), call("cheap"))
    assert other.unread_cache_write_usd == Decimal("0.0135")


def test_cost_follows_the_lists():
    """An event that is taken out, before or after its price was found, costs nothing any more."""
    tracker = tracked(call(), call())
    del tracker.llm_token_counts[0]
    assert tracker.total_cost_usd == Decimal("0.002")
    tracker.llm_token_counts.clear()
    assert tracker.total_cost_usd == 0


def test_cost_outlives_the_events():
    """What a bounded list forgets is in the sums, however much of it there is."""
    tracker = tracked(*[call() for _ in range(2_500)], max_events=3)
    assert len(tracker.llm_token_counts) == 3
    assert tracker.total_cost_usd == Decimal("0.002") * 2_500
    assert len(tracker.account.totals.unpriced) == 0


def test_a_reset_forgets_costs_and_a_scope_keeps_its_own():
    """Also those that nobody had asked for yet."""
    tracker = tracked()
    with tracker.scope("request") as scope:
        tracker.record(call(), tracker.context({}))
    tracker.reset()
    assert (tracker.total_cost_usd, scope.total_cost_usd) == (0, Decimal("0.002"))


def test_cost_survives_pickling():
    """Found or not yet found."""
    tracker = tracked(call())
    twin = pickle.loads(pickle.dumps(tracker))
    assert twin.total_cost_usd == tracker.total_cost_usd == Decimal("0.002")
    assert pickle.loads(pickle.dumps(tracker)).total_cost_usd == Decimal("0.002")


@given(st.lists(st.sampled_from(["cheap", "cached", "nobody's"]), max_size=12))
def test_rows_add_up_to_the_cost(models: list[str]):
    """By model, and what's left out, too."""
    tracker = tracked(*[call(model) for model in models])
    rows = tracker.by("model")
    assert sum(row.cost_usd or 0 for row in rows.values()) == (tracker.total_cost_usd or 0)
    assert sum(row.unpriced_calls for row in rows.values()) == tracker.unpriced_calls
    assert {model: row.calls for model, row in rows.items()} == {
        model: models.count(model) for model in models
    }

"""What calls cost: by your own prices, or not at all."""

import logging
import pickle
import subprocess
import sys
import threading
from copy import deepcopy
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llama_token_tracker import LlamaTokenTrackerError, Usage
from llama_token_tracker.errors import PriceError
from llama_token_tracker.pricing import Cost, Price, Prices, catalog
from tests.test_usage import usages

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
OWN = Price(
    3,
    15,
    cache_read_mtok="0.3",
    cache_write_mtok=3.75,
    cache_write_1h_mtok=Decimal(6),
    output_reasoning_mtok=20,
    input_audio_mtok=30,
    output_audio_mtok=60,
    input_image_mtok=4,
    output_image_mtok=40,
)


def cost(prices: Prices, model: Any = "mine", **counts: Any) -> Cost | None:
    """What a call of these counts costs now, at nobody's in particular."""
    return prices.cost(Usage(**counts), provider=None, model=model, at=NOW)


def test_own_prices_are_per_million_tokens_of_each_bucket():
    """Each bucket is multiplied by its price; the parts are in the whole."""
    priced = cost(
        Prices({"mine": OWN}),
        input_tokens=10_000,
        cache_read_tokens=6_000,
        cache_write_tokens=3_000,
        cache_write_5m_tokens=1_500,
        cache_write_1h_tokens=1_500,
        output_tokens=1_000,
        reasoning_tokens=400,
    )
    # 1,000 plain, 6,000 read, 1,500 written for 5 minutes, 1,500 for an hour.
    written = Decimal("0.005625") + Decimal("0.009")
    assert priced == Cost(
        usd=Decimal("0.003") + Decimal("0.0018") + written + Decimal("0.008") + Decimal("0.009"),
        input_usd=Decimal("0.0048") + written,
        output_usd=Decimal("0.017"),
        cache_savings_usd=Decimal("0.0162"),
        cache_write_usd=written,
        source="prices=",
        as_of=None,
        is_whole=True,
    )


def test_own_prices_tell_sound_and_pictures_from_text():
    """Sound and pictures have their own rates, in and out."""
    priced = cost(
        Prices({"mine": OWN}),
        input_tokens=1_000,
        input_audio_tokens=200,
        input_image_tokens=300,
        output_tokens=100,
        output_audio_tokens=50,
        output_image_tokens=20,
    )
    assert priced is not None
    assert priced.input_usd == Decimal("0.0015") + Decimal("0.006") + Decimal("0.0012")
    assert priced.output_usd == Decimal("0.00045") + Decimal("0.003") + Decimal("0.0008")
    assert priced.is_whole


def test_a_float_means_the_figure_that_it_prints():
    """0.1 is a tenth, not the float next to it."""
    priced = cost(Prices({"mine": Price(0.1, 0.2)}), input_tokens=1, output_tokens=1)
    assert priced is not None
    assert priced.usd == Decimal("0.0000003")


def test_zero_is_a_price():
    """A model that is declared free costs 0, where an unknown one costs `None`."""
    prices = Prices({"mine": Price(0, 0)})
    free = cost(prices, input_tokens=10, output_tokens=10)
    assert free is not None
    assert (free.usd, free.is_whole) == (0, True)
    assert cost(prices, "other", input_tokens=10, output_tokens=10) is None


def test_own_prices_win():
    """A price of your own replaces the list's, for the same id only."""
    prices = Prices({"gpt-4o": Price(1, 1)})
    usage = Usage(input_tokens=10**6, output_tokens=0)
    mine = prices.cost(usage, provider="openai", model="gpt-4o", at=NOW)
    other = prices.cost(usage, provider="openai", model="gpt-4o-2024-11-20", at=NOW)
    assert mine is not None
    assert other is not None
    assert (mine.usd, mine.source) == (1, "prices=")
    assert (other.usd, other.source.split(": ")[1]) == (Decimal("2.5"), "openai/gpt-4o")


def test_a_price_of_your_own_may_have_a_first_day():
    """Of several, the last that holds already is taken; before the first, the list's."""
    prices = Prices(
        {"gpt-4o": [Price(1, 1, since=date(2026, 2, 1)), Price(2, 2, since=date(2026, 3, 1))]}
    )

    def price(at: datetime) -> tuple[Decimal, date | None]:
        usage = Usage(input_tokens=10**6, output_tokens=0)
        priced = prices.cost(usage, provider="openai", model="gpt-4o", at=at)
        assert priced is not None
        return priced.usd, priced.as_of

    assert price(datetime(2026, 1, 31, tzinfo=UTC))[0] == Decimal("2.5")
    assert price(datetime(2026, 2, 1, tzinfo=UTC)) == (1, date(2026, 2, 1))
    assert price(datetime(2026, 3, 1, tzinfo=UTC)) == (2, date(2026, 3, 1))
    # Already March in Berlin, still February in UTC.
    berlin = timezone(timedelta(hours=1))
    assert price(datetime(2026, 3, 1, 0, 30, tzinfo=berlin)) == (1, date(2026, 2, 1))


def test_an_opaque_id_stands_for_a_known_model():
    """An ARN or deployment that names no model is priced as the one you say it is."""
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
    known = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    prices = Prices({"house-model": OWN}, models={arn: known, "deployment": "house-model"})
    usage = Usage(input_tokens=1_000, output_tokens=100)
    through = prices.cost(usage, provider="aws.bedrock", model=arn, at=NOW)
    assert through is not None
    assert through == prices.cost(usage, provider="aws.bedrock", model=known, at=NOW)
    assert Prices().cost(usage, provider="aws.bedrock", model=arn, at=NOW) is None
    own = cost(prices, "deployment", input_tokens=1_000, output_tokens=100)
    assert own is not None
    assert own.source == "prices="


@pytest.mark.parametrize(
    ("given_price", "counts", "operation", "is_whole"),
    [
        pytest.param(Price(1, 1), {"output_tokens": 1}, "chat", True, id="plain"),
        pytest.param(Price(1, 1), {}, "chat", False, id="no output reported"),
        pytest.param(Price(1), {}, "embedding", True, id="an embedding has none"),
        pytest.param(
            Price(1, 1), {"output_tokens": 1, "cache_read_tokens": 5}, "chat", False, id="read"
        ),
        pytest.param(
            Price(1, 1), {"output_tokens": 1, "cache_write_tokens": 5}, "chat", False, id="write"
        ),
        pytest.param(
            Price(1, 1, cache_write_mtok=2),
            {"output_tokens": 1, "cache_write_tokens": 5, "cache_write_5m_tokens": 5},
            "chat",
            True,
            id="5m",
        ),
        pytest.param(
            Price(1, 1, cache_write_mtok=2),
            {"output_tokens": 1, "cache_write_tokens": 5, "cache_write_1h_tokens": 5},
            "chat",
            False,
            id="1h at 5m's price",
        ),
        pytest.param(
            Price(1, 1, cache_write_mtok=2, cache_write_1h_mtok=3),
            {"output_tokens": 1, "cache_write_tokens": 5},
            "chat",
            False,
            id="life unsaid",
        ),
        pytest.param(
            Price(1, 1, cache_write_mtok=2),
            {"output_tokens": 1, "cache_write_tokens": 5},
            "chat",
            True,
            id="life unsaid, one price",
        ),
        pytest.param(
            Price(1, 1), {"output_tokens": 5, "reasoning_tokens": 5}, "chat", True, id="reasoning"
        ),
        pytest.param(
            Price(1, 1), {"output_tokens": 1, "input_image_tokens": 5}, "chat", True, id="pictures"
        ),
        pytest.param(
            Price(1, 1), {"output_tokens": 1, "input_audio_tokens": 5}, "chat", False, id="sound"
        ),
        pytest.param(
            Price(1, 1), {"output_tokens": 5, "output_audio_tokens": 5}, "chat", False, id="speech"
        ),
        pytest.param(
            Price(1, 1), {"output_tokens": 5, "output_image_tokens": 5}, "chat", False, id="drawing"
        ),
        pytest.param(
            OWN,
            {"output_tokens": 1, "cache_read_tokens": 5, "input_image_tokens": 5},
            "chat",
            False,
            id="cached or pictures, or both",
        ),
    ],
)
def test_a_cost_says_whether_it_is_whole(
    given_price: Price, counts: dict[str, int], operation: str, is_whole: bool
):
    """Tokens of a kind without a price of its own make a cost less than whole."""
    usage = Usage(input_tokens=100, **counts)
    priced = Prices({"mine": given_price}).cost(
        usage, provider=None, model="mine", at=NOW, operation=operation
    )
    assert priced is not None
    assert priced.is_whole is is_whole


def test_what_was_cached_is_taken_to_be_text_first():
    """Where the overlap of cached tokens and sound isn't reported, it's the least there can be."""
    prices = Prices({"mine": Price(1, 1, cache_read_mtok="0.1", input_audio_mtok=10)})
    apart = cost(
        prices,
        input_tokens=1_000_000,
        cache_read_tokens=600_000,
        input_audio_tokens=300_000,
        output_tokens=0,
    )
    assert apart is not None
    # 600,000 read and 100,000 plain text; all sound is uncached.
    assert apart.usd == Decimal("0.06") + Decimal("0.1") + Decimal(3)
    overlapping = cost(
        prices,
        input_tokens=1_000_000,
        cache_read_tokens=900_000,
        input_audio_tokens=300_000,
        output_tokens=0,
    )
    assert overlapping is not None
    # 700,000 of the text, and 200,000 of the sound were read.
    assert overlapping.usd == Decimal("0.09") + Decimal(1)
    assert overlapping.cache_savings_usd == Decimal("0.63") + Decimal("1.98")
    assert not apart.is_whole
    assert not overlapping.is_whole


AMOUNTS = st.decimals(0, 1_000, places=4)
OWN_PRICES = st.builds(
    Price,
    AMOUNTS,
    AMOUNTS,
    **{
        name: st.none() | AMOUNTS
        for name in Price.__slots__
        if name.endswith("_mtok") and name not in ("input_mtok", "output_mtok")
    },
)


@given(OWN_PRICES, usages())
def test_the_parts_of_a_cost_fit_its_whole(price: Price, usage: Usage):
    """Input and output make the sum; writes are a part of the input; savings aren't negative."""
    priced = Prices({"mine": price}).cost(usage, provider=None, model="mine", at=NOW)
    if usage.input_tokens is None:
        assert priced is None
        return
    assert priced is not None
    assert priced.input_usd + priced.output_usd == priced.usd
    assert 0 <= priced.cache_write_usd <= priced.input_usd
    assert priced.cache_savings_usd >= 0
    assert priced.cache_savings_usd == 0 or usage.cache_read_tokens
    assert priced.cache_write_usd == 0 or usage.cache_write_tokens


@given(OWN_PRICES, usages(), usages())
def test_more_tokens_never_cost_less(price: Price, usage: Usage, more: Usage):
    """Without tiers, a cost grows with each bucket of text."""

    def text(usage: Usage) -> Usage:
        counts = usage.reported()
        return Usage(
            **{name: counts[name] for name in counts if "audio" not in name and "image" not in name}
        )

    prices = Prices({"mine": price})
    less = prices.cost(text(usage), provider=None, model="mine", at=NOW)
    both = prices.cost(text(usage) + text(more), provider=None, model="mine", at=NOW)
    if less is not None:
        assert both is not None
        assert less.input_usd <= both.input_usd
        assert less.output_usd <= both.output_usd


@pytest.mark.parametrize(
    "amount", [-1, Decimal("-0.1"), float("nan"), float("inf"), "NaN", "cheap", "", True, None, [1]]
)
def test_what_is_no_price_is_refused(amount: Any):
    """A negative amount, or one that is no number, is refused with the way out."""
    with pytest.raises(PriceError, match=r"input_mtok is .*; give US dollars per million tokens"):
        Price(amount, 1)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"prices": {"gpt-4o": 3}}, "prices= holds 3 for 'gpt-4o'; give a Price"),
        ({"prices": {"gpt-4o": "3"}}, "prices= holds '3' for 'gpt-4o'"),
        ({"prices": {"gpt-4o": [Price(1), None]}}, "prices= holds None"),
        ({"prices": {None: Price(1)}}, "prices= holds None; give ids of models"),
        ({"prices": [Price(1)]}, "prices= is .*; give a dict"),
        ({"models": {"": "gpt-4o"}}, "models= holds ''"),
        ({"models": {"mine": None}}, "models= holds None"),
        ({"models": "gpt-4o"}, "models= is 'gpt-4o'"),
    ],
)
def test_what_are_no_prices_is_refused(arguments: dict[str, Any], found: str):
    """Arguments of another kind are refused, with what was found."""
    with pytest.raises(PriceError, match=found):
        Prices(**arguments)


def test_a_first_day_is_a_date():
    """A datetime isn't taken for a day."""
    with pytest.raises(PriceError, match="since is"):
        Price(1, since=NOW)
    assert issubclass(PriceError, LlamaTokenTrackerError)


def test_unknown_is_none_and_said_once_per_model(caplog: pytest.LogCaptureFixture):
    """A model that nobody knows costs `None`, never 0, and is logged once."""
    prices = Prices()
    for model in ("nobody-knows-1", "nobody-knows-2"):
        for _ in range(3):
            assert cost(prices, model, input_tokens=1, output_tokens=1) is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "'nobody-knows-1'" in caplog.messages[0]
    assert "models=" in caplog.messages[0]


def test_unreported_input_is_unknown():
    """A call of which nothing is known costs `None`, and so does one without its input."""
    assert cost(Prices({"mine": OWN})) is None
    assert cost(Prices({"mine": OWN}), output_tokens=5) is None


def test_output_without_a_price_is_unknown(caplog: pytest.LogCaptureFixture):
    """Output isn't free because a price has none."""
    assert cost(Prices({"mine": Price(1)}), input_tokens=1, output_tokens=1) is None
    assert "without output" in caplog.text
    assert cost(Prices({"mine": Price(1)}), input_tokens=1, output_tokens=0) is not None


@pytest.mark.parametrize(
    "model",
    [
        *("", " ", "\0", "é" * 3_000, "\ud800", "ft:", "arn:", "arn:aws:bedrock:/", "/", "us."),
        *("x" * 10**7, "arn:" * 10**6, None, 5, b"gpt-4o", ["gpt-4o"], object()),
    ],
    ids=lambda model: f"{type(model).__name__}-{str(model)[:9]!a}",
)
@pytest.mark.parametrize("provider", [None, "openai", "aws.bedrock", "nobody", 7])
def test_odd_models_never_raise(model: Any, provider: Any):
    """Whatever stands for a model, the answer is `None`."""
    usage = Usage(input_tokens=1, output_tokens=1)
    assert Prices().cost(usage, provider=provider, model=model, at=NOW) is None


class Hostile(str):
    """A name that raises when it's used."""

    __slots__ = ()

    def __hash__(self) -> int:
        """Refuse."""
        raise RuntimeError

    __eq__ = str.__eq__


@pytest.mark.parametrize(
    ("usage", "model", "at"),
    [
        (Usage.of({"input_tokens": 1, "cache_read_tokens": 5}), "gpt-4o", NOW),
        (Usage.of({"input_tokens": -1}), "gpt-4o", NOW),
        (Usage.of({"input_tokens": "many"}), "gpt-4o", NOW),  # type: ignore[dict-item]
        (None, "gpt-4o", NOW),
        (Usage(input_tokens=1), Hostile("gpt-4o"), NOW),
        (Usage(input_tokens=1), "gpt-5.6-sol", None),
    ],
)
def test_odd_calls_never_raise(usage: Any, model: Any, at: Any, caplog: pytest.LogCaptureFixture):
    """A usage that contradicts itself, or is none, costs `None`, and that is logged."""
    assert Prices().cost(usage, provider="openai", model=model, at=at) is None
    assert "a call that can't be priced" in caplog.text


@settings(deadline=None)
@given(st.text(), st.sampled_from([None, "openai", "aws.bedrock", "gcp.gemini", "anthropic"]))
def test_no_name_raises(model: str, provider: str | None):
    """Any text may stand where a model's id should."""
    Prices().cost(Usage(input_tokens=1, output_tokens=1), provider=provider, model=model, at=NOW)


def test_prices_survive_copies_and_pickles():
    """A copy prices as the original does, whether that was used or not."""
    prices = Prices({"mine": OWN}, models={"alias": "gpt-4o"})
    before = cost(prices, "alias", input_tokens=10, output_tokens=10)
    for copy in (deepcopy(prices), pickle.loads(pickle.dumps(prices))):
        assert cost(copy, "alias", input_tokens=10, output_tokens=10) == before
        assert cost(copy, input_tokens=10, output_tokens=1) == cost(
            prices, input_tokens=10, output_tokens=1
        )
    assert pickle.loads(pickle.dumps(before)) == before


def test_the_callers_decimal_context_is_no_matter():
    """Money is exact in a thread that rounds to three digits."""
    prices = Prices({"mine": Price("4.125", "16.5", cache_write_mtok="5.15625")})
    counts = {"input_tokens": 123_456_789, "cache_write_tokens": 99, "output_tokens": 987_654_321}
    for model in ("mine", "us.anthropic.claude-sonnet-4-5-20250929-v1:0"):
        exact = cost(prices, model, **counts)
        catalog.find_model.cache_clear()
        with localcontext() as context:
            context.prec = 3
            assert cost(prices, model, **counts) == exact
        assert exact is not None
        assert len(exact.usd.as_tuple().digits) > 10


def test_names_longer_than_any_are_not_kept():
    """Memory isn't filled with what can't be the name of a model."""
    catalog.find_model.cache_clear()
    cost(Prices(), "x" * 3_000, input_tokens=1)
    assert catalog.find_model.cache_info().currsize == 0
    for number in range(2_000):
        cost(Prices(), f"model {number}", input_tokens=1)
    assert catalog.find_model.cache_info().currsize < 2_000


def test_threads_may_share_prices():
    """Eight threads that price the same models at once get the same costs."""
    prices = Prices()
    models = [f"gemini-2.5-{kind}" for kind in ("pro", "flash", "flash-lite")] + ["gpt-4o", "none"]
    barrier, found = threading.Barrier(8), []

    def price() -> None:
        barrier.wait()
        found.append([cost(prices, model, input_tokens=9, output_tokens=9) for model in models])

    threads = [threading.Thread(target=price) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(costs == found[0] for costs in found)


IMPORTS = """
import sys
import llama_token_tracker
from llama_token_tracker.pricing import Price, Prices
prices = Prices({"gpt-4o": Price(1, 1)}, models={"a": "b"})
assert "genai_prices" not in sys.modules
"""

OFFLINE = """
import sys, threading
from datetime import datetime, UTC
from llama_token_tracker import Usage
from llama_token_tracker.pricing import Prices
def audit(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "subprocess.Popen"):
        raise SystemExit(event)
sys.addaudithook(audit)
usage = Usage(input_tokens=1, output_tokens=1)
assert Prices().cost(usage, provider="openai", model="gpt-4o", at=datetime.now(UTC))
assert threading.active_count() == 1, threading.enumerate()
from genai_prices.data_snapshot import get_snapshot
assert not get_snapshot().from_auto_update
"""


@pytest.mark.parametrize("program", [IMPORTS, OFFLINE], ids=["late", "offline"])
def test_a_process_pays_only_for_what_it_uses(program: str):
    """The list is imported when it's first asked; nothing is fetched and no thread started."""
    subprocess.run([sys.executable, "-c", program], check=True)

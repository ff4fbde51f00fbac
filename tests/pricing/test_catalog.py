"""What calls cost by the library's list, compared with the library itself."""

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from importlib.metadata import version
from typing import Any

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import ClauseEquals, ClauseOr, ModelInfo
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llama_token_tracker import Usage
from llama_token_tracker.pricing import Cost, Price, Prices
from tests.test_usage import usages

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PRICES = Prices()
PLAIN = {"input_tokens": 12_345, "output_tokens": 678}
READ = PLAIN | {"cache_read_tokens": 10_000}
WRITE = READ | {"cache_write_tokens": 2_000}
SPLIT = WRITE | {"cache_write_5m_tokens": 1_500, "cache_write_1h_tokens": 500}
THOUGHT = PLAIN | {"reasoning_tokens": 600}
TEXTS = {"input_tokens": 12_345}
SOUND = PLAIN | {"input_audio_tokens": 5_000, "output_audio_tokens": 300}
HEARD = PLAIN | {"input_audio_tokens": 5_000}
PICTURES = PLAIN | {"input_image_tokens": 5_000, "output_image_tokens": 300}
SHORT = {"input_tokens": 200_000, "output_tokens": 10, "cache_read_tokens": 100_000}
LONG = SHORT | {"input_tokens": 200_001}

SONNET = "anthropic.claude-sonnet-4-5-20250929-v1:0"
HAIKU = "anthropic.claude-3-haiku-20240307-v1:0"
ARN = "arn:aws:bedrock:us-east-1:"


def listed(provider: str, ref: str, at: datetime, counts: dict[str, int]) -> Any:
    """What the library itself says of a call."""
    named = {("output_" * (name == "reasoning_tokens")) + name: n for name, n in counts.items()}
    return genai_prices.calc_price(
        genai_prices.Usage(**named), ref, provider_id=provider, genai_request_timestamp=at
    )


def price(provider: str | None, model: str, counts: dict[str, int], at: datetime = NOW) -> Cost:
    """What we say of it; fails if that is nothing."""
    operation = "chat" if "output_tokens" in counts else "embedding"
    cost = PRICES.cost(Usage(**counts), provider=provider, model=model, at=at, operation=operation)
    assert cost is not None
    return cost


# Provider and model as events name them; provider and model as the library does.
CALLS = [
    ("openai", "gpt-4o", "openai", "gpt-4o", READ),
    ("openai", "gpt-4o-mini-2024-07-18", "openai", "gpt-4o-mini", PLAIN),
    ("openai", "o3", "openai", "o3", THOUGHT | {"cache_read_tokens": 5_000}),
    ("openai", "gpt-5.6-sol", "openai", "gpt-5.6-sol", WRITE),
    ("openai", "gpt-5.2-20251211", "openai", "gpt-5.2", PLAIN),
    ("openai", "gpt-audio", "openai", "gpt-audio", SOUND),
    ("openai", "gpt-image-1.5", "openai", "gpt-image-1.5", PICTURES),
    ("openai", "text-embedding-3-small", "openai", "text-embedding-3-small", TEXTS),
    ("openai", "ft:gpt-4o-mini-2024-07-18:me::x", "openai", "ft:gpt-4o-mini-2024-", PLAIN),
    ("openai", "ft:gpt-3.5-turbo-0125:me:suffix:x", "openai", "ft:gpt-3.5-turbo", PLAIN),
    ("azure.ai.openai", "gpt-4o", "azure", "gpt-4o", READ),
    ("azure.ai.openai", "gpt-35-turbo", "azure", "gpt-35-turbo", PLAIN),
    ("azure.ai.openai", "text-embedding-3-large", "azure", "text-embedding-3-large", TEXTS),
    ("azure.ai.openai", "gpt-4o-mini-2024-07-18.ft-a1b2c3", "azure",
     "gpt-4o-mini-2024-07-18.ft-", PLAIN),
    ("azure.ai.inference", "phi-4", "azure", "phi-4", PLAIN),
    ("anthropic", "claude-sonnet-4-5-20250929", "anthropic", "claude-sonnet-4-5", SPLIT),
    ("anthropic", "claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5", SHORT),
    ("anthropic", "claude-sonnet-4-5", "anthropic", "claude-sonnet-4-5", LONG),
    ("anthropic", "claude-3-5-haiku-latest", "anthropic", "claude-3-5-haiku-latest", WRITE),
    ("anthropic", "claude-haiku-4-5@20251001", "anthropic", "claude-haiku-4-5", READ),
    ("anthropic", f"us.{SONNET}", "aws", f"us.{SONNET}", SPLIT),
    ("aws.bedrock", HAIKU, "aws", HAIKU, PLAIN),
    ("aws.bedrock", "anthropic.claude-3-5-sonnet-20241022-v2:0", "aws",
     "anthropic.claude-3-5-sonnet-20241022-v2:0", WRITE),
    ("aws.bedrock", "amazon.titan-embed-text", "aws", "amazon.titan-embed-text", TEXTS),
    ("aws.bedrock", f"{HAIKU}:48k", "aws", HAIKU, PLAIN),
    ("aws.bedrock", f"apac.{HAIKU}", "aws", HAIKU, PLAIN),
    ("aws.bedrock", SONNET, "aws", SONNET, SPLIT),
    ("aws.bedrock", f"us.{SONNET}", "aws", f"us.{SONNET}", SPLIT),
    ("aws.bedrock", f"us-gov.{SONNET}", "aws", f"us-gov.{SONNET}", READ),
    ("aws.bedrock", f"ca.{SONNET}", "aws", SONNET, WRITE),
    ("aws.bedrock", f"global.{SONNET}", "aws", f"global.{SONNET}", SPLIT),
    ("aws.bedrock", f"{ARN}:foundation-model/{SONNET}", "aws", SONNET, SPLIT),
    ("aws.bedrock", f"{ARN}1:inference-profile/global.{SONNET}", "aws", f"global.{SONNET}", SPLIT),
    ("aws.bedrock", f"arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{HAIKU}", "aws", HAIKU,
     PLAIN),
    ("aws.bedrock", "jp.anthropic.claude-opus-5", "aws", "jp.anthropic.claude-opus-5", READ),
    ("aws.bedrock", "us.amazon.nova-lite-v1:0", "aws", "amazon.nova-lite-v1:0", READ),
    ("aws.bedrock", "eu.amazon.nova-2-lite-v1:0", "aws", "eu.amazon.nova-2-lite-v1:0", READ),
    ("aws.bedrock", "amazon.nova-sonic-v1:0", "aws", "amazon.nova-sonic-v1:0", SOUND),
    ("aws.bedrock", "us.meta.llama3-3-70b-instruct-v1:0", "aws", "meta.llama3-3-70b-instruct",
     PLAIN),
    ("aws.bedrock", "mistral.mixtral-8x7b-instruct-v0:1", "aws",
     "mistral.mixtral-8x7b-instruct-v0:1", PLAIN),
    ("aws.bedrock", "amazon.titan-embed-text-v2:0", "aws", "amazon.titan-embed-text-v2", TEXTS),
    ("aws.bedrock", "global.openai.gpt-5.6-sol", "aws", "global.openai.gpt-5.6-sol", LONG),
    (None, f"{ARN}:foundation-model/{SONNET}", "aws", SONNET, PLAIN),
    ("gcp.gemini", "gemini-2.5-pro", "google", "gemini-2.5-pro", SHORT),
    ("gcp.gemini", "gemini-2.5-pro", "google", "gemini-2.5-pro", LONG),
    ("gcp.gemini", "models/gemini-2.5-pro-preview-06-05", "google", "gemini-2.5-pro", THOUGHT),
    ("gcp.gemini", "gemini-2.5-flash", "google", "gemini-2.5-flash", HEARD),
    ("gcp.gemini", "gemini-2.5-flash", "google", "gemini-2.5-flash", READ | THOUGHT),
    ("gcp.gemini", "gemini-2.5-flash-image", "google", "gemini-2.5-flash-image", PICTURES),
    ("gcp.gemini", "gemini-embedding-001", "google", "gemini-embedding-001", TEXTS),
    ("gcp.vertex_ai", "claude-sonnet-4@20250514", "google", "claude-sonnet-4@20250514", READ),
    ("mistral_ai", "mistral-large-latest", "mistral", "mistral-large-latest", PLAIN),
    ("mistral_ai", "mistral-embed", "mistral", "mistral-embed", TEXTS),
    ("mistral_ai", "magistral-medium-2506", "mistral", "magistral-medium-2506", THOUGHT),
    ("cohere", "command-r-plus-08-2024", "cohere", "command-r-plus", PLAIN),
    ("cohere", "embed-v4.0", "cohere", "embed-v4.0", TEXTS),
    ("groq", "llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile", PLAIN),
    ("groq", "moonshotai/kimi-k2-instruct", "groq", "moonshotai/kimi-k2-instruct", READ),
    ("deepseek", "deepseek-v4-pro", "deepseek", "deepseek-v4-pro", READ),
    ("x_ai", "grok-4.5", "x-ai", "grok-4.5", LONG),
    ("perplexity", "sonar-pro", "perplexity", "sonar-pro", PLAIN),
    ("perplexity", "sonar-deep-research", "perplexity", "sonar-deep-research", THOUGHT),
    ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo", "together",
     "meta-llama/Llama-3.3-70B-Instruct-Turbo", PLAIN),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "model", "seller", "ref", "counts"), CALLS)
def test_a_call_costs_what_the_library_says(
    provider: str | None, model: str, seller: str, ref: str, counts: dict[str, int]
):
    """Providers and ids in all their forms, and all buckets, are priced as by the library."""
    expected = listed(seller, ref, NOW, counts)
    cost = price(provider, model, counts)
    assert cost.usd == expected.total_price > 0
    assert cost.output_usd == expected.output_price
    # The fee for a call is neither input nor output to the library.
    assert cost.input_usd == expected.total_price - expected.output_price
    assert cost.source.startswith(f"genai-prices {version('genai-prices')}: ")
    assert cost.source.endswith(f"/{expected.model.id}")


@pytest.mark.parametrize(("provider", "model", "seller", "ref", "counts"), CALLS)
def test_savings_and_writes_are_differences_of_the_librarys_prices(
    provider: str | None, model: str, seller: str, ref: str, counts: dict[str, int]
):
    """Savings and the premium on writes are what the call costs less, and more, than without."""
    cost = price(provider, model, counts)
    usual = listed(seller, ref, NOW, counts)
    uncached = listed(seller, ref, NOW, counts | {"cache_read_tokens": 0})
    assert cost.cache_savings_usd == uncached.total_price - usual.total_price
    unwritten = {name: count for name, count in counts.items() if "write" not in name}
    premium = usual.total_price - listed(seller, ref, NOW, unwritten).total_price
    plain = counts | {"cache_read_tokens": 0, "reasoning_tokens": 0, "output_tokens": 0}
    plain = {
        name: count for name, count in plain.items() if name in ("input_tokens", "output_tokens")
    }
    writes = counts.get("cache_write_tokens", 0)
    rate = listed(seller, ref, NOW, plain).input_price / counts["input_tokens"]
    assert cost.cache_write_usd == premium + rate * writes


def utc(*moment: int) -> datetime:
    """A moment in UTC."""
    return datetime(*moment, tzinfo=UTC)  # type: ignore[arg-type,misc]


# Provider, model, the library's provider; the last moment of one price, the first of the next.
DATED = [
    ("openai", "o3", "openai", utc(2025, 6, 9, 23, 59), utc(2025, 6, 10)),
    ("openai", "gpt-5.6-sol", "openai", utc(2026, 8, 20, 23, 59), utc(2026, 8, 21)),
    ("aws.bedrock", "us.openai.gpt-5.6-luna", "aws", utc(2026, 7, 29), utc(2026, 7, 30)),
    ("anthropic", "claude-opus-4-6", "anthropic", utc(2026, 3, 12), utc(2026, 3, 13)),
    ("mistral_ai", "mistral-large-4", "mistral", utc(2026, 10, 19), utc(2026, 10, 20)),
    ("gcp.gemini", "gemini-3.8-flash", "google", utc(2026, 12, 31), utc(2027, 1, 1)),
    # By the hour of the day.
    ("deepseek", "deepseek-v4-pro", "deepseek", utc(2026, 11, 20, 0, 59), utc(2026, 11, 20, 1)),
]


@pytest.mark.parametrize(("provider", "model", "seller", "before", "after"), DATED)
def test_a_call_costs_what_it_cost_when_it_was_made(
    provider: str, model: str, seller: str, before: datetime, after: datetime
):
    """A price that changed has two costs, each of its own day or hour."""
    costs = [price(provider, model, LONG, at) for at in (before, after)]
    assert [cost.usd for cost in costs] == [
        listed(seller, model, at, LONG).total_price for at in (before, after)
    ]
    assert costs[0].usd != costs[1].usd


def test_the_day_of_the_list_is_known():
    """Each cost says of which day the prices are; the installed release's day is known."""
    as_of = price("openai", "gpt-4o", PLAIN).as_of
    assert as_of is not None
    assert as_of >= date(2026, 11, 10)


def test_the_global_endpoint_is_cheaper_where_the_list_says_so():
    """A Bedrock id keeps its prefix: all others cost a tenth more than `global.`."""
    regional, everywhere = (
        price("aws.bedrock", f"{of}.{SONNET}", PLAIN) for of in ("us", "global")
    )
    assert regional.usd == everywhere.usd * Decimal("1.1")


UNKNOWN = [
    # The library would take these for the model in the comment.
    ("gcp.gemini", "gemini-1.5-flash-8b"),  # gemini-1.5-flash
    ("gcp.gemini", "gemini-3.8-flash-lite"),  # gemini-3.8-flash
    ("azure.ai.openai", "o4-mini-deep-research"),  # o4-mini
    ("azure.ai.openai", "foo4-mini"),  # o4-mini
    ("aws.bedrock", "amazon.nova-lite-v2:0"),  # amazon.nova-lite-v1:0
    ("aws.bedrock", "xglobal.anthropic.claude-fable-5"),  # the one without x
    ("aws.bedrock", "anthropic.claude-opus-4-55"),  # claude-opus-4-5
    ("aws.bedrock", f"{ARN}1:custom-model/{HAIKU}/a1b2c3"),  # claude-3-haiku
    ("aws.bedrock", f"{ARN}1:default-prompt-router/{HAIKU}"),  # claude-3-haiku
    ("anthropic", "claude-haiku-4-5-turbo"),  # claude-haiku-4-5
    ("deepseek", "deepseek-r1-distill-llama-70b"),  # deepseek-reasoner
    # These, it doesn't know either.
    ("openai", "gpt-4o-unknown-suffix"),
    ("openai", "ft:gpt-4o-mini:me::x"),
    ("openai", "ft:gpt-4.1-2025-04-14:me::x"),
    ("aws.bedrock", "cohere.embed-english-v3"),
    ("aws.bedrock", f"{ARN}1:application-inference-profile/a1b2c3"),
    ("aws.bedrock", f"{ARN}1:provisioned-model/a1b2c3"),
    ("aws.bedrock", f"{ARN}1:imported-model/a1b2c3"),
    # Listed for a Region only, and through the global endpoint it may be cheaper.
    ("aws.bedrock", "global.anthropic.claude-opus-4-1-20250805-v1:0"),
    # Its list names no price for these, which may be free, or not.
    ("gcp.gemini", "gemma-3-27b-it"),
    ("openai", "omni-moderation-latest"),
    # Not priced by the token.
    ("openai", "whisper-1"),
    # Nobody's, or anybody's.
    ("ollama", "mistral-7b"),
    ("ibm.watsonx.ai", "mistral-large"),
    (None, "llama3.3"),
    (None, "openai/gpt-4o"),
    (None, "unknown"),
]


@pytest.mark.parametrize(("provider", "model"), UNKNOWN)
def test_a_name_that_is_only_alike_has_no_price(
    provider: str | None, model: str, caplog: pytest.LogCaptureFixture
):
    """A model that isn't on the list costs `None`, however close its name comes."""
    usage = Usage(**PLAIN)
    assert PRICES.cost(usage, provider=provider, model=model, at=NOW) is None
    assert f"no price per token is known of the model {model!r}" in caplog.text


def test_a_wrong_price_is_worse_than_none(caplog: pytest.LogCaptureFixture):
    """The log says which model came near, and the user may say that it's the one."""
    model = "claude-haiku-4-5-turbo"
    usage = Usage(**PLAIN)
    assert PRICES.cost(usage, provider="anthropic", model=model, at=NOW) is None
    assert "only 'claude-haiku-4-5' of anthropic" in caplog.text
    told = Prices(models={model: "claude-haiku-4-5"})
    assert told.cost(usage, provider="anthropic", model=model, at=NOW) == price(
        "anthropic", "claude-haiku-4-5", PLAIN
    )


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("gpt-4o", "openai/gpt-4o"),
        ("claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("gemini-2.5-pro", "google/gemini-2.5-pro"),
    ],
)
def test_without_a_provider_the_maker_is_asked(model: str, source: str):
    """A name that points to one maker is priced as his, and not as whole."""
    cost = price(None, model, PLAIN)
    assert cost.source.endswith(source)
    assert not cost.is_whole


@pytest.mark.parametrize(
    ("provider", "model", "counts", "is_whole"),
    [
        ("anthropic", "claude-sonnet-4-5", SPLIT, True),
        ("aws.bedrock", SONNET, SPLIT, True),
        ("aws.bedrock", "us.anthropic.claude-opus-4-1-20250805-v1:0", WRITE, True),
        # No price for an hour on the list: five minutes' is too low.
        ("aws.bedrock", "us.anthropic.claude-opus-4-1-20250805-v1:0", SPLIT, False),
        ("aws.bedrock", f"us-gov.{SONNET}", PLAIN, False),
        ("aws.bedrock", f"arn:aws-cn:bedrock:cn-north-1::foundation-model/{HAIKU}", PLAIN, False),
        ("aws.bedrock", "amazon.nova-lite-v1:0", READ, True),
        ("aws.bedrock", "amazon.nova-lite-v1:0", WRITE, False),
        ("openai", "gpt-4o-audio-preview", SOUND, False),
        ("openai", "gpt-audio", SOUND, True),
        ("perplexity", "sonar-deep-research", PLAIN, False),
        ("gcp.gemini", "gemini-2.5-flash", READ | {"input_audio_tokens": 9}, False),
    ],
)
def test_a_bucket_that_the_list_leaves_out_is_told(
    provider: str, model: str, counts: dict[str, int], is_whole: bool
):
    """A cost is whole only if the list prices each bucket as such."""
    assert price(provider, model, counts).is_whole is is_whole


def test_cached_sound_is_priced_as_by_the_library():
    """Once the overlap is settled, cached sound costs what the library says it does."""
    counts = {"input_tokens": 1_000, "cache_read_tokens": 900, "input_audio_tokens": 300}
    overlap = {"cache_audio_read_tokens": 200}
    for provider, seller, model in (
        ("openai", "openai", "gpt-realtime"),
        ("gcp.gemini", "google", "gemini-2.5-flash"),
    ):
        expected = listed(seller, model, NOW, counts | overlap | {"output_tokens": 0})
        assert price(provider, model, counts | {"output_tokens": 0}).usd == expected.total_price


def names(model: ModelInfo) -> set[str]:
    """The names by which the list itself knows a model."""
    clauses = model.match.or_ if isinstance(model.match, ClauseOr) else [model.match]
    return {clause.equals for clause in clauses if isinstance(clause, ClauseEquals)}


LISTED = [
    (provider.id, name)
    for provider in providers
    for model in provider.models
    for name in names(model)
]
MOMENTS = st.integers(0, 4 * 365 * 24).map(lambda hours: utc(2024, 1, 1) + timedelta(hours=hours))


@pytest.mark.parametrize("provider", sorted({provider for provider, _ in LISTED}))
def test_every_name_on_the_list_is_found(provider: str):
    """No name that the list spells out is taken for a mere likeness."""
    for seller, name in LISTED:
        if seller != provider:
            continue
        owned = genai_prices.data_snapshot.get_snapshot().find_provider_model(
            name, None, provider, None
        )
        cost = PRICES.cost(Usage(**PLAIN), provider=provider, model=name, at=NOW)
        rates = owned[1].get_prices(NOW)
        if rates.input_mtok is None or rates.output_mtok is None:
            assert cost is None
        else:
            assert cost is not None
            assert cost.usd == listed(provider, name, NOW, PLAIN).total_price


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(LISTED), usages(), MOMENTS)
@example(
    ("openai", "gpt-realtime"),
    Usage(input_tokens=1, output_tokens=0, cache_read_tokens=1, input_image_tokens=1),
    NOW,
)
def test_any_usage_costs_what_the_library_says(of: tuple[str, str], usage: Usage, at: datetime):
    """Any usage of any model at any time is priced as by the library, where it prices it."""
    provider, name = of
    cost = PRICES.cost(usage, provider=provider, model=name, at=at)
    counts = {n: c for n, c in usage.reported().items() if not n.startswith("seen_")}
    if usage.input_tokens is None:
        assert cost is None
        return
    found = genai_prices.data_snapshot.get_snapshot().find_provider_model(
        name, None, provider, None
    )
    rates = found[1].get_prices(at)
    if rates.input_mtok is None or (rates.output_mtok is None and usage.output_tokens):
        assert cost is None
        return
    assert cost is not None
    assert cost.input_usd + cost.output_usd == cost.usd
    assert 0 <= cost.cache_write_usd <= cost.input_usd
    assert cost.cache_savings_usd >= 0
    with suppress(ValueError):
        assert cost.usd == listed(provider, name, at, counts).total_price
        return
    # Where cached tokens may be sound, the library wants to be told; we settle it, and say so. Only
    # where every token is both is there nothing to settle.
    every = usage.input_tokens
    is_settled = every in (usage.cache_read_tokens, usage.cache_write_tokens) and every in (
        usage.input_audio_tokens,
        usage.input_image_tokens,
    )
    assert is_settled or not cost.is_whole
    assert usage.input_audio_tokens or usage.input_image_tokens
    assert usage.cache_read_tokens or usage.cache_write_tokens


def test_the_list_is_that_of_the_release(monkeypatch: pytest.MonkeyPatch):
    """Prices that the process fetched for others don't change ours."""
    before = price("openai", "gpt-4o", PLAIN)
    snapshot = genai_prices.data_snapshot.DataSnapshot(providers=[], from_auto_update=True)
    monkeypatch.setattr(genai_prices.data_snapshot, "_custom_snapshot", snapshot)
    assert price("openai", "gpt-4o", PLAIN) == before
    assert price("openai", "gpt-4o-2024-11-20", PLAIN).usd == before.usd


def test_own_prices_for_embeddings_need_no_output():
    """A model that is on no list can be priced by its input alone."""
    prices = Prices({"cohere.embed-english-v3": Price("0.1")})
    usage = Usage(**TEXTS)
    cost = prices.cost(
        usage,
        provider="aws.bedrock",
        model="cohere.embed-english-v3",
        at=NOW,
        operation="embedding",
    )
    assert cost is not None
    assert (cost.usd, cost.is_whole) == (Decimal("0.0012345"), True)

"""Prices that genai-prices lists: from a provider and a model's id to what its tokens cost.

Only the list that comes with the installed release is read, whatever else the process does
with the library. The library matches names generously ("gemini-1.5-flash" fits
"gemini-1.5-flash-8b", at twice its price), so each match is looked at again.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import localcontext
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple

from llama_token_tracker._names import (
    ANTHROPIC,
    ARN,
    BEDROCK,
    BEDROCK_MODEL,
    GEMINI,
    GEOGRAPHY,
    GLOBAL,
    GOOGLE_PATH,
    LISTED_PROVIDERS,
    PARTITIONS_APART,
)
from llama_token_tracker.pricing.rates import EXACT, Cost, Rates
from llama_token_tracker.usage import Usage

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, ModelPrice, Provider

# When each release was published, as PyPI says.
_RELEASED: Final = {"0.2.3": date(2026, 11, 10)}

# More names than any program uses; past it, the oldest are forgotten.
_MAX_MODELS: Final = 1024

# The kinds of resources on Bedrock whose id is that of a model on the list. A custom model's
# names the model that it was made of, but costs something else.
_NAMING_A_MODEL: Final = frozenset({"foundation-model", "inference-profile"})

# What Bedrock appends for the length of the context.
_CONTEXT: Final = re.compile(r":\d+k$")

# What may follow a model's name and leave its price as it is: dates, numbers of a release,
# Bedrock's first revision, Vertex's of any number. Not `-lite` or `-8b`, nor a single digit,
# which is another version.
_SAME_PRICE: Final = re.compile(
    r"(?:\d{2,8}(?!\d))?"
    r"(?:[-@]\d{2,8}(?![\w.])|-(?:latest|preview|exp|experimental)(?!\w)"
    r"|-v1(?::\d+)?(?!\w)|-v\d(?=@)|:\d+(?!\w))*"
)


@dataclass(frozen=True, slots=True)
class Unlisted:
    """A model that isn't on the list.

    Attributes:
        reason: What was looked for, and what was found instead.
    """

    reason: str

    def cost(self, usage: Usage, at: datetime, *, is_whole: bool) -> None:
        """No price: `None`, whatever the call was."""


class Listed:
    """A model on the list.

    Attributes:
        reason: Why it might still have no price.
    """

    reason = "a model whose price isn't one per token, or isn't on the list"

    def __init__(self, model: "ModelInfo", source: str, *, is_sure: bool) -> None:
        """Sort the model's rates by price and tier.

        Args:
            model: The model on the list.
            source: Where its price comes from, for people.
            is_sure: Whether it's the very provider's price that is on the list.
        """
        self._model = model
        self._source = source
        self._is_sure = is_sure
        prices = model.prices
        each = [price.prices for price in prices] if isinstance(prices, list) else [prices]
        # By identity: the library's prices are made once and have no hash.
        self._tariffs = {id(price): _Tariff.of(price) for price in each}

    def cost(self, usage: Usage, at: datetime, *, is_whole: bool) -> Cost | None:
        """Price one call at the rates of its day and hour, and of its prompt's length."""
        rates = self._tariffs[id(self._model.get_prices(at))].rates(usage.input_tokens or 0)
        return rates.cost(
            usage,
            source=self._source,
            as_of=_list().as_of,
            is_whole=is_whole and self._is_sure,
        )


class _Tariff(NamedTuple):
    """The rates of one price, by tier: each holds for prompts longer than the tier's start."""

    starts: tuple[int, ...]
    tiers: tuple[Rates, ...]

    @classmethod
    def of(cls, price: "ModelPrice") -> "_Tariff":
        """Settle each tier's rates."""
        from genai_prices.types import TieredPrices, calc_unit_price

        amounts = [(name, amount) for name, amount in vars(price).items() if amount is not None]
        tiered = [amount for _, amount in amounts if isinstance(amount, TieredPrices)]
        starts = sorted({tier.start for amount in tiered for tier in amount.tiers})
        with localcontext(EXACT):
            return cls(
                tuple(starts),
                tuple(
                    Rates.of({name: calc_unit_price(of, 1, length, 1) for name, of in amounts})
                    for length in (0, *(start + 1 for start in starts))
                ),
            )

    def rates(self, input_tokens: int) -> Rates:
        """The rates of a call whose prompt has so many tokens, cached ones included."""
        return self.tiers[bisect_left(self.starts, input_tokens)]


class _List(NamedTuple):
    """The list of the installed release."""

    version: str
    as_of: date | None
    providers: "dict[str, Provider]"


@cache
def _list() -> _List:
    # Late: it takes half a second.
    from importlib.metadata import version

    from genai_prices.data import providers

    release = version("genai-prices")
    return _List(release, _RELEASED.get(release), {provider.id: provider for provider in providers})


@lru_cache(maxsize=_MAX_MODELS)
def find(provider: str | None, model: str) -> Listed | Unlisted:
    """Look for a model on the list.

    Args:
        provider: The provider, by OpenTelemetry's name or the library's, or `None` if unknown.
        model: The model's id, in any form.

    Returns:
        The model, or why there is none.
    """
    known = _list()
    ref = model.strip().lower()
    seller, is_sure = _seller(provider, ref), PARTITIONS_APART.match(ref) is None
    if seller is None and provider is None:
        seller, is_sure = _maker(ref), False
    if seller is None:
        return Unlisted(f"provider {provider!r:.40}, at which the list has no such model")
    nearest = None
    for form in _forms(seller.id, ref):
        info = seller.find_model(form, all_providers=list(known.providers.values()))
        if info is not None and _is_meant(info, form):
            source = f"genai-prices {known.version}: {_owner(info, seller).id}/{info.id}"
            return Listed(info, source, is_sure=is_sure)
        nearest = nearest or info
    if nearest is not None:
        return Unlisted(f"only {nearest.id!r} of {seller.id}, which may be another model")
    return Unlisted(f"no such model on the list of {seller.id}")


def _seller(provider: str | None, ref: str) -> "Provider | None":
    """Who bills for the call: the provider, or Bedrock where only Bedrock has such ids."""
    # LlamaIndex's Anthropic takes them too, for its clients for Bedrock.
    if provider in (None, ANTHROPIC) and BEDROCK_MODEL.match(ref):
        provider = BEDROCK
    if provider is None:
        return None
    return _list().providers.get(LISTED_PROVIDERS.get(provider, provider))


def _maker(ref: str) -> "Provider | None":
    """The one maker who claims names like this one, if it is one."""
    claims = [
        provider
        for provider in _list().providers.values()
        if provider.model_match is not None and provider.model_match.is_match(ref)
    ]
    return claims[0] if len(claims) == 1 else None


def _owner(model: "ModelInfo", seller: "Provider") -> "Provider":
    """On whose list the model is: some sell others' models at the others' prices."""
    if any(model is own for own in seller.models):
        return seller
    others = (_list().providers[name] for name in seller.fallback_model_providers or ())
    return next(other for other in others if any(model is own for own in other.models))


def _forms(seller: str, ref: str) -> Iterator[str]:
    """The forms of an id under which the list may have it, the best first."""
    if seller == LISTED_PROVIDERS[GEMINI]:
        yield GOOGLE_PATH.sub("", ref)
    elif seller == LISTED_PROVIDERS[BEDROCK]:
        yield from _bedrock_forms(ref)
    else:
        yield ref


def _bedrock_forms(ref: str) -> Iterator[str]:
    arn = ARN.match(ref)
    if arn is not None and arn["kind"] not in _NAMING_A_MODEL:
        return
    name = _CONTEXT.sub("", ARN.sub("", ref))
    yield name
    # The global endpoint is cheaper for some models; all others cost what a single Region does.
    if not name.startswith(GLOBAL):
        yield GEOGRAPHY.sub("", name)


def _is_meant(model: "ModelInfo", ref: str) -> bool:
    """Whether the name means this model, not only one whose name is part of it."""
    name = model.id.lower()
    if ref == name:
        return True
    matches = list(_matches(model.match, ref))
    # None, if the library found it by another spelling of the date.
    return not matches or any(
        _is_same(before, after, name, pattern) for before, pattern, after in matches
    )


def _is_same(before: str, after: str, name: str, pattern: str) -> bool:
    prefix, _, suffix = name.partition(pattern)
    return (before in ("", prefix) or before[-1] in "./") and (
        after == suffix
        or _SAME_PRICE.fullmatch(after) is not None
        # OpenAI's and Azure's fine-tunes: the customer's own names follow.
        or pattern.startswith("ft:")
        or pattern.endswith(".ft-")
    )


def _matches(match: "MatchLogic", ref: str) -> Iterator[tuple[str, str, str]]:
    """Where the list's patterns fit a name: what is before, the pattern, what is after."""
    from genai_prices import types

    if not match.is_match(ref):
        return
    match match:
        case types.ClauseOr(or_=parts):
            for part in parts:
                yield from _matches(part, ref)
        case types.ClauseAnd(and_=parts):
            for part in parts:
                # Among others, a regular expression only excludes.
                if not isinstance(part, types.ClauseRegex):
                    yield from _matches(part, ref)
        case types.ClauseRegex():
            yield "", ref, ""
        case types.ClauseEndsWith(ends_with=text):
            yield ref.removesuffix(text.lower()), text.lower(), ""
        case (
            types.ClauseEquals(equals=text)
            | types.ClauseStartsWith(starts_with=text)
            | types.ClauseContains(contains=text)
        ):
            before, pattern, after = ref.partition(text.lower())
            yield before, pattern, after

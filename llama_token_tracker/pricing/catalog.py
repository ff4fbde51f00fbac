"""Look-up of models in genai-prices' price list: provider and model id in, rates out.

The search by name is the library's. It matches parts of names, so that "gemini-1.5-flash-8b"
finds "gemini-1.5-flash", at twice its price; each match is therefore checked, and a model whose
name is only similar has no price. Only the list that comes with the installed release is read,
even if the process updates the library's prices.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache, lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Final, NamedTuple

from llama_token_tracker._lock import LOADING
from llama_token_tracker._names import (
    ANTHROPIC,
    ARN,
    BEDROCK,
    BEDROCK_MODEL,
    CLAUDE_ON_BEDROCK,
    GEMINI,
    GEOGRAPHY,
    GLOBAL,
    GOOGLE_PATH,
    LISTED_PROVIDERS,
    LISTED_REGIONS,
    PARTITIONS_APART,
    REGIONS_APART,
)
from llama_token_tracker.pricing.rates import Cost, Rates
from llama_token_tracker.pricing.served import Served
from llama_token_tracker.usage import Usage

# genai-prices is imported late, for its half a second; what it brings mustn't come late: at each
# call openai looks for httpx2 among the loaded modules, and raises when it finds one that another
# thread has just begun to load.
with suppress(ImportError):
    import_module("httpx2")

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelInfo, PriceVariant, Provider

# When each release of genai-prices was published. Source: PyPI.
_RELEASED: Final = {"0.2.3": date(2026, 11, 10)}

# More models than any program uses.
_MAX_MODELS: Final = 1024

# The types of Bedrock resources whose ARN names a model on the list. The ARN of a custom model
# names its base model, but its price is another.
_MODEL_RESOURCES: Final = frozenset({"foundation-model", "inference-profile"})

# Bedrock's suffix for the length of the context, and the path before Google's model names.
_CONTEXT_LENGTH: Final = re.compile(r":\d+k$")

# The same within the names that models on Bedrock have for themselves: claude-3-haiku-48k-2024….
_CONTEXT_TOKENS: Final = re.compile(r"-\d+k-")

# Suffixes that leave a model's price as it is: dates, release numbers, Bedrock's first revision,
# any of Vertex AI's. Not `-lite` or `-8b`, nor a single digit, which is another version.
_VERSION: Final = re.compile(
    r"(?:\d{2,8}(?!\d))?"
    r"(?:[-@]\d{2,8}(?![\w.])|-(?:latest|preview|exp|experimental)(?!\w)"
    r"|-v1(?::\d+)?(?!\w)|-v\d(?=@)|:\d+(?!\w))*"
)


@dataclass(frozen=True, slots=True)
class UnlistedModel:
    """A model that isn't on the list.

    Attributes:
        reason: What was searched, and what was found instead, for the log.
    """

    reason: str

    def cost(self, usage: Usage, at: datetime, served: Served, *, is_whole: bool) -> None:
        """Return `None`: no call of this model has a known price."""


class ListedModel:
    """A model on the list, with its rates.

    Attributes:
        reason: Why its calls may still have no price, for the log.
    """

    reason = "a model whose price isn't one per token, or isn't on the list"

    def __init__(
        self, model: "ModelInfo", source: str, *, is_sure: bool, has_variants: bool
    ) -> None:
        """Prepare the rates of the model's prices, each when it's first needed.

        Args:
            model: The model on the list.
            source: Where its price comes from, as `Cost.source` states it.
            is_sure: Whether the listed price is that of the provider of the call.
            has_variants: Whether the model's variants, such as tiers, are that provider's too.
        """
        self._model = model
        self._source = source
        self._is_sure = is_sure
        self._variants = (model.price_variants or ()) if has_variants else ()
        self._rates: dict[tuple[int, ...], Rates] = {}

    def cost(self, usage: Usage, at: datetime, served: Served, *, is_whole: bool) -> Cost | None:
        """Price one call at the rates of its day, its hour, its prompt's length and its tier."""
        context = served.context
        variants: list[PriceVariant] = []
        source, is_listed = self._source, True
        if context:
            variants = [one for one in self._variants if _applies(one, at, context)]
            listed = {name for one in variants for name in one.when}
            source += "".join([f", {name}={context[name]}" for name in sorted(listed)])
            is_listed = listed == context.keys()
        return self._rates_at(at, context, variants).cost(
            usage,
            source=source,
            as_of=_price_list().as_of,
            is_whole=is_whole and self._is_sure and is_listed,
            units=served.units,
        )

    def _rates_at(
        self, at: datetime, context: dict[str, str], variants: "list[PriceVariant]"
    ) -> Rates:
        # By identity: the library's prices are made once and have no hash.
        key = tuple(map(id, (self._model.get_prices(at), *variants)))
        if key not in self._rates:
            applied = context if variants else None
            self._rates[key] = Rates.of(vars(self._model.get_prices(at, applied)))
        return self._rates[key]


def _applies(variant: "PriceVariant", at: datetime, context: dict[str, str]) -> bool:
    """Whether a call that was served like this had this price."""
    is_in_force = variant.constraint is None or variant.constraint.active(at)
    return is_in_force and variant.when.items() <= context.items()


class _PriceList(NamedTuple):
    """The price list of the installed release."""

    version: str
    as_of: date | None
    providers: "dict[str, Provider]"


@cache
def _price_list() -> _PriceList:
    # Imported late: it takes half a second.
    with LOADING:
        from importlib.metadata import version

        from genai_prices.data import providers

    release = version("genai-prices")
    return _PriceList(release, _RELEASED.get(release), {each.id: each for each in providers})


def load() -> None:
    """Have the list imported now, rather than when the first call is priced."""
    _price_list()


@lru_cache(maxsize=_MAX_MODELS)
def find_model(provider: str | None, model: str) -> ListedModel | UnlistedModel:
    """Find a model on the price list.

    Args:
        provider: The provider, by OpenTelemetry's name or the library's, or `None` if unknown.
        model: The model's id, in any form.

    Returns:
        The model with its rates, or why it isn't on the list.
    """
    known = _price_list()
    ref = model.strip().lower()
    seller, is_sure = _billing_provider(provider, ref), PARTITIONS_APART.match(ref) is None
    if seller is None and provider is None:
        seller, is_sure = _maker(ref), False
    if seller is None:
        return UnlistedModel(f"provider {provider!r:.40}, at which the list has no such model")
    nearest = None
    for variant in _id_variants(seller.id, ref):
        info = seller.find_model(variant, all_providers=list(known.providers.values()))
        if info is not None and _is_same_model(info, variant):
            lister = _listing_provider(info, seller)
            source = f"genai-prices {known.version}: {lister.id}/{info.id}"
            return ListedModel(info, source, is_sure=is_sure, has_variants=lister is seller)
        nearest = nearest or info
    if nearest is not None:
        return UnlistedModel(f"only {nearest.id!r} of {seller.id}, which may be another model")
    return UnlistedModel(f"no such model on the list of {seller.id}")


def find_served(
    provider: str | None, asked: str | None, served: Served
) -> tuple[ListedModel | UnlistedModel, bool]:
    """Find the model that has answered; if its name isn't on the list, the one that was asked.

    Args:
        provider: As for `find_model`.
        asked: The id that the call named, if any.
        served: What its answer says.

    Returns:
        The model, and whether it surely is the one that was billed, where it was billed.
    """
    answered, model = served.model, asked or served.model or ""
    if provider in (None, ANTHROPIC) and BEDROCK_MODEL.match(model.lower()):
        provider = BEDROCK
    if not asked or not answered or asked == answered:
        found, is_same = find_model(provider, model), True
    elif provider == BEDROCK and BEDROCK_MODEL.match(answered) is None:
        found, is_same = _by_request(provider, asked, answered)
    else:
        found, is_same = _by_answer(provider, asked, answered)
    return found, is_same and _is_listed_region(provider, model, served.region)


def _by_answer(
    provider: str | None, asked: str, answered: str
) -> tuple[ListedModel | UnlistedModel, bool]:
    found = find_model(provider, answered)
    if isinstance(found, ListedModel):
        return found, True
    return find_model(provider, asked), _is_revision(asked, answered)


def _by_request(
    provider: str | None, asked: str, answered: str
) -> tuple[ListedModel | UnlistedModel, bool]:
    """The same where a model's own body doesn't say what its price depends on: the geography."""
    found = find_model(provider, asked)
    if isinstance(found, ListedModel):
        return found, _is_revision(asked, answered)
    return find_model(provider, answered), False


def _is_listed_region(provider: str | None, model: str, region: str | None) -> bool:
    """Whether the list's prices are those of this region."""
    if region is None:
        return True
    if provider == BEDROCK and CLAUDE_ON_BEDROCK in model:
        return REGIONS_APART.match(region) is None
    known = LISTED_REGIONS.get(provider or "")
    return known is None or known.match(region) is not None


def _is_revision(one: str, other: str) -> bool:
    """Whether of two ids one is the other with a vendor's name, a date or a revision added."""
    one, other = (_CONTEXT_TOKENS.sub("-", name.lower()) for name in (one, other))
    long, short = (one, other) if len(one) >= len(other) else (other, one)
    before, found, after = long.partition(short)
    return found != "" and _differs_only_in_version(before, after, short, short)


def _billing_provider(provider: str | None, ref: str) -> "Provider | None":
    """The provider that bills the call: Bedrock where only Bedrock has such ids."""
    if provider in (None, ANTHROPIC) and BEDROCK_MODEL.match(ref):
        provider = BEDROCK
    known = _price_list().providers
    return None if provider is None else known.get(LISTED_PROVIDERS.get(provider, provider))


def _maker(ref: str) -> "Provider | None":
    """The one provider whose pattern of model names matches, if it is exactly one."""
    matching = [
        provider
        for provider in _price_list().providers.values()
        if provider.model_match is not None and provider.model_match.is_match(ref)
    ]
    return matching[0] if len(matching) == 1 else None


def _listing_provider(model: "ModelInfo", seller: "Provider") -> "Provider":
    """The provider that lists the model, which may be one that `seller` falls back to."""
    if any(model is own for own in seller.models):
        return seller
    others = (_price_list().providers[name] for name in seller.fallback_model_providers or ())
    return next(other for other in others if any(model is own for own in other.models))


def _id_variants(seller: str, ref: str) -> Iterator[str]:
    """The variants of an id to search for, the most exact first."""
    if seller == LISTED_PROVIDERS[GEMINI]:
        yield GOOGLE_PATH.sub("", ref)
    elif seller == LISTED_PROVIDERS[BEDROCK]:
        yield from _bedrock_variants(ref)
    else:
        yield ref


def _bedrock_variants(ref: str) -> Iterator[str]:
    arn = ARN.match(ref)
    if arn is not None and arn["kind"] not in _MODEL_RESOURCES:
        return
    name = _CONTEXT_LENGTH.sub("", ARN.sub("", ref))
    yield name
    # The global endpoint is cheaper for some models; all others cost what a single Region does.
    if not name.startswith(GLOBAL):
        yield GEOGRAPHY.sub("", name)


def _is_same_model(model: "ModelInfo", ref: str) -> bool:
    """Whether an id names this model, not one whose name merely contains the model's."""
    name = model.id.lower()
    if ref == name:
        return True
    matches = list(_matched_parts(model.match, ref))
    # No match: the library found it by another spelling of the date.
    return not matches or any(
        _differs_only_in_version(before, after, name, pattern) for before, pattern, after in matches
    )


def _differs_only_in_version(before: str, after: str, name: str, pattern: str) -> bool:
    prefix, _, suffix = name.partition(pattern)
    return (before in ("", prefix) or before[-1] in "./") and (
        after == suffix
        or _VERSION.fullmatch(after) is not None
        # OpenAI's and Azure's fine-tunes: the customer's own names follow.
        or pattern.startswith("ft:")
        or pattern.endswith(".ft-")
    )


def _matched_parts(match: "MatchLogic", ref: str) -> Iterator[tuple[str, str, str]]:
    """Each match of the list's patterns in an id, with the text before and after it."""
    from genai_prices import types

    if not match.is_match(ref):
        return
    match match:
        case types.ClauseOr(or_=parts):
            for part in parts:
                yield from _matched_parts(part, ref)
        case types.ClauseAnd(and_=parts):
            for part in parts:
                # Among others, a regular expression only excludes.
                if not isinstance(part, types.ClauseRegex):
                    yield from _matched_parts(part, ref)
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

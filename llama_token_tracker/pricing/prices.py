"""`Prices`: the cost of a call, by its usage, provider, model and time.

Prices that users give win over those of genai-prices' list.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import lru_cache
from typing import Final, TypeAlias, cast

from llama_token_tracker._log_once import notice
from llama_token_tracker._names import STATE_COSTS
from llama_token_tracker._printable import printable
from llama_token_tracker.errors import PriceError
from llama_token_tracker.pricing import catalog
from llama_token_tracker.pricing.own import Price
from llama_token_tracker.pricing.rates import Cost, Rates, billed_cost
from llama_token_tracker.pricing.served import UNSAID, Served
from llama_token_tracker.usage import Usage

OwnPrices: TypeAlias = Price | Sequence[Price]
"""A user's price of one model, or several, each from its own day on."""

HAVE_OUTPUT: Final = frozenset({"chat", "completion"})
"""Operations that give tokens back."""

# Characters in a model's id: Bedrock allows 2,048, and no provider more.
_MAX_MODEL: Final = 2048


@lru_cache(maxsize=1024)
def _rates(own: Price) -> Rates:
    """The rates of a user's price; chosen at first use, since that imports genai-prices."""
    return Rates.of(own.amounts())


class Prices:
    """Prices calls in US dollars, by your own prices and by those that genai-prices lists.

    Nothing is fetched: the list comes with the installed release. The library is imported when
    a call is first priced, which takes a quarter of a second, and half a second with its list; or
    by `load`.
    Thread-safe; can be copied and pickled.

    Args:
        prices: Your own prices by the model's id, as events name it: a `Price`, or several
            of different `since`. They win over the library's.
        models: The id of the model behind an id that names none, such as the ARN of an
            application inference profile, or a private deployment.

    Raises:
        PriceError: A value of `prices` is no price, or one of `models` no model's id.
    """

    def __init__(
        self,
        prices: Mapping[str, OwnPrices] | None = None,
        models: Mapping[str, str] | None = None,
    ) -> None:
        self._own = {
            _id(model, "prices"): _own(model, own) for model, own in _items(prices, "prices")
        }
        self._models = {
            _id(model, "models"): _id(known, "models") for model, known in _items(models, "models")
        }

    def cost(
        self,
        usage: Usage,
        *,
        provider: str | None,
        model: str | None,
        at: datetime,
        operation: str = "chat",
        served: Served = UNSAID,
    ) -> Cost | None:
        """Price one call. Never raises, whatever the call was.

        Args:
            usage: Its tokens. A sum of several calls may get a wrong price: prices depend on
                how long a single prompt was, and some include a fee per call.
            provider: Its provider, by OpenTelemetry's name. `None` if unknown: then the model
                is searched at the maker to whom its name points.
            model: Its model's id, as the call named it.
            at: When it was made, with a time zone.
            operation: What was asked for; an "embedding", for example, has no output.
            served: What its answer says of how it was served. The model that has answered
                decides its price, and so do its tier and speed; a cost that the provider says
                it has billed is the cost.

        Returns:
            Its cost; `None` if its input wasn't reported, or if no price per token is known of
            its model, which is logged once per model.
        """
        try:
            return self._cost(usage, provider, model, at, operation, served)
        except Exception as error:  # noqa: BLE001 - an odd event must not break the user's call
            notice("a call that can't be priced", error, "its cost is None")
            return None

    @staticmethod
    def load() -> None:
        """Import the list now: beside a thread that computes it may take seconds."""
        catalog.load()

    def _cost(
        self,
        usage: Usage,
        provider: str | None,
        model: object,
        at: datetime,
        operation: str,
        served: Served,
    ) -> Cost | None:
        named = model if isinstance(model, str) and model else None
        cost, reason = None, ""
        if usage.input_tokens is not None or served.units:
            is_whole = usage.output_tokens is not None or operation not in HAVE_OUTPUT
            cost, reason = self._listed(usage, provider, named, at, served, is_whole)
        if served.billed_usd is not None:
            if provider in STATE_COSTS:
                return billed_cost(served.billed_usd, f"billed by {provider}", cost)
            # Nobody knows whose cost it is, nor in which currency.
            return None if cost is None else replace(cost, is_whole=False)
        if cost is None and reason:
            notice(
                "no price per token is known of the model {}",
                reason,
                "its calls cost None; give a price as prices=, or the model behind it as models=",
                printable(named or served.model, 300),
            )
        return cost

    def _listed(
        self,
        usage: Usage,
        provider: str | None,
        model: str | None,
        at: datetime,
        served: Served,
        is_whole: bool,
    ) -> tuple[Cost | None, str]:
        """The cost by the user's prices or the list's, or why there is none."""
        asked = self._models.get(model or "", model)
        names = list(filter(None, (model, asked, served.model)))
        if not names or max(map(len, names)) > _MAX_MODEL:
            notice("a call that names no model has no price", model, "its cost is None")
            return None, ""
        own = self._own_price(names, at) if self._own else None
        if own is not None:
            cost = _rates(own).cost(
                usage,
                source="prices=",
                as_of=own.since,
                is_whole=is_whole and not served.context,
                units=served.units,
            )
            return cost, "a price of your own, without output"
        found, is_sure = catalog.find_served(provider, asked, served)
        # Who states costs bills those, not what a list says.
        is_whole = is_whole and is_sure and provider not in STATE_COSTS
        return found.cost(usage, at, served, is_whole=is_whole), found.reason

    def _own_price(self, names: Iterable[str], at: datetime) -> Price | None:
        """The user's price of a model with one of these names, the first that has any."""
        prices = next((self._own[name] for name in names if name in self._own), ())
        return _in_force(prices, at)


def _in_force(prices: tuple[Price, ...], at: datetime) -> Price | None:
    """The latest price that applies already."""
    for price in prices:
        if price.since is None or at.astimezone(UTC).date() >= price.since:
            return price
    return None


def _own(model: object, given: object) -> tuple[Price, ...]:
    """The user's prices of one model, the latest first."""
    prices: list[Price] = []
    for price in _several(given):
        if not isinstance(price, Price):
            msg = (
                f"prices= holds {price!r:.60} for {model!r:.60}; "
                "give a Price, for example Price(input_mtok=3, output_mtok=15)."
            )
            raise PriceError(msg)
        prices.append(price)
    return tuple(sorted(prices, key=lambda price: price.since or date.min, reverse=True))


def _several(given: object) -> Sequence[object]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        return cast("Sequence[object]", given)
    return (given,)


def _items(given: object, argument: str) -> list[tuple[object, object]]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        msg = f"{argument}= is {given!r:.60}; give a dict whose keys are ids of models."
        raise PriceError(msg)
    return list(cast("Mapping[object, object]", given).items())


def _id(model: object, argument: str) -> str:
    if not isinstance(model, str) or not model:
        msg = f'{argument}= holds {model!r:.60}; give ids of models, for example "gpt-4o".'
        raise PriceError(msg)
    return model

"""What one call costs at the rates of its model: `Rates` turns a `Usage` into a `Cost`.

The prices, the units they are for (`genai_prices.units`: which tokens, per how many) and the
arithmetic of one price, tiers included (`calc_unit_price`), are genai-prices'. Which price each
token has is decided here, once per price list entry, since the library's `ModelPrice.calc_price`
can't be asked instead: it returns the sums of input and output only, not what cache reads saved,
what cache writes cost, or which tokens had no price of their own; it raises where a usage
reports cached and audio tokens but not how many are both; it refuses a user's price that lists
cache reads and audio but not cached audio; and it validates the whole entry on each call, which
takes two to six times as long. Tests compare the two on every model of the list.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal, localcontext
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple, Self, TypeAlias

from llama_token_tracker._lock import LOADING
from llama_token_tracker.errors import UsageShapeError
from llama_token_tracker.usage import Usage

if TYPE_CHECKING:
    from genai_prices.types import TieredPrices
    from genai_prices.units import UnitDef, UnitRegistry

    ListPrice: TypeAlias = Decimal | TieredPrices


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one call cost, in US dollars, and how that is known.

    Attributes:
        usd: The cost of the call: input and output.
        input_usd: The cost of the input, cache reads and writes included, and of what isn't
            tokens: the fee per call where the provider charges one, searches. Of a cost that the
            provider has stated, a part like that of the list's price; all of it, if it lists none.
        output_usd: The cost of the output, reasoning included.
        cache_savings_usd: How much more the cache reads would have cost as uncached input; 0
            if nothing was read, or if reading was no cheaper.
        cache_write_usd: The part of `input_usd` that the writes to the cache cost; 0 if
            nothing was written.
        source: Where the price comes from: "genai-prices", its version and the model on its
            list, and what differs from its standard price; "prices=" for one of your own; or
            "billed by" and the provider, if its answer says what it has billed.
        as_of: The day of which the price list is, or from which on your own price applies;
            `None` if that isn't known.
        is_whole: `False` where the bill may well differ, because part of it isn't known:

            - Cached tokens were written for a time that isn't reported, and an hour costs more than
              five minutes, which they are priced as: that much is sure.
            - The answer names a model, a tier, a speed or a region of which the list says no price.
            - Searches or the like were billed that the list has no price for.
            - The list has no price of its own for cache reads, cache writes, writes for one
              hour, audio, or output images, and there were such tokens. They are priced as
              uncached input, as writes for five minutes, or as text.
            - Part of the tokens is cached and part is audio or images, at other rates, and
              how the two overlap isn't reported. Cached tokens are taken to be text first.
            - Part of the output has a price of its own but no bucket (citations).
            - No output was reported, of a call that isn't an embedding. It's counted as none.
            - No answer was seen at all.
            - The provider isn't known, as nobody knows the host. The price is that of the model's
              maker.
            - Something in what the provider said of its tokens wasn't understood.
            - The provider states in its answers what it has billed, and this one has no such cost.
            - The call went to AWS GovCloud or China. The price is that of other Regions.
    """

    usd: Decimal
    input_usd: Decimal
    output_usd: Decimal
    cache_savings_usd: Decimal
    cache_write_usd: Decimal
    source: str
    as_of: date | None
    is_whole: bool


def billed_cost(usd: Decimal, source: str, listed: Cost | None) -> Cost:
    """A cost that the provider has stated, split as the listed one is.

    Args:
        usd: What it has billed.
        source: Who says so.
        listed: What the call would cost by a price list, if that knows.
    """
    with localcontext(EXACT):
        ratio = usd / listed.usd if listed is not None and listed.usd else _NOTHING
        output_usd, saved_usd, written_usd = (
            _NOTHING if listed is None else getattr(listed, name) * ratio
            for name in ("output_usd", "cache_savings_usd", "cache_write_usd")
        )
        return Cost(
            usd=usd,
            input_usd=usd - output_usd,
            output_usd=output_usd,
            cache_savings_usd=saved_usd,
            cache_write_usd=written_usd,
            source=source,
            as_of=None,
            is_whole=True,
        )


# The kinds of tokens, by genai-prices' names, `{}` being the modality: a special one first, the
# last is what is left over. Writes of unknown life cost what five minutes cost: it's the default.
_INPUT: Final = (
    "cache{}_read_tokens",
    "cache{}_write_tokens",
    "cache{}_write_5m_tokens",
    "cache{}_write_1h_tokens",
    "input{}_tokens",
)
_READ: Final = 0
_WRITE: Final = 1
_WRITE_1H: Final = 3
_WRITES: Final = slice(_WRITE, _WRITE_1H + 1)
_OUTPUT: Final = ("output{}_reasoning_tokens", "output{}_tokens")
_MODALITIES: Final = ("", "_image", "_audio")

# genai-prices' names of what `Served.units` holds.
_UNITS: Final = {
    "search_units": "rerank_searches",
    "web_searches": "web_searches",
    "seconds": "input_audio_seconds",
    "characters": "input_characters",
}

# What is billed beside tokens; anything else in their place.
_BESIDE_TOKENS: Final = frozenset(
    {
        "web_searches",
        "premium_web_searches",
        "code_runs",
        "generated_images",
        "document_searches",
        "connector_tokens",
    }
)

# What a more general price covers as a rule. Other tokens have prices of their own, or should.
_COVERED: Final = {
    "input": frozenset({("cache_ttl", "5m"), ("modality", "image")}),
    "output": frozenset({("token_type", "reasoning")}),
}

# Of two prices that fit a token, the one that names the earlier dimension applies.
_PRECEDENCE: Final = ("token_type", "modality", "cache_ttl")

EXACT: Final = Context(prec=60)
"""How money is computed: the calling thread's own context may round, or raise."""

_NOTHING: Final = Decimal(0)


class _Rate(NamedTuple):
    """The price of one kind of tokens of one modality: US dollars for `per` of them."""

    price: "ListPrice"
    per: int
    is_own: bool

    def usd(self, count: float, prompt_tokens: int) -> Decimal:
        """The cost of so many tokens, or units, in a call whose prompt has `prompt_tokens`."""
        return _unit_price()(self.price, count, prompt_tokens, self.per)


@cache
def _unit_price() -> "Callable[[ListPrice, float, int, int], Decimal]":
    # Late: importing the library takes a quarter of a second.
    with LOADING:
        from genai_prices.types import calc_unit_price

    return calc_unit_price


_Table: TypeAlias = tuple[tuple[_Rate, ...], ...]
"""Rates by kind, then by modality."""

_Counts: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """The price of each kind of tokens, by one entry of a price list.

    Attributes:
        input: The rates of input tokens, or `None` if the list has no price for input.
        output: The rates of output tokens, likewise.
        fee: What the call itself costs, if anything.
        units: The rates of what isn't tokens, by genai-prices' names.
        is_whole: Whether a usage has a bucket for all that the entry prices.
    """

    input: _Table | None
    output: _Table | None
    fee: _Rate | None
    units: "Mapping[str, _Rate]"
    is_whole: bool

    @classmethod
    def of(cls, prices: "Mapping[str, ListPrice | None]") -> Self:
        """Choose the price of each kind and modality.

        Args:
            prices: Prices by genai-prices' keys, such as `input_mtok`.
        """
        unit_of = _registry().unit_for_price_key
        priced = [(unit_of(key), price) for key, price in prices.items() if price is not None]
        by_name = {unit.usage_key: _Rate(price, unit.per, is_own=True) for unit, price in priced}
        return cls(
            input=_table(priced, "input", _INPUT) if "input_tokens" in by_name else None,
            output=_table(priced, "output", _OUTPUT) if "output_tokens" in by_name else None,
            fee=by_name.get("requests"),
            units=by_name,
            # Each call of a model whose citations have a price has some, but no bucket for them.
            is_whole="output_citation_tokens" not in by_name,
        )

    def cost(
        self,
        usage: Usage,
        *,
        source: str,
        as_of: date | None,
        is_whole: bool,
        units: Mapping[str, float] | None = None,
    ) -> Cost | None:
        """Price one call.

        Args:
            usage: The tokens of the call.
            source: Where these rates come from.
            as_of: The day of which they are.
            is_whole: Whether nothing else about the call is in doubt.
            units: What else is billed, by `Served`'s names.

        Returns:
            The cost, or `None` if there is no price for input, or for output that there was.

        Raises:
            UsageShapeError: The usage contradicts itself.
        """
        billed = self._billed_apart(usage, units) if units else []
        if not self._has_price(usage, billed):
            return None
        length = usage.input_tokens or 0
        went_in = _Side(self.input or (), _input(usage), length)
        came_out = _Side(self.output or (), _output(usage), length)
        with localcontext(EXACT):
            parts = went_in.usd()
            fees = [rate.usd(count, length) for rate, count in (*billed, (self.fee, 1)) if rate]
            input_usd = sum([*parts, *fees], _NOTHING)
            output_usd = sum(came_out.usd(), _NOTHING)
            return Cost(
                usd=input_usd + output_usd,
                input_usd=input_usd,
                output_usd=output_usd,
                cache_savings_usd=went_in.saved_usd(parts),
                cache_write_usd=sum(parts[_WRITES], _NOTHING),
                source=source,
                as_of=as_of,
                is_whole=is_whole and self._covers(billed, went_in, came_out),
            )

    def _covers(
        self, billed: "list[tuple[_Rate | None, float]]", went_in: "_Side", came_out: "_Side"
    ) -> bool:
        """Whether all that was used has a rate of its own, and a bucket."""
        return (
            self.is_whole
            and all(rate is not None for rate, _ in billed)
            and went_in.is_life_known()
            and went_in.is_certain()
            and came_out.is_certain()
        )

    def _billed_apart(
        self, usage: Usage, units: Mapping[str, float]
    ) -> "list[tuple[_Rate | None, float]]":
        """What is billed apart from tokens, or in their place: rates, if listed, and numbers."""
        return [
            (self.units.get(_UNITS.get(unit, "")), count)
            for unit, count in units.items()
            if unit in _BESIDE_TOKENS or not usage.total_tokens
        ]

    def _has_price(self, usage: Usage, billed: "list[tuple[_Rate | None, float]]") -> bool:
        """Whether what was used has a price, at least in the main."""
        if self.output is None and usage.output_tokens:
            return False
        if billed and not usage.total_tokens:
            # It's billed by these alone.
            return all(rate is not None for rate, _ in billed)
        return self.input is not None


@cache
def _registry() -> "UnitRegistry":
    # Late: importing the library takes a quarter of a second.
    with LOADING:
        from genai_prices.data_units import unit_data
        from genai_prices.units import UnitRegistry

    return UnitRegistry(unit_data)


_Priced: TypeAlias = "list[tuple[UnitDef, ListPrice]]"


def _table(priced: _Priced, direction: str, kinds: tuple[str, ...]) -> _Table:
    return tuple(
        tuple(_rate(priced, kind.format(modality), _COVERED[direction]) for modality in _MODALITIES)
        for kind in kinds
    )


def _rate(priced: _Priced, name: str, covered: frozenset[tuple[str, str]]) -> _Rate:
    """Choose the most special price that fits these tokens."""
    wanted = _registry().units[name].dimensions.items()
    unit, price = max(
        (each for each in priced if each[0].dimensions.items() <= wanted),
        key=lambda each: [dimension in each[0].dimensions for dimension in _PRECEDENCE],
    )
    return _Rate(price, unit.per, is_own=wanted - unit.dimensions.items() <= covered)


class _Tokens(NamedTuple):
    """The tokens of one direction.

    Attributes:
        kinds: How many there are of each kind.
        modalities: How many there are of each modality.
        cells: Kind, modality and number, where that isn't zero.
    """

    kinds: _Counts
    modalities: _Counts
    cells: list[tuple[int, int, int]]


def _input(usage: Usage) -> _Tokens:
    total, read = usage.input_tokens or 0, usage.cache_read_tokens or 0
    write = usage.cache_write_tokens or 0
    write_5m, write_1h = usage.cache_write_5m_tokens or 0, usage.cache_write_1h_tokens or 0
    image, audio = usage.input_image_tokens or 0, usage.input_audio_tokens or 0
    return _tokens(
        (read, write - write_5m - write_1h, write_5m, write_1h, total - read - write),
        (total - image - audio, image, audio),
    )


def _output(usage: Usage) -> _Tokens:
    total, reasoning = usage.output_tokens or 0, usage.reasoning_tokens or 0
    image, audio = usage.output_image_tokens or 0, usage.output_audio_tokens or 0
    return _tokens((reasoning, total - reasoning), (total - image - audio, image, audio))


def _tokens(kinds: _Counts, modalities: _Counts) -> _Tokens:
    """Distribute each kind over the modalities, in order: cached tokens are text first."""
    if min(kinds) < 0 or min(modalities) < 0:
        msg = (
            f"the parts of a usage exceed their whole (kinds {kinds}, modalities {modalities}); "
            "buckets are inclusive: the whole holds its parts."
        )
        raise UsageShapeError(msg)
    if not any(modalities[1:]):
        return _Tokens(kinds, modalities, [(kind, 0, n) for kind, n in enumerate(kinds) if n])
    cells: list[tuple[int, int, int]] = []
    modality, room = 0, modalities[0]
    for kind, count in enumerate(kinds):
        left = count
        while left:
            while not room:
                modality += 1
                room = modalities[modality]
            taken = min(left, room)
            cells.append((kind, modality, taken))
            left, room = left - taken, room - taken
    return _Tokens(kinds, modalities, cells)


class _Side(NamedTuple):
    """The tokens of one direction of a call, and their rates.

    Attributes:
        table: The rates; empty if there are neither any nor tokens.
        tokens: The tokens.
        length: How many tokens the whole prompt has.
    """

    table: _Table
    tokens: _Tokens
    length: int

    def usd(self) -> list[Decimal]:
        """What the tokens of each kind cost."""
        usd = [_NOTHING] * len(self.tokens.kinds)
        for kind, modality, count in self.tokens.cells:
            usd[kind] += self.table[kind][modality].usd(count, self.length)
        return usd

    def saved_usd(self, paid: list[Decimal]) -> Decimal:
        """How much more what was read from a cache would have cost without it."""
        if not self.tokens.kinds[_READ]:
            return _NOTHING
        uncached = [
            self.table[-1][modality].usd(count, self.length)
            for kind, modality, count in self.tokens.cells
            if kind == _READ
        ]
        return max(sum(uncached, _NOTHING) - paid[_READ], _NOTHING)

    def is_life_known(self) -> bool:
        """Whether it's known for how long input is cached, or makes no difference."""
        return not self.tokens.kinds[_WRITE] or all(
            one.price == other.price
            for one, other in zip(self.table[_WRITE], self.table[_WRITE_1H], strict=True)
        )

    def is_certain(self) -> bool:
        """Whether each rate is its cell's own, and any overlap of kinds and modalities known."""
        _, modalities, cells = self.tokens
        for kind, modality, _ in cells:
            if not self.table[kind][modality].is_own:
                return False
        return len(cells) <= 1 or not any(modalities[1:]) or self._is_overlap_irrelevant()

    def _is_overlap_irrelevant(self) -> bool:
        """Whether one modality costs more than another by the same amount, whatever the kind."""
        used = [place for place, count in enumerate(self.tokens.modalities) if count]
        rows = [row for row, count in zip(self.table, self.tokens.kinds, strict=True) if count]
        usd = [[row[place].usd(1, self.length) for place in used] for row in rows]
        steps = [[other - row[0] for other in row] for row in usd]
        return all(row == steps[0] for row in steps)

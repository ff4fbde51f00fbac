"""Usage and rates in, dollars out.

A price list names its rates as genai-prices does (`cache_read_mtok`, `input_audio_mtok`, …),
in US dollars per million tokens. Each token has one rate: that of the most special name that
fits it and is on the list.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal, localcontext
from typing import Final, NamedTuple, Self, TypeAlias

from llama_token_tracker.errors import UsageShapeError
from llama_token_tracker.usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one call cost, in US dollars, and how that is known.

    Attributes:
        usd: All together: input and output.
        input_usd: What everything that went in cost, cache reads and writes included, and the
            fee for the call itself where the provider takes one.
        output_usd: What everything that came out cost, reasoning included.
        cache_savings_usd: What the cache reads would have cost more as uncached input; 0 if
            nothing was read, or if reading was no cheaper.
        cache_write_usd: The part of `input_usd` that the writes to the cache cost; 0 if
            nothing was written.
        source: Where the price comes from: "genai-prices", its version and the model on its
            list, or "prices=" for one of your own.
        as_of: The day of which the price list is, or from which on your own price holds;
            `None` if that isn't known.
        is_whole: `False` where the bill may well differ, because part of it isn't known:

            - The list has no price of its own for cache reads, cache writes, writes for one
              hour, sound, or pictures that came out, and there were such tokens. They are
              priced as uncached input, as writes for five minutes, or as text.
            - Part of the tokens is cached and part is sound or pictures, at other rates, and
              how the two overlap isn't reported. What was cached is taken to be text first.
            - Part of the output has a price of its own but no bucket (citations).
            - No output was reported, of a call that isn't an embedding. It's counted as none.
            - The provider isn't known. The price is that of the model's maker.
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


class _Kind(NamedTuple):
    """One kind of tokens: the rates that fit it, and by what a rate that is its own is known."""

    rates: tuple[str, ...]
    own: str = ""


# `{}` is where a rate names the modality. The last kind of a direction is what is left over.
_INPUT: Final = (
    _Kind(("cache{}_read_mtok",), "_read_"),
    # Writes of unknown life cost what five minutes cost: that is what providers grant unasked.
    _Kind(("cache{}_write_mtok",), "_write_"),
    _Kind(("cache{}_write_5m_mtok", "cache{}_write_mtok"), "_write_"),
    _Kind(("cache{}_write_1h_mtok", "cache{}_write_mtok"), "_write_1h_"),
    _Kind(("input{}_mtok",)),
)
_READS: Final = (0,)
_WRITES: Final = (1, 2, 3)
_OUTPUT: Final = (_Kind(("output{}_reasoning_mtok",)), _Kind(("output{}_mtok",)))

# What stands for the modality, and by what a rate that is its own is known. Without one,
# pictures that go in are billed as text; sound, and pictures that come out, are dearer.
_Modality: TypeAlias = tuple[str, str]
_INPUT_MODALITIES: Final = (("", ""), ("_image", ""), ("_audio", "_audio_"))
_OUTPUT_MODALITIES: Final = (("", ""), ("_image", "_image_"), ("_audio", "_audio_"))

# Rates for what a usage has no bucket for, but every call of such a model has tokens of.
_WITHOUT_BUCKET: Final = ("output_citation_mtok",)

EXACT: Final = Context(prec=60)
"""How money is computed: the calling thread's own context may round, or raise."""

_NOTHING: Final = Decimal(0)


class _Cell(NamedTuple):
    """The rate of one kind of tokens of one modality."""

    rate: Decimal
    is_own: bool


_Table: TypeAlias = tuple[tuple[_Cell, ...], ...]
"""Cells by kind, then by modality."""

_Counts: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rates:
    """What each token costs, once tiers and dates are settled.

    Attributes:
        input: Dollars per million tokens of the input, or `None` if the list has no such price.
        output: The same of the output.
        fee_usd: What the call itself costs, in dollars.
        is_whole: Whether a usage can hold all that the list has rates for.
    """

    input: _Table | None
    output: _Table | None
    fee_usd: Decimal
    is_whole: bool

    @classmethod
    def of(cls, listed: Mapping[str, Decimal]) -> Self:
        """Sort a list's rates by kind and modality.

        Args:
            listed: Dollars per million tokens, and per thousand calls, by genai-prices' names.
        """
        return cls(
            input=_table(listed, _INPUT, _INPUT_MODALITIES),
            output=_table(listed, _OUTPUT, _OUTPUT_MODALITIES),
            fee_usd=listed.get("requests_kcount", _NOTHING).scaleb(-3, EXACT),
            is_whole=not any(name in listed for name in _WITHOUT_BUCKET),
        )

    def cost(self, usage: Usage, *, source: str, as_of: date | None, is_whole: bool) -> Cost | None:
        """Price one call.

        Args:
            usage: The tokens of the call.
            source: Where these rates come from.
            as_of: The day of which they are.
            is_whole: Whether nothing else about the call is in doubt.

        Returns:
            The cost, or `None` if there is no price for input, or for output that there was.

        Raises:
            UsageShapeError: The usage contradicts itself.
        """
        if self.input is None or (self.output is None and usage.output_tokens):
            return None
        went_in, came_out = _input(usage), _output(usage)
        with localcontext(EXACT):
            input_usd = _sum(self.input, went_in.cells) + self.fee_usd
            output_usd = _NOTHING if self.output is None else _sum(self.output, came_out.cells)
            reads = [cell for cell in went_in.cells if cell[0] in _READS]
            uncached = [(-1, modality, count) for _, modality, count in reads]
            saved_usd = _sum(self.input, uncached) - _sum(self.input, reads)
            writes = [cell for cell in went_in.cells if cell[0] in _WRITES]
            return Cost(
                usd=input_usd + output_usd,
                input_usd=input_usd,
                output_usd=output_usd,
                cache_savings_usd=max(saved_usd, _NOTHING),
                cache_write_usd=_sum(self.input, writes),
                source=source,
                as_of=as_of,
                is_whole=is_whole
                and self.is_whole
                and _is_certain(self.input, went_in)
                and (self.output is None or _is_certain(self.output, came_out)),
            )


def _table(
    listed: Mapping[str, Decimal], kinds: tuple[_Kind, ...], modalities: tuple[_Modality, ...]
) -> _Table | None:
    rest = kinds[-1]
    if rest.rates[0].format("") not in listed:
        return None
    return tuple(
        tuple(_cell(listed, kind, rest, modality) for modality in modalities) for kind in kinds
    )


def _cell(listed: Mapping[str, Decimal], kind: _Kind, rest: _Kind, modality: _Modality) -> _Cell:
    """Find the most special rate: of this kind and modality, of this kind, of what is left."""
    infix, own = modality
    names = [
        rate.format(place)
        for rates in (kind.rates, rest.rates)
        for place in (infix, "")
        for rate in rates
    ]
    name = next(name for name in names if name in listed)
    return _Cell(listed[name], kind.own in name and own in name)


class _Tokens(NamedTuple):
    """The tokens of one direction, by kind and by modality; and each cell that has some."""

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
    """Lay kinds over modalities, both in their order: what was cached is text first."""
    if min(kinds) < 0 or min(modalities) < 0:
        msg = (
            f"the parts of a usage exceed their whole (kinds {kinds}, modalities {modalities}); "
            "buckets are inclusive: the whole holds its parts."
        )
        raise UsageShapeError(msg)
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


def _sum(table: _Table, cells: Iterable[tuple[int, int, int]]) -> Decimal:
    """Dollars for the tokens of these cells."""
    total = _NOTHING
    for kind, modality, count in cells:
        total += table[kind][modality].rate * count
    return total.scaleb(-6)


def _is_certain(table: _Table, tokens: _Tokens) -> bool:
    """Whether each rate is its cell's own, and how kinds and modalities overlap is no matter."""
    if not all(table[kind][modality].is_own for kind, modality, _ in tokens.cells):
        return False
    if len(tokens.cells) == 1 or not any(tokens.modalities[1:]):
        return True
    kinds = [row for row, count in zip(table, tokens.kinds, strict=True) if count]
    places = [place for place, count in enumerate(tokens.modalities) if count]
    first, place = kinds[0], places[0]
    return all(
        row[other].rate - row[place].rate == first[other].rate - first[place].rate
        for row in kinds
        for other in places
    )

"""`Price`: a price that a user gives for a model, instead of the price list's."""

from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import TypeAlias, cast

from llama_token_tracker.errors import PriceError

Amount: TypeAlias = Decimal | int | float | str
"""A number; as a string or a `Decimal` it's exact."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs, in US dollars per million tokens.

    Zero is a price; `None` means that such tokens have no price of their own, as in a provider's
    list. They are priced as the next more general ones, and `Cost.is_whole` says so.

    Attributes:
        input_mtok: Uncached input.
        output_mtok: Output; `None` for a model that has none, as those for embeddings.
        cache_read_mtok: Input that is read from a cache.
        cache_write_mtok: Input that is written to a cache for five minutes, or for a time that
            isn't reported.
        cache_write_1h_mtok: Input that is written to a cache for one hour.
        output_reasoning_mtok: Reasoning, where it doesn't cost what other output costs.
        input_audio_mtok: Input audio.
        input_image_mtok: Input images, where they don't cost what text costs.
        output_audio_mtok: Output audio.
        output_image_mtok: Output images.
        since: The first day, in UTC, on which the price applies; `None` for all days.

    Raises:
        PriceError: An amount is negative or not a number, or `since` is no date.
    """

    input_mtok: Amount
    output_mtok: Amount | None = None
    cache_read_mtok: Amount | None = field(default=None, kw_only=True)
    cache_write_mtok: Amount | None = field(default=None, kw_only=True)
    cache_write_1h_mtok: Amount | None = field(default=None, kw_only=True)
    output_reasoning_mtok: Amount | None = field(default=None, kw_only=True)
    input_audio_mtok: Amount | None = field(default=None, kw_only=True)
    input_image_mtok: Amount | None = field(default=None, kw_only=True)
    output_audio_mtok: Amount | None = field(default=None, kw_only=True)
    output_image_mtok: Amount | None = field(default=None, kw_only=True)
    since: date | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Keep each amount as an exact number, or refuse it."""
        for name in _AMOUNTS:
            value = getattr(self, name)
            if value is not None or name == "input_mtok":
                object.__setattr__(self, name, _amount(name, value))
        since = cast("object", self.since)
        # A datetime is a date to Python, but can't be compared with one.
        if since is not None and (not isinstance(since, date) or isinstance(since, datetime)):
            msg = f"since is {since!r:.60}; give a date, for example date(2026, 1, 1)."
            raise PriceError(msg)

    def amounts(self) -> dict[str, Decimal | None]:
        """The amounts by genai-prices' keys, which are the names here."""
        return {name: getattr(self, name) for name in _AMOUNTS}


_AMOUNTS = tuple(field.name for field in fields(Price) if field.name.endswith("_mtok"))


def _amount(name: str, value: object) -> Decimal:
    number = Decimal("NaN")
    if isinstance(value, Decimal | int | float | str) and not isinstance(value, bool):
        with suppress(InvalidOperation):
            # Of a float, the figure that it prints: 0.1 is meant to be one tenth.
            number = Decimal(repr(value) if isinstance(value, float) else value)
    if not number.is_finite() or number < 0:
        msg = (
            f"{name} is {value!r:.60}; give US dollars per million tokens as a number that is "
            "not negative, for example Decimal('0.15')."
        )
        raise PriceError(msg)
    return number

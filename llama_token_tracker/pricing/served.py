"""`Served`: what a call's price depends on besides its tokens, as far as its answer tells."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

BATCH: Final = "batch"
"""What Anthropic calls the tier of its batches."""

# Source: API references of OpenAI, Anthropic, Amazon Bedrock, Groq and Vertex AI (checked
# 2026-11-29).
_STANDARD: Final = {
    "service_tier": frozenset({"default", "standard", "on_demand", "unspecified"}),
    "speed": frozenset({"standard"}),
}
"""What answers call that which costs what a list says, if it says nothing else."""


class Served(NamedTuple):
    """How one call was served; `None` is what its answer doesn't tell.

    Attributes:
        model: The model that answered, as its provider names it.
        service_tier: The tier, in lower case: "default", "flex", "priority", "batch", …
        speed: How fast, where a provider has several: "standard", "fast" (Anthropic), "optimized"
            (Bedrock's latency).
        region: Where: the region or geography of the host, or what the answer says of it.
        billed_usd: What the provider says that it has billed, in US dollars.
        units: What is billed apart from tokens, by name: "search_units", "web_searches", "images",
            "seconds", "characters"; the runs of Mistral's connectors, and the tokens, part of the
            input, that these found.
    """

    model: str | None = None
    service_tier: str | None = None
    speed: str | None = None
    region: str | None = None
    billed_usd: Decimal | None = None
    units: Mapping[str, float] | None = None

    @property
    def is_batch(self) -> bool:
        """Whether it was part of a batch."""
        return self.service_tier == BATCH

    @property
    def context(self) -> dict[str, str]:
        """What differs from the standard, as genai-prices calls it."""
        if self is UNSAID:
            return {}
        if self.is_batch:
            return {"processing": BATCH}
        said = {"service_tier": self.service_tier, "speed": self.speed}
        return {
            name: value for name, value in said.items() if value and value not in _STANDARD[name]
        }

    def filled(self, other: "Served") -> "Served":
        """The same, with what another place tells where this one is silent."""
        if other is UNSAID or self is UNSAID:
            return other if self is UNSAID else self
        pairs = zip(self, other, strict=True)
        return Served._make(mine if mine is not None else its for mine, its in pairs)

    def with_another(self, other: "Served") -> "Served":
        """What is true of two requests of one call together."""
        told = {
            name: mine if mine == its else f"{mine}, {its}"
            for name in ("model", "service_tier", "speed", "region")
            for mine, its in ((getattr(self, name), getattr(other, name)),)
        }
        mine, its = self.billed_usd, other.billed_usd
        usd = None if mine is None or its is None else mine + its
        units = dict(self.units or {})
        for name, count in (other.units or {}).items():
            units[name] = units.get(name, 0) + count
        return Served(**told, billed_usd=usd, units=units or None)

    def split(self, weights: Sequence[int]) -> Sequence["Served"]:
        """The same for each of several texts of one request, what was billed split by weights."""
        if len(weights) == 1:
            return [self]
        parts = [self._replace(units=None, billed_usd=None) for _ in weights]
        parts[0] = parts[0]._replace(units=self.units)
        if self.billed_usd is not None:
            whole = sum(weights) or 1
            usd = [self.billed_usd * weight / whole for weight in weights[:-1]]
            usd.append(self.billed_usd - sum(usd))
            parts = [part._replace(billed_usd=one) for part, one in zip(parts, usd, strict=True)]
        return parts

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values; dollars as text, so that no digit is lost."""
        return {
            "served_model": self.model,
            "service_tier": self.service_tier,
            "speed": self.speed,
            "is_batch": self.is_batch,
            "region": self.region,
            "billed_usd": None if self.billed_usd is None else str(self.billed_usd),
            "units": dict(self.units or {}),
        }


UNSAID: Final = Served()
"""An answer that tells nothing of it."""

"""How a call was served is read wherever a provider, or a framework, says it."""

from decimal import Decimal
from typing import Any

import pytest

from llama_token_tracker.extraction.reader import extract_reported, extract_served
from llama_token_tracker.extraction.served import served_in
from llama_token_tracker.pricing import UNSAID, Served

USAGE = {"prompt_tokens": 3, "completion_tokens": 4}
CASES: dict[str, tuple[Any, Served]] = {
    "gemini": (
        {"modelVersion": "gemini-3-pro", "usageMetadata": {"serviceTier": "FLEX"}},
        Served(model="gemini-3-pro", service_tier="flex"),
    ),
    "vertex": (
        {"usageMetadata": {"trafficType": "ON_DEMAND_PRIORITY"}},
        Served(service_tier="priority"),
    ),
    "vertex, bought in advance": (
        {"usage_metadata": {"traffic_type": "PROVISIONED_THROUGHPUT"}},
        Served(service_tier="provisioned_throughput"),
    ),
    "vertex, as usual": (
        {"usageMetadata": {"trafficType": "ON_DEMAND"}},
        Served(service_tier="on_demand"),
    ),
    "groq": ({"model": "m", "service_tier": "on_demand"}, Served("m", "on_demand")),
    "a router's choice before its own name": (
        {"model_name": "router", "trace": {"promptRouter": {"invokedModelId": "chosen"}}},
        Served("chosen"),
    ),
    "a user's own fields": (
        {"metadata": {"model": "mine", "cost": 5, "speed": "fast"}, "usage": USAGE},
        UNSAID,
    ),
    "no costs": ({"usage": {**USAGE, "cost": "5 cents"}}, UNSAID),
    "less than nothing": ({"usage": {**USAGE, "cost": -1}}, UNSAID),
    "a user's own key": ({"usage": {**USAGE, "cost": 1, "is_byok": True}}, UNSAID),
    "a cost with all its digits": (
        {"usage": {**USAGE, "cost": 0.1}},
        Served(billed_usd=Decimal("0.1")),
    ),
    "an embedding's data": ({"model": "e", "data": [{"embedding": [0.1]}]}, Served("e")),
}


@pytest.mark.parametrize("name", CASES)
def test_each_says_it_in_its_own_way(name: str):
    """And nobody else's fields are taken for it."""
    body, expected = CASES[name]
    assert served_in(body) == expected


def test_the_last_word_of_a_stream_stands():
    """What only the first said stands as well."""
    chunks = [{"model": "m", "service_tier": "auto"}, {"usage": USAGE, "service_tier": "flex"}]
    assert extract_served(chunks) == Served("m", "flex")
    assert extract_reported(chunks).served == Served("m", "flex")


class Hostile:
    """Raises whatever it's asked for."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


HOSTILE: dict[str, Any] = {
    "nothing": None,
    "a number": 3,
    "an empty list": [],
    "a list": [Hostile()],
    "an object": Hostile(),
    "a field": {"usage": Hostile()},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_can_not_be_read_tells_nothing(name: str):
    """And raises nothing."""
    assert extract_served(HOSTILE[name]) == UNSAID

"""What's true of one request, of several, and of parts of one."""

from decimal import Decimal

import pytest

from llama_token_tracker.pricing import UNSAID, Served


def test_one_place_is_filled_by_another():
    """The first that says something stands."""
    assert Served("a").filled(Served("b", "flex")) == Served("a", "flex")
    assert UNSAID.filled(Served("b")) == Served("b") == Served("b").filled(UNSAID)


def test_of_two_requests_both_are_told():
    """Figures add up, and names that differ are none that a list knows."""
    one = Served("a", "flex", billed_usd=Decimal(1), units={"images": 1})
    two = Served("a", "default", billed_usd=Decimal(2), units={"images": 2, "seconds": 3})
    both = one.with_another(two)
    assert both == Served(
        "a", "flex, default", billed_usd=Decimal(3), units={"images": 3, "seconds": 3}
    )
    assert one.with_another(Served("a")).billed_usd is None


@pytest.mark.parametrize("weights", [(1,), (1, 2), (0, 0), (3, 3, 1)])
def test_parts_add_up_to_what_was_billed(weights: tuple[int, ...]):
    """To the last digit."""
    parts = Served(billed_usd=Decimal("0.0007"), units={"images": 1}).split(weights)
    assert sum(part.billed_usd or 0 for part in parts) == Decimal("0.0007")
    assert [part.units for part in parts].count({"images": 1}) == 1

"""Images cost what the providers' own examples say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llama_token_tracker.tokenizers.images import (
    claude_image_tokens,
    openai_image_tokens,
)

_sides = st.integers(1, 20_000)


@pytest.mark.parametrize(
    ("width", "height", "standard", "high"),
    [
        (200, 200, 64, 64),
        (1000, 1000, 1296, 1296),
        (1092, 1092, 1521, 1521),
        (1920, 1080, 1560, 2691),
        (2000, 1500, 1564, 3888),
        (3840, 2160, 1560, 4784),
        (1075, 1520, 33 * 47, 39 * 55),
    ],
)
def test_claudes_images_cost_as_documented(
    width: int, height: int, standard: int, high: int
) -> None:
    """The tables of Anthropic's vision page, for both tiers of resolution."""
    assert claude_image_tokens(width, height, (4, 6)) == standard
    assert claude_image_tokens(width, height, (4, 7)) == high


@given(_sides, _sides)
def test_claudes_images_stay_within_the_tier(width: int, height: int) -> None:
    """No image costs more than its tier allows, however it is turned."""
    for version, most in (((3, 0), 1568), ((5, 0), 4784)):
        tokens = claude_image_tokens(width, height, version)
        assert 1 <= tokens <= most
        assert tokens == claude_image_tokens(height, width, version)


@pytest.mark.parametrize(
    ("width", "height", "model", "detail", "tokens"),
    [
        (1024, 1024, "gpt-4o", "high", 765),
        (2048, 4096, "gpt-4o", "high", 1105),
        (4096, 8192, "gpt-4o", "low", 85),
        (128, 64, "gpt-4o", "high", 255),
        (128, 64, "gpt-4.1-2025-04-14", "high", 255),
        (128, 64, "gpt-4o-mini", "high", 8500),
        (128, 64, "o3", "high", 225),
        (1024, 1024, "gpt-5", "high", 70 + 4 * 140),
        (1024, 1024, "gpt-4.1-mini", "high", 1659),
        (1024, 1024, "gpt-4.1-nano", "high", 2520),
        (1800, 2400, "o4-mini", "high", 2498),
        (128, 64, "gpt-4.1-mini", "low", 13),
    ],
)
def test_openais_images_cost_as_documented(
    width: int, height: int, model: str, detail: str, tokens: int
) -> None:
    """The examples of OpenAI's vision guide, and bills of its users."""
    counted = openai_image_tokens(width, height, model, detail)  # type: ignore[arg-type]

    assert counted == (tokens, True)


@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-5-nano", "gpt-9", "o3-mini"])
def test_openai_models_without_a_settled_rule_are_estimated(model: str) -> None:
    """Disputed multipliers and unknown models are marked."""
    tokens, is_ruled = openai_image_tokens(512, 512, model, "high")

    assert tokens > 0
    assert not is_ruled


@given(_sides, _sides)
def test_openais_images_stay_within_their_bounds(width: int, height: int) -> None:
    """Tiles and patches are bounded, whatever the proportions."""
    tokens, _ = openai_image_tokens(width, height, "gpt-4o", "high")
    assert 255 <= tokens <= 85 + 170 * 8
    tokens, _ = openai_image_tokens(width, height, "o4-mini", "high")
    assert 1 <= tokens <= 1536 * 1.72 + 1

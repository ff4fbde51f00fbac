"""Tokens of an image, from its size in pixels, by the rules that providers publish.

Sizes come from `extraction.images`. Nothing is fetched.
"""

import re
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Final

from llama_token_tracker.extraction.parts import Detail

# Taken for an image whose size isn't known.
TYPICAL_SIZE: Final = (1024, 1024)

_CLAUDE_PATCH: Final = 28
# (longest edge in pixels, visual tokens), by the first version of a tier.
_CLAUDE_TIERS: Final = (((4, 7), 2576, 4784), ((0, 0), 1568, 1568))


def claude_image_tokens(width: int, height: int, version: tuple[int, int]) -> int:
    """Count the visual tokens of an image for Claude.

    One token for each patch of 28 by 28 pixels, after the image was made smaller
    to fit the model's limits.

    Args:
        width: In pixels.
        height: In pixels.
        version: The model's version; from 4.7 on images keep more detail.

    Source:
        https://platform.claude.com/docs/en/build-with-claude/vision, "Resolution
        and token cost", and vision-coordinates, "Resize your image before
        uploading" (checked 2026-11-22).
    """
    max_edge, max_tokens = next(
        (edge, tokens) for first, edge, tokens in _CLAUDE_TIERS if version >= first
    )

    def fits(long: int, short: int) -> bool:
        edge = ceil(long / _CLAUDE_PATCH) * _CLAUDE_PATCH
        return edge <= max_edge and _claude_patches(long, short) <= max_tokens

    long, short = max(width, height), min(width, height)
    if fits(long, short):
        return _claude_patches(long, short)
    ratio = long / short
    # The largest long edge that fits, by bisection: `low` fits, `high` doesn't.
    low, high = 1, long
    while low + 1 < high:
        middle = (low + high) // 2
        if fits(middle, max(round(middle / ratio), 1)):
            low = middle
        else:
            high = middle
    return _claude_patches(low, max(round(low / ratio), 1))


def _claude_patches(width: int, height: int) -> int:
    return ceil(width / _CLAUDE_PATCH) * ceil(height / _CLAUDE_PATCH)


@dataclass(frozen=True, slots=True)
class _Tiles:
    """A fixed part, and so many tokens for each tile of 512 by 512 pixels."""

    base: int
    tile: int


@dataclass(frozen=True, slots=True)
class _Patches:
    """So many tokens for each patch of 32 by 32 pixels, 1,536 patches at most."""

    multiplier: float
    # Bills that users have measured differ from the documented multiplier.
    is_disputed: bool = False


# The first pattern that matches decides.
# Source: https://developers.openai.com/api/docs/guides/images-vision,
# "Calculating costs" (checked 2026-11-22). In March 2026 users of OpenAI's forum
# measured 1.2 for gpt-5-mini and gpt-5.4-mini, 1.5 for gpt-5-nano.
_OPENAI_RULES: Final = tuple(
    (re.compile(pattern), rule)
    for pattern, rule in (
        (r"gpt-5(\.4)?-mini", _Patches(1.62, is_disputed=True)),
        (r"gpt-5(\.4)?-nano", _Patches(2.46, is_disputed=True)),
        (r"gpt-4\.1-mini", _Patches(1.62)),
        (r"gpt-4\.1-nano", _Patches(2.46)),
        (r"o4-mini", _Patches(1.72)),
        (r"gpt-5(-chat-latest|-20\d\d|$)", _Tiles(70, 140)),
        (r"gpt-4o-mini", _Tiles(2833, 5667)),
        (r"(chat)?gpt-4(o|\.1|\.5|-turbo|-vision|-1106-vision)", _Tiles(85, 170)),
        (r"(o1|o3)(-pro|-20\d\d|$)", _Tiles(75, 150)),
        (r"computer-use-preview", _Tiles(65, 129)),
    )
)
_OPENAI_OTHERWISE: Final = _Tiles(85, 170)
_PATCH: Final = 32
_MAX_PATCHES: Final = 1536
_MAX_EDGE: Final = 2048
_SHORT_EDGE: Final = 768
_TILE: Final = 512


def openai_image_tokens(
    width: int, height: int, model: str, detail: Detail = "auto"
) -> tuple[int, bool]:
    """Count the tokens of an image for an OpenAI model.

    Args:
        width: In pixels.
        height: In pixels.
        model: The model's bare name.
        detail: As sent; `auto` counts as `high`.

    Returns:
        The tokens, and whether a documented rule gave them.

    Source:
        See the table above; the rules' examples are in the tests.
    """
    rule = next((rule for pattern, rule in _OPENAI_RULES if pattern.match(model)), None)
    if isinstance(rule, _Patches):
        patches = _openai_patches(width, height)
        is_ruled = not rule.is_disputed and detail in {"low", "high"}
        return ceil(patches * rule.multiplier), is_ruled
    tiles = rule or _OPENAI_OTHERWISE
    if detail == "low":
        return tiles.base, rule is not None
    is_ruled = rule is not None and detail == "high"
    return tiles.base + tiles.tile * _openai_tiles(width, height), is_ruled


def _openai_tiles(width: int, height: int) -> int:
    # Images are made smaller only: 128 by 64 pixels are billed as one tile.
    scale = min(1.0, _MAX_EDGE / max(width, height))
    scale *= min(1.0, _SHORT_EDGE / (min(width, height) * scale))
    return ceil(round(width * scale, 6) / _TILE) * ceil(round(height * scale, 6) / _TILE)


def _openai_patches(width: int, height: int) -> int:
    scale = min(1.0, _MAX_EDGE / max(width, height))
    wide, high = width * scale, height * scale
    if ceil(wide / _PATCH) * ceil(high / _PATCH) > _MAX_PATCHES:
        shrink = sqrt(_PATCH**2 * _MAX_PATCHES / (wide * high))
        # So that whole patches still cover what is left.
        columns, rows = wide * shrink / _PATCH, high * shrink / _PATCH
        shrink *= min(_whole(columns) / columns, _whole(rows) / rows)
        wide, high = wide * shrink, high * shrink
    covered = ceil(round(wide, 6) / _PATCH) * ceil(round(high, 6) / _PATCH)
    return min(covered, _MAX_PATCHES)


def _whole(patches: float) -> float:
    # A strip narrower than a patch keeps its width.
    return floor(patches) or patches

"""More calls that are open at once than most programs ever make."""

import asyncio
from typing import Any

import pytest

from tests.bench.open_calls import abatch, gather, is_exact, streams


@pytest.mark.slow
@pytest.mark.parametrize(("way", "calls"), [(gather, 7_000), (streams, 10_500), (abatch, 10_500)])
def test_thousands_of_open_calls_are_told_apart(way: Any, calls: int):
    """Of each call tokens, scope, user and model are exact, whether one asks another or streams."""
    handler, gate = asyncio.run(way(calls))
    assert gate.open >= 10_500
    assert is_exact(handler, calls)

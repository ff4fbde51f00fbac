"""What a test needs of its environment, decided when tests are collected.

`left_out_if` works as pytest's `skipif` does, but a test that can't apply here is left out instead
of being skipped. The summary at the end of a run says how many were left out, and why. That way a
skip remains a surprise.
"""

from __future__ import annotations

from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import pytest

__all__ = ["is_installed", "leave_out", "left_out_if", "needs", "release", "summary"]


def left_out_if(condition: bool, reason: str) -> pytest.MarkDecorator:
    """Leave a test or one of its parameters out if a condition holds here."""
    return pytest.mark.left_out_if(condition, reason)


def needs(*modules: str) -> pytest.MarkDecorator:
    """Leave a test or one of its parameters out unless all of these modules are installed.

    A module that is installed and can't be imported isn't left out: its test fails.
    """
    lacking = [module for module in modules if not is_installed(module)]
    return left_out_if(bool(lacking), f"not installed: {', '.join(lacking)}")


def is_installed(module: str) -> bool:
    """Whether a module can be found; it isn't imported, but the packages around it are."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def release(package: str) -> tuple[int, ...]:
    """Give the installed release of a package as numbers, or nothing where it isn't installed."""
    try:
        return tuple(int(part) for part in version(package).split(".")[:3])
    except PackageNotFoundError:
        return ()


def leave_out(items: list[pytest.Item]) -> tuple[list[pytest.Item], Counter[str]]:
    """Take the tests that don't apply here out of a list.

    Args:
        items: What was collected; it's left with the tests that apply.

    Returns:
        The tests that were taken out, and how many there were for each reason.
    """
    applying, left_out, reasons = [], [], Counter[str]()
    for item in items:
        reason = _reason(item)
        if reason is None:
            applying.append(item)
        else:
            left_out.append(item)
            reasons[reason] += 1
    items[:] = applying
    return left_out, reasons


def _reason(item: pytest.Item) -> str | None:
    """Why a test doesn't apply here, or `None` if it does."""
    marks = (mark.args for mark in item.iter_markers("left_out_if"))
    return next((reason for condition, reason in marks if condition), None)


def summary(reasons: Counter[str]) -> list[str]:
    """The lines that tell what was left out, the most frequent reason first."""
    if not reasons:
        return []
    lines = [f"[{number}] {reason}" for reason, number in reasons.most_common()]
    return [f"left out, as they don't apply here: {reasons.total()} cases", *lines]

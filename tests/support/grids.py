"""How much of a grid runs: a few telling cases, or with `pytest -m exhaustive` all of them."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")

_EXHAUSTIVE = False


def configure(config: pytest.Config) -> None:
    """Called by conftest.py, before a test module is imported."""
    global _EXHAUSTIVE
    _EXHAUSTIVE = "exhaustive" in config.option.markexpr.replace("not exhaustive", "")


def exhaustive() -> bool:
    """Whether the full grid was asked for."""
    return _EXHAUSTIVE


def any_case(examples: int) -> settings:
    """Hypothesis' settings: so many examples of the full grid, else an eighth of them; always the same ones."""
    return settings(deadline=None, derandomize=True, max_examples=examples if _EXHAUSTIVE else max(4, examples // 8))


def some(values: Iterable[T], telling: Sequence[T]) -> list[T]:
    """All values of the full grid, else the telling ones among them."""
    everything = list(values)
    missing = [value for value in telling if value not in everything]
    if missing:
        raise ValueError(f"telling values that are not in the grid: {missing}")
    return everything if _EXHAUSTIVE else list(telling)

"""Chooses the parameters of tests: a few important cases by default, all cases with `pytest -m exhaustive`."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")
Test = TypeVar("Test", bound=Callable[..., object])

_EXHAUSTIVE = False


def configure(config: pytest.Config) -> None:
    """Read the `-m` option. conftest.py calls this before any test module is imported."""
    global _EXHAUSTIVE
    _EXHAUSTIVE = "exhaustive" in config.option.markexpr.replace("not exhaustive", "")


def exhaustive() -> bool:
    """Whether `-m exhaustive` was given."""
    return _EXHAUSTIVE


def both(test: Test) -> Test:
    """Decorator of a test that runs both by default, with few cases, and with `-m exhaustive`, with all cases."""
    return pytest.mark.exhaustive(test) if _EXHAUSTIVE else test


def any_case(examples: int) -> settings:
    """Hypothesis settings: `examples` reproducible examples with `-m exhaustive`, an eighth of them by default."""
    return settings(deadline=None, derandomize=True, max_examples=examples if _EXHAUSTIVE else max(4, examples // 8))


def some(values: Iterable[T], telling: Sequence[T]) -> list[T]:
    """Return all values with `-m exhaustive`, and only the important values `telling` by default.

    Raises:
        ValueError: One of `telling` is not in `values`.
    """
    everything = list(values)
    missing = [value for value in telling if value not in everything]
    if missing:
        raise ValueError(f"telling values that are not in the grid: {missing}")
    return everything if _EXHAUSTIVE else list(telling)


def first(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Return pytest parameters. The first `count` always run, the others only with `-m exhaustive`."""
    return [value if i < count else _exhaustive_only(value) for i, value in enumerate(values)]


def _exhaustive_only(value: Any) -> Any:
    if hasattr(value, "marks"):  # a pytest.param
        return pytest.param(*value.values, marks=[*value.marks, pytest.mark.exhaustive], id=value.id)
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.exhaustive)

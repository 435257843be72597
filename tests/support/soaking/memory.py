"""Resident memory of a process, and its growth over a run."""

import mmap
import statistics
from pathlib import Path

MIB = 1 << 20


def resident(process: int | str = "self") -> float:
    """Resident memory in MB (2²⁰ bytes)."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * mmap.PAGESIZE / MIB


def growth(samples: list[float]) -> float:
    """Growth of memory in MB: the mean of the last quarter of the samples minus the mean of the second quarter.

    With 2,000 images, the quarters are the last 500 images and images 500 to 1,000. The first quarter fills caches.
    """
    quarter = len(samples) // 4
    if not quarter:
        raise ValueError(f"expected at least 4 samples, got {len(samples)}")
    return statistics.mean(samples[-quarter:]) - statistics.mean(samples[quarter : 2 * quarter])


def describe(samples: list[float]) -> str:
    """Mean and maximum of each quarter."""
    quarter = len(samples) // 4
    parts = [samples[start : start + quarter] for start in (0, quarter, 2 * quarter, len(samples) - quarter)]
    return ", ".join(f"{statistics.mean(part):.1f} (at most {max(part):.1f})" for part in parts)

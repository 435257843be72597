"""The number of threads that kernels run on."""

from __future__ import annotations

import math
import operator
import os
from pathlib import Path

from mobilesam.kernels.core import check, team
from mobilesam.kernels.core.team import openmp as openmp

VARIABLE = "MOBILESAM_NUM_THREADS"
MAX_THREADS = 1024
EXPECTED = f"expected a whole number from 1 to {MAX_THREADS}"


def _cgroup_quota() -> float:
    """Return the control group's CPU quota (v2 cpu.max, or v1 quota over period), or infinity if none is set."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return math.inf
    try:
        return float(quota) / float(period) if float(quota) > 0 else math.inf
    except (ValueError, ZeroDivisionError):
        return math.inf


def checked(threads: object, name: str = "threads") -> int:
    """Return ``threads`` as an int. Raises ValueError unless ``threads`` is a whole number from 1 to 1024."""
    try:
        count = 0 if isinstance(threads, bool) else operator.index(threads)  # type: ignore[arg-type]
    except TypeError:
        count = 0
    if not 1 <= count <= MAX_THREADS:
        raise ValueError(f"{name}: {EXPECTED}, got {check.shortened(threads)}")
    return count


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use. On macOS and Windows, all CPUs of the machine count."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads() -> int:
    """Return the environment variable MOBILESAM_NUM_THREADS if it is set.

    If MOBILESAM_NUM_THREADS is not set, returns the number of CPUs that the affinity mask and the control group's quota
    allow.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted:
        try:
            return checked(int(wanted))
        except ValueError:
            raise ValueError(f"{VARIABLE}: {EXPECTED}, got {wanted!r}") from None
    return max(1, math.ceil(min(usable_cpus(), _cgroup_quota())))


def requested(threads: int | None) -> int:
    """Return ``threads``, or the default for None. Raises ValueError unless the number is from 1 to 1024."""
    return _default if threads is None else checked(threads)


def resolve(threads: int | None) -> int:
    """Return the number of threads that a kernel call runs on: ``threads``, or the default for None.

    The result is ``usable(threads)``. The caller must start a team of this size next, because this size is recorded.
    """
    return team.prepare(requested(threads))


def usable(threads: int) -> int:
    """Return how many of ``threads`` threads the next kernel call of this thread can run on.

    The number is 1 without OpenMP. The number is smaller than ``threads`` if the operating system does not let this
    process start more threads: until this thread has a team, the function starts threads to find out, and ends them.
    """
    return team.usable(threads)


_default = default_threads()

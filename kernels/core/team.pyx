"""The team of OpenMP threads of each calling thread: how many threads a team can have, and the end of a team before a fork."""
import os

cdef extern from "team.h" nogil:
    const int has_openmp, llvm_runtime
    void start_openmp()
    int usable_threads(int wanted)
    int prepare_team(int wanted)
    void end_team()
    void forget_team()

start_openmp()


def openmp() -> bool:
    """Return whether this build has OpenMP. Without OpenMP, kernels run on one thread."""
    return bool(has_openmp)


def has_llvm_runtime() -> bool:
    """Return whether the OpenMP runtime is LLVM's (libomp), which Clang links."""
    return bool(llvm_runtime)


def usable(int wanted):
    """Return the number of threads, at most ``wanted``, that the next kernel call of this thread can run on.

    The number is 1 without OpenMP. The number is smaller than ``wanted`` if the operating system does not let this process start more
    threads. The number is 1 in a forked child if the OpenMP runtime could not end the forking thread's team before the fork.
    """
    return usable_threads(wanted) if has_openmp else 1


def prepare(int wanted):
    """Return ``usable(wanted)``, the size of the team that the caller starts next."""
    return prepare_team(wanted) if has_openmp else 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: end_team(), after_in_child=lambda: forget_team())

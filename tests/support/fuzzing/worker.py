"""The process that runs cases of one target. It ends by a signal, by its time limit, or after its last case.

Each line of standard output is JSON: the number of the case that begins, a finding, or the end.
"""

import base64
import faulthandler
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

from .target import Case, Target

WALL_SECONDS = 120  # for one case: a process that waits for ever is a hang, and one on a busy machine is not
MOST_CPU_SECONDS = 15  # CPU time of a case; the operating system ends a worker that takes longer
CPU_SECONDS = 5.0  # for one case that ends by itself
LONGEST_MESSAGE = 1500  # characters
GROWTH = 200 << 20  # bytes that the process may grow in the last three quarters of its cases
PACKAGE = f"{os.sep}mobilesam{os.sep}"
NO_WARNINGS = (RuntimeWarning, ResourceWarning)  # a user can do nothing about them
HARMLESS = "SpooledTemporaryFile"  # Starlette does not close the file, in memory, of a form whose client leaves


def main(name: str, seed: int, first: int, end: int) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what other packages print
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # then the signal ends the process
    target = find(name)
    limit_memory(target.memory)
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as folder:
        make = target.start(Path(folder))
        gc.collect()
        gc.freeze()  # so that the collection after each case is quick
        early, quarter = 0, first + (end - first) // 4
        for index in range(first, end):
            print(json.dumps({"case": index}), file=answers)
            case = make(random_numbers(target, seed, index))
            if case.about:
                print(json.dumps({"about": case.about}), file=answers)
            faulthandler.dump_traceback_later(WALL_SECONDS, exit=True)
            signal.setitimer(signal.ITIMER_PROF, MOST_CPU_SECONDS)
            problem = run(case, target)
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()
            if problem:
                data = base64.b64encode(case.data).decode()
                print(json.dumps({"finding": problem, "index": index, "data": data}), file=answers)
            if index == quarter:
                early = resident()
        grown = resident() - early
        if end - first >= 200 and grown > GROWTH:
            problem = {"kind": "memory", "place": "", "text": f"grew by {grown >> 20} MB from case {quarter} on"}
            print(json.dumps({"finding": problem, "index": end - 1, "data": ""}), file=answers)
        print(json.dumps({"end": end}), file=answers)
        answers.flush()


def show_input(name: str, seed: int, index: int) -> None:
    """Write the input of a case to standard output, without running the case."""
    target = find(name)
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as folder:
        data = target.start(Path(folder))(random_numbers(target, seed, index)).data
        sys.stdout.buffer.write(data)


def find(name: str) -> Target:
    """The target of a name. MODULE:NAME is a target outside the list, for tests of the fuzzer."""
    module, _, attribute = name.rpartition(":")
    if module:
        return getattr(import_module(module), attribute)
    from .registry import TARGETS  # imported here, because it imports all readers

    return next(target for target in TARGETS if target.name == name)


def random_numbers(target: Target, seed: int, index: int) -> Random:
    """The random numbers of a case. They do not depend on the other cases."""
    return Random(f"{seed}/{target.name}/{index}")


def run(case: Case, target: Target) -> dict[str, str] | None:
    """Run a case. Returns the problem, or None."""
    unraisable: list[Any] = []
    sys.unraisablehook = unraisable.append
    begun, problem = time.process_time(), None
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            case.run()
        except target.expected as error:
            problem = _message(error)
        except BaseException as error:  # a panic of Rust code is no Exception
            problem = _problem("exception", error)
        gc.collect()
    seconds = time.process_time() - begun
    sys.unraisablehook = sys.__unraisablehook__
    if problem is None:
        for warning in warned:
            if issubclass(warning.category, NO_WARNINGS) and HARMLESS not in str(warning.message):
                place = f"{_short(warning.filename)}:{warning.lineno}"
                return {"kind": "warning", "place": place, "text": f"{warning.category.__name__}: {warning.message}"}
        if unraisable:
            return {
                "kind": "unraisable",
                "place": "",
                "text": f"{unraisable[0].exc_value!r} in {unraisable[0].object!r}",
            }
        if seconds > CPU_SECONDS:
            return {"kind": "slow", "place": "", "text": f"{seconds:.1f} s of CPU time"}
    return problem


def _message(error: BaseException) -> dict[str, str] | None:
    """The problem with the message of a documented error, or None."""
    try:
        text = str(error)
    except Exception as second:
        return _problem("message", second)
    if not text:
        return _problem("empty message", error)
    if len(text.splitlines()) > 1 or any(ord(character) < 32 for character in text):
        return _problem("message of several lines", error)
    return _problem("long message", error) if len(text) > LONGEST_MESSAGE else None


def _problem(kind: str, error: BaseException) -> dict[str, str]:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if PACKAGE in frame.filename or frame.filename.endswith(".pyx")] or frames[-1:]
    places = dict.fromkeys(f"{_short(frame.filename)}:{frame.lineno}" for frame in (own[-1], frames[-1]))
    text = f"{type(error).__name__}: {str(error)[:300]!r}"
    return {"kind": kind, "place": " > ".join(places), "text": text}


def _short(path: str) -> str:
    """The path below the package, or the last two parts of another path."""
    return path.rpartition(PACKAGE)[2] if PACKAGE in path else "/".join(Path(path).parts[-2:])


def limit_memory(gigabytes: int) -> None:
    """Limit the address space. A build with AddressSanitizer reserves more than any limit, so it gets none."""
    with Path("/proc/self/maps").open() as file:
        text = file.read()
    if "libasan" in text or "clang_rt.asan" in text:
        return
    limit = gigabytes << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def resident() -> int:
    """Resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    numbers = list(map(int, sys.argv[2:]))
    if len(numbers) == 2:
        show_input(sys.argv[1], *numbers)
    else:
        main(sys.argv[1], *numbers)

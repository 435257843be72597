"""Targets of fuzzing: what makes an input, what runs it, and which errors are documented."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from .mutation import mutate

CHANGED = "changed: "  # begins a line on stderr that describes a call which a case changes while it runs


class Case(NamedTuple):
    """An input and the call that it is for.

    Attributes:
        run: Runs the case. It raises AssertionError for a wrong result.
        data: The input, for a report: the bytes of a file, or the text of a call.
        about: Cases that end the process without a line of the package are grouped by this text.
    """

    run: Callable[[], object]
    data: bytes
    about: str = ""


Maker = Callable[[Random], Case]


@dataclass(frozen=True)
class Target:
    """Something to fuzz.

    Attributes:
        name: Name on the command line.
        cases: Number of cases in the gate.
        start: Prepares the target in a worker process, which owns the folder. Returns the function that makes a case.
        expected: Documented errors.
        needs: Packages that the target needs. Without one of them the target is skipped.
        memory: Limit of the worker's address space, in GB.
    """

    name: str
    cases: int
    start: Callable[[Path], Maker]
    expected: tuple[type[BaseException], ...]
    needs: tuple[str, ...] = ()
    memory: int = 4


Make = Callable[[Random], bytes]
Read = Callable[[Path], Any]


def from_files(
    corpus: Callable[[Path], Sequence[tuple[str, bytes]]],
    reads: Sequence[Read],
    makers: Sequence[Make] = (),
    finish: Callable[[bytes, Random], bytes] = lambda data, _: data,
) -> Callable[[Path], Maker]:
    """The `start` of a target whose inputs are single files.

    Args:
        corpus: Returns valid files: their extensions and bytes. It may use the folder.
        reads: The functions that read a file. Each case calls one of them.
        makers: Functions that make a file without the corpus. They make half of the cases. The extension is that of
            a random valid file, because some readers go by it and others must not.
        finish: Repairs checksums after the mutation.
    """

    def start(folder: Path) -> Maker:
        files = list(corpus(folder))
        contents = [data for _, data in files]

        def make(rng: Random) -> Case:
            suffix, data = rng.choice(files)
            if makers and rng.random() < 0.5:
                data = rng.choice(makers)(rng)
            else:
                data = finish(mutate(data, contents, rng), rng)
            read, path = rng.choice(reads), folder / f"input{suffix}"

            def run() -> object:
                path.write_bytes(data)
                return read(path)

            return Case(run, data)

        return make

    return start

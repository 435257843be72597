"""Steps that are recorded once and run many times, by one team of threads, on arrays in one arena.

The steps run in the order in which they were recorded. Neighbours that do not depend on one another form a phase; the threads share
the units of a phase, and wait for one another at its end.
"""
import math
from typing import NamedTuple

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport uintptr_t

from decoder.record cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.core.threads import resolve

import_runtime()

cdef int64_t LINE = 16  # floats of a cache line, to which arrays and jobs are aligned

cdef struct step:
    unit_function run
    layout_function layout
    void *job
    size_t job_bytes
    int64_t units


class Array(NamedTuple):
    """A float32 array of a plan."""

    number: int
    shape: tuple[int, ...]


class Maps(NamedTuple):
    """Channels ``first`` to ``first`` + ``channels`` - 1 of an image of ``n`` tokens: an Array (⌈n / 256⌉, all channels, 256)."""

    array: Array
    n: int
    first: int
    channels: int

    def rows(self, first: int, count: int) -> Maps:
        """``count`` of these channels from number ``first`` on."""
        if not 0 <= first <= first + count <= self.channels:
            raise ValueError(f"maps: expected channels {first} to {first + count - 1}, got {self.channels} channels")
        return self._replace(first=self.first + first, channels=count)


cdef class Recorder:
    """Records steps and runs them. One thread uses it at a time.

    Args:
        isa: the name of the ISA to run on; by default the one in force.
        threads: how many threads the steps are divided among; results do not depend on it.
    """

    cdef readonly str isa
    cdef readonly int table  # the index of the ISA's float32 micro-kernels
    cdef readonly int threads
    cdef list _shapes, _steps, _kept
    cdef set _given, _results, _written
    cdef dict _places  # of arrays in the arena, in floats
    cdef list _bindings  # (address of a pointer, number of a given array, element)
    cdef object _arena, _jobs, _compiled, _first, _units  # of each phase the first step and the number of units
    cdef size_t _scratch  # bytes of a thread
    cdef bint _running

    def __init__(self, *, isa=None, threads=None):
        self.isa = isas.current() if isa is None else isa
        self.table, self.threads = isas.index(self.isa), resolve(threads)
        self._shapes, self._steps, self._kept, self._given, self._results = [], [], [], set(), set()

    def __reduce__(self):
        raise TypeError("a plan cannot be copied: its steps point to memory")

    def __len__(self):
        return len(self._steps)

    def array(self, *shape):
        """A new array, which a step will write."""
        if self._compiled is not None:
            raise RuntimeError("the plan is compiled: no step can be added")
        self._shapes.append(tuple(check.whole(length, "shape", 1) for length in shape))
        return Array(len(self._shapes) - 1, self._shapes[len(self._shapes) - 1])

    def given(self, *shape):
        """A new array, which the caller of each run gives."""
        array = self.array(*shape)
        self._given.add(array)
        return array

    def given_maps(self, channels, n):
        """As `given`, of maps."""
        return Maps(self.given((n + IMAGE_CHUNK - 1) // IMAGE_CHUNK, channels, IMAGE_CHUNK), n, 0, channels)

    def check(self, x, name, *shapes):
        """``x``, an Array of one of the shapes. Raises TypeError or ValueError that calls it ``name``."""
        check.instance(x, name, Array)
        if not 0 <= x.number < len(self._shapes) or x.shape != self._shapes[x.number]:
            raise ValueError(f"{name}: expected an Array of this plan, got {x}")
        check.shape(x.shape, name, *shapes)
        return x

    def check_maps(self, x, name, channels, n=None):
        """``x``, Maps with these channels and tokens; None accepts any number. Raises TypeError or ValueError that calls it ``name``."""
        check.instance(x, name, Maps)
        self.check(x.array, name, x.array.shape)
        check.shape((x.channels, x.n), f"{name}, channels and tokens", (channels or "M", n or "N"))

    def keep(self, *objects):
        """Keep what steps point to."""
        self._kept += objects

    def result(self, array):
        """Keep an array's memory to the end of a run, for `view`."""
        if self._compiled is not None:
            raise RuntimeError("the plan is compiled: what it keeps is settled")
        self._results.add(array.number)
        return array

    def record(self, run, layout, job, units, writes):
        """Add a step; kernels call it by way of record.pxd. Words of the job that are placeholders point to arrays."""
        PyCapsule_GetPointer(run, "mobilesam.kernels.unit")
        words = enumerate(np.frombuffer(job, np.uint64).tolist())
        pointers = [(8 * i, word >> 32 & 0xFFFF, word & 0xFFFFFFFF) for i, word in words if word >> 48 == PLACEHOLDER]
        self._steps.append((run, layout, job, units, pointers, frozenset(writes)))

    def compile(self):
        """Place the arrays and the jobs; no step can be added then."""
        phases = self._phases()
        self._written = {number for step in self._steps for number in step[5]}
        self._place(phases)
        sizes = [round_up(len(job), 4 * LINE) // 4 for _, _, job, _, _, _ in self._steps]
        self._jobs = memory_of_floats(sum(sizes))
        self._compiled = np.zeros(len(self._steps) * sizeof(step), np.uint8)
        self._first = np.array([phase[0] for phase in phases], np.int64)
        self._units = np.array([sum(self._steps[i][3] for i in phase) for phase in phases], np.int64)
        self._bindings, self._scratch = [], 0
        cdef float[::1] jobs = self._jobs, arena = self._arena
        cdef uint8_t[::1] compiled = self._compiled
        cdef step *steps = <step *>&compiled[0]
        cdef int64_t i, place = 0
        for i, (run, layout, job, units, pointers, _) in enumerate(self._steps):
            steps[i].run = <unit_function>PyCapsule_GetPointer(run, "mobilesam.kernels.unit")
            steps[i].layout = <layout_function>PyCapsule_GetPointer(layout, "mobilesam.kernels.layout")
            steps[i].job, steps[i].job_bytes, steps[i].units = &jobs[place], len(job), units
            memcpy(steps[i].job, <const char *>job, len(job))
            for offset, number, at in pointers:
                field = <uintptr_t>steps[i].job + <uintptr_t>offset
                if number not in self._places:
                    self._bindings.append((field, number, at))
                else:
                    (<float **><uintptr_t>field)[0] = &arena[<int64_t>(self._places[number] + at)]
            self._scratch = max(self._scratch, scratch_bytes(steps[i].job, len(job), steps[i].layout))
            place += sizes[i]
        return self

    def _phases(self):
        """Divide the steps into phases: within a phase no step reads or writes an array that another one writes."""
        phases, written, used = [], set(), set()
        for i, (_, _, _, _, pointers, writes) in enumerate(self._steps):
            uses = {number for _, number, _ in pointers} | writes
            if not phases or uses & written or writes & used:
                phases.append([])
                written, used = set(), set()
            phases[len(phases) - 1].append(i)
            written |= writes
            used |= uses
        return phases

    def _place(self, phases):
        """Each array in the first gap of the arena that is free from the first phase that uses it to the last."""
        uses = [(number, phase) for phase, steps in enumerate(phases) for i in steps for _, number, _ in self._steps[i][4]]
        last_use = {**dict(uses), **dict.fromkeys(self._results, len(phases))}
        given = {array.number for array in self._given}
        self._places, placed, length = {}, [], 0
        for number, first in dict(reversed(uses)).items():
            if number in given:
                continue
            size = round_up(math.prod(self._shapes[number]), LINE) + (LINE if rt.guards else 0)
            place = 0
            for begin, end, its_last in sorted(placed):
                if its_last >= first or rt.guards:  # guards would be overwritten: no memory is used twice
                    if place + size <= begin:
                        break
                    place = max(place, end)
            placed.append((place, place + size, last_use[number]))
            self._places[number] = place
            length = max(length, place + size)
        self._arena = memory_of_floats(length)
        if rt.guards:
            self._arena.view(np.uint8)[:] = ARENA_PATTERN

    def _overrun(self):
        """Whether the guard behind some array has been written to."""
        guards = (self._arena[place + round_up(math.prod(self._shapes[number]), LINE) :][:LINE].view(np.uint8)
                  for number, place in self._places.items())
        return any((guard != ARENA_PATTERN).any() for guard in guards)

    def run(self, given):
        """Run the steps.

        Args:
            given: for each Array that `given` has made, a C-contiguous float32 NumPy array of the same shape.

        Raises TypeError or ValueError that names the array by its number, MemoryError, and RuntimeError where another thread runs
        the plan.
        """
        cdef int overruns, nthreads = resolve(self.threads)  # one in a forked child
        cdef const float[::1] view
        if self._compiled is None:
            raise RuntimeError("the plan is not compiled")
        cdef uint8_t[::1] compiled = self._compiled
        cdef const int64_t[::1] first = self._first, units = self._units
        if given.keys() != self._given:
            raise ValueError(f"given: expected {sorted(self._given)}, got {list(given)}")
        starts = {}
        for array, value in given.items():
            value = check.in_place(value, f"given[{array.number}]", array.shape)
            if array.number in self._written and not value.flags.writeable:
                raise ValueError(f"given[{array.number}]: expected a writeable array, which a step fills")
            view = value.reshape(-1)
            starts[array.number] = <uintptr_t>&view[0]
        if self._running:
            raise RuntimeError("the plan is being run by another thread")
        self._running = True
        for field, number, at in self._bindings:
            (<float **><uintptr_t>field)[0] = <float *><uintptr_t>(starts[number] + 4 * at)
        try:
            memory = <char *>rt.scratch(nthreads * self._scratch)
            if memory == NULL:
                raise MemoryError(f"plan: no memory for {nthreads * self._scratch} bytes of scratch")
            with nogil:
                overruns = run_phases(<step *>&compiled[0], &first[0], &units[0], units.shape[0], memory, self._scratch, nthreads)
            if overruns or (rt.guards and self._overrun()):
                raise RuntimeError("plan: a step wrote past the end of an array")
        finally:
            self._running = False

    def view(self, array):
        """A result, until the next run."""
        if array.number not in self._results:
            raise ValueError(f"array: expected one that `result` has kept, got {array}")
        place = self._places[array.number]
        return self._arena[place : place + math.prod(array.shape)].reshape(array.shape)


cdef memory_of_floats(int64_t count):
    """An array of floats that begins at a cache line."""
    taken = memory.empty((count + LINE,))
    cdef float[::1] view = taken
    cdef int64_t first = (-(<uintptr_t>&view[0]) % (4 * LINE)) // 4
    return taken[first : first + count]


cdef int run_phases(const step *steps, const int64_t *first, const int64_t *units, int64_t phases, char *memory, size_t bytes,
                    int threads) noexcept nogil:
    """Returns how many units wrote past the end of a buffer, as far as guards tell."""
    cdef int64_t phase, unit
    cdef int overrun = 0
    with parallel(num_threads=threads):
        for phase in range(phases):
            for unit in prange(units[phase], schedule="dynamic"):
                overrun += run_unit(steps + first[phase], unit, memory + threadid() * bytes)
    return overrun


cdef bint run_unit(const step *s, int64_t unit, void *own) noexcept nogil:
    """Run unit ``unit`` of a phase, whose steps begin with s and whose units are numbered step after step."""
    while unit >= s.units:
        unit -= s.units
        s += 1
    own_job(s.job, s.job_bytes, s.layout, own)
    s.run(own, unit)
    return overran(own, s.job_bytes, s.layout)

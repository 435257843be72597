"""Records steps once and runs the steps many times, with one team of threads, on arrays in one block of memory (the arena).

The steps run in the order of recording. Neighbouring steps that do not depend on each other form a phase. The threads share the units of
work of a phase, and wait for each other at the end of the phase.
"""
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport parallel, prange, threadid
from libc.stdint cimport uintptr_t

from decoder.record cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.core.threads import requested, resolve

import_runtime()

cdef extern from "<stdatomic.h>" nogil:
    ctypedef struct atomic_flag:
        pass
    bint atomic_flag_test_and_set(atomic_flag *flag)
    void atomic_flag_clear(atomic_flag *flag)

cdef int64_t MOST_ARRAYS = 1 << 16, MOST_ELEMENTS = 1 << 32  # limits of `address`: 16 bits for an array, 32 bits for an element
cdef int64_t LINE = 16  # number of floats in a cache line; arrays and jobs start at a cache line

cdef struct step:
    unit_function run
    layout_function layout
    void *job
    size_t job_bytes
    int64_t units


class Array(NamedTuple):
    """A float32 array of a plan.

    Attributes:
        number: The position of the array in the plan's list of arrays.
        shape: The length of each axis.
    """

    number: int
    shape: tuple[int, ...]


class Maps(NamedTuple):
    """Channel-major projections of image tokens, stored in chunks of 256 image tokens. A map is one channel of all image tokens.

    Attributes:
        array: Array (⌈n / 256⌉, channels, 256), which may have more channels than these Maps.
        n: The number of image tokens.
        first: The first channel of ``array`` that belongs to these Maps.
        channels: The number of channels of these Maps.
    """

    array: Array
    n: int
    first: int
    channels: int

    def rows(self, first: int, count: int) -> Maps:
        """Return Maps of ``count`` channels, starting at channel ``first`` of these Maps.

        Raises:
            ValueError: These Maps do not have all channels from ``first`` to ``first + count - 1``.
        """
        whole = all(isinstance(number, (int, np.integer)) for number in (first, count))
        if not whole or not 0 <= first <= first + count <= self.channels:
            raise ValueError(f"maps: expected a range within {self.channels} channels, got first={first!r:.50}, count={count!r:.50}")
        return self._replace(first=self.first + int(first), channels=int(count))


cdef class Recorder:
    """Records steps and runs them. Only one thread may use a Recorder at a time.

    Args:
        isa: The name of the ISA, or None for the ISA in force.
        threads: The number of threads, or None for the default. Results do not depend on the number of threads.

    Attributes:
        isa: The name of the ISA.
        table: The index of the ISA's table of float32 micro-kernels.
        threads: The number of threads.
    """

    cdef readonly str isa
    cdef readonly int table
    cdef readonly int threads
    cdef list _shapes, _steps, _kept
    cdef set _given, _results, _written
    cdef dict _places  # for the number of each array, the array's offset in the arena, in floats
    cdef list _bindings  # for each pointer in a job to a given array: the pointer's address, the array's number, the element's index
    cdef object _arena, _jobs, _compiled, _first, _units  # first step of each phase, and number of units of work of each phase
    cdef size_t _scratch  # bytes of scratch memory for each thread
    cdef atomic_flag _running  # set while a thread runs the plan; atomic, because free-threaded Python has no lock around this code

    def __init__(self, *, isa=None, threads=None):
        self.table, self.threads = isas.index(isa), requested(threads)
        self.isa = isas.name_of(self.table)
        self._shapes, self._steps, self._kept, self._given, self._results = [], [], [], set(), set()

    def __reduce__(self):
        raise TypeError("a plan cannot be copied: its steps point to memory")

    def __len__(self):
        return len(self._steps)

    def array(self, *shape):
        """Return a new Array of this shape, which a step will write.

        Raises:
            RuntimeError: The plan is already compiled.
            ValueError: The length of an axis is not a whole number of at least 1, or the plan or the Array is too large.
        """
        if self._compiled is not None:
            raise RuntimeError("the plan is compiled: no step can be added")
        lengths = tuple(check.whole(length, "shape", 1) for length in shape)
        if math.prod(lengths) > MOST_ELEMENTS:
            raise ValueError(f"shape: expected at most {MOST_ELEMENTS} elements, got {lengths}")
        if len(self._shapes) == MOST_ARRAYS:
            raise ValueError(f"shape: expected at most {MOST_ARRAYS} arrays in a plan")
        self._shapes.append(lengths)
        return Array(len(self._shapes) - 1, self._shapes[len(self._shapes) - 1])

    def given(self, *shape):
        """Return a new Array of this shape. The caller of `run` passes a NumPy array for this Array."""
        array = self.array(*shape)
        self._given.add(array)
        return array

    def given_maps(self, channels, n):
        """Return new Maps of an image with ``n`` tokens. The caller of `run` passes a NumPy array for ``array`` of the Maps."""
        channels, n = check.whole(channels, "channels", 1), check.whole(n, "n", 1)
        return Maps(self.given((n + IMAGE_CHUNK - 1) // IMAGE_CHUNK, channels, IMAGE_CHUNK), n, 0, channels)

    def check(self, x, name, *shapes):
        """Return ``x`` if it is an Array of this plan and has one of the shapes.

        Raises:
            TypeError: ``x`` is not an Array. The error message starts with ``name``.
            ValueError: ``x`` has none of the shapes, or is not an Array of this plan. The error message starts with ``name``.
        """
        check.record(x, name, Array)
        number, axes = x
        if type(number) is not int or not 0 <= number < len(self._shapes) or type(axes) is not tuple or axes != self._shapes[number] \
                or not all(type(length) is int for length in axes):
            raise ValueError(f"{name}: expected an Array of this plan, got {check.shortened(x)}")
        check.shape(x.shape, name, *shapes)
        return x

    def check_maps(self, x, name, channels, n=None):
        """Check that ``x`` is a Maps object of this plan with ``channels`` channels and ``n`` tokens.

        If ``channels`` or ``n`` is None, any number is accepted.

        Raises:
            TypeError: ``x`` is not a Maps object. The error message starts with ``name``.
            ValueError: ``x`` has wrong numbers of channels or tokens, or is not of this plan. The error message starts with ``name``.
        """
        check.record(x, name, Maps)
        axes = self.check(x.array, name, ("chunks", "channels", IMAGE_CHUNK)).shape
        if any(type(number) is not int or number < 1 for number in (x.n, x.channels)) or type(x.first) is not int \
                or not 0 <= x.first <= axes[1] - x.channels or axes[0] != (x.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK:
            raise ValueError(f"{name}: expected Maps of this plan, got {check.shortened(x)}")
        check.shape((x.channels, x.n), f"{name}, channels and tokens", (channels or "M", n or "N"))

    def keep(self, *objects):
        """Keep objects alive as long as the plan, because steps of the plan point to the objects' memory."""
        self._kept += objects

    def result(self, array):
        """Keep an array's memory until the end of a run, so that `view` can return the array. Returns the Array ``array``.

        ``array`` may have another shape with as many elements. `view` then returns this shape.

        Raises:
            RuntimeError: The plan is already compiled.
            TypeError, ValueError: ``array`` is not an Array of this plan.
        """
        if self._compiled is not None:
            raise RuntimeError("the plan is compiled: no result can be added")
        self._results.add(self._number(array))
        return array

    def _number(self, array):
        """Return the number of an Array of this plan, whose shape may be another of the same size."""
        check.record(array, "array", Array)
        number, axes = array
        if type(number) is int and 0 <= number < len(self._shapes) and type(axes) is tuple \
                and all(type(length) is int and length > 0 for length in axes) and math.prod(axes) == math.prod(self._shapes[number]):
            return number
        raise ValueError(f"array: expected an Array of this plan, got {check.shortened(array)}")

    def record(self, run, layout, job, units, writes):
        """Add a step. Kernels call this method through `record` in record.pxd. Placeholders in the job stand for pointers to arrays."""
        PyCapsule_GetPointer(run, "mobilesam.kernels.unit")
        if self._compiled is not None:
            raise RuntimeError("the plan is compiled: no step can be added")
        words = enumerate(np.frombuffer(job, np.uint64).tolist())
        pointers = [(8 * i, word >> 32 & 0xFFFF, word & 0xFFFFFFFF) for i, word in words if word >> 48 == PLACEHOLDER]
        self._steps.append((run, layout, job, units, pointers, frozenset(writes)))

    def compile(self):
        """Allocate the memory of all arrays and jobs. After this call, no step can be added. Returns the plan.

        Raises:
            RuntimeError: The plan is already compiled.
        """
        if self._compiled is not None:
            raise RuntimeError("the plan is already compiled")
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
        """Divide the steps into phases. Within a phase, no step reads or writes an array that another step writes."""
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
        """Place each array in the first gap of the arena that is free from the array's first phase to the array's last phase."""
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
                if its_last >= first or rt.guards:  # with guards, arrays share no memory: an array would overwrite guards
                    if place + size <= begin:
                        break
                    place = max(place, end)
            placed.append((place, place + size, last_use[number]))
            self._places[number] = place
            length = max(length, place + size)
        self._arena = memory_of_floats(length)
        if rt.guards:
            self._arena.view(np.uint8)[:] = ARENA_PATTERN
            self._poison_guards()

    def _poison_guards(self):
        """Let AddressSanitizer report accesses to the memory between an array's end and the end of its guard."""
        cdef float[::1] arena = self._arena
        cdef int64_t count, end
        for number, place in self._places.items():
            count = math.prod(self._shapes[number])
            end = place + round_up(count, LINE) + LINE
            ASAN_POISON_MEMORY_REGION(&arena[<int64_t>place] + count, (end - place - count) * sizeof(float))

    def _overrun(self):
        """Return whether a step has overwritten the guard (a known byte pattern) behind an array."""
        guards = (self._arena[place + round_up(math.prod(self._shapes[number]), LINE) :][:LINE].view(np.uint8)
                  for number, place in self._places.items())
        return any((guard != ARENA_PATTERN).any() for guard in guards)

    def run(self, given):
        """Run all steps of the plan.

        Args:
            given: A C-contiguous float32 NumPy array for each Array that `given` or `given_maps` has made, of the same shape.

        Raises:
            TypeError: A value of ``given`` is not a float32 NumPy array. The error message names the number of the Array.
            ValueError: ``given`` lacks an Array or has an unknown Array, or a NumPy array has a wrong shape or is not contiguous, or a step
                writes to a NumPy array that is not writeable.
            RuntimeError: The plan is not compiled, or another thread is running the plan.
            MemoryError: There is no memory for scratch buffers.
        """
        if self._compiled is None:
            raise RuntimeError("the plan is not compiled")
        check.instance(given, "given", Mapping)
        cdef int overruns, nthreads = resolve(self.threads)
        cdef uint8_t[::1] compiled = self._compiled
        cdef const int64_t[::1] first = self._first, units = self._units
        if given.keys() != self._given:
            raise ValueError(f"given: expected {sorted(self._given)}, got {check.shortened(list(given))}")
        starts, held = {}, []  # `held` keeps the arrays alive during the run
        for array in self._given:
            value = check.in_place(given[array], f"given[{array.number}]", array.shape)
            if array.number in self._written and not value.flags.writeable:
                raise ValueError(f"given[{array.number}]: expected a writeable array, because a step writes it")
            starts[array.number] = value.ctypes.data
            held.append(value)
        if atomic_flag_test_and_set(&self._running):
            raise RuntimeError("the plan is being run by another thread")
        try:
            for field, number, at in self._bindings:
                (<float **><uintptr_t>field)[0] = <float *><uintptr_t>(starts[number] + 4 * at)
            memory = <char *>rt.scratch(nthreads * self._scratch)
            if memory == NULL:
                raise MemoryError(f"plan: no memory for {nthreads * self._scratch} bytes of scratch")
            with nogil:
                overruns = run_phases(<step *>&compiled[0], &first[0], &units[0], units.shape[0], memory, self._scratch, nthreads)
            if overruns or (rt.guards and self._overrun()):
                raise RuntimeError("plan: a step wrote past the end of an array")
        finally:
            atomic_flag_clear(&self._running)

    def view(self, array):
        """Return a result of the last run as a NumPy view of the arena. The next run overwrites the view.

        Raises:
            ValueError: The array was not passed to `result`.
        """
        if self._compiled is None or self._number(array) not in self._results or array.number not in self._places:
            raise ValueError(f"array: expected an array that was passed to `result` and that a step writes, got {array}")
        place = self._places[array.number]
        return self._arena[place : place + math.prod(array.shape)].reshape(array.shape)


cdef memory_of_floats(int64_t count):
    """Return an array of ``count`` floats that starts at a cache line."""
    taken = memory.empty((count + LINE,))
    cdef float[::1] view = taken
    cdef int64_t first = (-(<uintptr_t>&view[0]) % (4 * LINE)) // 4
    return taken[first : first + count]


cdef int run_phases(const step *steps, const int64_t *first, const int64_t *units, int64_t phases, char *memory, size_t bytes,
                    int threads) noexcept nogil:
    """Run all phases. Returns the number of units of work that wrote past the end of a buffer. Without guards, returns 0."""
    cdef int64_t phase, unit
    cdef int overrun = 0
    with parallel(num_threads=threads):
        for phase in range(phases):
            for unit in prange(units[phase], schedule="dynamic"):
                overrun += run_unit(steps + first[phase], unit, memory + threadid() * bytes)
    return overrun


cdef bint run_unit(const step *s, int64_t unit, void *own) noexcept nogil:
    """Run one unit of work of a phase. Returns whether the unit wrote past the end of a buffer.

    ``s`` is the first step of the phase. Units are numbered through the whole phase: 0 is the first unit of step ``s``.
    """
    while unit >= s.units:
        unit -= s.units
        s += 1
    own_job(s.job, s.job_bytes, s.layout, own)
    s.run(own, unit)
    return overran(own, s.job_bytes, s.layout)

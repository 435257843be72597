"""The decoder's passes over prompts' tokens, which are few: what would be many small calls, as one."""
from types import MappingProxyType

import numpy as np

from cython.parallel cimport parallel, prange
from libc.math cimport sqrt
from libc.string cimport memcpy

from core.common cimport *
from core.products cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.core.gemm import as_panels
from mobilesam.kernels.decoder.steps import Attention, Linear, Norm, Stack, Take
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef enum:
    QUERIES = 64  # of a unit of attention, whose scores stay in cache
    ROWS = 4  # of a unit of a norm
    NONE = -1  # no array
    LINEAR = 0
    ATTENTION = 1
    NORM = 2
    TAKE = 3
    STACK = 4

cdef struct token_array:
    int64_t width
    int64_t taken  # rows of each prompt, where a Take or a Stack has made so many; else 0
    bint given  # or returned, and not between steps alone
    float *data

# Arrays are known by their numbers.
cdef struct token_step:
    int kind
    int64_t y, x, other, moved, k, v  # other: a residual, or what a norm is moved by
    layer_product product
    float eps
    const float *weight
    const float *bias
    const int64_t *numbers  # of a Take's rows, of a Stack's arrays
    int64_t heads, stacked
    int64_t units  # of a call

cdef struct token_run:  # and behind it, its arrays and steps
    const micro *u
    token_array *arrays
    token_step *steps
    const int64_t *first  # step of each phase, and the end
    int64_t array_count, step_count, phases, prompts, tokens


cdef class TokenSteps:
    """Linear layers, attentions and norms of prompts' tokens, one after the other, as one call.

    Args:
        inputs: the names of the arrays that a call takes, and the channels of each.
        phases: lists of steps, see :mod:`mobilesam.kernels.decoder.steps`: those of a list do not read what another of it makes, and
            any thread does a part of any. Weights that are not packed are packed here.
        outputs: the names of the arrays that a call returns.

    A call takes float32 arrays (P, T, C) of P prompts of T tokens, one for each input, and returns as many as there are outputs;
    its work it may leave to a ``queue``. A prompt's bits do not depend on the others nor on the threads. ValueError or TypeError
    names the step, or the array, that does not fit.

    Source: ``Attention``, ``TwoWayAttentionBlock`` and ``MLP`` in the reference's modeling/transformer.py and mask_decoder.py.
    """

    cdef readonly object inputs  # of names to channels
    cdef readonly tuple phases, outputs
    cdef dict _names  # of arrays, to their numbers
    cdef list _kept  # what the steps point to
    cdef int64_t _least  # tokens
    cdef object _steps, _arrays, _first  # token_step, token_array; the first step of each phase, and the end
    cdef object _isa  # its name, once a weight has one
    cdef const micro *_u

    def __init__(self, inputs, phases, outputs):
        if isinstance(outputs, str):
            raise TypeError(f"outputs: expected several names, got {outputs!r}")
        self.inputs = MappingProxyType({name: check.whole(width, f"inputs: {name}", 1) for name, width in dict(inputs).items()})
        self.phases, self.outputs, self._least = tuple(tuple(steps) for steps in phases), tuple(outputs), 1
        if not self.inputs or not self.outputs or not self.phases:
            raise ValueError("expected one or more inputs, phases and outputs")
        self._names, self._kept, self._isa, self._u = {}, [], None, NULL
        steps = [step for phase in self.phases for step in phase]
        self._steps = np.zeros((len(steps), sizeof(token_step)), np.uint8)
        self._arrays = np.zeros((len(self.inputs) + 2 * len(steps), sizeof(token_array)), np.uint8)
        self._first = np.cumsum([0, *map(len, self.phases)], dtype=np.int64)
        for name, width in self.inputs.items():
            self._new(name, width, 0)
        cdef uint8_t[:, ::1] storage = self._steps
        cdef int64_t at = 0
        packed = []
        for phase in self.phases:
            known = frozenset(self._names)
            packed.append([])
            for step in phase:
                packed[len(packed) - 1].append(self._set(<token_step *>&storage[at, 0], step, known))
                at += 1
        self.phases = tuple(map(tuple, packed))
        for name in self.outputs:
            self._find(name, "outputs", frozenset(self._names))
        if len({*self.outputs, *self.inputs}) < len(self.outputs) + len(self.inputs):
            raise ValueError(f"outputs: expected other arrays than the inputs, each once, got {self.outputs}")

    def __reduce__(self):
        return type(self), (dict(self.inputs), self.phases, self.outputs)

    cdef token_array *_array(self, int64_t number):
        cdef uint8_t[:, ::1] arrays = self._arrays
        return <token_array *>&arrays[number, 0]

    cdef int64_t _new(self, name, int64_t width, int64_t taken) except -1:
        if not isinstance(name, str) or name in self._names:
            raise ValueError(f"{name}: expected a name that no other array has")
        cdef int64_t number = len(self._names)
        self._names[name] = number
        self._array(number).width, self._array(number).taken = width, taken
        return number

    cdef int64_t _find(self, name, role, known, int64_t width=0, int64_t like=NONE) except -1:
        """The number of an array that is known; of a width, where given, and with as many rows as another."""
        if not isinstance(name, str) or name not in known:
            raise ValueError(f"{role}: expected one of the arrays made before ({', '.join(sorted(known))}), got {name!r}")
        cdef token_array *found = self._array(self._names[name])
        if width and found.width != width:
            raise ValueError(f"{role}: expected an array of {width} channels, got {name!r} of {found.width}")
        if like != NONE and found.taken != self._array(like).taken:
            raise ValueError(f"{role}: expected as many rows as the step's others, got {name!r}")
        return self._names[name]

    cdef _set(self, token_step *p, step, known):
        """Returns the step, its weight packed, whatever ISA is in force later."""
        p.other = p.moved = p.k = p.v = NONE
        if isinstance(step, Linear):
            return self._set_linear(p, step, known)
        if isinstance(step, Attention):
            return self._set_attention(p, step, known)
        if isinstance(step, Norm):
            return self._set_norm(p, step, known)
        if isinstance(step, Take):
            return self._set_take(p, step, known)
        if isinstance(step, Stack):
            return self._set_stack(p, step, known)
        raise TypeError(f"phases: expected Linear, Attention, Norm, Take or Stack, got {type(step).__name__}")

    cdef _set_linear(self, token_step *p, step, known):
        p.kind, p.x = LINEAR, self._find(step.x, f"{step.y}: x", known)
        panels = as_panels(step.weight, f"{step.y}: weight", ("N", self._array(p.x).width))
        bias = check.optional(step.bias, f"{step.y}: bias", (panels.n,))
        cdef const float[::1] bv = bias
        p.product.w, p.product.bias, p.product.scale = as_matrix(rt, panels), floats(bv), check.real(step.scale, f"{step.y}: scale")
        p.product.act = check.activation(step.activation, f"{step.y}: activation")
        isa = isas.name_of(panels.isa)
        if self._isa not in (None, isa):
            raise ValueError(f"{step.y}: weight: expected one packed for {self._isa}, as those before, got {isa}")
        self._u, self._isa = p.product.w.u, isa
        p.y = self._new(step.y, panels.n, self._array(p.x).taken)
        if step.residual is not None:
            p.other = self._find(step.residual, f"{step.y}: residual", known, panels.n, p.x)
        self._kept += [panels, bias]
        return step._replace(weight=panels)

    cdef _set_attention(self, token_step *p, step, known):
        p.kind, p.x = ATTENTION, self._find(step.q, f"{step.y}: q", known)
        cdef int64_t width = self._array(p.x).width
        p.k, p.v = (self._find(name, f"{step.y}: {role}", known, width, p.x) for role, name in (("k", step.k), ("v", step.v)))
        p.heads = check.whole(step.heads, f"{step.y}: heads", 1)
        if width % p.heads:
            raise ValueError(f"{step.y}: heads: expected a divisor of {width} channels, got {step.heads}")
        p.y = self._new(step.y, width, self._array(p.x).taken)
        return step

    cdef _set_norm(self, token_step *p, step, known):
        p.kind, p.x, p.eps = NORM, self._find(step.x, f"{step.y}: x", known), check.real(step.eps, f"{step.y}: eps")
        cdef int64_t width = self._array(p.x).width
        weight, bias = check.array(step.weight, f"{step.y}: weight", (width,)), check.array(step.bias, f"{step.y}: bias", (width,))
        cdef const float[::1] wv = weight, bv = bias
        p.weight, p.bias = &wv[0], &bv[0]
        p.y = self._new(step.y, width, self._array(p.x).taken)
        if (step.moved is None) != (step.by is None):
            raise ValueError(f"{step.y}: expected both moved and by, or neither")
        if step.moved is not None:
            p.other = self._find(step.by, f"{step.y}: by", known, width, p.x)
            p.moved = self._new(step.moved, width, self._array(p.x).taken)
        self._kept += [weight, bias]
        return step

    cdef _set_take(self, token_step *p, step, known):
        p.kind, p.x = TAKE, self._find(step.x, f"{step.y}: x", known)
        chosen = tuple(check.whole(row, f"{step.y}: rows", 0) for row in step.rows)
        if self._array(p.x).taken or not chosen:
            raise ValueError(f"{step.y}: expected some rows of an array that has them all")
        if max(chosen) >= 1 << 31:
            raise ValueError(f"{step.y}: rows: expected numbers below 2³¹, got {max(chosen)}")
        rows = np.array(chosen, np.int64)
        cdef const int64_t[::1] rv = rows
        p.numbers = &rv[0]
        p.y = self._new(step.y, self._array(p.x).width, len(rows))
        self._kept.append(rows)
        self._least = max(self._least, max(chosen) + 1)
        return step._replace(rows=chosen)

    cdef _set_stack(self, token_step *p, step, known):
        check.instance(step.xs, f"{step.y}: xs", tuple, list)
        p.kind, names = STACK, tuple(step.xs)
        if not names:
            raise ValueError(f"{step.y}: xs: expected one or more arrays")
        cdef int64_t rows = 0, width = 0
        numbers = np.empty(len(names), np.int64)
        for i, name in enumerate(names):
            numbers[i] = self._find(name, f"{step.y}: xs", known, width)
            width = self._array(numbers[i]).width
            if not self._array(numbers[i]).taken:
                raise ValueError(f"{step.y}: xs: expected arrays of rows that were taken, got {name!r}")
            rows += self._array(numbers[i]).taken
        cdef const int64_t[::1] nv = numbers
        p.numbers, p.stacked = &nv[0], nv.shape[0]
        p.y = self._new(step.y, width, rows)
        self._kept.append(numbers)
        return step._replace(xs=names)

    def __call__(self, *arrays, queue=None, threads=None):
        cdef int nthreads = resolve(threads)
        if len(arrays) != len(self.inputs):
            raise TypeError(f"expected arrays for {', '.join(self.inputs)}, got {len(arrays)}")
        shape = "P", "T"
        taken = []
        for (name, width), x in zip(self.inputs.items(), arrays):
            taken.append(check.array(x, name, (*shape, width), later=queue is not None))
            shape = taken[0].shape[:2]
        if shape[1] < self._least:
            raise ValueError(f"{next(iter(self.inputs))}: expected {self._least} tokens of each prompt or more, got {shape[1]}")
        cdef const uint8_t[:, ::1] steps_ = self._steps, arrays_ = self._arrays
        cdef const int64_t[::1] first = self._first
        cdef size_t of_arrays = arrays_.shape[0] * arrays_.shape[1], of_steps = steps_.shape[0] * steps_.shape[1]
        storage = np.empty(sizeof(token_run) + of_arrays + of_steps, np.uint8)
        cdef uint8_t[::1] bytes = storage
        cdef token_run *run = <token_run *>&bytes[0]
        run.u, (run.prompts, run.tokens) = self._u if self._u != NULL else &rt.tables[rt.active[0]], shape
        run.arrays = <token_array *>(run + 1)
        run.steps = <token_step *>(<uint8_t *>run.arrays + of_arrays)
        run.first, run.phases, run.array_count, run.step_count = &first[0], first.shape[0] - 1, len(self._names), steps_.shape[0]
        memcpy(run.arrays, &arrays_[0, 0], of_arrays)
        memcpy(run.steps, &steps_[0, 0], of_steps)
        results = set_arrays(run, taken, [self._names[name] for name in self.outputs])
        do_work("TokenSteps", run_steps, storage, (self, taken, results), queue, nthreads)
        return results


cdef inline int64_t rows_of(const token_run *run, int64_t number) noexcept nogil:
    """Of an array, for each prompt."""
    return run.arrays[number].taken or run.tokens


cdef inline int64_t floats_of(const token_run *run, int64_t number) noexcept nogil:
    return run.prompts * rows_of(run, number) * run.arrays[number].width


cdef set_arrays(token_run *run, inputs, outputs):
    """Where inputs and outputs are. Returns these."""
    cdef const float[:, :, ::1] xv
    cdef float[:, :, ::1] yv
    cdef int64_t i
    for i, x in enumerate(inputs):
        xv = x
        run.arrays[i].data, run.arrays[i].given = <float *>&xv[0, 0, 0], True
    results = []
    for i in outputs:
        results.append(np.empty((run.prompts, rows_of(run, i), run.arrays[i].width), np.float32))
        yv = results[len(results) - 1]
        run.arrays[i].data, run.arrays[i].given = &yv[0, 0, 0], True
    return results


cdef size_t run_steps(void *storage, int nthreads) noexcept nogil:
    cdef token_run *run = <token_run *>storage
    cdef int64_t i, phase, unit
    cdef size_t room = 64
    for i in range(run.array_count):
        if not run.arrays[i].given:
            room += sizeof(float) * round_up(floats_of(run, i), 16)
    cdef float *free = <float *>rt.room(room)
    if free == NULL:
        return room
    for i in range(run.array_count):
        if not run.arrays[i].given:
            run.arrays[i].data = take(&free, floats_of(run, i))
    cdef size_t size = set_units(run, run.steps, run.step_count, nthreads)
    cdef float *scratch
    cdef int failure = 0
    cdef int *failed = &failure  # a reduction would be of one loop
    with parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for phase in range(run.phases):
            for unit in prange(units_of(run, run.first[phase], run.first[phase + 1]), schedule="dynamic"):
                if scratch == NULL:
                    failed[0] = 1
                else:
                    run_unit(run, run.first[phase], unit, scratch)
    return size if failure else 0


cdef size_t set_units(const token_run *run, token_step *steps, int64_t count, int nthreads) noexcept nogil:
    """How each step is divided, and what it points to. Returns the bytes of scratch that they need."""
    cdef size_t size = 64
    cdef token_step *p
    cdef int64_t i
    for i in range(count):
        p = &steps[i]
        if p.kind == LINEAR:
            p.product.m, p.product.x = run.prompts * rows_of(run, p.x), run.arrays[p.x].data
            p.product.y, p.product.residual = run.arrays[p.y].data, NULL if p.other == NONE else run.arrays[p.other].data
            divide_product(&p.product, nthreads)
            p.units, size = p.product.units, max(size, product_bytes(&p.product))
        elif p.kind == ATTENTION:
            p.units = run.prompts * p.heads * ((rows_of(run, p.x) + QUERIES - 1) // QUERIES)
            size = max(size, attention_bytes(run, p))
        elif p.kind == NORM:
            p.units = (run.prompts * rows_of(run, p.x) + ROWS - 1) // ROWS
        else:
            p.units = run.prompts
    return size


cdef int64_t units_of(const token_run *run, int64_t first, int64_t end) noexcept nogil:
    cdef int64_t units = 0, i
    for i in range(first, end):
        units += run.steps[i].units
    return units


cdef void run_unit(const token_run *run, int64_t step, int64_t unit, float *scratch) noexcept nogil:
    """The unit of a phase, whose first step this is."""
    while unit >= run.steps[step].units:
        unit -= run.steps[step].units
        step += 1
    cdef const token_step *p = &run.steps[step]
    cdef const token_array *x = &run.arrays[p.x]
    cdef int64_t first, count, width = x.width, i
    cdef float *y = run.arrays[p.y].data
    if p.kind == LINEAR:
        product_unit(&p.product, unit, scratch)
    elif p.kind == ATTENTION:
        attend_unit(run, p, unit, scratch)
    elif p.kind == NORM:
        first = unit * ROWS
        count, first = min(ROWS, run.prompts * rows_of(run, p.x) - first), first * width
        run.u.layer_norm(y + first, width, x.data + first, width, count, width, p.weight, p.bias, p.eps, ACT_NONE)
        if p.moved != NONE:
            run.u.add(run.arrays[p.moved].data + first, y + first, run.arrays[p.other].data + first, count * width)
    elif p.kind == TAKE:
        count = run.arrays[p.y].taken
        for i in range(count):
            memcpy(y + (unit * count + i) * width, x.data + (unit * run.tokens + p.numbers[i]) * width, width * sizeof(float))
    else:
        width = run.arrays[p.y].width
        y += unit * run.arrays[p.y].taken * width
        for i in range(p.stacked):
            x = &run.arrays[p.numbers[i]]
            memcpy(y, x.data + unit * x.taken * width, x.taken * width * sizeof(float))
            y += x.taken * width


cdef inline int64_t value_columns(const micro *u, int64_t d) noexcept nogil:
    return round_up(d, u.nr)


cdef size_t attention_bytes(const token_run *run, const token_step *p) noexcept nogil:
    cdef int64_t tokens = rows_of(run, p.x), d = run.arrays[p.x].width // p.heads, columns = round_up(tokens, run.u.nr)
    return sizeof(float) * (columns * (QUERIES + d) + tokens * value_columns(run.u, d) + 48)


cdef void attend_unit(const token_run *run, const token_step *p, int64_t unit, float *free) noexcept nogil:
    """Some of a prompt's queries, of one head."""
    cdef const micro *u = run.u
    cdef int64_t tokens = rows_of(run, p.x), e = run.arrays[p.x].width, d = e // p.heads, columns = round_up(tokens, u.nr)
    cdef int64_t blocks = (tokens + QUERIES - 1) // QUERIES, i, j
    cdef int64_t first = unit % blocks * QUERIES, count = min(QUERIES, tokens - first)
    cdef int64_t at = unit // blocks // p.heads * tokens * e + unit // blocks % p.heads * d  # the prompt's first row, of the head
    cdef float *keys = take(&free, d * columns)
    cdef float *values = take(&free, tokens * value_columns(u, d))
    cdef float *scores = take(&free, count * columns)
    cdef float scale = 1 / sqrt(d)
    u.transpose(keys, columns, run.arrays[p.k].data + at, e, tokens, d)
    cdef gemm_args g = new_gemm(count, tokens, d)
    g.a, g.lda, g.y, g.ldy = run.arrays[p.x].data + at + first * e, e, scores, columns
    g.b, g.ldb, g.panel = keys, columns, u.nr
    u.gemm(&g)
    for i in range(count):
        for j in range(tokens):
            scores[i * columns + j] *= scale
    u.softmax(scores, columns, scores, columns, count, tokens)
    for i in range(tokens):
        memcpy(values + i * value_columns(u, d), run.arrays[p.v].data + at + i * e, d * sizeof(float))
    g = new_gemm(count, d, tokens)
    g.a, g.lda, g.y, g.ldy = scores, columns, run.arrays[p.y].data + at + first * e, e
    g.b, g.ldb, g.panel = values, value_columns(u, d), u.nr
    u.gemm(&g)

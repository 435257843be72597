"""Steps on token arrays, of prompts or of an image: linear layers, attention, LayerNorm, sums, and the choice of rows."""
import math

import numpy as np

from core.products cimport *
from decoder.record cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.gemm import as_panels
from mobilesam.kernels.core import isa as isas

import_runtime()

cdef enum:
    QUERIES = 128  # queries in a unit of attention
    ROWS = 4  # rows in a unit of layer_norm and add


def linear(plan, x, weight, bias=None, *, activation=None, residual=None, scale=1.0):
    """y = act(x · weightᵀ + bias + residual) · scale.

    Args:
        plan: a Recorder.
        x: Array (..., K).
        weight: (N, K) float32, or Panels of that shape, packed for the plan's ISA; bias: (N,) float32.
        activation: None, "gelu" or "relu".
        residual: Array (..., N).

    Returns:
        Array (..., N).
    """
    cdef layer_product p
    plan.check(x, "x", (None, "K"))
    weight = as_panels(weight, "weight", ("N", x.shape[-1]), isa=plan.isa)
    if isas.name_of(weight.isa) != plan.isa:
        raise ValueError(f"weight: expected Panels packed for {plan.isa}, got {isas.name_of(weight.isa)}")
    bias = check.optional(bias, "bias", (weight.n,))
    if residual is not None:
        plan.check(residual, "residual", (*x.shape[:-1], weight.n))
    memset(&p, 0, sizeof(p))
    cdef const float[::1] bv = bias
    p.w, p.m, p.bias = as_matrix(weight), math.prod(x.shape[:-1]), floats(bv)
    p.act, p.scale = check.activation(activation), check.real(scale, "scale")
    divide_product(&p, plan.threads)
    y = plan.array(*x.shape[:-1], weight.n)
    pointers = []
    point(pointers, &p, &p.x, x)
    point(pointers, &p, &p.residual, residual)
    point(pointers, &p, &p.y, y)
    plan.keep(weight, bias)
    record(plan, product_unit, product_layout, &p, sizeof(p), p.units, pointers, [y])
    return y


cdef struct attention_job:
    const micro *u
    const float *q  # (prompts, m, e)
    const float *k  # (prompts, n, e)
    const float *v
    float *y  # (prompts, m, e)
    int64_t m, n, e, heads
    float *keys  # (columns/NR, d, NR), columns: n in whole panels
    float *values  # (n, d in whole panels)
    float *scores  # (QUERIES, columns)


def attention(plan, q, k, v, *, heads):
    """y_h = softmax(q_h k_hᵀ) v_h, heads concatenated, of each prompt by itself.

    Args:
        q: Array (P, M, E), scaled by d^−½, d = E / heads.
        k, v: Arrays (P, N, E).

    Returns:
        Array (P, M, E).

    Source: ``Attention`` in the reference's modeling/transformer.py.
    """
    cdef attention_job p
    memset(&p, 0, sizeof(p))
    plan.check(q, "q", ("P", "M", "E"))
    plan.check(k, "k", (q.shape[0], "N", q.shape[2]))
    plan.check(v, "v", k.shape)
    p.u, p.m, p.n, p.e, p.heads = &rt.tables[<int>plan.table], q.shape[1], k.shape[1], q.shape[2], check.whole(heads, "heads", 1)
    if p.e % p.heads:
        raise ValueError(f"heads: expected a divisor of {p.e} channels, got {heads}")
    y = plan.array(*q.shape)
    pointers = []
    point(pointers, &p, &p.q, q)
    point(pointers, &p, &p.k, k)
    point(pointers, &p, &p.v, v)
    point(pointers, &p, &p.y, y)
    record(plan, attend_block, attention_layout, &p, sizeof(p), q.shape[0] * p.heads * blocks_of(&p), pointers, [y])
    return y


cdef int64_t blocks_of(const attention_job *p) noexcept nogil:
    """Units of attention for one head of one prompt."""
    return (p.m + QUERIES - 1) // QUERIES


cdef void attention_layout(void *job, arena *scratch) noexcept nogil:
    cdef attention_job *p = <attention_job *>job
    cdef int64_t d = p.e // p.heads, columns = round_up(p.n, p.u.nr)
    p.keys = take_floats(scratch, d * columns)
    p.values = take_floats(scratch, p.n * round_up(d, p.u.nr))
    p.scores = take_floats(scratch, min(p.m, QUERIES) * columns)


cdef void attend_block(void *job, int64_t unit) noexcept nogil:
    """Attend for QUERIES queries of one head of one prompt."""
    cdef const attention_job *p = <const attention_job *>job
    cdef const micro *u = p.u
    cdef int64_t d = p.e // p.heads, columns = round_up(p.n, u.nr), wide = round_up(d, u.nr)
    cdef int64_t blocks = blocks_of(p), first = unit % blocks * QUERIES, count = min(QUERIES, p.m - first)
    cdef int64_t prompt = unit // blocks // p.heads, head = unit // blocks % p.heads * d, nr = u.nr, i
    cdef int64_t at = (prompt * p.m + first) * p.e + head, at_keys = prompt * p.n * p.e + head
    cdef gemm_args g = new_gemm(count, p.n, d)
    for i in range(columns // nr):
        u.transpose(p.keys + i * d * nr, nr, p.k + at_keys + i * nr * p.e, p.e, min(nr, p.n - i * nr), d)
    g.a, g.lda, g.y, g.ldy = p.q + at, p.e, p.scores, columns
    g.b, g.ldb, g.panel = p.keys, nr, d * nr
    u.gemm(&g)
    u.softmax(p.scores, columns, p.scores, columns, count, p.n)
    for i in range(p.n):
        memcpy(p.values + i * wide, p.v + at_keys + i * p.e, d * sizeof(float))
    g = new_gemm(count, d, p.n)
    g.a, g.lda, g.y, g.ldy = p.scores, columns, p.y + at, p.e
    g.b, g.ldb, g.panel = p.values, wide, u.nr
    u.gemm(&g)


cdef struct rows_job:
    const micro *u
    const float *x  # (m, c)
    const float *added  # of a sum, (m, c) or (c)
    int64_t step  # from a row of it to the next
    float *y
    const float *weight  # (c), of a norm
    const float *bias
    float eps
    int64_t m, c


cdef rows_job new_rows(plan, x) except *:
    cdef rows_job p
    memset(&p, 0, sizeof(p))
    p.u, p.m, p.c = &rt.tables[<int>plan.table], math.prod(x.shape[:-1]), x.shape[-1]
    return p


def layer_norm(plan, x, weight, bias, *, eps=1e-5):
    """y = (x − mean) / sqrt(var + eps) · weight + bias over the last axis, as ``torch.nn.LayerNorm``: x and y Arrays (..., C)."""
    plan.check(x, "x", (None, "C"))
    weight, bias = check.array(weight, "weight", (x.shape[-1],)), check.array(bias, "bias", (x.shape[-1],))
    cdef const float[::1] wv = weight, bv = bias
    cdef rows_job p = new_rows(plan, x)
    p.weight, p.bias, p.eps = &wv[0], &bv[0], check.real(eps, "eps")
    y = plan.array(*x.shape)
    pointers = []
    point(pointers, &p, &p.x, x)
    point(pointers, &p, &p.y, y)
    plan.keep(weight, bias)
    record(plan, norm_block, NULL, &p, sizeof(p), (p.m + ROWS - 1) // ROWS, pointers, [y])
    return y


cdef void norm_block(void *job, int64_t unit) noexcept nogil:
    cdef const rows_job *p = <const rows_job *>job
    cdef int64_t first = unit * ROWS, at = first * p.c
    cdef norm_args g
    g.m, g.n, g.x, g.ldx, g.y, g.ldy = min(ROWS, p.m - first), p.c, p.x + at, p.c, p.y + at, p.c
    g.weight, g.bias, g.eps, g.act = p.weight, p.bias, p.eps, ACT_NONE
    p.u.layer_norm(&g)


def add(plan, x, other):
    """y = x + other. x: Array (..., C); other: Array of x's shape, or (C,)."""
    plan.check(x, "x", (None, "C"))
    plan.check(other, "other", x.shape, x.shape[-1:])
    cdef rows_job p = new_rows(plan, x)
    p.step = p.c if other.shape == x.shape else 0
    y = plan.array(*x.shape)
    pointers = []
    point(pointers, &p, &p.x, x)
    point(pointers, &p, &p.added, other)
    point(pointers, &p, &p.y, y)
    record(plan, add_block, NULL, &p, sizeof(p), (p.m + ROWS - 1) // ROWS, pointers, [y])
    return y


cdef void add_block(void *job, int64_t unit) noexcept nogil:
    cdef const rows_job *p = <const rows_job *>job
    cdef int64_t i
    for i in range(unit * ROWS, min((unit + 1) * ROWS, p.m)):
        p.u.add(p.y + i * p.c, p.x + i * p.c, p.added + i * p.step, p.c)


cdef struct take_job:
    const float *x  # (prompts, tokens, c)
    float *y  # (prompts, taken, c), of which this step fills some rows
    int64_t tokens, taken, c, count, first  # first: the row of y that the first of `count` goes to
    const int64_t *numbers  # (count), of rows of x


def take(plan, *arrays):
    """The chosen rows of every prompt, one array after the other.

    Args:
        plan: a Recorder.
        arrays: pairs of an Array (P, T, C) and the numbers of its rows.

    Returns:
        Array (P, all the numbers, C).
    """
    cdef take_job p
    cdef const int64_t[::1] nv
    memset(&p, 0, sizeof(p))
    if not arrays:
        raise ValueError("arrays: expected one or more")
    shape = plan.check(arrays[0][0], "arrays", ("P", "T", "C")).shape
    checked = []
    for x, numbers in arrays:
        plan.check(x, "arrays", (shape[0], "T", shape[2]))
        chosen = [check.whole(number, "numbers", 0) for number in numbers]
        if not chosen or max(chosen) >= x.shape[1]:
            raise ValueError(f"numbers: expected one or more from 0 to {x.shape[1] - 1}, got {list(numbers)}")
        checked.append((x, np.array(chosen, np.int64)))
    p.taken, p.c, p.first = sum(len(chosen) for _, chosen in checked), shape[2], 0
    y = plan.array(shape[0], p.taken, shape[2])
    for x, chosen in checked:
        nv = chosen
        p.numbers, p.tokens, p.count = &nv[0], x.shape[1], len(chosen)
        pointers = []
        point(pointers, &p, &p.x, x)
        point(pointers, &p, &p.y, y)
        plan.keep(chosen)
        record(plan, take_rows, NULL, &p, sizeof(p), shape[0], pointers, [y])
        p.first += p.count
    return y


cdef void take_rows(void *job, int64_t unit) noexcept nogil:
    """Copy one prompt's rows."""
    cdef const take_job *p = <const take_job *>job
    cdef int64_t i
    for i in range(p.count):
        memcpy(p.y + (unit * p.taken + p.first + i) * p.c, p.x + (unit * p.tokens + p.numbers[i]) * p.c, p.c * sizeof(float))

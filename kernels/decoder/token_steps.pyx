"""Steps of plans on tokens of prompts or of an image: linear layers, attention, LayerNorm, sums, and selection of tokens."""
import math

import numpy as np

from core.products cimport *
from decoder.record cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.gemm import as_panels
from mobilesam.kernels.core import isa as isas

import_runtime()

cdef enum:
    QUERIES = 64  # queries in a unit of work of the step `attention`
    ROWS = 4  # rows in a unit of work of the steps `layer_norm` and `add`


def linear(plan, x, weight, bias=None, *, activation=None, residual=None, scale=1.0, in_place=False):
    """y = act(x · weightᵀ + bias + residual) · scale.

    Args:
        plan: The Recorder that records the step.
        x: Array (..., K).
        weight: (N, K) float32, or Panels (N, K) that are packed for the plan's ISA.
        bias: (N,) float32, or None.
        activation: None, "gelu" or "relu".
        residual: Array (..., N), added before the activation, or None.
        scale: A number by which the result is multiplied.
        in_place: Whether y overwrites the residual. K is at most 256 then, because a longer sum keeps partial sums in y.

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
    if check.flag(in_place, "in_place") and (residual is None or x.shape[-1] > 256):
        raise ValueError(f"in_place: expected a residual and at most 256 channels of x, got {residual!r} and {x.shape[-1]}")
    memset(&p, 0, sizeof(p))
    cdef const float[::1] bv = bias
    p.w, p.m, p.bias = as_matrix(weight), math.prod(x.shape[:-1]), floats(bv)
    p.act, p.scale = check.activation(activation), check.real(scale, "scale")
    divide_product(&p, plan.threads)
    y = residual if in_place else plan.array(*x.shape[:-1], weight.n)
    p.x, p.residual, p.y = address(x), address(residual), address(y)
    plan.keep(weight, bias)
    record(plan, product_unit, product_layout, &p, sizeof(p), p.units, [y])
    return y


cdef struct attention_job:
    const micro *u
    const float *q  # (prompts, m, e), m queries of each prompt
    const float *k  # (prompts, n, e), n keys of each prompt
    const float *v  # (prompts, n, e), n values of each prompt
    float *y  # (prompts, m, e), the result
    int64_t m, n, e, heads, blocks  # blocks: units of work for each prompt, with QUERIES queries each
    # Scratch buffers for one head of d channels. `columns` is the number of queries in a unit of work, rounded up to whole GEMM panels.
    float *queries  # the d channels of each query, packed as the right factor of a GEMM with `columns` columns
    float *values  # (n, d rounded up to whole panels), the values of the head
    float *scores  # (n, columns), one column for each query


def attention(plan, q, k, v, *, heads):
    """y_h = softmax(q_h k_hᵀ) v_h for each head h and each prompt. This step is meant for few keys.

    Args:
        plan: The Recorder that records the step.
        q: Array (P, M, E), M queries of each of P prompts, already scaled by 1/√d with d = E / heads channels in a head.
        k: Array (P, N, E), N keys of each prompt.
        v: Array (P, N, E), N values of each prompt.
        heads: The number of heads.

    Returns:
        Array (P, M, E), the results of all heads side by side.

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
    p.blocks = (p.m + QUERIES - 1) // QUERIES
    y = plan.array(*q.shape)
    p.q, p.k, p.v, p.y = address(q), address(k), address(v), address(y)
    record(plan, attend_block, attention_layout, &p, sizeof(p), q.shape[0] * p.blocks, [y])
    return y


cdef void attention_layout(void *job, arena *scratch) noexcept nogil:
    cdef attention_job *p = <attention_job *>job
    cdef int64_t d = p.e // p.heads, columns = round_up(min(p.m, QUERIES), p.u.nr)
    p.queries = take_floats(scratch, d * columns)
    p.values = take_floats(scratch, p.n * round_up(d, p.u.nr))
    p.scores = take_floats(scratch, p.n * columns)


cdef void attend_block(void *job, int64_t unit) noexcept nogil:
    """Compute all heads for QUERIES queries of one prompt, while the rows of q and y are in L2."""
    cdef const attention_job *p = <const attention_job *>job
    cdef int64_t h
    for h in range(p.heads):
        attend_head(p, unit // p.blocks, unit % p.blocks * QUERIES, h * (p.e // p.heads))


cdef void attend_head(const attention_job *p, int64_t prompt, int64_t first, int64_t channel) noexcept nogil:
    """Compute the head that starts at ``channel``, for QUERIES queries from query ``first`` on. Queries lie along the SIMD vectors."""
    cdef const micro *u = p.u
    cdef int64_t d = p.e // p.heads, nr = u.nr, wide = round_up(d, nr), i
    cdef int64_t count = min(QUERIES, p.m - first), columns = round_up(count, nr)
    cdef int64_t at = (prompt * p.m + first) * p.e + channel, at_keys = prompt * p.n * p.e + channel
    cdef gemm_args g = new_gemm(p.n, columns, d)
    memset(p.queries + (columns - nr) * d, 0, nr * d * sizeof(float))
    for i in range(columns // nr):
        u.transpose(p.queries + i * d * nr, nr, p.q + at + i * nr * p.e, p.e, min(nr, count - i * nr), d)
    g.a, g.lda, g.y, g.ldy = p.k + at_keys, p.e, p.scores, columns
    g.b, g.ldb, g.panel = p.queries, nr, d * nr
    u.gemm(&g)
    u.softmax_columns(p.scores, columns, p.n, columns)
    for i in range(p.n):
        memcpy(p.values + i * wide, p.v + at_keys + i * p.e, d * sizeof(float))
    g = new_gemm(count, d, p.n)
    g.a, g.lda, g.step, g.y, g.ldy = p.scores, 1, columns, p.y + at, p.e
    g.b, g.ldb, g.panel = p.values, wide, nr
    u.gemm(&g)


cdef struct rows_job:
    const micro *u
    const float *x  # (m, c)
    const float *added  # (m, c) or (c), the array that the step `add` adds to x
    int64_t step  # floats between two rows of ``added``: c, or 0 if ``added`` is a single row
    float *y
    const float *weight  # (c), the weight of the step `layer_norm`
    const float *bias  # (c), the bias of the step `layer_norm`
    float eps
    int64_t m, c


cdef rows_job new_rows(plan, x) except *:
    cdef rows_job p
    memset(&p, 0, sizeof(p))
    p.u, p.m, p.c = &rt.tables[<int>plan.table], math.prod(x.shape[:-1]), x.shape[-1]
    return p


def layer_norm(plan, x, weight, bias, *, eps=1e-5, in_place=False):
    """y = (x − mean) / sqrt(var + eps) · weight + bias over the last axis, like ``torch.nn.LayerNorm``.

    Args:
        plan: The Recorder that records the step.
        x: Array (..., C).
        weight: (C,) float32, the weight of the LayerNorm.
        bias: (C,) float32, the bias of the LayerNorm.
        eps: A number, added to the variance.
        in_place: Whether y overwrites x.

    Returns:
        Array (..., C).
    """
    plan.check(x, "x", (None, "C"))
    weight, bias = check.array(weight, "weight", (x.shape[-1],)), check.array(bias, "bias", (x.shape[-1],))
    cdef const float[::1] wv = weight, bv = bias
    cdef rows_job p = new_rows(plan, x)
    p.weight, p.bias, p.eps = &wv[0], &bv[0], check.real(eps, "eps")
    y = x if check.flag(in_place, "in_place") else plan.array(*x.shape)
    p.x, p.y = address(x), address(y)
    plan.keep(weight, bias)
    record(plan, norm_block, no_buffers, &p, sizeof(p), (p.m + ROWS - 1) // ROWS, [y])
    return y


cdef void norm_block(void *job, int64_t unit) noexcept nogil:
    cdef const rows_job *p = <const rows_job *>job
    cdef int64_t first = unit * ROWS, at = first * p.c
    cdef norm_args g
    g.m, g.n, g.x, g.ldx, g.y, g.ldy = min(ROWS, p.m - first), p.c, p.x + at, p.c, p.y + at, p.c
    g.weight, g.bias, g.eps, g.act = p.weight, p.bias, p.eps, ACT_NONE
    p.u.layer_norm(&g)


def add(plan, x, other):
    """y = x + other.

    Args:
        plan: The Recorder that records the step.
        x: Array (..., C).
        other: Array (..., C) of the same shape as x, or Array (C,), which is added to each row of x.

    Returns:
        Array (..., C).
    """
    plan.check(x, "x", (None, "C"))
    plan.check(other, "other", x.shape, x.shape[-1:])
    cdef rows_job p = new_rows(plan, x)
    p.step = p.c if other.shape == x.shape else 0
    y = plan.array(*x.shape)
    p.x, p.added, p.y = address(x), address(other), address(y)
    record(plan, add_block, no_buffers, &p, sizeof(p), (p.m + ROWS - 1) // ROWS, [y])
    return y


cdef void add_block(void *job, int64_t unit) noexcept nogil:
    cdef const rows_job *p = <const rows_job *>job
    cdef int64_t i
    for i in range(unit * ROWS, min((unit + 1) * ROWS, p.m)):
        p.u.add(p.y + i * p.c, p.x + i * p.c, p.added + i * p.step, p.c)


cdef struct take_job:
    const float *x  # (prompts, tokens, c), all tokens
    float *y  # (prompts, count, c), the selected tokens
    int64_t tokens, c, count
    const int64_t *numbers  # (count), the numbers of the selected tokens


def take(plan, x, numbers):
    """y[p, i] = x[p, numbers[i]]: the selected tokens of every prompt.

    Args:
        plan: The Recorder that records the step.
        x: Array (P, T, C).
        numbers: The numbers of the tokens, each from 0 to T - 1.

    Returns:
        Array (P, len(numbers), C).
    """
    cdef take_job p
    plan.check(x, "x", ("P", "T", "C"))
    check.instance(numbers, "numbers", tuple, list, range, np.ndarray)
    chosen = np.array([check.whole(number, "numbers", 0) for number in numbers], np.int64)
    if not len(chosen) or chosen.max() >= x.shape[1]:
        raise ValueError(f"numbers: expected one or more from 0 to {x.shape[1] - 1}, got {check.shortened(list(numbers))}")
    cdef const int64_t[::1] nv = chosen
    p.numbers, p.tokens, p.c, p.count = &nv[0], x.shape[1], x.shape[2], len(chosen)
    y = plan.array(x.shape[0], p.count, p.c)
    p.x, p.y = address(x), address(y)
    plan.keep(chosen)
    record(plan, take_rows, no_buffers, &p, sizeof(p), x.shape[0], [y])
    return y


cdef void take_rows(void *job, int64_t prompt) noexcept nogil:
    cdef const take_job *p = <const take_job *>job
    cdef int64_t i
    for i in range(p.count):
        memcpy(p.y + (prompt * p.count + i) * p.c, p.x + (prompt * p.tokens + p.numbers[i]) * p.c, p.c * sizeof(float))

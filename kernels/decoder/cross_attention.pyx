"""The decoder's cross attention."""
import numpy as np

from cython.parallel cimport parallel, prange
from libc.math cimport sqrt

from core.common cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef int64_t QUERIES = 84  # query rows whose scores are held at once


cdef struct cross_pass:
    const float *q
    const float *keys  # (heads, columns/NR, d, NR)
    const float *values  # (heads, ceil(d/NR), n, NR)
    float *y
    int64_t m, n, width, heads, d, columns


cdef void pack_head(const micro *u, int64_t n, int64_t width, int64_t d, const float *k, const float *v, const float *scale,
                    float *keys, float *values) noexcept nogil:
    """The keys turned, panel by panel, and the values as they are; ``scale`` is one for each of a panel's columns."""
    cdef int64_t nr = u.nr, j, count
    for j in range((n + nr - 1) // nr):
        count = min(nr, n - j * nr)
        u.transpose(keys + j * d * nr, nr, k + j * nr * width, width, count, d)
        u.scale_columns(keys + j * d * nr, nr, keys + j * d * nr, nr, d, nr, scale, NULL, 0)
    for j in range(n):
        pack_value(v + j * width, d, nr, n * nr, values + j * nr)


def cross_attention(q, k, v, *, heads, out=None, threads=None):
    """y_h = softmax(q_h k_hᵀ · d^−½) v_h, heads concatenated: the SAM decoder's ``Attention`` after its projections.

    Args:
        q: (M, D) float32.
        k, v: (N, D) float32.
        heads: number of heads, d = D / heads channels each.
        out: (M, D) to write into.

    Returns:
        (M, D) float32.

    Source: ``Attention`` in the reference's modeling/transformer.py.
    """
    cdef cross_pass p
    cdef int nthreads = resolve(threads)
    cdef const micro *u = &rt.tables[rt.active[0]]
    q = check.array(q, "q", ("M", "D"))
    k = check.array(k, "k", ("N", q.shape[1]))
    v = check.array(v, "v", k.shape)
    p.heads = check.whole(heads, "heads", 1)
    if q.shape[1] % p.heads:
        raise ValueError(f"heads: expected a divisor of {q.shape[1]} channels, got {heads}")
    y = check.output(out, q.shape, q, k, v)
    p.m, p.width, p.n = q.shape[0], q.shape[1], k.shape[0]
    p.d, p.columns = p.width // p.heads, round_up(p.n, u.nr)
    keys_ = memory.empty((p.heads, p.columns * p.d))
    keys_[:, max(0, p.columns - u.nr) * p.d :] = 0
    values_ = memory.empty((p.heads, p.n * round_up(p.d, u.nr)))
    if p.d % u.nr:
        values_[:] = 0
    cdef const float[:, ::1] qv = q, kv = k, vv = v
    cdef float[:, ::1] yv = y, keys = keys_, values = values_
    cdef const float[::1] scale = np.full(u.nr, 1 / sqrt(p.d), np.float32)
    p.q, p.y, p.keys, p.values = &qv[0, 0], &yv[0, 0], &keys[0, 0], &values[0, 0]

    cdef int64_t unit, block = min(QUERIES, p.m), blocks = (p.m + QUERIES - 1) // QUERIES
    cdef size_t size = sizeof(float) * block * p.columns
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads if p.m * p.n * p.width > 65536 else 1):
        scratch = <float *>rt.scratch(size)
        for unit in prange(p.heads, schedule="static"):
            pack_head(u, p.n, p.width, p.d, &kv[0, unit * p.d], &vv[0, unit * p.d], &scale[0], &keys[unit, 0], &values[unit, 0])
        for unit in prange(blocks * p.heads, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                cross_block(u, &p, unit % p.heads, unit // p.heads * QUERIES, scratch)
    if failed:
        raise MemoryError(f"cross_attention: no memory for {size} bytes of scratch")
    return y


cdef void cross_block(const micro *u, const cross_pass *p, int64_t h, int64_t i, float *scores) noexcept nogil:
    """Query rows i to i + QUERIES of head h."""
    cdef int64_t d = p.d, count = min(QUERIES, p.m - i)
    gemm(u, count, p.n, d, p.q + i * p.width + h * d, p.width, p.keys + h * p.columns * d, NULL, NULL, 0, scores, p.columns,
         ACT_NONE)
    u.softmax(scores, p.columns, scores, p.columns, count, p.n)
    gemm(u, count, d, p.n, scores, p.columns, p.values + h * p.n * round_up(d, u.nr), NULL, NULL, 0, p.y + i * p.width + h * d,
         p.width, ACT_NONE)

"""Attention between a few prompt tokens and the image, with the projections folded onto the tokens.

With X' = X + PE, a head's scores q_h · (Wk_h X'_n + bk_h) are X'_n · (Wk_hᵀ q_h) and a term that is constant along the softmax;
the image to token direction folds likewise, and Σ_t P v_t Wo is a product with T·heads projected values. So the N image tokens
meet R = 8·T vectors, row t·8 + h of them for token t and head h, and are never projected themselves. One pass over the image,
in chunks that stay in L2, updates it and lets the next layer's tokens attend to the result.
"""
import numpy as np

from cython.parallel cimport parallel, prange
from libc.string cimport memcpy

from common cimport *

from mobilesam.kernels import check
from mobilesam.kernels import isa as isas
from mobilesam.kernels.gemm import pack
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

HEADS = 8
# Image tokens of a chunk, which never depends on the threads: each chunk's softmax is whole, and they combine in order.
cdef int64_t CHUNK = 256
# Rows whose sum with the positional encoding is held at once.
cdef int64_t ROWS = 64

cdef struct image_pass:
    const float *x  # (n, d)
    const float *pe  # (n, d)
    int64_t n, d
    # update: y = layer_norm(x + softmax_t(from · keys + key_bias) · values + bias)
    float *y  # (n, d), NULL where x stays as it is
    const float *source  # (n, k), NULL for x + pe
    matrix keys  # (columns, k)
    const float *key_bias  # (columns), -inf beyond the tokens
    matrix values  # (d, r)
    const float *bias
    const float *norm_weight
    const float *norm_bias
    int64_t k, r, columns
    float eps
    # attend: mixed[chunk] = sum_n exp((y + pe)_n · queries - top) y_n
    matrix queries  # (columns2, d)
    bint attends
    int64_t r2, columns2
    float *top  # (chunks, columns2)
    float *sum  # (chunks, columns2)
    float *mixed  # (chunks, r2, d)


def attend_image(x, pe, queries, *, precision="fp32", isa=None, threads=None):
    """mixed[r] = Σ_n softmax_n((x + pe)_n · queries_r) x_n: tokens to image, before the value projection.

    Args:
        x, pe: (N, D) float32, the image's tokens and their positional encoding; D a multiple of 64.
        queries: (R, D) float32, folded through the key projection and scaled; see :func:`fold_heads`.
        precision: "fp32" or "bf16": of the product with the queries.
        isa: the name of the ISA to run on; by default the one in force.

    Returns:
        (R, D) float32.
    """
    return _run(x, pe, None, check.array(queries, "queries", ("R", "D")), precision, isa, threads)[1]


def update_image(x, pe, keys, key_bias, values, bias, norm_weight, norm_bias, *, source=None, queries=None, eps=1e-5,
                 precision="fp32", isa=None, threads=None):
    """y = layer_norm(x + Σ_r P[:, r] values_r + bias), P = softmax_t(source · keysᵀ + key_bias) for each head: image to tokens.

    Args:
        x, pe: (N, D) float32; D a multiple of 64.
        keys: (8·T, K) float32, row t·8 + h; key_bias: (8·T,).
        values: (8·T, D) float32, the tokens' values through the output projection.
        bias, norm_weight, norm_bias: (D,) float32.
        source: (N, K) float32, what the keys are compared with; x + pe (K = D) by default.
        queries: (R, D) float32 to attend to the result, as :func:`attend_image` does.
        precision: "fp32" or "bf16": of the products with keys, values and queries.
        isa: the name of the ISA to run on; by default the one in force.

    Returns:
        (y, mixed): (N, D) float32, and (R, D) float32 or None.
    """
    return _run(x, pe, (keys, key_bias, values, bias, norm_weight, norm_bias, source, eps), queries, precision, isa, threads)


def _run(x, pe, update, queries, precision, isa, threads):
    cdef image_pass p
    cdef int nthreads = resolve(threads)
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: expected 'fp32' or 'bf16', got {precision!r}")
    cdef const micro *u = &rt.tables[<int>isas.index(isa)]
    x = check.array(x, "x", ("N", "D"))
    pe = check.array(pe, "pe", x.shape)
    if x.shape[1] % 64:
        raise ValueError(f"x: expected a multiple of 64 channels, got {x.shape[1]}")
    p.n, p.d = x.shape
    chunks_ = (p.n + CHUNK - 1) // CHUNK
    y = top_ = sum_ = mixed_ = None
    cdef const float[:, ::1] xv = x, pv = pe
    cdef float[:, ::1] yv
    cdef const float[:, ::1] fv
    cdef const float[::1] kb, ob, nw, nb
    cdef float[:, ::1] tv, sv
    cdef float[:, :, ::1] mv
    p.x, p.pe, p.y, p.source, p.attends = &xv[0, 0], &pv[0, 0], NULL, NULL, queries is not None
    p.columns = p.columns2 = 0
    cdef int64_t operand = 0
    if update is not None:
        keys, key_bias, values, bias, norm_weight, norm_bias, source, p.eps = update
        source = check.optional(source, "source", (p.n, "K"))
        p.k = p.d if source is None else source.shape[1]
        keys = check.array(keys, "keys", ("8·T", p.k))
        p.r, p.columns = keys.shape[0], round_up(keys.shape[0], u.nr)
        if p.r % HEADS:
            raise ValueError(f"keys: expected {HEADS} rows a token, got {p.r} rows")
        key_bias = np.pad(check.array(key_bias, "key_bias", (p.r,)), (0, p.columns - p.r), constant_values=-np.inf)
        values = np.ascontiguousarray(check.array(values, "values", (p.r, p.d)).T)
        packed_keys, packed_values = pack(keys, precision=precision, isa=isa, threads=1), pack(values, precision=precision, isa=isa, threads=1)
        p.keys, p.values = as_matrix(rt, packed_keys), as_matrix(rt, packed_values)
        p.keys.n = p.columns  # zeros beyond r
        operand = max(operand_floats(&p.keys, ROWS), operand_floats(&p.values, ROWS))
        kb, ob = key_bias, check.array(bias, "bias", (p.d,))
        nw, nb = check.array(norm_weight, "norm_weight", (p.d,)), check.array(norm_bias, "norm_bias", (p.d,))
        y = np.empty_like(x)
        yv = y
        p.y, p.key_bias = &yv[0, 0], &kb[0]
        p.bias, p.norm_weight, p.norm_bias = &ob[0], &nw[0], &nb[0]
        if source is not None:
            fv = source
            p.source = &fv[0, 0]
    if queries is not None:
        queries = check.array(queries, "queries", ("R", p.d))
        p.r2, p.columns2 = queries.shape[0], round_up(queries.shape[0], u.nr)
        packed_queries = pack(queries, precision=precision, isa=isa, threads=1)
        p.queries = as_matrix(rt, packed_queries)
        p.queries.n = p.columns2
        operand = max(operand, operand_floats(&p.queries, ROWS))
        top_, sum_ = np.empty((chunks_, p.columns2), np.float32), np.empty((chunks_, p.columns2), np.float32)
        mixed_ = np.empty((chunks_, p.r2, p.d), np.float32)
        tv, sv, mv = top_, sum_, mixed_
        p.top, p.sum, p.mixed = &tv[0, 0], &sv[0, 0], &mv[0, 0, 0]

    cdef int64_t chunks = chunks_, unit
    cdef size_t size = sizeof(float) * (ROWS * (p.d + p.columns) + CHUNK * (p.columns2 + p.d) + 64 + operand)
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                one_chunk(u, &p, unit, scratch)
    if failed:
        raise MemoryError(f"two-way attention: no memory for {size} bytes of scratch")
    return y, None if queries is None else _combine(u, top_, sum_, mixed_)


cdef _combine(const micro *u, top, total, const float[:, :, ::1] mixed):
    """The chunks' softmax numerators and denominators brought to a common maximum and added in order."""
    scale = np.exp(top - top.max(axis=0))
    scale /= (total * scale).sum(axis=0)
    y = np.empty((mixed.shape[1], mixed.shape[2]), np.float32)
    cdef const float[:, ::1] sv = scale
    cdef float[:, ::1] yv = y
    cdef int64_t r
    cdef gemm_args g
    g.m, g.n, g.k, g.segments, g.offset = 1, yv.shape[1], mixed.shape[0], 1, NULL
    g.lda, g.step, g.ldb, g.panel = 1, sv.shape[1], yv.shape[0] * yv.shape[1], u.nr
    g.bias, g.residual, g.ldr, g.ldy, g.act = NULL, NULL, 0, yv.shape[1], ACT_NONE
    for r in range(yv.shape[0]):
        g.a, g.b, g.y = &sv[0, r], &mixed[0, r, 0], &yv[r, 0]
        u.gemm(&g)
    return y


cdef void one_chunk(const micro *u, const image_pass *p, int64_t chunk, float *free) noexcept nogil:
    """Image tokens chunk · CHUNK and on."""
    cdef int64_t first = chunk * CHUNK, count = min(CHUNK, p.n - first), d = p.d, i, m, block
    cdef float *placed = take(&free, ROWS * d)
    cdef float *scores = take(&free, ROWS * p.columns)
    cdef float *weights = take(&free, CHUNK * p.columns2)
    cdef float *panels = take(&free, CHUNK * d)
    cdef const float *x = p.x if p.y == NULL else p.y
    cdef gemm_args g
    for block in range((count + ROWS - 1) // ROWS):
        i = first + block * ROWS
        m = min(ROWS, first + count - i)
        if p.y != NULL:
            if p.source == NULL:
                u.add(placed, p.x + i * d, p.pe + i * d, m * d)
            product(&p.keys, m, placed if p.source == NULL else p.source + i * p.k, p.k, p.key_bias, NULL, 0, scores,
                    p.columns, ACT_NONE, free)
            u.softmax_heads(scores, p.columns, m, p.columns)
            product(&p.values, m, scores, p.columns, p.bias, p.x + i * d, d, p.y + i * d, d, ACT_NONE, free)
            u.layer_norm(p.y + i * d, d, p.y + i * d, d, m, d, p.norm_weight, p.norm_bias, p.eps, ACT_NONE)
        if p.attends:
            u.add(placed, x + i * d, p.pe + i * d, m * d)
            product(&p.queries, m, placed, d, NULL, NULL, 0, weights + block * ROWS * p.columns2, p.columns2, ACT_NONE, free)
            pack_chunk(u.nr, x + i * d, m, d, count, panels + block * ROWS * u.nr)
    if not p.attends:
        return
    u.exp_columns(weights, p.columns2, count, p.columns2, p.top + chunk * p.columns2, p.sum + chunk * p.columns2)
    g.m, g.n, g.k, g.segments, g.offset = p.r2, d, count, 1, NULL
    g.a, g.lda, g.step = weights, 1, p.columns2
    g.b, g.ldb, g.panel = panels, u.nr, count * u.nr
    g.bias, g.residual, g.ldr, g.act = NULL, NULL, 0, ACT_NONE
    g.y, g.ldy = p.mixed + chunk * p.r2 * d, d
    u.gemm(&g)


cdef void pack_chunk(int64_t nr, const float *x, int64_t m, int64_t d, int64_t count, float *panels) noexcept nogil:
    """m rows of a chunk of ``count`` into its panels (d/NR, count, NR): in place, their stride would alias in L1."""
    cdef int64_t i, j
    for j in range(d // nr):
        for i in range(m):
            memcpy(panels + (j * count + i) * nr, x + i * d + j * nr, nr * sizeof(float))


def fold_heads(tokens, weight):
    """y[t·8 + h] = Σ_i tokens[t, h·e + i] · weight[h·e + i]: a projection moved from the image's side to the tokens'.

    Args:
        tokens: (T, E) float32, E = 8·e inner channels.
        weight: (E, D) float32, D a multiple of 64.

    Returns:
        (8·T, D) float32.
    """
    tokens = check.array(tokens, "tokens", ("T", "E"))
    weight = check.array(weight, "weight", (tokens.shape[1], "D"))
    if tokens.shape[1] % HEADS or weight.shape[1] % 64:
        raise ValueError(f"weight: expected a shape of multiples of ({HEADS}, 64), got {weight.shape}")
    y = np.empty((tokens.shape[0] * HEADS, weight.shape[1]), np.float32)
    cdef const micro *u = &rt.tables[rt.active[0]]
    cdef const float[:, ::1] tv = tokens, wv = weight
    cdef float[:, ::1] yv = y
    cdef int64_t heads = HEADS, e = tv.shape[1] // heads, d = wv.shape[1], h
    cdef gemm_args g
    g.m, g.n, g.k, g.segments, g.offset = tv.shape[0], d, e, 1, NULL
    g.lda, g.step, g.ldb, g.panel = tv.shape[1], 1, d, u.nr
    g.bias, g.residual, g.ldr, g.act, g.ldy = NULL, NULL, 0, ACT_NONE, heads * d
    for h in range(heads):
        g.a, g.b, g.y = &tv[0, h * e], &wv[h * e, 0], &yv[h, 0]
        u.gemm(&g)
    return y


"""TinyViT's windowed self-attention, fused: all steps of a window run on one thread."""
import numpy as np

from libc.math cimport INFINITY, sqrt
from libc.string cimport memcpy, memset

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check, isa, memory
from mobilesam.kernels.core.gemm import as_panels, linear
from mobilesam.kernels.core.threads import resolve

import_runtime()

# QUERIES is the number of queries whose scores are computed at once.
# For a window of 14 × 14 tokens, the scores of 84 queries take 84 · 196 · 4 bytes, which fit L2.
# Blocks of 28 or 42 queries, whose scores fit L1 better, were measured to take the same time.
cdef int64_t QUERIES = 84


def pack_attention_bias(table, index):
    """y[h,i,j] = table[h, index[i,j]]: the attention bias of query i and key j, as ``window_attention`` reads it.

    Args:
        table: (heads, offsets) float32, a bias for each relative position.
        index: (N, N) non-negative integers, the relative position of query i and key j.

    Returns:
        (heads, N, M) float32. M is N rounded up to whole panels of the current ISA, and y is −inf in columns beyond N.

    Source: ``attention_biases[:, attention_bias_idxs]`` of ``Attention`` in the reference's modeling/tiny_vit_sam.py.
    """
    table = check.array(table, "table", ("heads", "offsets"))
    cdef int64_t heads = table.shape[0], offsets = table.shape[1], n, columns, h, i, j
    check.instance(index, "index", np.ndarray)
    index = np.array(index, order="C")  # a plain copy, which no other thread can change after the check
    if index.dtype.kind not in "iu":
        raise TypeError(f"index: expected integers, got {index.dtype}")
    if index.ndim != 2 or index.shape[0] != index.shape[1] or index.size == 0:
        raise ValueError(f"index: expected shape (N, N), got {index.shape}")
    if not 0 <= index.min() <= index.max() < offsets:
        raise ValueError(f"index: expected numbers from 0 to {offsets - 1}, got {index.min()} to {index.max()}")
    index = np.array(index, np.int64, order="C")
    n = index.shape[0]
    columns = round_up(n, isa.panel_width())
    packed = memory.lasting((heads, n, columns))
    cdef const float[:, ::1] tv = table
    cdef const int64_t[:, ::1] iv = index
    cdef float[:, :, ::1] yv = packed
    with nogil:
        for h in range(heads):
            for i in range(n):
                for j in range(n):
                    yv[h, i, j] = tv[h, iv[i, j]]
                for j in range(n, columns):
                    yv[h, i, j] = -INFINITY
    return packed


cdef struct window_job:
    const micro *u
    const float *x  # the input, (height, width, c)
    float *y
    const float *norm_weight
    const float *norm_bias
    matrix qkv
    const float *qkv_bias
    matrix proj
    const float *proj_bias
    const float *bias  # attention bias (heads, n, columns), with -inf in the columns from n on
    const float *pad_qkv  # (3c), q, k and v of a padded token
    int64_t height, width, c, heads, d, window, n, columns, across  # across is the number of windows in a row
    float eps, scale
    bint narrow  # whether the micro-kernel `attend` computes attention, in bf16 or in bf16 pieces
    float *tokens  # tokens of a window, (n, c)
    float *qkv_rows  # q, k and v of the tokens, (n, 3c)
    float *attended  # (n, c), the concatenated outputs of the heads
    float *edge_bias  # (n, columns), a head's attention bias without the rows of padded queries
    float *operand  # packed A
    # keys, values and scores are set only if `narrow` is False
    float *keys  # packed keys of a head, (columns/NR, d, NR)
    float *values  # packed values of a head, (ceil(d/NR), n, NR)
    float *scores  # scores of a block of queries, (QUERIES, columns)
    # token_rows and attend_scratch are set only if `narrow` is True
    const float **token_rows  # (n) pointers, each to q, k and v of a token
    void *attend_scratch


def window_attention(x, norm_weight, norm_bias, qkv_weight, qkv_bias, proj_weight, proj_bias, attention_bias, *, window,
                     eps=1e-5, out=None, threads=None):
    """y = x + proj(concat_h softmax(q_h·k_hᵀ·d^−½ + attention_bias[h])·v_h),  q, k, v = qkv(layer_norm(x)), in windows.

    Before the norm, the feature map is padded with zeros on the right and at the bottom to whole windows. After the norm, a padded
    token is norm_bias, and real tokens attend to it. All padded tokens have the same q, k and v, which are computed once. If qkv_weight
    is packed in bf16 or int8 and the CPU has bf16, q·kᵀ and softmax·v are computed in bf16.

    Args:
        x: (H, W, C) float32.
        norm_weight: (C,) float32.
        norm_bias: (C,) float32.
        qkv_weight: (3C, C) float32, or Panels. Rows are ordered by head, then q, k, v, with d = C / heads rows each.
        qkv_bias: (3C,) float32.
        proj_weight: (C, C) float32, or Panels.
        proj_bias: (C,) float32.
        attention_bias: (heads, N, N) float32 with N = window², or the result of ``pack_attention_bias``.
        window: The side of a window in tokens.
        eps: A number added to the variance.
        out: (H, W, C) float32 that receives the result, or None. ``out`` may be ``x``.
        threads: The number of threads, or None for the default.

    Returns:
        (H, W, C) float32.

    Source: ``Attention`` and ``TinyViTBlock`` in the reference's modeling/tiny_vit_sam.py.
    """
    cdef window_job p
    cdef int nthreads = resolve(threads)
    cdef bint in_place = out is not None and out is x
    x = check.array(x, "x", ("H", "W", "C"))
    p.height, p.width, p.c = x.shape
    p.window = check.whole(window, "window", 1, 1 << 12)
    p.n = p.window * p.window
    qkv = as_panels(qkv_weight, "qkv_weight", (3 * p.c, p.c), threads=threads)
    proj = as_panels(proj_weight, "proj_weight", (p.c, p.c), threads=threads)
    p.qkv, p.proj = as_matrix(qkv), as_matrix(proj)
    cdef const micro *u = p.qkv.u
    check_same_isa(&p.proj, &p.qkv, "proj_weight")
    p.columns, p.narrow = round_up(p.n, u.nr), u.attend != NULL
    bias = check.array(attention_bias, "attention_bias", ("heads", p.n, p.n), ("heads", p.n, p.columns))
    if p.c % bias.shape[0]:
        raise ValueError(f"attention_bias: expected a number of heads that divides {p.c} channels, got {bias.shape[0]}")
    if bias.shape[2] != p.columns:
        bias = np.pad(bias, [(0, 0), (0, 0), (0, p.columns - bias.shape[2])], constant_values=-np.inf)
    p.heads = bias.shape[0]
    p.d = p.c // p.heads
    p.eps, p.scale = check.real(eps, "eps"), 1 / sqrt(p.d)
    cdef const float[::1] nw = check.array(norm_weight, "norm_weight", (p.c,)), nb = check.array(norm_bias, "norm_bias", (p.c,))
    cdef const float[::1] qb = check.array(qkv_bias, "qkv_bias", (3 * p.c,)), pb = check.array(proj_bias, "proj_bias", (p.c,))
    cdef const float[::1] pad_qkv = linear(np.asarray(nb), qkv, np.asarray(qb), threads=1)
    cdef const float[:, :, ::1] bv = bias
    y = check.output(out, x.shape, *(() if in_place else (x,)), norm_weight, norm_bias, qkv_bias, proj_bias, bias)
    cdef const float[::1] xv = x.reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    p.x, p.y, p.norm_weight, p.norm_bias, p.pad_qkv = &xv[0], &yv[0], &nw[0], &nb[0], &pad_qkv[0]
    p.qkv_bias, p.proj_bias, p.bias = &qb[0], &pb[0], &bv[0, 0, 0]

    p.u, p.across = u, (p.width + p.window - 1) // p.window
    launch("window_attention", one_window, &p, sizeof(p), p.across * ((p.height + p.window - 1) // p.window), window_layout, nthreads)
    return y


cdef void window_layout(void *job, arena *scratch) noexcept nogil:
    cdef window_job *p = <window_job *>job
    p.tokens = take_floats(scratch, p.n * p.c)
    p.qkv_rows = take_floats(scratch, 3 * p.n * p.c)
    p.attended = take_floats(scratch, p.n * p.c)
    p.edge_bias = take_floats(scratch, p.n * p.columns)
    p.operand = take_floats(scratch, max(operand_floats(&p.qkv, p.n), operand_floats(&p.proj, p.n)))
    if p.narrow:
        p.token_rows = <const float **>arena_take(scratch, p.n * sizeof(float *))
        p.attend_scratch = arena_take(scratch, attend_bytes(p.u, p.n, p.d))
    else:
        p.keys = take_floats(scratch, p.columns * p.d)
        p.values = take_floats(scratch, p.n * round_up(p.d, p.u.nr))
        p.scores = take_floats(scratch, QUERIES * p.columns)


cdef void one_window(void *job, int64_t unit) noexcept nogil:
    """Compute a window: the norm of its m real tokens (without padded tokens), qkv, attention, projection and shortcut."""
    cdef const window_job *p = <const window_job *>job
    cdef const micro *u = p.u
    cdef int64_t top = unit // p.across * p.window, left = unit % p.across * p.window
    cdef int64_t c = p.c, d = p.d, rows = min(p.window, p.height - top), cols = min(p.window, p.width - left), m = rows * cols
    cdef int64_t r, i, h, block, count
    cdef gemm_args g
    cdef norm_args norm
    cdef float *tokens = p.tokens
    cdef float *qkv = p.qkv_rows
    cdef float *attended = p.attended
    cdef float *scores = p.scores
    cdef const float *bias
    norm.m, norm.n, norm.ldx, norm.ldy = cols, c, c, c
    norm.weight, norm.bias, norm.eps, norm.act = p.norm_weight, p.norm_bias, p.eps, ACT_NONE
    for r in range(rows):
        norm.x, norm.y = p.x + ((top + r) * p.width + left) * c, tokens + r * cols * c
        u.layer_norm(&norm)
    g = of_rows(&p.qkv, m, tokens, c)
    g.bias, g.y, g.ldy = p.qkv_bias, qkv, 3 * c
    product(p.qkv.u, &g, p.operand)
    if p.narrow:
        attend_narrow(p, rows, cols)
    for h in range(0 if p.narrow else p.heads):
        pack_window(p, h, rows, cols)
        bias = p.bias + h * p.n * p.columns
        if m < p.n:
            bias = real_rows(p, bias, rows, cols)
        for block in range((m + QUERIES - 1) // QUERIES):
            i = block * QUERIES
            count = min(QUERIES, m - i)
            g = new_gemm(count, p.columns, d)
            g.a, g.lda, g.b, g.ldb, g.panel = qkv + i * 3 * c + 3 * h * d, 3 * c, p.keys, u.nr, d * u.nr
            g.residual, g.ldr, g.y, g.ldy = bias + i * p.columns, p.columns, scores, p.columns
            u.gemm(&g)
            u.softmax(scores, p.columns, scores, p.columns, count, p.columns)
            g = new_gemm(count, d, p.n)
            g.a, g.lda, g.b, g.ldb, g.panel = scores, p.columns, p.values, u.nr, p.n * u.nr
            g.y, g.ldy = attended + i * c + h * d, c
            u.gemm(&g)
    g = of_rows(&p.proj, m, attended, c)
    g.bias, g.y, g.ldy = p.proj_bias, tokens, c
    product(p.proj.u, &g, p.operand)
    for r in range(rows):
        i = ((top + r) * p.width + left) * c
        u.add(p.y + i, p.x + i, tokens + r * cols * c, cols * c)


cdef const float *real_rows(const window_job *p, const float *bias, int64_t rows, int64_t cols) noexcept nogil:
    """Copy a head's attention bias, without the rows of padded queries, to ``edge_bias``. Returns ``edge_bias``."""
    cdef int64_t r
    for r in range(rows):
        memcpy(p.edge_bias + r * cols * p.columns, bias + r * p.window * p.columns, cols * p.columns * sizeof(float))
    return p.edge_bias


cdef void attend_narrow(const window_job *p, int64_t rows, int64_t cols) noexcept nogil:
    """Compute the attention of all heads of a window with the micro-kernel `attend`."""
    cdef int64_t j, h, m = rows * cols
    cdef const float **tokens = p.token_rows
    cdef const float *qkv = p.qkv_rows
    cdef const float *bias
    cdef attend_args g
    for j in range(p.n):
        tokens[j] = qkv + (j // p.window * cols + j % p.window) * 3 * p.c if j // p.window < rows and j % p.window < cols else p.pad_qkv
    g.m, g.n, g.d, g.ldq, g.tokens, g.ldbias, g.scale = m, p.n, p.d, 3 * p.c, tokens, p.columns, p.scale
    g.ldy, g.scratch = p.c, p.attend_scratch
    for h in range(p.heads):
        bias = p.bias + h * p.n * p.columns
        g.bias = bias if m == p.n else real_rows(p, bias, rows, cols)
        g.q, g.y = qkv + 3 * h * p.d, p.attended + h * p.d
        g.at_k, g.at_v = (3 * h + 1) * p.d, (3 * h + 2) * p.d
        p.u.attend(&g)


cdef void pack_window(const window_job *p, int64_t h, int64_t rows, int64_t cols) noexcept nogil:
    """Pack a head's keys, scaled by d^−½, to (columns/NR, d, NR), and its values to (ceil(d/NR), N, NR), padded tokens included."""
    cdef int64_t nr = p.u.nr, d = p.d, j, r = 0, col = 0
    cdef float *keys = p.keys
    cdef float *values = p.values
    cdef const float *token
    memset(keys + (p.columns - nr) * d, 0, nr * d * sizeof(float))
    if d % nr:
        memset(values + d // nr * p.n * nr, 0, p.n * nr * sizeof(float))
    for j in range(p.n):
        token = (p.qkv_rows + (r * cols + col) * 3 * p.c if r < rows and col < cols else p.pad_qkv) + 3 * h * d
        pack_key(token + d, d, p.scale, nr, keys + j // nr * d * nr + j % nr)
        pack_value(token + 2 * d, d, nr, p.n * nr, values + j * nr)
        col += 1
        if col == p.window:
            r, col = r + 1, 0


cdef inline void pack_key(const float *key, int64_t d, float scale, int64_t nr, float *column) noexcept nogil:
    cdef int64_t i
    for i in range(d):
        column[i * nr] = key[i] * scale


cdef inline void pack_value(const float *value, int64_t d, int64_t nr, int64_t panel, float *row) noexcept nogil:
    """Copy a token's value (d) to a row of the panels. Panels have nr columns and lie ``panel`` floats apart."""
    cdef int64_t i
    for i in range((d + nr - 1) // nr):
        memcpy(row + i * panel, value + i * nr, min(nr, d - i * nr) * sizeof(float))

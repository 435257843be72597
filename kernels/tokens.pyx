"""The decoder's passes over prompts' tokens, which are few: what would be many small calls, each as one."""
import numpy as np

from cython.parallel cimport parallel, prange
from libc.math cimport sqrt

from common cimport *
from products cimport *

from mobilesam.kernels import check, memory
from mobilesam.kernels import isa as isas
from mobilesam.kernels.gemm import as_panels
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef enum:
    QUERIES = 64  # of a block, whose scores stay in cache

cdef struct self_pass:
    layer_product q, k, v, out
    float *keys  # (prompts, e, columns), turned
    float *mixed  # (prompts*tokens, e)
    int64_t prompts, tokens, e, heads, columns, blocks
    float scale


def self_attention(x, values, layers, residual, norm, *, heads, eps=1e-5, threads=None):
    """layer_norm(out(softmax(q_h k_hᵀ · d^−½) v_h, heads concatenated) + residual) of each prompt's tokens.

    Args:
        x: (P, T, C) float32, what q and k are made of; values: (P, T, C), what v is.
        layers: weight and bias of the projections q, k, v, (E, C) and (E,), and out, (C, E) and (C,); weights float32 or Panels.
        residual: (P, T, C) or None.
        norm: weight and bias (C,) of the LayerNorm; eps: its.
        heads: a divisor of E.

    Returns:
        (P, T, C) float32.

    Source: ``Attention`` and ``TwoWayAttentionBlock`` in the reference's modeling/transformer.py.
    """
    cdef self_pass p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("P", "T", "C"))
    values, residual = check.array(values, "values", x.shape), check.optional(residual, "residual", x.shape)
    c = x.shape[2]
    panels, biases = checked_projections(layers, c, threads)
    e = panels[0].n
    weight, bias = check.norm(norm, c)
    p.heads = check.whole(heads, "heads", 1)
    p.prompts, p.tokens, p.e = x.shape[0], x.shape[1], e
    if p.e % p.heads:
        raise ValueError(f"heads: expected a divisor of {e} channels, got {heads}")
    y = np.empty(x.shape, np.float32)
    set_layer(&p.q, panels[0], biases[0], x, None)
    set_layer(&p.k, panels[1], biases[1], x, None)
    set_layer(&p.v, panels[2], biases[2], values, None)
    set_layer(&p.out, panels[3], biases[3], None, residual)
    cdef const micro *u = p.q.w.u
    p.columns, p.scale, p.blocks = round_up(p.tokens, u.nr), 1 / sqrt(e // heads), (p.tokens + QUERIES - 1) // QUERIES
    cdef int64_t rows = p.prompts * p.tokens, unit
    # values are read in whole panels, so that a last row needs more behind it
    room = memory.empty((round_up(4 * rows * p.e + u.nr, 16) + p.prompts * p.e * p.columns,))
    cdef float[::1] rv = room
    cdef float[:, :, ::1] yv = y
    cdef const float[::1] nw = weight, nb = bias
    cdef float norm_eps = eps
    p.q.y, p.k.y, p.mixed, p.v.y = &rv[0], &rv[rows * p.e], &rv[2 * rows * p.e], &rv[3 * rows * p.e]
    p.keys = &rv[round_up(4 * rows * p.e + u.nr, 16)]
    p.out.x, p.out.y, p.out.m = p.mixed, &yv[0, 0, 0], rows
    divide_product(&p.q, nthreads)
    divide_product(&p.k, nthreads)
    divide_product(&p.v, nthreads)
    divide_product(&p.out, nthreads)
    cdef int64_t projections = p.q.units + p.k.units + p.v.units
    cdef size_t size = max(product_bytes(&p.q), max(product_bytes(&p.k), product_bytes(&p.v)))
    size = max(size, max(product_bytes(&p.out), sizeof(float) * QUERIES * p.columns))
    cdef float *scratch
    cdef int failure = 0
    cdef int *failed = &failure  # a reduction would be of one loop
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(projections, schedule="dynamic"):
            if scratch == NULL:
                failed[0] = 1
            else:
                project_unit(&p, unit, scratch)
        for unit in prange(p.prompts, schedule="static"):
            u.transpose(p.keys + unit * p.e * p.columns, p.columns, p.k.y + unit * p.tokens * p.e, p.e, p.tokens, p.e)
        for unit in prange(p.prompts * p.heads * p.blocks, schedule="dynamic"):
            if scratch == NULL:
                failed[0] = 1
            else:
                attend_block(u, &p, unit, scratch)
        for unit in prange(p.out.units, schedule="dynamic"):
            if scratch == NULL:
                failed[0] = 1
            else:
                product_unit(&p.out, unit, scratch)
    if failure:
        raise MemoryError(f"self_attention: no memory for {size} bytes of scratch")
    u.layer_norm(p.out.y, p.out.w.n, p.out.y, p.out.w.n, rows, p.out.w.n, &nw[0], &nb[0], norm_eps, ACT_NONE)
    return y


def checked_projections(layers, c, threads):
    """Of q, k, v and out the weights, packed, and the biases."""
    names = "q", "k", "v", "out"
    check.instance(layers, "layers", tuple, list)
    if len(layers) != len(names):
        raise ValueError(f"layers: expected those of q, k, v and out, got {len(layers)}")
    pairs = [check.weight_and_bias(layer, f"layers: {name}") for name, layer in zip(names, layers)]
    panels = [as_panels(weight, f"layers: {name}", ("E", c), threads=threads) for name, (weight, _) in zip(names[:3], pairs)]
    if any(w.shape != panels[0].shape for w in panels):
        raise ValueError(f"layers: expected q, k and v of one shape, got {', '.join(str(w.shape) for w in panels)}")
    panels.append(as_panels(pairs[3][0], "layers: out", (c, panels[0].n), threads=threads))
    if len({isas.name_of(w.isa) for w in panels}) > 1:
        raise ValueError(f"layers: expected weights of one ISA, got {', '.join(isas.name_of(w.isa) for w in panels)}")
    biases = [check.optional(bias, f"layers: {name}", (w.n,)) for name, w, (_, bias) in zip(names, panels, pairs)]
    return panels, biases


cdef set_layer(layer_product *p, panels, bias, x, residual):
    cdef const float[::1] bv = bias
    cdef const float[::1] xv = None if x is None else x.reshape(-1), rv = None if residual is None else residual.reshape(-1)
    p.w = as_matrix(rt, panels)
    p.x, p.bias, p.residual, p.act, p.m = floats(xv), floats(bv), floats(rv), ACT_NONE, 0 if x is None else xv.shape[0] // p.w.k


cdef void project_unit(const self_pass *p, int64_t unit, float *operand) noexcept nogil:
    if unit < p.q.units:
        product_unit(&p.q, unit, operand)
    elif unit < p.q.units + p.k.units:
        product_unit(&p.k, unit - p.q.units, operand)
    else:
        product_unit(&p.v, unit - p.q.units - p.k.units, operand)


cdef void attend_block(const micro *u, const self_pass *p, int64_t unit, float *scores) noexcept nogil:
    """Some of a prompt's queries, of one head."""
    cdef int64_t d = p.e // p.heads, h = unit % p.heads, prompt = unit // p.heads // p.blocks, i, j
    cdef int64_t first = unit // p.heads % p.blocks * QUERIES, at = (prompt * p.tokens + first) * p.e + h * d
    cdef int64_t count = min(QUERIES, p.tokens - first)
    cdef gemm_args g = new_gemm(count, p.tokens, d)
    g.a, g.lda, g.y, g.ldy = p.q.y + at, p.e, scores, p.columns
    g.b, g.ldb, g.panel = p.keys + (prompt * p.e + h * d) * p.columns, p.columns, u.nr
    u.gemm(&g)
    for i in range(count):
        for j in range(p.tokens):
            scores[i * p.columns + j] *= p.scale
    u.softmax(scores, p.columns, scores, p.columns, count, p.tokens)
    g = new_gemm(count, d, p.tokens)
    g.a, g.lda, g.y, g.ldy = scores, p.columns, p.mixed + at, p.e
    g.b, g.ldb, g.panel = p.v.y + prompt * p.tokens * p.e + h * d, p.e, u.nr
    u.gemm(&g)


def token_mlps(x, mlps, *, threads=None):
    """Of each of H tokens its own linear layers, with ReLU between them.

    Args:
        x: (H, R, C) float32: R rows for each of H.
        mlps: H sequences of the layers' weights, (N, K) float32 or Panels, and biases (N,); the last N is one for all.

    Returns:
        (H, R, N) float32.

    Source: ``MLP`` in the reference's modeling/mask_decoder.py.
    """
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "R", "C"))
    check.instance(mlps, "mlps", tuple, list)
    if len(mlps) != len(x):
        raise ValueError(f"mlps: expected one for each of {len(x)} tokens, got {len(mlps)}")
    for own in mlps:
        check.instance(own, "mlps", tuple, list)
        if not own:
            raise ValueError("mlps: expected one or more layers for each token, got none")
    layers = [checked_layers(layers, x.shape[2]) for layers in mlps]
    n = layers[0][-1][0].n
    if any(own[-1][0].n != n for own in layers):
        raise ValueError(f"mlps: expected results of {n} channels, got {[own[-1][0].n for own in layers]}")
    cdef int64_t most = max(len(own) for own in layers), rows = x.shape[1], unit, widest = 0, i, j
    cdef uint8_t[::1] storage = np.zeros(len(x) * most * sizeof(layer_product), np.uint8)
    cdef layer_product *steps = <layer_product *>&storage[0]
    y = np.empty((len(x), rows, n), np.float32)
    cdef float[:, :, ::1] yv = y
    cdef const float[:, :, ::1] xv = x
    cdef size_t operand = 0, size
    for i, own in enumerate(layers):
        for j, (panels, bias) in enumerate(own):
            set_layer(&steps[i * most + j], panels, bias, None, None)
            steps[i * most + j].m, steps[i * most + j].act = rows, ACT_RELU if j < len(own) - 1 else ACT_NONE
            operand = max(operand, product_bytes(&steps[i * most + j]))
            widest = max(widest, panels.n)
            divide_product(&steps[i * most + j], 1)
        steps[i * most].x, steps[i * most + len(own) - 1].y = &xv[i, 0, 0], &yv[i, 0, 0]
    size = sizeof(float) * 2 * round_up(rows * widest, 16) + operand
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(xv.shape[0], schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                run_layers(&steps[unit * most], most, scratch, scratch + round_up(rows * widest, 16),
                           scratch + 2 * round_up(rows * widest, 16))
    if failed:
        raise MemoryError(f"token_mlps: no memory for {size} bytes of scratch")
    return y


def checked_layers(layers, c):
    """The layers packed, with their biases, the first of which takes c channels."""
    packed = []
    for weight, bias in (check.weight_and_bias(layer, "mlps") for layer in layers):
        panels = as_panels(weight, "mlps", ("N", c))
        packed.append((panels, check.optional(bias, "mlps", (panels.n,))))
        c = panels.n
    return packed


cdef void run_layers(const layer_product *steps, int64_t most, float *here, float *there, float *operand) noexcept nogil:
    """Layers one after the other; the last is the one that knows where its result goes."""
    cdef layer_product step
    cdef const float *x = steps[0].x
    cdef int64_t i, unit
    for i in range(most):
        step = steps[i]
        step.x = x
        if step.y == NULL:
            step.y = here if i % 2 == 0 else there
        for unit in range(step.units):
            product_unit(&step, unit, operand)
        if steps[i].y != NULL:
            return
        x = step.y

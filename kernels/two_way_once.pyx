"""The image's tokens as the one prompt that an image serves updates them: nothing is made of the image for others.

The projections of the image are folded onto the tokens, which are few: scores are rows of 8·tokens times the image's channels, and
what the tokens see is mixed of channels before it is projected. Pixels lie along the vectors; a chunk's update and the attention
to it are one pass over its maps.
"""
import numpy as np

from cython.parallel cimport parallel, prange

from chunks cimport *
from common cimport *

from mobilesam.kernels import check, memory
from mobilesam.kernels import isa as isas
from mobilesam.kernels.project import ImageMaps
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef struct once_pass:
    asking_pass ask
    bint updates
    map_rows scores  # (8·tokens, c + 1), the last for the bias
    map_rows outs  # (c, 8·tokens)
    map_rows asked  # (8·asking, c)
    int64_t n, tokens, c
    const float *x  # (chunks, c, IMAGE_CHUNK)
    const float *pe
    float *y
    const float *shift  # (c)
    const float *norm_weight
    const float *norm_bias
    float eps


def update_image_once(x, pe, attention, queries, update=None, keys=None, values=None, *, eps=1e-5, isa=None, threads=None):
    """An image's tokens attend to a prompt's, unless ``update`` is None, and then the prompt's next tokens attend to them.

    Args:
        x: ImageMaps of the image's channels, C, and pe of its positional encoding's.
        attention: a :class:`mobilesam.once.OnceAttention`; queries: (T2, E) float32, scaled, of 8 heads.
        update: None, or a :class:`mobilesam.once.OnceUpdate`, with keys and values: (T, E) float32, keys scaled.
        eps: of the update's LayerNorm.
        isa: the name of the ISA to run on; by default the one in force.

    Returns:
        (ImageMaps, attended): the updated image, or x, and (T2, E) float32 the attention's heads, concatenated.

    Source: ``TwoWayAttentionBlock`` in the reference's modeling/transformer.py.
    """
    cdef once_pass p
    cdef int nthreads = resolve(threads)
    cdef const micro *u = &rt.tables[<int>isas.index(isa)]
    check.instance(x, "x", ImageMaps)
    check.instance(pe, "pe", ImageMaps)
    p.c, p.n, p.updates = attention.key_rows.shape[1], x.n, update is not None
    if x.data.shape != pe.data.shape or x.n != pe.n or x.data.shape[1] != p.c:
        raise ValueError(f"pe: expected {p.c} maps of x's {x.n} tokens, got {pe.data.shape[1]} of {pe.n}")
    cdef int64_t e = attention.key_rows.shape[0], chunks = x.data.shape[0], unit
    queries = check.array(queries, "queries", ("T2", e))
    cdef const float[:, :, ::1] xv = x.data, pv = pe.data
    cdef const float[:, ::1] qv = queries, value_rows = attention.value_rows, kv, vv
    cdef const float[::1] bias = attention.value_bias, shift, norm_weight, norm_bias
    cdef float[:, :, ::1] yv
    asked = folded_rows(u, &p.asked, qv.shape[0], e, &qv[0, 0], attention.key_rows, p.c)
    p.ask.asking, p.ask.e, p.ask.rank, p.ask.queries = qv.shape[0], e, p.c, &qv[0, 0]
    p.ask.columns = round_up(HEADS * qv.shape[0], u.nr)
    p.ask.values, p.ask.value_wide = &value_rows[0, 0], value_rows.shape[1]
    p.x, p.pe, p.tokens, p.y, p.eps = &xv[0, 0, 0], &pv[0, 0, 0], 0, NULL, eps
    y = x
    if p.updates:
        keys = check.array(keys, "keys", ("T", e))
        values = check.array(values, "values", keys.shape)
        p.tokens = keys.shape[0]
        kv, vv = keys, values
        scores = folded_rows(u, &p.scores, p.tokens, e, &kv[0, 0], update.query_rows, p.c + 1)
        outs = folded_rows(u, &p.outs, p.tokens, e, &vv[0, 0], update.out_rows, p.c, True)
        y = ImageMaps(memory.empty(x.data.shape), x.n)
        yv, shift, norm_weight, norm_bias = y.data, update.shift, update.norm_weight, update.norm_bias
        p.y, p.shift, p.norm_weight, p.norm_bias = &yv[0, 0, 0], &shift[0], &norm_weight[0], &norm_bias[0]
    room = asked_room(&p.ask, sizeof(p), 1, chunks)
    cdef int64_t deepest = max(p.c + 1, HEADS * p.tokens)
    cdef size_t size = sizeof(float) * ((p.c + 1 + HEADS * p.tokens + p.ask.columns) * STRIDE + IMAGE_CHUNK * p.ask.columns + 128
                                        + IMAGE_CHUNK // u.weight.columns * panel_words(u, deepest, False))
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                once_chunk(u, &p, unit, unit + nthreads if unit + nthreads < chunks else 0, scratch)
    if failed:
        raise MemoryError(f"update_image_once: no memory for {size} bytes of scratch")
    return y, combined(u, &p.ask, sizeof(p), room, bias, nthreads)[0]


cdef void once_chunk(const micro *u, const once_pass *p, int64_t chunk, int64_t next_chunk, float *free) noexcept nogil:
    """Softmax over the tokens, the norm, scores of the next attention, and its sums of the channels over these image tokens.

    The last products fetch what ``next_chunk`` begins with, unless 0.
    """
    cdef int64_t c = p.c, ahead = next_chunk * p.c * IMAGE_CHUNK, fetched = p.c * IMAGE_CHUNK if next_chunk else 0
    cdef int64_t count = min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK), at = chunk * c * IMAGE_CHUNK, i
    cdef const float *x = p.x + at
    cdef float *moved = take(&free, (c + 1) * STRIDE)  # x + pe and a row of ones; between, what the update makes
    cdef float *weights = take(&free, HEADS * p.tokens * STRIDE)
    cdef float *scores = take(&free, p.ask.columns * STRIDE)
    cdef float *turned = take(&free, IMAGE_CHUNK * p.ask.columns + u.nr)
    if p.updates:
        move_by_pe(u, c, x, p.pe + at, moved)
        for i in range(IMAGE_CHUNK):
            moved[c * STRIDE + i] = 1
        pack_map_columns(u, c + 1, IMAGE_CHUNK, moved, STRIDE, free)
        map_product(&p.scores, free, IMAGE_CHUNK, NULL, 0, weights, STRIDE)
        softmax_heads(u, p.tokens, weights)
        pack_map_columns(u, HEADS * p.tokens, IMAGE_CHUNK, weights, STRIDE, free)
        map_product(&p.outs, free, IMAGE_CHUNK, x, IMAGE_CHUNK, moved, STRIDE)
        u.norm_columns(p.y + at, IMAGE_CHUNK, moved, STRIDE, c, IMAGE_CHUNK, NULL, p.shift, p.norm_weight, p.norm_bias, p.eps,
                       ACT_NONE)
        x = p.y + at
    move_by_pe(u, c, x, p.pe + at, moved)
    pack_map_columns(u, c, IMAGE_CHUNK, moved, STRIDE, free)
    map_product(&p.asked, free, IMAGE_CHUNK, NULL, 0, scores, STRIDE, p.pe + ahead, fetched)
    ask_basis(u, &p.ask, chunk, count, scores, NULL, NULL, x, IMAGE_CHUNK, turned, p.x + ahead, fetched)


cdef void move_by_pe(const micro *u, int64_t c, const float *x, const float *pe, float *y) noexcept nogil:
    cdef int64_t i
    for i in range(c):
        u.add(y + i * STRIDE, x + i * IMAGE_CHUNK, pe + i * IMAGE_CHUNK, IMAGE_CHUNK)

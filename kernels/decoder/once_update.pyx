"""The image's tokens as the one prompt that an image serves updates them: nothing is made of the image for others.

The projections of the image are folded onto the tokens, which are few: scores are rows of 8·tokens times the image's channels, and
what the tokens see is mixed of channels before it is projected. Pixels lie along the vectors; a chunk's update and the attention
to it are one pass over its maps.
"""
import numpy as np

from cython.parallel cimport parallel, prange

from decoder.chunks cimport *
from core.common cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.decoder.image_maps import ImageMaps
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef struct once_pass:
    const micro *u
    asking_pass ask
    map_rows scores  # (8·tokens, c + 1), the last for the bias
    map_rows outs  # (c, 8·tokens)
    map_rows asked  # (8·asking, c)
    int64_t n, tokens, c  # tokens: 0 where nothing is updated
    const float *keys  # (tokens, e)
    const float *values
    const float *key_rows  # (e, c)
    const float *query_rows  # (e, query_wide)
    const float *out_rows  # (e, out_wide)
    int64_t query_wide, out_wide
    const float *x  # (chunks, c, IMAGE_CHUNK)
    const float *pe
    float *y
    const float *shift  # (c)
    const float *norm_weight
    const float *norm_bias
    float eps


def update_image_once(x, pe, attention, queries, update=None, keys=None, values=None, *, eps=1e-5, isa=None, queue=None,
                      threads=None):
    """An image's tokens attend to a prompt's, unless ``update`` is None, and then the prompt's next tokens attend to them.

    Args:
        x: ImageMaps of the image's channels, C, and pe of its positional encoding's.
        attention: a :class:`mobilesam.kernels.OnceAttention`; queries: (T2, E) float32, scaled, of 8 heads.
        update: None, or a :class:`mobilesam.kernels.OnceUpdate`, with keys and values: (T, E) float32, keys scaled.
        eps: of the update's LayerNorm.
        isa: the name of the ISA to run on; by default the one in force.
        queue: a Queue to leave the work to.

    Returns:
        (ImageMaps, attended): the updated image, or x, and (T2, E) float32 the attention's heads, concatenated.

    Source: ``TwoWayAttentionBlock`` in the reference's modeling/transformer.py.
    """
    cdef int nthreads = resolve(threads)
    table = isas.index(isa)
    check.instance(x, "x", ImageMaps)
    check.instance(pe, "pe", ImageMaps)
    c, e = attention.key_rows.shape[1], attention.key_rows.shape[0]
    if x.data.shape != pe.data.shape or x.n != pe.n or x.data.shape[1] != c:
        raise ValueError(f"pe: expected {c} maps of x's {x.n} tokens, got {pe.data.shape[1]} of {pe.n}")
    later = queue is not None
    queries = check.array(queries, "queries", ("T2", e), later=later)
    attended = np.empty(queries.shape, np.float32)
    cdef const float[:, :, ::1] xv = x.data, pv = pe.data
    cdef const float[:, ::1] qv = queries, key_rows = attention.key_rows, value_rows = attention.value_rows
    cdef const float[::1] bias = attention.value_bias
    cdef float[:, ::1] av = attended
    storage = np.zeros(sizeof(once_pass), np.uint8)
    cdef uint8_t[::1] bytes = storage
    cdef once_pass *p = <once_pass *>&bytes[0]
    p.u, p.c, p.n, p.eps = &rt.tables[<int>table], c, x.n, eps
    p.ask.asking, p.ask.e, p.ask.rank, p.ask.columns = qv.shape[0], e, c, round_up(HEADS * qv.shape[0], p.u.nr)
    p.ask.queries, p.ask.values, p.ask.value_wide = &qv[0, 0], &value_rows[0, 0], value_rows.shape[1]
    p.ask.bias, p.ask.y, p.key_rows = &bias[0], &av[0, 0], &key_rows[0, 0]
    p.x, p.pe = &xv[0, 0, 0], &pv[0, 0, 0]
    y = x
    if update is not None:
        keys = check.array(keys, "keys", ("T", e), later=later)
        values = check.array(values, "values", keys.shape, later=later)
        y = ImageMaps(memory.empty(x.data.shape), x.n)
        set_update(p, update, keys, values, y.data)
    do_work("update_image_once", update_once, storage, (x, pe, attention, queries, update, keys, values, y, attended), queue, nthreads)
    return y, attended


cdef set_update(once_pass *p, update, keys, values, y):
    cdef const float[:, ::1] kv = keys, vv = values, query_rows = update.query_rows, out_rows = update.out_rows
    cdef const float[::1] shift = update.shift, norm_weight = update.norm_weight, norm_bias = update.norm_bias
    cdef float[:, :, ::1] yv = y
    p.tokens, p.keys, p.values, p.y = kv.shape[0], &kv[0, 0], &vv[0, 0], &yv[0, 0, 0]
    p.query_rows, p.query_wide, p.out_rows, p.out_wide = &query_rows[0, 0], query_rows.shape[1], &out_rows[0, 0], out_rows.shape[1]
    p.shift, p.norm_weight, p.norm_bias = &shift[0], &norm_weight[0], &norm_bias[0]


cdef size_t update_once(void *storage, int nthreads) noexcept nogil:
    cdef once_pass *p = <once_pass *>storage
    cdef const micro *u = p.u
    cdef int64_t chunks = (p.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK, deepest = max(p.c + 1, HEADS * p.tokens), unit
    cdef size_t size = sizeof(float) * ((p.c + 1 + HEADS * p.tokens + p.ask.columns) * STRIDE + IMAGE_CHUNK * p.ask.columns + 128
                                        + IMAGE_CHUNK // u.weight.columns * panel_words(u, deepest, False))
    cdef size_t room = sizeof(float) * (
        asked_floats(&p.ask, chunks) + folded_floats(u, p.ask.asking, p.c, p.c)
        + folded_floats(u, p.tokens, p.query_wide, p.c + 1) + folded_floats(u, p.tokens, p.out_wide, p.c, True))
    cdef float *free = <float *>rt.room(room)
    if free == NULL:
        return room
    take_asked(&p.ask, chunks, &free)
    folded_rows(u, &p.asked, p.ask.asking, p.ask.e, p.ask.queries, p.key_rows, p.c, p.c, &free)
    if p.tokens:
        folded_rows(u, &p.scores, p.tokens, p.ask.e, p.keys, p.query_rows, p.query_wide, p.c + 1, &free)
        folded_rows(u, &p.outs, p.tokens, p.ask.e, p.values, p.out_rows, p.out_wide, p.c, &free, True)
    cdef float *scratch
    cdef int failed = 0
    with parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                once_chunk(u, p, unit, unit + nthreads if unit + nthreads < chunks else 0, scratch)
    if failed:
        return size
    combine(u, &p.ask, sizeof(once_pass), 1, chunks, nthreads)
    return 0


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
    if p.tokens:
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

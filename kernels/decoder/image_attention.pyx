"""The tokens' attention to an image as it is, by its maps."""
import numpy as np

from cython.parallel cimport parallel, prange

from decoder.chunks cimport *
from core.common cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.decoder.image_maps import ImageMaps
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef struct attention_call:  # and behind it, the prompts' passes
    const micro *u
    const float *keys  # (e, IMAGE_CHUNK) of the first chunk
    const float *values
    int64_t prompts, n, step  # step: a chunk's floats


def attend_image(maps, at, queries, bias, *, isa=None, queue=None, threads=None):
    """y_h = softmax(q_h K_h) V_hᵀ + bias_h, heads concatenated, of prompts' tokens.

    Args:
        maps: ImageMaps of the image; at: which of them are the first of E keys and of E values.
        queries: (P, T, E) float32, scaled, of 8 heads.
        bias: (E,), of the values.
        isa: the name of the ISA to run on; by default the one in force.
        queue: a Queue to leave the work to.

    Returns:
        (P, T, E) float32.
    """
    cdef int nthreads = resolve(threads)
    check.instance(maps, "maps", ImageMaps)
    bias = check.array(bias, "bias", ("E",))
    queries = check.array(queries, "queries", ("P", "T", bias.shape[0]), later=queue is not None)
    at = check.pair(at, "at", 0)
    cdef int64_t e = bias.shape[0], i
    if e % HEADS or max(at) > maps.data.shape[1] - e:
        raise ValueError(f"at: expected the first of {e} keys and of {e} values among {maps.data.shape[1]} maps, got {at}")
    cdef const float[:, :, ::1] mv = maps.data, qv = queries
    cdef const float[::1] bv = bias
    cdef int64_t prompts = qv.shape[0]
    y = np.empty(queries.shape, np.float32)
    cdef float[:, :, ::1] yv = y
    storage = np.zeros(sizeof(attention_call) + prompts * sizeof(asking_pass), np.uint8)
    cdef uint8_t[::1] bytes = storage
    cdef attention_call *call = <attention_call *>&bytes[0]
    cdef asking_pass *p = <asking_pass *>(call + 1)
    call.u, call.prompts, call.n, call.step = &rt.tables[<int>isas.index(isa)], prompts, maps.n, mv.shape[1] * IMAGE_CHUNK
    call.keys, call.values = &mv[0, <int64_t>at[0], 0], &mv[0, <int64_t>at[1], 0]
    for i in range(prompts):
        p[i].asking, p[i].e, p[i].columns = qv.shape[1], e, round_up(HEADS * qv.shape[1], call.u.nr)
        p[i].queries, p[i].bias, p[i].y = &qv[i, 0, 0], &bv[0], &yv[i, 0, 0]
    do_work("attend_image", attend, storage, (maps, queries, bias, y), queue, nthreads)
    return y


cdef size_t attend(void *storage, int nthreads) noexcept nogil:
    cdef attention_call *call = <attention_call *>storage
    cdef asking_pass *passes = <asking_pass *>(call + 1)
    cdef int64_t chunks = (call.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK, i, unit
    cdef size_t size = sizeof(float) * passes.asking * STRIDE, room = sizeof(float) * call.prompts * asked_floats(passes, chunks)
    cdef float *free = <float *>rt.room(room)
    if free == NULL:
        return room
    for i in range(call.prompts):
        take_asked(&passes[i], chunks, &free)
    cdef float *scratch
    cdef int failed = 0
    with parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                attend_chunk(call.u, passes, call.prompts, unit, min(IMAGE_CHUNK, call.n - unit * IMAGE_CHUNK),
                             call.keys + unit * call.step, call.values + unit * call.step, scratch,
                             call.step * nthreads if unit + nthreads < chunks else 0)
    if failed:
        return size
    combine(call.u, passes, sizeof(asking_pass), call.prompts, chunks, nthreads)
    return 0


cdef void attend_chunk(const micro *u, const asking_pass *passes, int64_t prompts, int64_t chunk, int64_t count,
                       const float *keys, const float *values, float *weights, int64_t next_step) noexcept nogil:
    """A chunk for every prompt, while its maps are in L2; then comes the one so many floats further, unless 0."""
    cdef int64_t i
    cdef next_maps after
    after.with_scores, after.with_sums = values, keys + passes.e // HEADS * IMAGE_CHUNK
    for i in range(prompts):
        after.last = keys + next_step if next_step and i == prompts - 1 else NULL
        ask_maps(u, &passes[i], chunk, count, keys, values, IMAGE_CHUNK, weights, &after)
        after.with_scores = after.with_sums = NULL

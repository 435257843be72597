"""The tokens' attention to an image as it is, by its maps."""
import numpy as np

from cython.parallel cimport parallel, prange

from chunks cimport *
from common cimport *

from mobilesam.kernels import check
from mobilesam.kernels import isa as isas
from mobilesam.kernels.project import ImageMaps
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

def attend_image(maps, at, queries, bias, *, isa=None, threads=None):
    """y_h = softmax(q_h K_h) V_hᵀ + bias_h, heads concatenated, of prompts' tokens.

    Args:
        maps: ImageMaps of the image; at: which of them are the first of E keys and of E values.
        queries: (P, T, E) float32, scaled, of 8 heads.
        bias: (E,), of the values.
        isa: the name of the ISA to run on; by default the one in force.

    Returns:
        (P, T, E) float32.
    """
    cdef int nthreads = resolve(threads)
    check.instance(maps, "maps", ImageMaps)
    cdef const micro *u = &rt.tables[<int>isas.index(isa)]
    bias = check.array(bias, "bias", ("E",))
    queries = check.array(queries, "queries", ("P", "T", bias.shape[0]))
    at = check.pair(at, "at", 0)
    cdef int64_t keys_at = at[0], values_at = at[1], e = bias.shape[0], prompts = queries.shape[0], n = maps.n, i, unit
    if e % HEADS or max(at) > maps.data.shape[1] - e:
        raise ValueError(f"at: expected the first of {e} keys and of {e} values among {maps.data.shape[1]} maps, got {at}")
    cdef const float[:, :, ::1] mv = maps.data, qv = queries
    cdef const float[::1] bv = bias
    cdef int64_t chunks = mv.shape[0], columns = round_up(HEADS * qv.shape[1], u.nr)
    cdef uint8_t[::1] storage = np.zeros(prompts * sizeof(asking_pass), np.uint8)
    cdef asking_pass *passes = <asking_pass *>&storage[0]
    for i in range(prompts):
        passes[i].asking, passes[i].e, passes[i].columns, passes[i].queries = qv.shape[1], e, columns, &qv[i, 0, 0]
    room = asked_room(passes, sizeof(asking_pass), prompts, chunks)
    cdef size_t size = sizeof(float) * qv.shape[1] * STRIDE
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                attend_chunk(u, passes, prompts, unit, min(IMAGE_CHUNK, n - unit * IMAGE_CHUNK), &mv[unit, keys_at, 0],
                             &mv[unit, values_at, 0], scratch,
                             mv.shape[1] * IMAGE_CHUNK * nthreads if unit + nthreads < chunks else 0)
    if failed:
        raise MemoryError(f"attend_image: no memory for {size} bytes of scratch")
    return combined(u, passes, sizeof(asking_pass), room, bv, nthreads)


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

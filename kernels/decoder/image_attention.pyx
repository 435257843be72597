"""The step in which prompts' tokens attend to an image whose keys and values are given as Maps."""
from decoder.chunks cimport *

from mobilesam.kernels.core import check

import_runtime()

globals()["HEADS"], globals()["PANEL"] = HEADS, PANEL  # record.pxd's, for Python

cdef struct attention_job:
    asking_job ask
    const float *keys  # (e, IMAGE_CHUNK) of the first chunk
    const float *values
    int64_t n, key_step, value_step  # floats from a chunk to the next
    int64_t nthreads
    float *weights  # (asking, STRIDE)


def attend_image(plan, queries, keys, values, bias):
    """y_h = softmax(q_h K_h) V_hᵀ + bias_h of 8 heads: prompts' tokens attend to an image's.

    Args:
        queries: Array (P, T, E), scaled by d^−½.
        keys, values: Maps of E rows.
        bias: (E,) float32, of the values. (The keys' bias does not change a softmax.)

    Returns:
        Array (P, T, E).

    Source: ``cross_attn_token_to_image`` in the reference's modeling/transformer.py.
    """
    cdef attention_job p
    plan.check(queries, "queries", ("P", "T", "E"))
    e = queries.shape[2]
    if e % HEADS:
        raise ValueError(f"queries: expected a multiple of {HEADS} channels, got {e}")
    plan.check_maps(keys, "keys", e)
    plan.check_maps(values, "values", e, keys.n)
    bias = check.array(bias, "bias", (e,))
    cdef const float[::1] bv = bias
    memset(&p, 0, sizeof(p))
    arrays = new_asking(plan, &p.ask, queries, None, 0, keys.n)
    p.ask.bias, p.n, p.nthreads = &bv[0], keys.n, plan.threads
    p.key_step, p.value_step = keys.array.shape[1] * IMAGE_CHUNK, values.array.shape[1] * IMAGE_CHUNK
    pointers = []
    point_asking(pointers, &p, &p.ask, arrays)
    point(pointers, &p, &p.keys, keys.array, keys.first * IMAGE_CHUNK)
    point(pointers, &p, &p.values, values.array, values.first * IMAGE_CHUNK)
    plan.keep(bias)
    _, _, _, top, sum_, mixed, _ = arrays
    record(plan, attend_chunk, attention_layout, &p, sizeof(p), p.ask.chunks, pointers, [top, sum_, mixed])
    return record_totals(plan, &p.ask, arrays)


cdef void attention_layout(void *job, arena *scratch) noexcept nogil:
    cdef attention_job *p = <attention_job *>job
    p.weights = take_floats(scratch, p.ask.asking * STRIDE)


cdef void attend_chunk(void *job, int64_t unit) noexcept nogil:
    """One chunk for all prompts, while its maps are in L2. The first prompt prefetches them, the last one the next chunk's."""
    cdef const attention_job *p = <const attention_job *>job
    cdef const float *keys = p.keys + unit * p.key_step
    cdef const float *values = p.values + unit * p.value_step
    cdef asking_job ask
    cdef next_maps after
    cdef int64_t i
    after.with_scores, after.with_sums = values, keys + p.ask.e // HEADS * IMAGE_CHUNK
    for i in range(p.ask.prompts):
        ask = asking_of(&p.ask, i)
        after.last = keys + p.nthreads * p.key_step if i == p.ask.prompts - 1 and unit + p.nthreads < p.ask.chunks else NULL
        ask_maps(&ask, unit, min(IMAGE_CHUNK, p.n - unit * IMAGE_CHUNK), keys, values, IMAGE_CHUNK, p.weights, &after)
        after.with_scores = after.with_sums = NULL

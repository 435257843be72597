"""A step of plans: the tokens of prompts attend to an image. The image's keys and values are Maps."""
from decoder.image_queries cimport *

from mobilesam.kernels.core import check

import_runtime()

globals()["HEADS"], globals()["PANEL"] = HEADS, PANEL  # makes the constants of record.pxd visible in Python

cdef struct attention_job:
    queries_job queries
    const float *keys  # (e, IMAGE_CHUNK), keys of the first chunk of image tokens
    const float *values  # (e, IMAGE_CHUNK), values of the first chunk of image tokens
    int64_t key_step, value_step  # number of floats from the start of a chunk to the start of the next chunk
    float *weights  # (tokens, STRIDE), scratch for the attention weights of a head


def attend_image(plan, queries, keys, values, bias):
    """y_h = softmax(q_h K_h) V_hᵀ + bias_h for each of 8 heads h: the tokens of prompts attend to an image.

    Args:
        plan: The Recorder that records the step.
        queries: Array (P, T, E), queries of P prompts with T tokens, already scaled by 1/√d with d = E / 8 channels in a head.
        keys: Maps with E channels, the keys of the image tokens.
        values: Maps with E channels, the values of the image tokens.
        bias: (E,) float32, the bias of the value projection. A bias of the keys would not change the softmax.

    Returns:
        Array (P, T, E), the results of all heads side by side.

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
    memset(&p, 0, sizeof(p))
    sums, y, out = new_queries(plan, &p.queries, queries, bias, keys.n)
    p.key_step, p.value_step = keys.array.shape[1] * IMAGE_CHUNK, values.array.shape[1] * IMAGE_CHUNK
    p.keys, p.values = channel(keys), channel(values)
    plan.keep(bias)
    return record_attention(plan, attend_chunk, attention_layout, &p.queries, sizeof(p), sums, sums, y, out)


cdef void attention_layout(void *job, arena *scratch) noexcept nogil:
    cdef attention_job *p = <attention_job *>job
    p.weights = take_floats(scratch, p.queries.tokens * STRIDE)


cdef void attend_chunk(void *job, int64_t chunk) noexcept nogil:
    """Compute the attention of all prompts to one chunk of image tokens, while the chunk's keys and values are in L2.

    The products of the first prompt prefetch this chunk. The products of the last prompt prefetch the keys of the thread's next chunk.
    """
    cdef const attention_job *p = <const attention_job *>job
    cdef const float *keys = p.keys + chunk * p.key_step
    cdef const float *next_keys
    cdef int64_t last = p.queries.prompts - 1, after = next_chunk(&p.queries, chunk), i
    cdef queries_job prompt
    for i in range(last + 1):
        prompt = prompt_queries(&p.queries, i)
        next_keys = p.keys + after * p.key_step if i == last and after else NULL
        attend_maps(&prompt, chunk, keys, p.values + chunk * p.value_step, p.weights, i == 0, next_keys)

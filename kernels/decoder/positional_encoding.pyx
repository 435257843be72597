"""Positional encoding of a prompt's points and of the image's tokens."""
import numpy as np

from libc.string cimport memset

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.threads import resolve

import_runtime()

cdef enum:
    POINTS = 64  # points in a unit of work


def encode_positions(xy, size, gaussian, kinds, embeddings, *, threads=None):
    """Encode points: y[n] = [sin φ, cos φ] + embeddings[kinds[n]] with φ = 2π·(2·(xy[n] + ½) / size − 1)·gaussian (Tancik et al., 2020).

    The error of sin φ and cos φ is at most 2e-7, plus the effect of three rounding errors in φ. If |φ| exceeds 2²⁰·2π, the results are the
    sine and cosine of some multiple of π/2.

    Args:
        xy: (N, 2) float32, in pixels of a square image.
        size: The side of the square in pixels.
        gaussian: (2, F) float32, the random frequencies of the checkpoint.
        kinds: (N,) intp, the index of each point's embedding. A point of kind −1 has no position: y is
            the last embedding.
        embeddings: (K, 2·F) float32, one embedding for each kind of point.
        threads: The number of threads, or None for the default.

    Returns:
        (N, 2·F) float32.

    Source: ``PositionEmbeddingRandom`` and ``PromptEncoder`` in the reference's modeling/prompt_encoder.py.
    """
    cdef int nthreads = resolve(threads)
    cdef const float[:, ::1] xv = check.array(xy, "xy", ("N", 2)), gv = check.array(gaussian, "gaussian", (2, "F"))
    cdef const float[:, ::1] ev = check.array(embeddings, "embeddings", ("K", 2 * gv.shape[1]))
    cdef int64_t n = xv.shape[0], i
    if not isinstance(kinds, np.ndarray) or kinds.dtype != np.intp or kinds.shape != (n,):
        got = f"{kinds.dtype} of shape {kinds.shape}" if isinstance(kinds, np.ndarray) else type(kinds).__name__
        raise ValueError(f"kinds: expected intp of shape ({n},), got {got}")
    cdef const Py_ssize_t[::1] kv = np.array(kinds)  # a copy, because another thread could change the numbers after the check
    for i in range(n):
        if not -1 <= kv[i] < ev.shape[0]:
            raise ValueError(f"kinds: expected -1 to {ev.shape[0] - 1}, got {kv[i]}")
    y = np.empty((n, 2 * gv.shape[1]), np.float32)  # y is not taken from the buffer pool, because prompts keep y for a long time
    cdef float[:, ::1] yv = y
    cdef encode_job p
    p.u, p.xy, p.step, p.gaussian = &rt.tables[rt.active[0]], &xv[0, 0], 2.0 / check.whole(size, "size", 1), &gv[0, 0]
    p.n, p.f, p.y, p.kinds, p.embeddings, p.embedding_count = n, gv.shape[1], &yv[0, 0], &kv[0], &ev[0, 0], ev.shape[0]
    launch("encode_positions", encode_block, &p, sizeof(p), (n + POINTS - 1) // POINTS, NULL, nthreads if n > POINTS else 1)
    return y


cdef struct encode_job:
    const micro *u
    const float *xy  # (n, 2)
    float step
    const float *gaussian  # (2, f)
    int64_t n, f
    const Py_ssize_t *kinds  # (n)
    const float *embeddings  # (embedding_count, 2f)
    int64_t embedding_count
    float *y  # (n, 2f)


cdef void encode_block(void *job, int64_t unit) noexcept nogil:
    cdef const encode_job *p = <const encode_job *>job
    cdef int64_t f = p.f, i, kind
    cdef float *row
    for i in range(unit * POINTS, min(p.n, (unit + 1) * POINTS)):
        row, kind = p.y + i * 2 * f, p.kinds[i] if p.kinds[i] >= 0 else p.embedding_count - 1
        if p.kinds[i] < 0:
            memset(row, 0, 2 * f * sizeof(float))
        else:
            p.u.sincos_2pi(row, (p.xy[2 * i] + 0.5) * p.step - 1, p.gaussian, (p.xy[2 * i + 1] + 0.5) * p.step - 1, p.gaussian + f, f)
        p.u.add(row, row, p.embeddings + kind * 2 * f, 2 * f)

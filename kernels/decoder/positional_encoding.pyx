"""Where a prompt's points lie, and the image's tokens, as the decoder reads it."""
import numpy as np

from cython.parallel cimport prange
from libc.string cimport memset

from core.common cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef enum:
    POINTS = 64  # that a thread takes at once


def encode_positions(xy, size, gaussian, kinds=None, embeddings=None, *, threads=None):
    """y = [sin φ, cos φ] + embeddings[kind], φ = 2π·(2·(xy + ½) / size − 1)·gaussian (Tancik et al., 2020).

    Args:
        xy: (N, 2) float32, in pixels of a square of so many a side; size: how many.
        gaussian: (2, F) float32, random frequencies.
        kinds: None, or (N,) of intp: which of the embeddings (K, 2·F) is added; −1 is the last, which stands alone, for a point
            that lies nowhere.

    Returns:
        (N, 2·F) float32, which errs by 2e-7, and by what three roundings of the products do to φ; beyond 2²⁰ turns they are those
        of some quarter turn.

    Source: ``PositionEmbeddingRandom`` and ``PromptEncoder`` in the reference's modeling/prompt_encoder.py.
    """
    cdef int nthreads = resolve(threads)
    cdef const float[:, ::1] xv = check.array(xy, "xy", ("N", 2)), gv = check.array(gaussian, "gaussian", (2, "F")), ev
    cdef int64_t n = xv.shape[0], f = gv.shape[1], i
    cdef float step = 2.0 / check.whole(size, "size", 1)
    cdef const Py_ssize_t[::1] kv
    cdef const float *added = NULL
    if (kinds is None) != (embeddings is None):
        raise ValueError("kinds: expected both kinds and embeddings, or neither")
    if kinds is not None:
        if not isinstance(kinds, np.ndarray) or kinds.dtype != np.intp or kinds.shape != (n,):
            got = f"{kinds.dtype} of shape {kinds.shape}" if isinstance(kinds, np.ndarray) else type(kinds).__name__
            raise ValueError(f"kinds: expected intp of shape ({n},), got {got}")
        kv, ev = np.ascontiguousarray(kinds), check.array(embeddings, "embeddings", ("K", 2 * f))
        added = &ev[0, 0]
        for i in range(n):
            if not -1 <= kv[i] < ev.shape[0]:
                raise ValueError(f"kinds: expected -1 to {ev.shape[0] - 1}, got {kv[i]}")
    y = np.empty((n, 2 * f), np.float32)  # kept: none of the memory that passes use again
    cdef float[:, ::1] yv = y
    cdef const micro *u = &rt.tables[rt.active[0]]
    cdef int64_t blocks = (n + POINTS - 1) // POINTS
    for i in prange(blocks, nogil=True, num_threads=nthreads, use_threads_if=blocks > 1, schedule="static"):
        encode_block(u, &xv[0, 0], step, &gv[0, 0], f, &kv[0] if added != NULL else NULL, added, 0 if added == NULL else ev.shape[0],
                     i * POINTS, min(n, (i + 1) * POINTS), &yv[0, 0])
    return y


cdef void encode_block(const micro *u, const float *xy, float step, const float *gaussian, int64_t f, const Py_ssize_t *kinds,
                       const float *embeddings, int64_t count, int64_t first, int64_t end, float *y) noexcept nogil:
    cdef int64_t i
    cdef float *row
    for i in range(first, end):
        row = y + i * 2 * f
        if embeddings != NULL and kinds[i] < 0:
            memset(row, 0, 2 * f * sizeof(float))
        else:
            u.turns(row, (xy[2 * i] + 0.5) * step - 1, gaussian, (xy[2 * i + 1] + 0.5) * step - 1, gaussian + f, f)
        if embeddings != NULL:
            u.add(row, row, embeddings + (kinds[i] if kinds[i] >= 0 else count - 1) * 2 * f, 2 * f)

"""Matrix products on packed weights: linear layers, and the packing itself."""
import numpy as np

from cython.parallel cimport parallel, prange

from common cimport *

from mobilesam.kernels import check, memory
from mobilesam.kernels import isa as isas
from mobilesam.kernels.panels import Panels
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

# Rows of a block, whole tiles on x86; its slice of A stays in L2 while the panels pass.

cdef int64_t BLOCK = 168
# Below this many multiply-adds, waking a second thread costs more than it saves.
cdef int64_t PARALLEL_WORK = 1 << 21


def pack(weight, *, precision="fp32", isa=None, lasting=True, threads=None):
    """Pack a weight for an ISA.

    Args:
        weight: (N, K) of a linear layer or (OC, KH, KW, C) of a convolution, float32 or float16.
        precision: "fp32", "bf16" or "int8": what products with it are computed in; see :mod:`mobilesam.kernels.reference`.
        isa: its name; by default the one in force.
        lasting: False for what is soon let go, which then does not lie beside what a model keeps.

    Returns:
        Panels, accepted wherever the kernels take that weight. ValueError for a precision that this CPU lacks, and for
        more than 65,536 columns in int8, whose sums of products have 32 bits.
    """
    if not isinstance(weight, np.ndarray) or weight.dtype not in (np.float32, np.float16):
        kind = weight.dtype if isinstance(weight, np.ndarray) else type(weight).__name__
        raise TypeError(f"weight: expected a float32 or float16 NumPy array, got {kind}")
    if weight.ndim not in (2, 4) or weight.size == 0:
        raise ValueError(f"weight: expected shape (N, K) or (OC, KH, KW, C), got {weight.shape}")
    cdef int nthreads = resolve(threads)
    flat = np.ascontiguousarray(weight).reshape(weight.shape[0], -1)
    cdef bint half = flat.dtype == np.float16
    cdef int64_t n = flat.shape[0], k = flat.shape[1], index = isas.index(isa, precision), j
    if precision == "int8" and k > 1 << 16:
        raise ValueError(f"weight: expected at most {1 << 16} columns in int8, got {k}")
    cdef const micro *u = &rt.tables[index]
    cdef int64_t nr = u.weight.columns, panels = round_up(n, nr) // nr
    words = (memory.lasting if lasting else memory.empty)((panels, panel_words(u, k, half) // nr, nr), np.uint32)
    cdef uint32_t[:, :, ::1] y = words
    cdef const uint8_t[:, ::1] w = flat.view(np.uint8)
    cdef int64_t item = 2 if half else 4
    for j in prange(panels, nogil=True, num_threads=nthreads, use_threads_if=n * k > 65536, schedule="static"):
        u.pack(<float *>&y[j, 0, 0], &w[j * nr, 0], half, min(nr, n - j * nr), k, k)
    return Panels(words, tuple(weight.shape), index)


def as_panels(weight, name, *shapes, threads=None):
    """``weight`` packed, if it is not already, after checking its shape against one of ``shapes``."""
    if not isinstance(weight, Panels):
        return pack(check.array(weight, name, *shapes), lasting=False, threads=threads)
    if not any(len(weight.shape) == len(s) and all(not isinstance(w, int) or w == n for n, w in zip(weight.shape, s))
               for s in shapes):
        raise ValueError(f"{name}: expected shape {' or '.join(map(str, shapes))}, got Panels of {weight.shape}")
    return weight


def linear(x, weight, bias=None, *, activation=None, residual=None, out=None, threads=None):
    """y = act(x · weightᵀ + bias + residual), as ``torch.nn.functional.linear``.

    Args:
        x: (..., K) float32.
        weight: (N, K) float32, or Panels of that shape.
        bias: (N,) float32.
        activation: None, "gelu" or "relu".
        residual: (..., N) float32, added before the activation.
        out: (..., N) float32 to write into.

    Returns:
        (..., N) float32. TypeError or ValueError names the argument that does not fit.
    """
    cdef int act = check.activation(activation), nthreads = resolve(threads)
    x = check.array(x, "x", (None, "K"))
    weight = as_panels(weight, "weight", ("N", x.shape[-1]), threads=threads)
    shape = (*x.shape[:-1], weight.n)
    bias = check.optional(bias, "bias", (weight.n,))
    residual = check.optional(residual, "residual", shape)
    y = check.output(out, shape, x, bias, residual)
    cdef const float[::1] xv = x.reshape(-1), bv = bias
    cdef const float[::1] rv = None if residual is None else residual.reshape(-1)
    cdef matrix w = as_matrix(rt, weight)
    cdef float[::1] yv = y.reshape(-1)
    cdef int64_t m = xv.shape[0] // w.k
    if not run_linear(&w, m, &xv[0], floats(bv), floats(rv), &yv[0], act, nthreads):
        raise MemoryError(f"linear: no memory for scratch of {BLOCK} rows of {w.k}")
    return y


cdef bint run_linear(const matrix *w, int64_t m, const float *x, const float *bias, const float *residual, float *y,
                     int act, int nthreads) noexcept:
    """Blocks of rows, and where those are too few for the threads, ranges of panels. False where memory runs out."""
    cdef int64_t nr = w.u.weight.columns, panels = round_up(w.n, nr) // nr, row_blocks = (m + BLOCK - 1) // BLOCK
    cdef int64_t column_blocks = max(1, min(panels, (4 * nthreads + row_blocks - 1) // row_blocks))
    if nthreads == 1 or row_blocks >= 4 * nthreads:
        column_blocks = 1
    cdef int64_t width = (panels + column_blocks - 1) // column_blocks, unit, i, j
    column_blocks = (panels + width - 1) // width
    cdef size_t size = sizeof(float) * operand_floats(w, min(m, BLOCK))
    cdef float *operand
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads if m * w.n * w.k > PARALLEL_WORK else 1):
        operand = <float *>rt.scratch(size) if size else NULL
        for unit in prange(row_blocks * column_blocks, schedule="dynamic"):
            if size and operand == NULL:
                failed += 1
            else:
                linear_block(w, m, unit // column_blocks * BLOCK, unit % column_blocks * width, width, x, bias, residual, y,
                             act, operand)
    return not failed


cdef void linear_block(const matrix *w, int64_t m, int64_t i, int64_t panel, int64_t panels, const float *x, const float *bias,
                       const float *residual, float *y, int act, float *operand) noexcept nogil:
    """BLOCK rows from i on, and ``panels`` panels."""
    cdef int64_t j = panel * w.u.weight.columns, at = i * w.n + j
    cdef matrix part = w[0]
    part.data += panel * w.panel
    part.n = min(panels * w.u.weight.columns, w.n - j)
    product(&part, min(BLOCK, m - i), x + i * w.k, w.k, NULL if bias == NULL else bias + j,
            NULL if residual == NULL else residual + at, w.n, y + at, w.n, act, operand)

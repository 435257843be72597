"""Linear layers on packed weights, and the packing of weights."""
import numpy as np

from core.common cimport *
from core.launch cimport *
from core.products cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.core.panels import Panels
from mobilesam.kernels.core.threads import resolve

import_runtime()

# With fewer multiply-adds than PARALLEL_WORK, waking a second thread costs more than it saves.
cdef int64_t PARALLEL_WORK = 1 << 19


def pack(weight, *, precision="fp32", isa=None, lasting=True, threads=None):
    """Pack a weight for an ISA and a precision. ``Panels`` describes the layout.

    Args:
        weight: (N, K) of a linear layer or (OC, KH, KW, C) of a convolution, float32 or float16.
        precision: "fp32", "bf16" or "int8", the precision of products with this weight; see ``mobilesam.kernels.reference``.
        isa: The ISA's name, or None for the current ISA.
        lasting: Whether the weight is kept as long as a model. If so, the packed weight shares a block of memory with the model's other
            weights.
        threads: The number of threads, or None for the default.

    Returns:
        Panels, which kernels accept instead of the weight.

    Raises:
        TypeError: The weight is not a float32 or float16 array.
        ValueError: This CPU lacks the precision, or an int8 weight has more than 65,536 columns, so that 32-bit sums could overflow.
    """
    if not isinstance(weight, np.ndarray) or (weight.dtype != np.float32 and weight.dtype != np.float16):
        kind = weight.dtype if isinstance(weight, np.ndarray) else type(weight).__name__
        raise TypeError(f"weight: expected a float32 or float16 NumPy array, got {kind}")
    weight = np.asarray(weight)
    if weight.ndim not in (2, 4) or weight.size == 0:
        raise ValueError(f"weight: expected shape (N, K) or (OC, KH, KW, C), got {weight.shape}")
    cdef int nthreads = resolve(threads)
    check.flag(lasting, "lasting")
    flat = np.require(weight, requirements=["C", "ALIGNED"]).reshape(weight.shape[0], -1)
    cdef bint half = flat.dtype == np.float16
    cdef int64_t n = flat.shape[0], k = flat.shape[1], index = isas.index(isa, precision)
    if precision == "int8" and k > 1 << 16:
        raise ValueError(f"weight: expected at most {1 << 16} columns in int8, got {k}")
    cdef const micro *u = &rt.tables[index]
    cdef int64_t nr = u.weight.columns, panels = round_up(n, nr) // nr
    words = (memory.lasting if lasting else memory.empty)((panels, panel_words(u, k, half) // nr, nr), np.uint32)
    cdef uint32_t[:, :, ::1] y = words
    cdef const uint8_t[:, ::1] w = flat.view(np.uint8)
    cdef packing p
    p.u, p.w, p.half, p.n, p.k, p.y, p.panel = u, &w[0, 0], half, n, k, <float *>&y[0, 0, 0], y.shape[1] * nr
    launch("pack", pack_panel, &p, sizeof(p), panels, NULL, nthreads if n * k > 65536 else 1)
    return Panels(words, tuple(weight.shape), index)


cdef struct packing:
    const micro *u
    const uint8_t *w  # the weight (n, k), float16 if half, else float32
    bint half
    int64_t n, k, panel
    float *y


cdef void pack_panel(void *job, int64_t unit) noexcept nogil:
    cdef const packing *p = <const packing *>job
    cdef int64_t first = unit * p.u.weight.columns
    p.u.pack(p.y + unit * p.panel, p.w + first * p.k * (2 if p.half else 4), p.half, min(p.u.weight.columns, p.n - first), p.k, p.k)


def as_panels(weight, name, *shapes, isa=None, threads=None):
    """Check a weight's shape and pack the weight for ``isa``, unless it is already packed.

    Args:
        weight: A float32 array or Panels.
        name: The argument's name in error messages.
        shapes: The accepted shapes. In a shape, a string stands for any length.
        isa: The ISA's name, or None for the current ISA. Panels keep the ISA that they were packed for.
        threads: The number of threads, or None for the default.

    Returns:
        Panels.
    """
    if not isinstance(weight, Panels):
        return pack(check.array(weight, name, *shapes), isa=isa, lasting=False, threads=threads)
    check.record(weight, name, Panels)
    check_panels(weight, name)
    if not any(len(weight.shape) == len(s) and all(not isinstance(w, int) or w == n for n, w in zip(weight.shape, s))
               for s in shapes):
        raise ValueError(f"{name}: expected shape {' or '.join(map(str, shapes))}, got Panels of {weight.shape}")
    return weight


cdef check_panels(panels, name):
    """Raise TypeError or ValueError unless micro-kernels can read ``panels`` within bounds, whichever numbers ``panels.words`` has."""
    isas.check_table(panels.isa, name, "Panels")
    check.whole_shape(panels.shape, f"{name}.shape", 2, 4)
    words, n, k = panels.words, panels.n, panels.k
    if type(words) is not np.ndarray or words.dtype != np.uint32:
        raise TypeError(f"{name}.words: expected a uint32 NumPy array, got {getattr(words, 'dtype', type(words).__name__)}")
    cdef const micro *u = &rt.tables[<int>panels.isa]
    cdef int64_t nr = u.weight.columns, most = 4 * words.size  # a word holds at most four numbers
    # Panels packed from float16 may have fewer rows: two bf16 pieces instead of three (narrow.h).
    forms = [(round_up(n, nr) // nr, panel_words(u, k, half) // nr, nr) for half in (False, True)] if n * k <= most else []
    if words.shape not in forms or not (words.flags.c_contiguous and words.flags.aligned):
        expected = " or ".join(map(str, dict.fromkeys(forms))) or f"{n * k} numbers"
        raise ValueError(f"{name}.words: expected C-contiguous words of {panels.shape}, {expected}, got {words.shape}: pack the weight again")


def linear(x, weight, bias=None, *, activation=None, residual=None, out=None, threads=None):
    """y = act(x · weightᵀ + bias + residual): ``torch.nn.functional.linear`` with a residual and an activation.

    Args:
        x: (..., K) float32.
        weight: (N, K) float32, or Panels of this shape.
        bias: (N,) float32, or None.
        activation: None, "gelu" or "relu".
        residual: (..., N) float32, added before the activation, or None.
        out: (..., N) float32 that receives the result, or None.
        threads: The number of threads, or None for the default.

    Returns:
        (..., N) float32.

    Raises:
        TypeError, ValueError: An argument has the wrong type, shape or value. The message names the argument.
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
    cdef layer_product p
    p.w = as_matrix(weight)
    cdef float[::1] yv = y.reshape(-1)
    p.m, p.x, p.bias, p.residual, p.y, p.act = xv.shape[0] // p.w.k, &xv[0], floats(bv), floats(rv), &yv[0], act
    p.scale = 1
    if p.m * p.w.n * p.w.k <= PARALLEL_WORK:
        nthreads = 1
    divide_product(&p, nthreads)
    launch("linear", product_unit, &p, sizeof(p), p.units, product_layout, nthreads)
    return y

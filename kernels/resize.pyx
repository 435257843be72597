"""From a mask's logits back to the photo: two bilinear steps and the threshold in one pass over rows."""
import numpy as np

from cython.parallel cimport parallel, prange

from common cimport *

from mobilesam.kernels import check
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef struct axis_map:  # y[j] = x[index[j]]*(1 - t[j]) + x[index[j] + 1]*t[j]
    const int32_t *index
    const float *t

cdef struct resize_pass:
    const float *x  # (planes, h0, w0), each row with a copy of its last value behind it
    axis_map rows1, columns1, rows2, columns2
    float *y
    uint8_t *mask
    int64_t h0, w0, h1, w1, h2, w2, band
    float threshold


def resize_logits(x, *, padded=(1024, 1024), crop, size, threshold=None, out=None, threads=None):
    """Bilinear to ``padded``, cut to the top left ``crop``, bilinear to ``size``: the reference's ``postprocess_masks``.

    Both steps are ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``: half-pixel centres, edges
    repeated, no antialiasing. Rows stream through; no map of the padded or the final size is held besides the result.

    Args:
        x: (C, H0, W0) float32 logits.
        padded: (h, w) of the encoder's canvas.
        crop: (h, w) of the photo on the canvas, at most ``padded``.
        size: (H, W) of the photo.
        threshold: None for the logits, or a number that a logit must exceed.
        out: (C, H, W) of the result's dtype, to write into.

    Returns:
        (C, H, W) float32, or bool where ``threshold`` is given.
    """
    cdef resize_pass p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("C", "H", "W"))
    (p_h, p_w), (p.h1, p.w1), (p.h2, p.w2) = (check.pair(v, n, 1) for v, n in ((padded, "padded"), (crop, "crop"), (size, "size")))
    if p.h1 > p_h or p.w1 > p_w:
        raise ValueError(f"crop: expected at most {(p_h, p_w)}, got {crop}")
    p.h0, p.w0 = x.shape[1:]
    cdef bint to_bool = threshold is not None
    if to_bool and (isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.number))):
        raise TypeError(f"threshold: expected None or a number, got {threshold!r}")
    y = check.output(out, (x.shape[0], p.h2, p.w2), x, dtype=np.bool_ if to_bool else np.float32)
    axes = [_axis(p.h0, p_h, p.h1), _axis(p.w0, p_w, p.w1), _axis(p.h1, p.h2, p.h2), _axis(p.w1, p.w2, p.w2)]
    p.rows1, p.columns1, p.rows2, p.columns2 = as_map(axes[0]), as_map(axes[1]), as_map(axes[2]), as_map(axes[3])
    cdef const float[:, :, ::1] xv = np.concatenate([x, x[:, :, -1:]], axis=2)
    cdef uint8_t[::1] raw = y.reshape(-1).view(np.uint8)
    p.x, p.y, p.mask = &xv[0, 0, 0], NULL if to_bool else <float *>&raw[0], &raw[0] if to_bool else NULL
    p.threshold = threshold if to_bool else 0

    cdef int64_t planes = x.shape[0], bands, unit
    p.band = max(16, (p.h2 + 4 * nthreads - 1) // (4 * nthreads))
    bands = (p.h2 + p.band - 1) // p.band
    cdef size_t size_ = sizeof(float) * (p.w0 + 3 * p.w1 + p.w2 + 96)
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size_)
        for unit in prange(planes * bands, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                one_band(rt.tables[rt.active[0]], &p, unit // bands, unit % bands * p.band, scratch)
    if failed:
        raise MemoryError(f"resize_logits: no memory for {size_} bytes of scratch")
    return y


def _axis(source, target, count):
    """Lower neighbour and weight of the upper one for the first ``count`` of ``target`` samples over ``source``."""
    at = np.maximum((np.arange(count) + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(at.astype(np.int32), source - 1)
    return low, np.where(low < source - 1, at - low, 0).astype(np.float32)


cdef axis_map as_map(axis):
    cdef const int32_t[::1] index = axis[0]
    cdef const float[::1] t = axis[1]
    cdef axis_map m
    m.index, m.t = &index[0], &t[0]
    return m


cdef void one_band(const micro *u, const resize_pass *p, int64_t plane, int64_t first, float *free) noexcept nogil:
    """Output rows first to first + band of a plane; the two canvas rows around the current one are kept."""
    cdef const float *x = p.x + plane * p.h0 * (p.w0 + 1)
    cdef float *source = take(&free, p.w0 + 1)
    cdef float *canvas[2]
    cdef float *row = take(&free, p.w1 + 1)
    cdef float *wide = take(&free, p.w2)
    cdef int64_t held[2]
    cdef int64_t r, low, high, at
    canvas[0], canvas[1] = take(&free, p.w1), take(&free, p.w1)
    held[0] = held[1] = -1
    for r in range(first, min(first + p.band, p.h2)):
        low = p.rows2.index[r]
        high = min(low + 1, p.h1 - 1)
        canvas_row(u, p, x, low, source, canvas[low & 1], &held[low & 1])
        canvas_row(u, p, x, high, source, canvas[high & 1], &held[high & 1])
        u.blend(row, canvas[low & 1], canvas[high & 1], p.rows2.t[r], p.w1)
        row[p.w1] = row[p.w1 - 1]
        at = (plane * p.h2 + r) * p.w2
        if p.mask == NULL:
            u.resample(p.y + at, row, p.columns2.index, p.columns2.t, p.w2)
        else:
            u.resample(wide, row, p.columns2.index, p.columns2.t, p.w2)
            u.above(p.mask + at, wide, p.threshold, p.w2)


cdef void canvas_row(const micro *u, const resize_pass *p, const float *x, int64_t r, float *source, float *canvas,
                     int64_t *held) noexcept nogil:
    """Row r of the canvas, cropped, unless ``canvas`` holds it already."""
    cdef int64_t low = p.rows1.index[r]
    if held[0] == r:
        return
    held[0] = r
    u.blend(source, x + low * (p.w0 + 1), x + min(low + 1, p.h0 - 1) * (p.w0 + 1), p.rows1.t[r], p.w0 + 1)
    u.resample(canvas, source, p.columns1.index, p.columns1.t, p.w1)

"""From a mask's logits back to the photo: two bilinear steps and what is asked of the result, in one pass over rows."""
import numpy as np

from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memchr

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.threads import resolve

import_runtime()

cdef struct axis_map:  # y[j] = x[index[j]]*(1 - t[j]) + x[index[j] + 1]*t[j]
    const int32_t *index
    const float *t

cdef struct found:  # in a band: runs of 3 numbers, and how many pixels are above the higher and the lower threshold
    int32_t *runs
    int64_t count, capacity
    bint lacking  # memory for runs
    int64_t high, low

cdef struct resize_job:
    const micro *u
    const float *x  # (planes, h0, w0), each row with a copy of its last value behind it
    axis_map rows1, columns1, rows2, columns2
    float *y
    uint8_t *mask
    int64_t h0, w0, h1, w1, h2, w2, band, bands  # of a plane
    float threshold, above, below
    const int64_t *spans  # (planes, 4), of mask_runs; see _spans
    found *results  # (planes, bands), of mask_runs
    float *source[2]  # (w1)
    float *canvas[2]  # (w1)
    float *row  # (w1 + 1)
    float *wide  # (w2)
    uint8_t *inside  # (w2 + 1)

cdef struct span:  # the columns of the canvas and of the photo that are computed
    int64_t canvas, canvas_end, first, end

cdef struct stream:  # the numbers of the two rows of x, widened, and of the canvas that a thread holds
    int64_t source_held[2]
    int64_t canvas_held[2]


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
    cdef resize_job p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("C", "H", "W"))
    axes = prepare(&p, x.shape[1:], _pairs(padded, crop, size))
    cdef bint to_bool = threshold is not None
    p.threshold = number(threshold, "threshold") if to_bool else 0
    y = check.output(out, (x.shape[0], p.h2, p.w2), x, dtype=np.bool_ if to_bool else np.float32)
    cdef const float[:, :, ::1] xv = np.concatenate([x, x[:, :, -1:]], axis=2)
    cdef uint8_t[::1] raw = y.reshape(-1).view(np.uint8)
    p.x, p.y, p.mask = &xv[0, 0, 0], NULL if to_bool else <float *>&raw[0], &raw[0] if to_bool else NULL

    divide(&p, nthreads)
    launch("resize_logits", one_band, &p, sizeof(p), x.shape[0] * p.bands, resize_layout, nthreads)
    return y


cdef void divide(resize_job *p, int nthreads) noexcept nogil:
    p.u = &rt.tables[rt.active[0]]
    p.band = max(16, (p.h2 + 4 * nthreads - 1) // (4 * nthreads))
    p.bands = (p.h2 + p.band - 1) // p.band


cdef void resize_layout(void *job, arena *scratch) noexcept nogil:
    cdef resize_job *p = <resize_job *>job
    cdef int64_t i
    for i in range(2):
        p.source[i] = take_floats(scratch, p.w1)
        p.canvas[i] = take_floats(scratch, p.w1)
    p.row = take_floats(scratch, p.w1 + 1)
    p.wide = take_floats(scratch, p.w2)
    p.inside = <uint8_t *>arena_take(scratch, p.w2 + 1)


def mask_runs(x, *, padded=(1024, 1024), crop, size, threshold=0.0, offset=1.0, threads=None):
    """The masks ``resize_logits(x, ...) > threshold`` as runs within columns, and their stability, in one pass.

    Rows and columns change places: the photo's columns stream through as rows, so that runs appear in COCO's order and
    no map of the photo's size is held. Where no logit of x comes near the lowest of the three thresholds nothing is computed.

    Args:
        x: (C, H0, W0) float32 logits.
        padded, crop, size: as for :func:`resize_logits`.
        threshold: what a logit inside the mask exceeds.
        offset: how far from the threshold the pixels are counted.

    Returns:
        runs: for each mask (R, 3) int32: column, first row, row behind the last; in order, a run never crosses columns.
        counts: (C, 2) int64, the pixels above ``threshold + offset`` and above ``threshold - offset``.
    """
    cdef resize_job p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("C", "H", "W"))
    axes = prepare(&p, x.shape[:0:-1], [pair[::-1] for pair in _pairs(padded, crop, size)])
    p.threshold = number(threshold, "threshold")
    p.above, p.below = p.threshold + number(offset, "offset"), p.threshold - number(offset, "offset")
    xt = np.empty((len(x), p.h0, p.w0 + 1), np.float32)
    xt[:, :, :-1] = x.transpose(0, 2, 1)
    xt[:, :, -1] = xt[:, :, -2]
    cdef const float[:, :, ::1] xv = xt
    cdef const int64_t[:, ::1] spans = _spans(xt, min(p.above, p.below), axes)
    p.x, p.y, p.mask = &xv[0, 0, 0], NULL, NULL

    divide(&p, nthreads)
    cdef int64_t planes = x.shape[0], bands = p.bands, unit
    cdef found *results = <found *>calloc(planes * bands, sizeof(found))
    if results == NULL:
        raise MemoryError(f"mask_runs: no memory for {planes * bands * sizeof(found)} bytes of results")
    try:
        p.spans, p.results = &spans[0, 0], results
        launch("mask_runs", runs_of_band, &p, sizeof(p), planes * bands, resize_layout, nthreads)
        for unit in range(planes * bands):
            if results[unit].lacking:
                raise MemoryError("mask_runs: no memory for the runs")
        counts = np.zeros((planes, 2), np.int64)
        runs = [[] for _ in range(planes)]
        for unit in range(planes * bands):
            counts[unit // bands] += results[unit].high, results[unit].low
            if results[unit].count:
                runs[unit // bands].append(np.array(<int32_t[:results[unit].count, :3]>results[unit].runs))
    finally:
        for unit in range(planes * bands):
            free(results[unit].runs)
        free(results)
    return [np.concatenate(parts) if parts else np.empty((0, 3), np.int32) for parts in runs], counts


cdef float number(value, name) except? -1:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{name}: expected a number, got {value!r}")
    return value


cdef list prepare(resize_job *p, source, pairs):
    """The pass's sizes and axes; the list owns the axes' memory."""
    (p_h, p_w), (p.h1, p.w1), (p.h2, p.w2) = pairs
    p.h0, p.w0 = source
    axes = [_axis(p.h0, p_h, p.h1), _axis(p.w0, p_w, p.w1), _axis(p.h1, p.h2, p.h2), _axis(p.w1, p.w2, p.w2)]
    p.rows1, p.columns1, p.rows2, p.columns2 = as_map(axes[0]), as_map(axes[1]), as_map(axes[2]), as_map(axes[3])
    return axes


def _pairs(padded, crop, size):
    pairs = [check.pair(value, name, 1) for value, name in ((padded, "padded"), (crop, "crop"), (size, "size"))]
    if pairs[1][0] > pairs[0][0] or pairs[1][1] > pairs[0][1]:
        raise ValueError(f"crop: expected at most {pairs[0]}, got {crop}")
    return pairs


def _spans(x, limit, axes):
    """For each plane of x (C, H0, W0 + 1): the photo's first row and end, first column and end, between which a pixel
    may exceed ``limit``; no row where none can.

    A pixel is a mean of the logits it is interpolated from, but for four roundings, far below 2⁻¹⁹ of the largest.
    """
    (rows1, _), (columns1, _), (rows2, _), (columns2, _) = axes
    largest = np.fmax(np.fmax.reduce(x, axis=(1, 2)), -np.fmin.reduce(x, axis=(1, 2)))[:, None, None]
    high = x > limit - 2.0**-19 * largest
    spans = np.zeros((len(x), 4), np.int64)
    for span, plane in zip(spans, high):
        for at, (first_step, second_step), reached in ((0, (rows1, rows2), plane.any(axis=1)), (2, (columns1, columns2), plane.any(axis=0))):
            near = np.flatnonzero(reached)
            if len(near):
                low = first_step[second_step]  # of the up to three logits that reach a pixel, the first and the last
                last = first_step[np.minimum(second_step + 1, len(first_step) - 1)] + 1
                span[at : at + 2] = np.searchsorted(last, near[0]), np.searchsorted(low, near[-1], side="right")
    return spans


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


cdef stream start() noexcept nogil:
    cdef stream s
    s.source_held[0] = s.source_held[1] = s.canvas_held[0] = s.canvas_held[1] = -1
    return s


cdef void one_band(void *job, int64_t unit) noexcept nogil:
    """``band`` output rows of a plane."""
    cdef const resize_job *p = <const resize_job *>job
    cdef int64_t plane = unit // p.bands, first = unit % p.bands * p.band
    cdef const float *x = p.x + plane * p.h0 * (p.w0 + 1)
    cdef stream s = start()
    cdef span all
    cdef int64_t r, at
    all.canvas, all.canvas_end, all.first, all.end = 0, p.w1, 0, p.w2
    for r in range(first, min(first + p.band, p.h2)):
        at = (plane * p.h2 + r) * p.w2
        if p.mask == NULL:
            photo_row(p, &s, &all, x, r, p.y + at)
        else:
            photo_row(p, &s, &all, x, r, p.wide)
            p.u.above(p.mask + at, p.wide, p.threshold, p.w2)


cdef void runs_of_band(void *job, int64_t unit) noexcept nogil:
    """What is found in ``band`` output rows of a plane, the photo's columns."""
    cdef const resize_job *p = <const resize_job *>job
    cdef const micro *u = p.u
    cdef int64_t plane = unit // p.bands, first = unit % p.bands * p.band
    cdef const int64_t *spans = p.spans + 4 * plane
    cdef found *result = &p.results[unit]
    cdef float *wide = p.wide
    cdef const float *x = p.x + plane * p.h0 * (p.w0 + 1)
    cdef stream s = start()
    cdef span c
    cdef int64_t r
    c.first, c.end = spans[2], spans[3]
    if c.first >= c.end:
        return
    c.canvas = p.columns2.index[c.first]
    c.canvas_end = min(p.columns2.index[c.end - 1] + 2, p.w1)
    for r in range(max(first, spans[0]), min(first + p.band, spans[1])):
        photo_row(p, &s, &c, x, r, wide)
        result.high += u.count_above(wide, p.above, c.end - c.first)
        result.low += u.count_above(wide, p.below, c.end - c.first)
        u.above(p.inside, wide, p.threshold, c.end - c.first)
        if not append_runs(result, p.inside, r, c.first, c.end - c.first):
            result.lacking = True
            return


cdef bint append_runs(found *result, uint8_t *inside, int64_t r, int64_t first, int64_t count) noexcept nogil:
    """The runs of ones among ``count`` bytes, which one more may follow, numbered from ``first``; 0 without memory."""
    cdef uint8_t *at = inside
    cdef uint8_t *end
    cdef int32_t *grown
    inside[count] = 0
    while True:
        at = <uint8_t *>memchr(at, 1, inside + count - at)
        if at == NULL:
            return True
        end = <uint8_t *>memchr(at, 0, inside + count + 1 - at)
        if result.count == result.capacity:
            grown = <int32_t *>realloc(result.runs, 3 * sizeof(int32_t) * (2 * result.capacity + 256))
            if grown == NULL:
                return False
            result.runs, result.capacity = grown, 2 * result.capacity + 256
        grown = result.runs + 3 * result.count
        grown[0], grown[1], grown[2] = r, first + (at - inside), first + (end - inside)
        result.count += 1
        at = end


cdef void photo_row(const resize_job *p, stream *s, const span *c, const float *x, int64_t r,
                    float *y) noexcept nogil:
    """The span's part of the photo's row r."""
    cdef int64_t low = p.rows2.index[r], high = min(low + 1, p.h1 - 1)
    canvas_row(p, s, c, x, low)
    canvas_row(p, s, c, x, high)
    p.u.blend(p.row + c.canvas, p.canvas[low & 1] + c.canvas, p.canvas[high & 1] + c.canvas, p.rows2.t[r],
            c.canvas_end - c.canvas)
    p.row[c.canvas_end] = p.row[c.canvas_end - 1]
    p.u.resample(y, p.row, p.columns2.index + c.first, p.columns2.t + c.first, c.end - c.first)


cdef void canvas_row(const resize_job *p, stream *s, const span *c, const float *x, int64_t r) noexcept nogil:
    """The span's part of row r of the canvas, cropped, unless it is held already."""
    cdef int64_t low = p.rows1.index[r], high = min(low + 1, p.h0 - 1), width = c.canvas_end - c.canvas
    if s.canvas_held[r & 1] == r:
        return
    s.canvas_held[r & 1] = r
    source_row(p, s, c, x, low)
    source_row(p, s, c, x, high)
    p.u.blend(p.canvas[r & 1] + c.canvas, p.source[low & 1] + c.canvas, p.source[high & 1] + c.canvas, p.rows1.t[r], width)


cdef void source_row(const resize_job *p, stream *s, const span *c, const float *x, int64_t r) noexcept nogil:
    """The span's part of row r of x, as wide as the canvas, unless it is held already; it serves several canvas rows."""
    if s.source_held[r & 1] == r:
        return
    s.source_held[r & 1] = r
    p.u.resample(p.source[r & 1] + c.canvas, x + r * (p.w0 + 1), p.columns1.index + c.canvas, p.columns1.t + c.canvas,
               c.canvas_end - c.canvas)

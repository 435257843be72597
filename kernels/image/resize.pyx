"""Resizes mask logits to the photo's size by two bilinear steps, row by row, and thresholds them or finds a mask's runs."""
import numpy as np

from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memchr

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.threads import resolve

import_runtime()

cdef int64_t MOST_CANVAS = 1 << 14  # largest side of the canvas
cdef int64_t MOST_SIDE = 1 << 24  # largest side of the photo
cdef int64_t MOST_PIXELS = (1 << 32) - 1  # most pixels of the photo: run lengths are unsigned 32-bit numbers

cdef struct axis_map:  # linear interpolation along an axis: y[j] = x[index[j]]*(1 - t[j]) + x[index[j] + 1]*t[j]
    const int32_t *index
    const float *t

cdef struct band_result:  # runs and counts that one unit of work of mask_runs finds
    int32_t *runs  # array (capacity, 3) of runs, of which the first `count` are filled
    int64_t count, capacity
    bint out_of_memory  # whether there was no memory for runs
    int64_t high, low  # numbers of pixels above threshold + offset and above threshold - offset

cdef struct resize_job:
    const micro *u
    const float *x  # logits (planes, h0, w0 + 1); column w0 is a copy of column w0 - 1
    axis_map rows1, columns1, rows2, columns2
    float *y  # output of logits, (planes, h2, w2), or NULL if the output is a mask
    uint8_t *mask  # output of a mask, (planes, h2, w2), or NULL
    # sizes of x (h0, w0), of the cropped canvas (h1, w1) and of the photo (h2, w2); output rows of a band; bands of a plane
    int64_t h0, w0, h1, w1, h2, w2, band, bands
    float threshold, above, below
    const int64_t *spans  # the result of _spans, (planes, 4); set only by mask_runs
    band_result *results  # results of the units of work, (planes, bands); set only by mask_runs
    float *source[2]  # two rows of x, resized to the canvas's width, (w1) each
    float *canvas[2]  # two rows of the cropped canvas, (w1) each
    float *row  # a row of the photo before it is resized to the photo's width, (w1 + 1)
    float *wide  # (w2), a row of the photo
    uint8_t *inside  # (w2 + 1), a row of the mask

cdef struct span:  # ranges of computed columns: canvas to canvas_end of the canvas, first to end of the photo
    int64_t canvas, canvas_end, first, end

cdef struct stream:  # the row numbers that a thread's buffers `source` and `canvas` hold; row r is in buffer r & 1
    int64_t source_held[2]
    int64_t canvas_held[2]


def resize_logits(x, *, padded=(1024, 1024), crop, size, threshold=None, out=None, threads=None):
    """y = bilinear(bilinear(x → padded)[:, :crop_h, :crop_w] → size), or with a threshold the mask y > threshold.

    Both steps are ``torch.nn.functional.interpolate(mode="bilinear", align_corners=False)``: half-pixel centres, edges repeated, no
    antialiasing. Only two rows of the canvas are stored at a time.

    Args:
        x: (C, H0, W0) float32 logits.
        padded: (h, w) of the encoder's canvas.
        crop: (h, w) of the photo on the canvas, at most ``padded``.
        size: (H, W) of the photo.
        threshold: None for logits, or for a mask the number that a logit inside the mask exceeds.
        out: (C, H, W) of the result's dtype that receives the result, or None.
        threads: The number of threads, or None for the default.

    Returns:
        (C, H, W) float32, or bool if ``threshold`` is given.

    Source: ``Sam.postprocess_masks`` in the reference's modeling/sam.py.
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
    """y = resize_logits(x),  runs[c] = runs of the mask y[c] > threshold,  counts[c] = Σ(y[c] > threshold ± offset).

    x is transposed, so that each row that is computed is a column of the photo. Runs then come in COCO's column-major order, and no
    image of the photo's size is stored. Parts of the photo that cannot reach the lowest threshold are skipped.

    Args:
        x: (C, H0, W0) float32 logits.
        padded: (h, w) of the encoder's canvas.
        crop: (h, w) of the photo on the canvas, at most ``padded``.
        size: (H, W) of the photo.
        threshold: The number that a logit inside the mask exceeds.
        offset: Pixels above ``threshold + offset`` and above ``threshold - offset`` are counted, for the stability score.
        threads: The number of threads, or None for the default.

    Returns:
        runs: A list of C arrays (R, 3) int32. A run is a column, the run's first row, and the row after the run's last
            row. Runs are ordered by column, then by row.
        counts: (C, 2) int64, the numbers of pixels above ``threshold + offset`` and above ``threshold - offset``.

    Raises:
        MemoryError: There is no memory for the runs.
    """
    cdef resize_job p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("C", "H", "W"))
    axes = prepare(&p, x.shape[:0:-1], [pair[::-1] for pair in _pairs(padded, crop, size)])
    p.threshold = number(threshold, "threshold")
    cdef float distance = number(offset, "offset")
    p.above, p.below = p.threshold + distance, p.threshold - distance
    divide(&p, nthreads)
    cdef int64_t planes = x.shape[0], bands = p.bands, unit, plane
    cdef const float[:, :, ::1] xv = x
    cdef float[:, :, ::1] xt = np.empty((planes, p.h0, p.w0 + 1), np.float32)
    for plane in range(planes):
        p.u.transpose(&xt[plane, 0, 0], p.w0 + 1, &xv[plane, 0, 0], p.h0, p.w0, p.h0)
    xt[:, :, p.w0] = xt[:, :, p.w0 - 1]
    cdef const int64_t[:, ::1] spans = _spans(np.asarray(xt), min(p.above, p.below), axes)
    p.x, p.y, p.mask = &xt[0, 0, 0], NULL, NULL
    cdef band_result *results = <band_result *>calloc(planes * bands, sizeof(band_result))
    if results == NULL:
        raise MemoryError(f"mask_runs: no memory for {planes * bands * sizeof(band_result)} bytes of results")
    try:
        p.spans, p.results = &spans[0, 0], results
        launch("mask_runs", runs_of_band, &p, sizeof(p), planes * bands, resize_layout, nthreads)
        for unit in range(planes * bands):
            if results[unit].out_of_memory:
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


cdef double number(value, name) except? -1:
    """Return a number, which may be infinite or NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number, got {check.shortened(value)}")
    try:
        return value
    except OverflowError:
        raise ValueError(f"{name}: expected a number that a float can hold, got {check.shortened(value)}") from None


cdef list prepare(resize_job *p, source, pairs):
    """Set the job's sizes and axes. Returns a list that owns the axes' memory."""
    (p_h, p_w), (p.h1, p.w1), (p.h2, p.w2) = pairs
    p.h0, p.w0 = source
    axes = [_axis(p.h0, p_h, p.h1), _axis(p.w0, p_w, p.w1), _axis(p.h1, p.h2, p.h2), _axis(p.w1, p.w2, p.w2)]
    p.rows1, p.columns1, p.rows2, p.columns2 = as_map(axes[0]), as_map(axes[1]), as_map(axes[2]), as_map(axes[3])
    return axes


def _pairs(padded, crop, size):
    pairs = [check.pair(padded, "padded", 1, MOST_CANVAS), check.pair(crop, "crop", 1, MOST_CANVAS), check.pair(size, "size", 1, MOST_SIDE)]
    if pairs[1][0] > pairs[0][0] or pairs[1][1] > pairs[0][1]:
        raise ValueError(f"crop: expected at most {pairs[0]}, got {crop}")
    if pairs[2][0] * pairs[2][1] > MOST_PIXELS:
        raise ValueError(f"size: expected at most {MOST_PIXELS} pixels, got {size}")
    return pairs


def _spans(x, limit, axes):
    """Return the range of output rows and the range of output columns in which a pixel may exceed ``limit``.

    An output pixel is a weighted mean of input logits, up to four rounding errors, which are far below 2⁻¹⁹ of the largest logit.

    Args:
        x: (C, H0, W0 + 1) logits.
        limit: The lowest threshold.
        axes: The result of ``prepare``.

    Returns:
        (C, 4) int64: first row, row after the last, first column, column after the last. All zeros if no pixel can exceed ``limit``.
    """
    (rows1, _), (columns1, _), (rows2, _), (columns2, _) = axes
    largest = np.fmax(np.fmax.reduce(x, axis=(1, 2)), -np.fmin.reduce(x, axis=(1, 2)))[:, None, None]
    high = x > limit - 2.0**-19 * largest
    spans = np.zeros((len(x), 4), np.int64)
    for span, plane in zip(spans, high):
        for at, (first_step, second_step), reached in ((0, (rows1, rows2), plane.any(axis=1)), (2, (columns1, columns2), plane.any(axis=0))):
            near = np.flatnonzero(reached)
            if len(near):
                low = first_step[second_step]  # an output pixel depends on input rows (or columns) low to last, at most three
                last = first_step[np.minimum(second_step + 1, len(first_step) - 1)] + 1
                span[at : at + 2] = np.searchsorted(last, near[0]), np.searchsorted(low, near[-1], side="right")
    return spans


def _axis(source, target, count):
    """Return the interpolation along an axis of ``source`` samples that is resized to ``target`` samples.

    Returns:
        For the first ``count`` target samples, the index of the lower source sample and the weight of the upper one.
    """
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
    """Compute a band, ``band`` output rows of a plane."""
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
            p.u.greater_than(p.mask + at, p.wide, p.threshold, p.w2)


cdef void runs_of_band(void *job, int64_t unit) noexcept nogil:
    """Find the runs and counts of a band, ``band`` output rows of a plane. x is transposed, so output rows are the photo's columns."""
    cdef const resize_job *p = <const resize_job *>job
    cdef const micro *u = p.u
    cdef int64_t plane = unit // p.bands, first = unit % p.bands * p.band
    cdef const int64_t *spans = p.spans + 4 * plane
    cdef band_result *result = &p.results[unit]
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
        result.high += u.count_greater(wide, p.above, c.end - c.first)
        result.low += u.count_greater(wide, p.below, c.end - c.first)
        u.greater_than(p.inside, wide, p.threshold, c.end - c.first)
        if not append_runs(result, p.inside, r, c.first, c.end - c.first):
            result.out_of_memory = True
            return


cdef bint append_runs(band_result *result, uint8_t *inside, int64_t r, int64_t first, int64_t count) noexcept nogil:
    """Append the runs of ones in ``inside`` (count + 1) to ``result``. Element i of ``inside`` is row ``first + i`` of the photo.

    Overwrites the last byte, inside[count]. Returns False if there is no memory for the runs.
    """
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
    """Compute the columns ``c`` of the photo's row r and write them to y."""
    cdef int64_t low = p.rows2.index[r], high = min(low + 1, p.h1 - 1)
    canvas_row(p, s, c, x, low)
    canvas_row(p, s, c, x, high)
    p.u.blend(p.row + c.canvas, p.canvas[low & 1] + c.canvas, p.canvas[high & 1] + c.canvas, p.rows2.t[r],
            c.canvas_end - c.canvas)
    p.row[c.canvas_end] = p.row[c.canvas_end - 1]
    p.u.resample(y, p.row, p.columns2.index + c.first, p.columns2.t + c.first, c.end - c.first)


cdef void canvas_row(const resize_job *p, stream *s, const span *c, const float *x, int64_t r) noexcept nogil:
    """Compute the columns ``c`` of the canvas's row r, unless the buffer ``canvas`` already holds row r."""
    cdef int64_t low = p.rows1.index[r], high = min(low + 1, p.h0 - 1), width = c.canvas_end - c.canvas
    if s.canvas_held[r & 1] == r:
        return
    s.canvas_held[r & 1] = r
    source_row(p, s, c, x, low)
    source_row(p, s, c, x, high)
    p.u.blend(p.canvas[r & 1] + c.canvas, p.source[low & 1] + c.canvas, p.source[high & 1] + c.canvas, p.rows1.t[r], width)


cdef void source_row(const resize_job *p, stream *s, const span *c, const float *x, int64_t r) noexcept nogil:
    """Resize row r of x to the canvas's width, unless the buffer ``source`` already holds row r for an earlier row of the canvas."""
    if s.source_held[r & 1] == r:
        return
    s.source_held[r & 1] = r
    p.u.resample(p.source[r & 1] + c.canvas, x + r * (p.w0 + 1), p.columns1.index + c.canvas, p.columns1.t + c.canvas,
               c.canvas_end - c.canvas)

# What every kernel module needs: the micro-kernel table, the runtime that isa.pyx shares, and one-line wrappers.
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memset

cdef enum:
    IMAGE_CHUNK = 256  # image tokens of an image's maps that lie together, and stay in L2

cdef extern from "micro.h" nogil:
    enum:
        ACT_NONE
        ACT_GELU
        ACT_RELU
    ctypedef struct gemm_args:
        int64_t m, n, k, segments
        const int64_t *offset
        const float *a
        int64_t lda, step
        const float *b
        int64_t ldb, panel
        const float *bias
        const float *residual
        int64_t ldr
        float *y
        int64_t ldy
        int act
        void *operand
        int act_a
        void *next
        const void *ahead
        int64_t ahead_bytes
    ctypedef struct attend_args:
        int64_t m, n, d
        const float *q
        int64_t ldq
        const float **tokens
        int64_t at_k, at_v
        const float *bias
        int64_t ldbias
        float scale
        float *y
        int64_t ldy
        void *scratch
    ctypedef struct weight_form:
        int columns, terms, depth, extra, pieces, operand
    ctypedef struct depthwise3x3_args:
        int64_t width, channels, stride
        const float *x[3]
        const float *weight
        const float *bias
        float *y
        int act
    ctypedef struct micro:
        int vl, mr, nr
        weight_form weight
        void (*gemm)(const gemm_args *) noexcept nogil
        void (*product)(const gemm_args *) noexcept nogil
        void (*attend)(const attend_args *) noexcept nogil
        void (*depthwise3x3)(const depthwise3x3_args *) noexcept nogil
        void (*depthwise_flat)(float *, const float **, const float **, int64_t, const float *, int64_t, int64_t, int) noexcept nogil
        void (*depthwise_taps)(float *, const float **, const float **, int64_t, const float *, int64_t, int) noexcept nogil
        void (*winograd_input)(float *, int64_t, const float **, int64_t) noexcept nogil
        void (*winograd_output)(float **, const float *, int64_t, int64_t) noexcept nogil
        void (*layer_norm)(float *, int64_t, const float *, int64_t, int64_t, int64_t, const float *, const float *,
                           float, int) noexcept nogil
        void (*softmax)(float *, int64_t, const float *, int64_t, int64_t, int64_t) noexcept nogil
        void (*softmax_columns)(float *, int64_t, int64_t, int64_t) noexcept nogil
        void (*exp_rows)(float *, int64_t, int64_t, int64_t, float *, float *) noexcept nogil
        void (*scale_columns)(float *, int64_t, const float *, int64_t, int64_t, int64_t, const float *, const float *,
                              int64_t) noexcept nogil
        void (*dot_columns)(float *, const float *, int64_t, const float *, int64_t, int64_t, int64_t) noexcept nogil
        void (*square_columns)(float *, float *, const float *, int64_t, const float *, int64_t, int64_t) noexcept nogil
        void (*norm_columns)(float *, int64_t, const float *, int64_t, int64_t, int64_t, const float *, const float *,
                             const float *, const float *, float, int) noexcept nogil
        void (*draw_columns)(float *, int64_t, const float *, int64_t, int64_t, int64_t, const float *, const float *,
                             int64_t) noexcept nogil
        void (*dot_rows)(float *, int64_t, const float *, int64_t, int64_t, const float *, int64_t, int64_t, int64_t, const void *,
                         int64_t) noexcept nogil
        void (*spread)(float *, const float *, int64_t, int64_t, int64_t) noexcept nogil
        void (*transpose)(float *, int64_t, const float *, int64_t, int64_t, int64_t) noexcept nogil
        void (*activate)(float *, const float *, int64_t, int) noexcept nogil
        void (*add)(float *, const float *, const float *, int64_t) noexcept nogil
        void (*pack)(float *, const void *, int, int64_t, int64_t, int64_t) noexcept nogil
        void (*pack_columns)(float *, const float *, int64_t, int64_t) noexcept nogil
        void (*turns)(float *, float, const float *, float, const float *, int64_t) noexcept nogil
        void (*blend)(float *, const float *, const float *, float, int64_t) noexcept nogil
        void (*resample)(float *, const float *, const int32_t *, const float *, int64_t) noexcept nogil
        void (*normalize)(float *, const uint8_t *, const float *, const float *, int64_t) noexcept nogil
        void (*above)(uint8_t *, const float *, float, int64_t) noexcept nogil
        int64_t (*count_above)(const float *, float, int64_t) noexcept nogil
        void (*fma_probe)(float *, float, int64_t) noexcept nogil

    int64_t panel_words(const micro *, int64_t k, bint half)
    int64_t attend_bytes(const micro *, int64_t n, int64_t d)
    int64_t operand_bytes(const micro *, int64_t m, int64_t k)
    int PRECISIONS

cdef extern from "runtime.h" nogil:
    ctypedef struct runtime:
        const micro *tables
        const int *active
        void *(*scratch)(size_t) noexcept nogil
        void *(*room)(size_t) noexcept nogil

cdef extern from "depthwise_row.h" nogil:
    ctypedef struct depthwise_map:
        const float *x
        int64_t height, width, channels, stride
        const float *weight
        const float *bias
        const float *zeros
        int act
    void depthwise3x3_row(const micro *, const depthwise_map *, int64_t h, int64_t w0, int64_t w1, float *y) noexcept


cdef inline const runtime *shared_runtime() except NULL:
    from mobilesam.kernels.core import isa
    return <const runtime *>PyCapsule_GetPointer(isa._runtime, "mobilesam.kernels.core.isa._runtime")


# What a call does, of its storage, on so many threads: 0, or how many bytes of memory there were not.
ctypedef size_t (*work)(void *storage, int nthreads) noexcept nogil


cdef inline do_work(name, work run, storage, kept, queue, int nthreads):
    """Now, or where there is a queue, when that runs; ``storage`` is an array of bytes, ``kept`` what it points to."""
    cdef uint8_t[::1] bytes = storage
    cdef size_t lacking
    if queue is not None:
        if not hasattr(queue, "add"):
            raise TypeError(f"queue: expected a Queue or None, got {type(queue).__name__}")
        queue.add(name, PyCapsule_New(<void *>run, "mobilesam.kernels.work", NULL), storage, kept)
        return
    with nogil:
        lacking = run(&bytes[0], nthreads)
    if lacking:
        raise MemoryError(f"{name}: no memory for {lacking} bytes")


cdef inline int64_t round_up(int64_t n, int64_t multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple


cdef inline gemm_args new_gemm(int64_t m, int64_t n, int64_t k) noexcept nogil:
    """Of one segment of whole rows; the rest NULL or 0."""
    cdef gemm_args g
    memset(&g, 0, sizeof(g))
    g.m, g.n, g.k, g.segments, g.step = m, n, k, 1, 1
    return g


cdef inline void gemm(const micro *u, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *b,
                      const float *bias, const float *residual, int64_t ldr, float *y, int64_t ldy, int act) noexcept nogil:
    """y (m,n) = act(a (m,k) · b (k,n) + bias + residual), b packed in panels."""
    cdef gemm_args g = new_gemm(m, n, k)
    g.a, g.lda = a, lda
    g.b, g.ldb, g.panel = b, u.nr, k * u.nr
    g.bias, g.residual, g.ldr = bias, residual, ldr
    g.y, g.ldy, g.act = y, ldy, act
    u.gemm(&g)


# A packed weight: its micro-kernels, and its n rows of k words in panels.
cdef struct matrix:
    const micro *u
    const float *data
    int64_t n, k, panel


cdef inline matrix as_matrix(const runtime *rt, panels):
    """What ``panels`` holds; keep them alive while it is in use."""
    cdef matrix w
    cdef const uint32_t[:, :, ::1] words = panels.words
    w.u = &rt.tables[<int>panels.isa]
    w.data, w.n, w.k = <const float *>&words[0, 0, 0], panels.n, panels.k
    w.panel = words.shape[1] * words.shape[2]
    return w


cdef inline check_same_isa(const matrix *w, const matrix *other, name):
    """Raise ValueError unless both are packed for one ISA, whatever their precisions."""
    if w.u.gemm != other.u.gemm:
        raise ValueError(f"{name}: packed for another ISA than the weight before it")


cdef inline int64_t operand_floats_of(const micro *u, int64_t m, int64_t k) noexcept nogil:
    """Of the operand of m rows of k."""
    return (operand_bytes(u, m, k) + 3) // 4 if k else 0


cdef inline int64_t operand_floats(const matrix *w, int64_t m) noexcept nogil:
    """Floats of scratch that :func:`product` needs for m rows."""
    return operand_floats_of(w.u, m, w.k)


cdef inline void product(const matrix *w, int64_t m, const float *a, int64_t lda, const float *bias, const float *residual,
                         int64_t ldr, float *y, int64_t ldy, int act, float *operand,
                         int act_a=ACT_NONE, float *next=NULL) noexcept nogil:
    """y (m,n) = act(a (m,k) · w (k,n) + bias + residual) in the precision of w; see gemm_args for the rest."""
    cdef gemm_args g = new_gemm(m, w.n, w.k)
    g.a, g.lda = a, lda
    g.b, g.ldb, g.panel = w.data, w.u.weight.columns, w.panel
    g.bias, g.residual, g.ldr = bias, residual, ldr
    g.y, g.ldy, g.act, g.operand = y, ldy, act, operand
    g.act_a, g.next = act_a, next
    w.u.product(&g)


# A matrix whose rows make maps of maps: the operand of many products, each of some pixels.
cdef struct map_rows:
    const micro *u
    const float *a  # (m, lda), where the products read it in place
    void *operand  # else
    int64_t m, k, lda

cdef inline void map_product(const map_rows *rows, const float *panels, int64_t n, const float *residual, int64_t ldr, float *y,
                             int64_t ldy, const float *ahead=NULL, int64_t ahead_floats=0) noexcept nogil:
    """y (m, n) = rows · panels + residual; ``ahead`` is what will be read next."""
    cdef gemm_args g = new_gemm(rows.m, n, rows.k)
    g.a, g.lda, g.operand = rows.a, rows.lda, rows.operand
    g.b, g.ldb, g.panel = panels, rows.u.weight.columns, panel_words(rows.u, rows.k, False)
    g.residual, g.ldr, g.y, g.ldy = residual, ldr, y, ldy
    g.ahead, g.ahead_bytes = ahead, ahead_floats * sizeof(float)
    rows.u.product(&g)


cdef inline void make_operand(map_rows *rows, void *room) noexcept nogil:
    """Where products do not read the rows in place, their operand goes to ``room``, of operand_bytes: n = 0 makes it alone."""
    rows.operand = room
    if rows.u.weight.operand:
        map_product(rows, NULL, 0, NULL, 0, NULL, 0)
        rows.a = NULL


cdef inline map_rows as_map_rows(const runtime *rt, packed):
    """What a MapRows holds; keep it alive while it is in use."""
    cdef map_rows r
    cdef const float[:, ::1] rows = packed.rows
    cdef const uint8_t[::1] operand = packed.operand
    r.u = &rt.tables[<int>packed.isa]
    r.m, r.k, r.lda, r.operand = rows.shape[0], rows.shape[1], rows.shape[1], <void *>&operand[0]
    r.a = NULL if r.u.weight.operand else &rows[0, 0]
    return r


cdef inline void pack_map_columns(const micro *u, int64_t k, int64_t n, const float *maps, int64_t step, float *panels) noexcept nogil:
    """The first n pixels of k maps, ``step`` apart, as the columns of products."""
    cdef int64_t i, columns = u.weight.columns
    for i in range(n // columns):
        u.pack_columns(panels + i * panel_words(u, k, False), maps + i * columns, step, k)


cdef inline float *take(float **free, int64_t count) noexcept nogil:
    """Cut ``count`` floats from the scratch at ``free``, whole cache lines."""
    cdef float *taken = free[0]
    free[0] += round_up(count, 16)
    return taken


cdef inline const float *floats(const float[::1] view) noexcept:
    """The view's first element, NULL for an absent array."""
    return NULL if view is None or view.shape[0] == 0 else &view[0]


cdef inline void pack_value(const float *value, int64_t d, int64_t nr, int64_t panel, float *row) noexcept nogil:
    """A key's value (d) as a row of an attention's panels of nr columns, ``panel`` floats apart."""
    cdef int64_t i
    for i in range((d + nr - 1) // nr):
        memcpy(row + i * panel, value + i * nr, min(nr, d - i * nr) * sizeof(float))

# Declarations for every kernel module: the table of micro-kernels (micro.h), the runtime that isa.pyx shares, and small helpers.
#
# "Packed A" is the left factor of a product, packed by `pack_operand`.
# "Packed B" is the right factor: a weight packed by `pack`, or columns packed by `pack_columns`.
# A table whose `product` is NULL reads the left factor in place and needs no packed A.
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t
from libc.string cimport memcpy, memmove, memset

cdef enum:
    IMAGE_CHUNK = 256  # number of image tokens in a chunk of the decoder's projections; a chunk stays in L2

cdef extern from "micro.h" nogil:
    enum:
        ACT_NONE
        ACT_GELU
        ACT_RELU
    ctypedef struct prefetch:
        const void *at
        int64_t bytes
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
        prefetch ahead
    ctypedef struct operand_args:
        int64_t m, k, segments
        const int64_t *offset
        float *a
        int64_t lda
        int act
        void *operand
    ctypedef struct product_args:
        int64_t m, n, k
        const void *operand
        const float *b
        int64_t panel
        const float *bias
        const float *residual
        int64_t ldr
        float *y
        int64_t ldy
        int act
        prefetch ahead
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
    ctypedef struct taps_args:
        int64_t taps
        const float **x
        const float **w
        const float *bias
        float *y
        int act
    ctypedef struct norm_args:
        int64_t m, n
        const float *x
        int64_t ldx
        const float *weight
        const float *bias
        float eps
        int act
        float *y
        int64_t ldy
    ctypedef struct norm_columns_args:
        int64_t m, n
        const float *x
        int64_t ldx
        const float *scale
        const float *shift
        const float *weight
        const float *bias
        float eps
        int act
        float *y
        int64_t ldy
    ctypedef struct draw_args:
        int64_t m, n, channels
        const float *x
        int64_t ldx
        const float *bias
        const float *w
        float *y
        int64_t ldy
    ctypedef struct dot_columns_args:
        int64_t m, n
        const float *a
        int64_t lda
        const float *b
        int64_t ldb
        float *y
    ctypedef struct dot_rows_args:
        int64_t m, n, k
        const float *a
        int64_t lda
        const float *b
        int64_t ldb
        float *y
        int64_t ldy
        prefetch ahead
    ctypedef struct micro:
        int vl, mr, nr
        weight_form weight
        void (*gemm)(const gemm_args *) noexcept nogil
        void (*pack_operand)(const operand_args *) noexcept nogil
        void (*product)(const product_args *) noexcept nogil
        void (*product_to_operand)(const product_args *, void *) noexcept nogil
        void (*attend)(const attend_args *) noexcept nogil
        void (*depthwise3x3)(const depthwise3x3_args *) noexcept nogil
        void (*depthwise_taps)(const taps_args *, int64_t) noexcept nogil
        void (*depthwise_flat)(const taps_args *, int64_t, int64_t) noexcept nogil
        void (*winograd_input)(float *, int64_t, const float **, int64_t) noexcept nogil
        void (*winograd_output)(float **, const float *, int64_t, int64_t) noexcept nogil
        void (*layer_norm)(const norm_args *) noexcept nogil
        void (*norm_columns)(const norm_columns_args *) noexcept nogil
        void (*softmax)(float *, int64_t, const float *, int64_t, int64_t, int64_t) noexcept nogil
        void (*softmax_columns)(float *, int64_t, int64_t, int64_t) noexcept nogil
        void (*exp_rows)(float *, int64_t, int64_t, int64_t, float *, float *) noexcept nogil
        void (*scale_columns)(float *, int64_t, int64_t, int64_t, const float *) noexcept nogil
        void (*draw_columns)(const draw_args *) noexcept nogil
        void (*dot_columns)(const dot_columns_args *) noexcept nogil
        void (*dot_rows)(const dot_rows_args *) noexcept nogil
        void (*sum_sq_deviation)(float *, const float *, int64_t, int64_t, int64_t) noexcept nogil
        void (*transpose)(float *, int64_t, const float *, int64_t, int64_t, int64_t) noexcept nogil
        void (*activate)(float *, const float *, int64_t, int) noexcept nogil
        void (*add)(float *, const float *, const float *, int64_t) noexcept nogil
        void (*pack)(float *, const void *, int, int64_t, int64_t, int64_t) noexcept nogil
        void (*pack_columns)(float *, const float *, int64_t, int64_t) noexcept nogil
        void (*sincos_2pi)(float *, float, const float *, float, const float *, int64_t) noexcept nogil
        void (*blend)(float *, const float *, const float *, float, int64_t) noexcept nogil
        void (*resample)(float *, const float *, const int32_t *, const float *, int64_t) noexcept nogil
        void (*normalize)(float *, const uint8_t *, const float *, const float *, int64_t) noexcept nogil
        void (*greater_than)(uint8_t *, const float *, float, int64_t) noexcept nogil
        int64_t (*count_greater)(const float *, float, int64_t) noexcept nogil
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
        bint guards
    const runtime *rt

cdef extern from "depthwise_row.h" nogil:
    ctypedef struct depthwise_map:
        const float *x
        int64_t height, width, channels, stride
        const float *weight
        const float *bias
        const float *zeros
        int act
    void depthwise3x3_row(const micro *, const depthwise_map *, int64_t h, int64_t w0, int64_t w1, float *y) noexcept


cdef inline import_runtime():
    """Set ``rt``, the pointer to the runtime that all kernel modules share. Each kernel module calls import_runtime once, when it is
    imported."""
    global rt
    from mobilesam.kernels.core import isa
    rt = <const runtime *>PyCapsule_GetPointer(isa._runtime, "mobilesam.kernels.core.isa._runtime")


cdef inline int64_t round_up(int64_t n, int64_t multiple) noexcept nogil:
    return (n + multiple - 1) // multiple * multiple


cdef inline gemm_args new_gemm(int64_t m, int64_t n, int64_t k) noexcept nogil:
    """Return the arguments of a GEMM with one segment and contiguous rows. The other fields are NULL or 0."""
    cdef gemm_args g
    memset(&g, 0, sizeof(g))
    g.m, g.n, g.k, g.segments, g.step = m, n, k, 1, 1
    return g


# A packed weight (n, k): the micro-kernels that read the weight, its packed words, and the number of words in a panel.
cdef struct matrix:
    const micro *u
    const float *data
    int64_t n, k, panel


cdef inline matrix as_matrix(panels):
    """Return ``panels`` as a C struct. The caller keeps ``panels`` alive while the struct is in use."""
    cdef matrix w
    cdef const uint32_t[:, :, ::1] words = panels.words
    w.u = &rt.tables[<int>panels.isa]
    w.data, w.n, w.k = <const float *>&words[0, 0, 0], panels.n, panels.k
    w.panel = words.shape[1] * words.shape[2]
    return w


cdef inline check_same_isa(const matrix *w, const matrix *other, name):
    """Raise ValueError unless both weights are packed for the same ISA. Their precisions may differ."""
    if w.u.gemm != other.u.gemm:
        raise ValueError(f"{name}: packed for another ISA than the weight before it")


cdef inline int64_t operand_floats_of(const micro *u, int64_t m, int64_t k) noexcept nogil:
    """Return the size, in floats, of packed A with m rows of length k."""
    return (operand_bytes(u, m, k) + 3) // 4 if k else 0


cdef inline int64_t operand_floats(const matrix *w, int64_t m) noexcept nogil:
    """Return the size, in floats, of packed A with m rows for a product with the weight ``w``."""
    return operand_floats_of(w.u, m, w.k)


cdef inline gemm_args of_rows(const matrix *w, int64_t m, const float *a, int64_t lda) noexcept nogil:
    """Return the arguments of the product a (m, k) · wᵀ of rows and a packed weight w (n, k). The other fields are NULL or 0."""
    cdef gemm_args g = new_gemm(m, w.n, w.k)
    g.a, g.lda = a, lda
    g.b, g.ldb, g.panel = w.data, w.u.weight.columns, w.panel
    return g


cdef inline void pack_operand(const micro *u, const gemm_args *g, void *operand, int act=ACT_NONE) noexcept nogil:
    """Apply ``act`` to the rows g.a and pack them as A into ``operand``. Requires a table with a `pack_operand`."""
    cdef operand_args o
    o.m, o.k, o.segments, o.offset, o.a, o.lda, o.act, o.operand = g.m, g.k, g.segments, g.offset, <float *>g.a, g.lda, act, operand
    u.pack_operand(&o)


cdef inline product_args of_operand(const gemm_args *g, const void *operand) noexcept nogil:
    """Return the arguments of the product ``g`` with its rows already packed as A in ``operand``."""
    cdef product_args p
    p.m, p.n, p.k, p.operand, p.b, p.panel = g.m, g.n, g.segments * g.k, operand, g.b, g.panel
    p.bias, p.residual, p.ldr, p.y, p.ldy, p.act, p.ahead = g.bias, g.residual, g.ldr, g.y, g.ldy, g.act, g.ahead
    return p


cdef inline void product(const micro *u, const gemm_args *g, void *operand) noexcept nogil:
    """Compute the product ``g`` in the precision of its packed weight. ``operand`` is scratch memory for packed A."""
    cdef product_args p
    if u.product == NULL:
        u.gemm(g)
        return
    pack_operand(u, g, operand)
    p = of_operand(g, operand)
    u.product(&p)


# The left factor A (m, k) of products whose columns are pixels. The factor A is packed once and multiplied by many chunks of pixels.
cdef struct map_rows:
    const micro *u
    const float *a  # rows of A, (m, lda), which products read in place if the table has no `product`
    void *operand  # packed A, which is empty if the table has no `product`
    int64_t m, k, lda

cdef inline gemm_args of_maps(const map_rows *rows, const float *panels, int64_t n) noexcept nogil:
    """Return the arguments of the product rows (m, k) · panels (k, n) with packed columns. The other fields are NULL or 0."""
    cdef gemm_args g = new_gemm(rows.m, n, rows.k)
    g.a, g.lda = rows.a, rows.lda
    g.b, g.ldb, g.panel = panels, rows.u.weight.columns, panel_words(rows.u, rows.k, False)
    return g


cdef inline void map_product(const map_rows *rows, const gemm_args *g) noexcept nogil:
    """Compute the product whose arguments come from `of_maps`."""
    cdef product_args p
    if rows.u.product == NULL:
        rows.u.gemm(g)
    else:
        p = of_operand(g, rows.operand)
        rows.u.product(&p)


cdef inline void pack_map_rows(map_rows *rows) noexcept nogil:
    """Pack the rows into ``rows.operand``, unless products read the rows in place."""
    cdef gemm_args g = of_maps(rows, NULL, 0)
    if rows.u.product != NULL:
        pack_operand(rows.u, &g, rows.operand)


cdef inline map_rows as_map_rows(packed):
    """Return PackedRows as a C struct. The caller keeps the PackedRows alive while the struct is in use."""
    cdef map_rows r
    cdef const float[:, ::1] rows = packed.rows
    cdef const uint8_t[::1] operand = packed.packed
    r.u = &rt.tables[<int>packed.isa]
    r.m, r.k, r.lda, r.a, r.operand = rows.shape[0], rows.shape[1], rows.shape[1], &rows[0, 0], <void *>&operand[0]
    return r


cdef inline void pack_map_columns(const micro *u, int64_t k, int64_t n, const float *maps, int64_t step, float *panels) noexcept nogil:
    """Pack the first n pixels of k channels as the columns of a product. ``step`` is the number of floats between channels."""
    cdef int64_t i, columns = u.weight.columns
    for i in range(n // columns):
        u.pack_columns(panels + i * panel_words(u, k, False), maps + i * columns, step, k)


cdef inline const float *floats(const float[::1] view) noexcept:
    """Return a pointer to the view's first element, or NULL for None or an empty view."""
    return NULL if view is None or view.shape[0] == 0 else &view[0]

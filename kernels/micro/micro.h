/* The table of micro-kernels of one ISA in one precision, and the arguments of the micro-kernels.
 *
 * A stub (avx512.c, avx2.c, ...) compiles generic.h into an ISA's float32 table. Other stubs compile a product that replaces the
 * table's GEMM: narrow.h a product in another precision (amx_bf16.c, ...), pairs.h another float32 product (zen4.c). dispatch.h joins
 * them into one table for each ISA and precision, and isa.pyx chooses a table at run time.
 *
 * "Packed A" is the left factor of a product in the order that `product` reads, written by `pack_operand`. The fields called `operand`
 * point to packed A. "Packed B" is the right factor, a weight or pixels, in panels of NR columns, written by `pack` or `pack_columns`.
 * Lengths and strides count floats unless a comment says otherwise. */
#ifndef MOBILESAM_MICRO_H
#define MOBILESAM_MICRO_H
#include <stdint.h>

enum { IN_FP32 = 0, IN_BF16 = 1, IN_INT8 = 2, PRECISIONS = 3 };

enum { ACT_NONE = 0, ACT_GELU = 1, ACT_RELU = 2 };

/* Memory that the next step of the network reads. A product prefetches these bytes into L2 between its multiplications, an equal share in
 * every tile. The products of narrow.h do not prefetch. If there is nothing to prefetch, bytes is 0. */
typedef struct {
    const void *at;
    int64_t bytes;
} prefetch;

/* A GEMM: y[i,j] = act(sum_s sum_p a[i*lda + offset[s] + p*step] * b[s*k + p, j] + bias[j] + residual[i,j]),  i < m, j < n, p < k.
 *
 * Column j of b is in panel j / NR: b[r, j] = b[j / NR * panel + r*ldb + j % NR]. After `pack` of a float32 table, ldb = NR,
 * panel = segments*k*NR, and zeros follow the last column. An unpacked row-major matrix can also serve as b, with its row stride as ldb
 * and panel = NR. The GEMM reads whole panels of b. A 1x1 convolution has one segment. A 3x3 convolution has three segments, each KW*C
 * contiguous floats of an input row.
 * Aliasing: y overlaps no input, except that y and residual may be the same array if segments*k <= 256. */
typedef struct {
    int64_t m, n, k, segments;
    const int64_t *offset; /* offset (segments): the start of each segment, or NULL for one segment at 0 */
    const float *a;
    int64_t lda, step; /* step is 1 if a is row-major; lda is 1 if a is stored transposed */
    const float *b;
    int64_t ldb, panel;
    const float *bias; /* bias (n), or NULL for no bias */
    const float *residual; /* residual (m, n) with row stride ldr, or NULL for no residual */
    int64_t ldr;
    float *y;
    int64_t ldy;
    int act;
    prefetch ahead;
} gemm_args;

/* Packs A: operand = packed A of act(a), with m rows of segments*k columns. Row i is the concatenation of the segments
 * a[i*lda + offset[s] .. i*lda + offset[s] + k]. If act is not ACT_NONE, a itself may be overwritten with act(a). */
typedef struct {
    int64_t m, k, segments;
    const int64_t *offset; /* offset (segments): the start of each segment, or NULL for one segment at 0 */
    float *a;
    int64_t lda;
    int act;
    void *operand; /* operand: a buffer for packed A, of operand_bytes bytes */
} operand_args;

/* A product: y (m,n) = act(A (m,k) * B (k,n) + bias + residual), with packed A in `operand` and packed B in `b`, both packed by the same
 * table. A panel of b has `panel` 32-bit words. Aliasing: y overlaps no input, except that y and residual may be the same array. */
typedef struct {
    int64_t m, n, k;
    const void *operand;
    const float *b;
    int64_t panel;
    const float *bias; /* bias (n), or NULL for no bias */
    const float *residual; /* residual (m, n) with row stride ldr, or NULL for no residual */
    int64_t ldr;
    float *y;
    int64_t ldy;
    int act;
    prefetch ahead;
} product_args;

/* One attention head: y[i,:] = sum_j softmax_j(scale * (q_i . k_j) + bias[i,j]) v_j,  i < m, j < n; q_i, k_j and v_j have d channels */
typedef struct {
    int64_t m, n, d;
    const float *q;
    int64_t ldq;
    const float *const *tokens; /* tokens (n) are pointers; key j is at tokens[j] + at_k, value j at tokens[j] + at_v */
    int64_t at_k, at_v;
    const float *bias; /* bias (m, n rounded up to a multiple of 32), with -inf in the columns from n on */
    int64_t ldbias;
    float scale;
    float *y;
    int64_t ldy;
    void *scratch; /* scratch: a buffer of attend_bytes bytes */
} attend_args;

/* The layout of packed B. A panel has `columns` columns and k / `terms` rows of 32-bit words, with k rounded up to a multiple of
 * `depth`. Each word holds `terms` values of k. The last `extra` rows of a panel hold the scale and the offset of each column in
 * int8, or the own sum and the power of two of each column in pairs.h. If `pieces` > 1, a float32 number is stored as the sum of
 * `pieces` bf16 numbers, called pieces, and a float16 number as the sum of two. A panel then has separate rows for each piece of every `depth` values of k. */
typedef struct {
    int columns, terms, depth, extra, pieces;
    int operand; /* operand: bytes that `depth` values of k take in a row of packed A; 0 if `gemm` reads A in place */
} weight_form;

/* Depthwise 3x3 convolution of one output row: y[w,c] = act(sum_ij x[i][w*stride + j, c] * weight[3*i + j, c] + bias[c]),
 * for w < width. Requires stride 1 or 2, channels >= vl, and pixels that need no padding. */
typedef struct {
    int64_t width, channels, stride;
    const float *x[3];
    const float *weight; /* (9, channels) */
    const float *bias; /* bias (channels), or NULL for no bias */
    float *y; /* the output y (width, channels) */
    int act;
} depthwise3x3_args;

/* One output pixel of a depthwise convolution: y[c] = act(sum_t x[t][c] * w[t][c] + bias[c]),  t < taps */
typedef struct {
    int64_t taps;
    const float *const *x;
    const float *const *w;
    const float *bias; /* or NULL */
    float *y;
    int act;
} taps_args;

/* LayerNorm of rows: y[i,:] = act((x[i,:] - mean) / sqrt(var + eps) * weight + bias),  i < m; mean and var of row i, which has n channels.
 * Aliasing: y may be x. */
typedef struct {
    int64_t m, n;
    const float *x;
    int64_t ldx;
    const float *weight, *bias; /* (n) */
    float eps;
    int act;
    float *y;
    int64_t ldy;
} norm_args;

/* LayerNorm of columns: y[:,j] = act((v[:,j] - mean) / sqrt(var + eps) * weight + bias),  v[i,j] = x[i,j] * scale[j] + shift[i],  j < n;
 * mean and var of column j, which has m channels. Requires n % vl = 0. Aliasing: y may be x. */
typedef struct {
    int64_t m, n;
    const float *x;
    int64_t ldx;
    const float *scale; /* scale (n), or NULL for a scale of 1 */
    const float *shift; /* shift (m), or NULL for a shift of 0 */
    const float *weight, *bias; /* (m) */
    float eps;
    int act; /* act is ACT_GELU or ACT_NONE */
    float *y;
    int64_t ldy;
} norm_columns_args;

/* Mask logits: y[i,j] = sum_c w[i,c] * gelu(x[c,j] + bias[c]),  i < m, j < n, c < channels. Requires n % vl = 0. */
typedef struct {
    int64_t m, n, channels;
    const float *x;
    int64_t ldx;
    const float *bias; /* (channels) */
    const float *w; /* (m, channels) */
    float *y;
    int64_t ldy;
} draw_args;

/* Dot products of columns: y[j] += sum_i a[i,j] * b[i,j],  i < m, j < n. Requires n % vl = 0. */
typedef struct {
    int64_t m, n;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float *y;
} dot_columns_args;

/* Dot products of rows: y[i,j] = sum_p a[i,p] * b[j,p],  i < m, j < n, p < k */
typedef struct {
    int64_t m, n, k;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float *y;
    int64_t ldy;
    prefetch ahead;
} dot_rows_args;

/* A table of micro-kernels. Their outputs overlap no input unless a comment allows it. */
typedef struct {
    int vl, mr, nr; /* vl: floats in a vector; mr and nr: rows and columns of the GEMM's register tile */
    void (*gemm)(const gemm_args *); /* gemm computes in float32, also in a table for bf16 or int8 */
    weight_form weight;
    /* The product of packed A and packed B in the table's precision. If `pack_operand` and `product` are NULL, `gemm` computes
     * the table's products. */
    void (*pack_operand)(const operand_args *);
    void (*product)(const product_args *);
    /* Computes a product like `product`, but writes the result as packed A of the next product. Requires n % 32 = 0, no residual, and
     * ACT_GELU or ACT_NONE. NULL if the table has no such function. */
    void (*product_to_operand)(const product_args *, void *operand);
    void (*attend)(const attend_args *); /* attention in bf16 or in bf16 pieces; NULL if the table has no such function */
    void (*depthwise3x3)(const depthwise3x3_args *);
    void (*depthwise_taps)(const taps_args *, int64_t channels);
    /* Several output pixels of a depthwise convolution, as `count` contiguous floats, with weights repeated to `period` floats:
     * y[f] = act(sum_t x[t][f] * w[t][f % period] + bias[f % period]),  f < count. Requires period % vl = 0. */
    void (*depthwise_flat)(const taps_args *, int64_t period, int64_t count);
    /* The transforms of Winograd's F(2x2, 3x3) (Lavin & Gray, arXiv:1509.09308) for n channels: v = B' d B of the 4x4 pixels d in x[16],
     * and y[4] = A' m A of the 16 products m, with B' and A' the transposes of B and A. The 16 elements of v and of m lie `stride` apart.
     * Requires n % vl = 0. */
    void (*winograd_input)(float *v, int64_t stride, const float *const *x, int64_t n);
    void (*winograd_output)(float *const *y, const float *m, int64_t stride, int64_t n);
    void (*layer_norm)(const norm_args *);
    void (*norm_columns)(const norm_columns_args *);
    void (*softmax)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n); /* softmax of each row; y may be x */
    void (*softmax_columns)(float *x, int64_t ldx, int64_t m, int64_t n); /* softmax of each column, in place; requires n % vl = 0 */
    /* Exponentials, in place: x[i,j] = exp(x[i,j] - top[i]). Stores the old maximum of row i in top[i], and the row's new sum in sum[i]. */
    void (*exp_rows)(float *x, int64_t ldx, int64_t m, int64_t n, float *top, float *sum);
    void (*scale_columns)(float *x, int64_t ldx, int64_t m, int64_t n, const float *scale); /* x[i,j] *= scale[j], requires n % vl = 0 */
    void (*draw_columns)(const draw_args *);
    void (*dot_columns)(const dot_columns_args *);
    void (*dot_rows)(const dot_rows_args *);
    void (*sum_sq_deviation)(float *y, const float *x, int64_t ldx, int64_t m, int64_t n); /* y[i] = sum_j (x[i,j] - mean of row i)^2 */
    void (*transpose)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n); /* transpose: y[j,i] = x[i,j] */
    void (*activate)(float *y, const float *x, int64_t count, int act); /* activate: y may be x */
    void (*add)(float *y, const float *x0, const float *x1, int64_t count); /* add: y = x0 + x1, and y may be x0 or x1 */
    /* Packs a panel of a weight: y[p, j] = w[j, p],  p < k, j < n, and zeros in the other columns; w is float16 if half, else float32 */
    void (*pack)(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw);
    /* Packs a panel of a row-major float32 matrix: y[p, j] = x[p, j],  p < k, j < columns */
    void (*pack_columns)(float *y, const float *x, int64_t ldx, int64_t k); /* pack_columns is NULL in an int8 table */
    /* Sines and cosines: y[j] = sin(2 pi t), y[n + j] = cos(2 pi t),  t = x0*w0[j] + x1*w1[j],  j < n */
    void (*sincos_2pi)(float *y, float x0, const float *w0, float x1, const float *w1, int64_t n);
    void (*blend)(float *y, const float *x0, const float *x1, float t, int64_t count); /* blend: y = x0*(1 - t) + x1*t */
    /* Linear interpolation along a row: y[j] = x[index[j]]*(1 - t[j]) + x[index[j] + 1]*t[j],  j < count. Requires ascending indices. */
    void (*resample)(float *y, const float *x, const int32_t *index, const float *t, int64_t count);
    void (*normalize)(float *y, const uint8_t *x, const float *mean, const float *std, int64_t n); /* normalize: y = (x - mean)/std */
    void (*greater_than)(uint8_t *y, const float *x, float threshold, int64_t count); /* greater_than: y = x > threshold */
    int64_t (*count_greater)(const float *x, float threshold, int64_t count); /* counts the x > threshold; requires count < 2^31 */
    void (*fma_probe)(float *y, float x, int64_t steps); /* fma_probe repeats y[f] += y[f]*x `steps` times in registers, f < mr*nr */
} micro;

/* The members that replace those of an ISA's float32 table, in a table for bf16 or int8 or with a faster float32 product. */
typedef struct {
    weight_form weight;
    void (*pack_operand)(const operand_args *);
    void (*product)(const product_args *);
    void (*product_to_operand)(const product_args *, void *operand); /* or NULL */
    void (*pack)(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw);
    void (*pack_columns)(float *y, const float *x, int64_t ldx, int64_t k); /* or NULL */
    void (*attend)(const attend_args *);
} packed_product;

/* Returns the number of words in a panel of packed B with inner dimension k. `half` is whether the weight is float16. */
static inline int64_t panel_words(const micro *u, int64_t k, int half)
{
    const weight_form *w = &u->weight;
    const int pieces = half && w->pieces > 2 ? 2 : w->pieces;
    return ((k + w->depth - 1) / w->depth * w->depth / w->terms * pieces + w->extra) * w->columns;
}

/* Returns the size in bytes of packed A with m rows and k columns. 256 bytes of each row are for its scales and for padding. One more row
 * is scratch space, in which `pack_operand` may gather the segments of a row. */
static inline int64_t operand_bytes(const micro *u, int64_t m, int64_t k)
{
    const weight_form *w = &u->weight;
    return w->operand ? ((m + 15) / 16 * 16 + 1) * ((k + w->depth - 1) / w->depth * w->operand + 256) : 0;
}

/* Returns the bytes of scratch memory that `attend` needs for n keys of d channels. */
static inline int64_t attend_bytes(const micro *u, int64_t n, int64_t d)
{
    const int64_t n_tiles = (n + 31) / 32, d_tiles = (d + 31) / 32, pieces = u->weight.pieces;
    return 1024 * (pieces * (4 * n_tiles * d_tiles + 2 * d_tiles + 2 * n_tiles) + 4 * n_tiles);
}

extern const packed_product packed_zen4_fp32, packed_amx_fp32, packed_amx_bf16, packed_amx_int8, packed_avx512_bf16,
    packed_avx512_int8, packed_avx2_int8;
extern const micro micro_x86_64_v2, micro_avx2, micro_avx512, micro_neon;

#endif

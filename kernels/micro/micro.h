/* The table of micro-kernels that one ISA offers in one precision, and the arguments they take. A stub (avx512.c, avx2.c, ...)
 * compiles generic.h into an ISA's float32 table, or narrow.h into what its table in another precision has instead (amx_bf16.c,
 * ...), or pairs.h into another product in float32 (zen4.c); dispatch.h puts them together and isa.pyx chooses at run time. Lengths
 * and strides count floats. */
#ifndef MOBILESAM_MICRO_H
#define MOBILESAM_MICRO_H
#include <stdint.h>

enum { FP32 = 0, BF16 = 1, INT8 = 2, PRECISIONS = 3 };

enum { ACT_NONE = 0, ACT_GELU = 1, ACT_RELU = 2 };

/* Memory that will be read next: a product fetches these bytes into L2 between its multiplications, the same share in every tile.
 * A product in a narrow precision ignores them. bytes 0: none. */
typedef struct {
    const void *at;
    int64_t bytes;
} prefetch;

/* y[i,j] = act(sum_s sum_p a[i*lda + offset[s] + p*step] * b[s*k + p, j] + bias[j] + residual[i,j]),  i < m, j < n, p < k.
 *
 * Column j of b is in panel j / NR: b[r, j] = b[j / NR * panel + r*ldb + j % NR]. Weights packed by a float32 table have ldb = NR,
 * panel = segments*k*NR, and zeros behind the last column; rows of a map serve as b with ldb their stride and panel = NR, read in
 * whole panels. A 1x1 convolution has one segment; a 3x3 one has three, each KW*C contiguous floats of an input row.
 * Aliasing: y overlaps nothing that is read, but y may be residual where segments*k <= 256. */
typedef struct {
    int64_t m, n, k, segments;
    const int64_t *offset; /* NULL: one segment, at 0 */
    const float *a;
    int64_t lda, step; /* step 1: rows of a; lda 1: its columns, a transposed */
    const float *b;
    int64_t ldb, panel;
    const float *bias; /* (n) or NULL */
    const float *residual; /* or NULL */
    int64_t ldr;
    float *y;
    int64_t ldy;
    int act;
    prefetch ahead;
} gemm_args;

/* The rows of a, i < m, as the operand of products: row i is the segments a[i*lda + offset[s] .. + k], side by side.
 * Aliasing: with act, an activation that the rows go through first, the rows themselves may be overwritten. */
typedef struct {
    int64_t m, k, segments;
    const int64_t *offset; /* NULL: one segment, at 0 */
    float *a;
    int64_t lda;
    int act;
    void *operand; /* operand_bytes(m, segments*k) */
} operand_args;

/* y (m,n) = act(operand (m,k) * b (k,n) + bias + residual), b a weight that the table's `pack` has packed, `panel` words a panel.
 * Aliasing: y overlaps nothing that is read, but y may be residual. */
typedef struct {
    int64_t m, n, k;
    const void *operand; /* that `pack_operand` has packed */
    const float *b;
    int64_t panel;
    const float *bias; /* (n) or NULL */
    const float *residual; /* or NULL */
    int64_t ldr;
    float *y;
    int64_t ldy;
    int act;
    prefetch ahead;
} product_args;

/* y[i,:] = sum_j softmax_j(scale * (q_i . k_j) + bias[i,j]) v_j,  i < m, j < n, of d channels each */
typedef struct {
    int64_t m, n, d;
    const float *q;
    int64_t ldq;
    const float *const *tokens; /* (n): key j is at tokens[j] + at_k, its value at tokens[j] + at_v */
    int64_t at_k, at_v;
    const float *bias; /* -inf from column n to a multiple of 32 */
    int64_t ldbias;
    float scale;
    float *y;
    int64_t ldy;
    void *scratch; /* attend_bytes */
} attend_args;

/* How `product` reads a packed weight: a panel of `columns` columns has k, padded to a multiple of `depth`, / `terms` rows
 * of 32-bit words, each holding `terms` k, and then `extra` rows that say how to scale the sums. Where `pieces` > 1, float32
 * is cut into that many bf16, float16 into two, and each `depth` of k has its rows once for every piece. */
typedef struct {
    int columns, terms, depth, extra, pieces;
    int operand; /* bytes of a row of an operand for each `depth` of k; 0: products read rows in place, by `gemm` */
} weight_form;

/* y[w,c] = act(sum_ij x[i][w*stride + j, c] * weight[3*i + j, c] + bias[c]),  w < width, every tap inside;
 * stride 1 or 2, channels >= vl */
typedef struct {
    int64_t width, channels, stride;
    const float *x[3];
    const float *weight; /* (9, channels) */
    const float *bias; /* (channels) or NULL */
    float *y; /* (width, channels) */
    int act;
} depthwise3x3_args;

/* y[c] = act(sum_t x[t][c] * w[t][c] + bias[c]),  t < taps */
typedef struct {
    int64_t taps;
    const float *const *x;
    const float *const *w;
    const float *bias; /* or NULL */
    float *y;
    int act;
} taps_args;

/* y[i,:] = act((x[i,:] - mean) / sqrt(var + eps) * weight + bias),  i < m, over n channels. Aliasing: y may be x. */
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

/* y[:,j] = act((v[:,j] - mean) / sqrt(var + eps) * weight + bias), v[i,j] = x[i,j] * scale[j] + shift[i], over i < m; n % vl = 0.
 * Aliasing: y may be x. */
typedef struct {
    int64_t m, n;
    const float *x;
    int64_t ldx;
    const float *scale; /* (n), or NULL for 1 */
    const float *shift; /* (m), or NULL for 0 */
    const float *weight, *bias; /* (m) */
    float eps;
    int act; /* ACT_GELU or ACT_NONE */
    float *y;
    int64_t ldy;
} norm_columns_args;

/* y[i,j] = sum_c w[i,c] * gelu(x[c,j] + bias[c]),  i < m, c < channels; n % vl = 0 */
typedef struct {
    int64_t m, n, channels;
    const float *x;
    int64_t ldx;
    const float *bias; /* (channels) */
    const float *w; /* (m, channels) */
    float *y;
    int64_t ldy;
} draw_args;

/* y[j] += sum_i a[i,j] * b[i,j],  i < m; n % vl = 0 */
typedef struct {
    int64_t m, n;
    const float *a;
    int64_t lda;
    const float *b;
    int64_t ldb;
    float *y;
} dot_columns_args;

/* y[i,j] = sum_p a[i,p] * b[j,p],  i < m, j < n, p < k */
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

/* No argument changes what a function does. Outputs overlap no input unless a contract says so. */
typedef struct {
    int vl, mr, nr; /* floats a vector; rows and columns of the GEMM's register tile */
    void (*gemm)(const gemm_args *); /* of float32 */
    weight_form weight;
    /* The product with packed weights, in the table's precision; all NULL where `gemm` is it. */
    void (*pack_operand)(const operand_args *);
    void (*product)(const product_args *);
    /* as `product`, y's rows packed as the operand of another product, of n (a multiple of 32) columns, without a residual; act is
     * ACT_GELU or ACT_NONE. NULL where the table lacks it */
    void (*product_to_operand)(const product_args *, void *operand);
    void (*attend)(const attend_args *); /* in bf16, or with PIECES; NULL where the CPU lacks that */
    void (*depthwise3x3)(const depthwise3x3_args *);
    void (*depthwise_taps)(const taps_args *, int64_t channels);
    /* as depthwise_taps, f < count for c, and w and bias repeated: w[t][f % period]; period % vl = 0 */
    void (*depthwise_flat)(const taps_args *, int64_t period, int64_t count);
    /* Winograd's F(2x2, 3x3) (Lavin & Gray, arXiv:1509.09308), for whole channel vectors, n % vl = 0:
     * v[f] = B' d B of the 4x4 pixels x[16];  y[4] = A' m A of the 16 products m[f], each a stride apart */
    void (*winograd_input)(float *v, int64_t stride, const float *const *x, int64_t n);
    void (*winograd_output)(float *const *y, const float *m, int64_t stride, int64_t n);
    void (*layer_norm)(const norm_args *);
    void (*norm_columns)(const norm_columns_args *);
    void (*softmax)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n); /* of rows; y may be x */
    void (*softmax_columns)(float *x, int64_t ldx, int64_t m, int64_t n); /* in place, over i for each column; n % vl = 0 */
    /* in place, over j for each row: x = exp(x - top), top = max_j x, sum = sum_j exp(x - top) */
    void (*exp_rows)(float *x, int64_t ldx, int64_t m, int64_t n, float *top, float *sum);
    void (*scale_columns)(float *x, int64_t ldx, int64_t m, int64_t n, const float *scale); /* x[i,j] *= scale[j]; n % vl = 0 */
    void (*draw_columns)(const draw_args *);
    void (*dot_columns)(const dot_columns_args *);
    void (*dot_rows)(const dot_rows_args *);
    void (*spread)(float *y, const float *x, int64_t ldx, int64_t m, int64_t n); /* y[i] = sum_j (x[i,j] - mean_i)^2 */
    void (*transpose)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n); /* y[j,i] = x[i,j] */
    void (*activate)(float *y, const float *x, int64_t count, int act); /* y may be x */
    void (*add)(float *y, const float *x0, const float *x1, int64_t count); /* y = x0 + x1; y may be either */
    /* a panel of a weight: y[p, j] = w[j, p],  p < k, j < n, zeros beyond; w's rows are float32, or float16 */
    void (*pack)(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw);
    /* as `pack`, of a whole panel's columns, float32, that lie in k rows: y[p, j] = x[p, j] */
    void (*pack_columns)(float *y, const float *x, int64_t ldx, int64_t k); /* NULL in int8 */
    /* y[j] = sin(2 pi t), y[n + j] = cos(2 pi t),  t = x0*w0[j] + x1*w1[j],  j < n */
    void (*turns)(float *y, float x0, const float *w0, float x1, const float *w1, int64_t n);
    void (*blend)(float *y, const float *x0, const float *x1, float t, int64_t count); /* y = x0*(1 - t) + x1*t */
    /* y[j] = x[index[j]]*(1 - t[j]) + x[index[j] + 1]*t[j],  index ascending */
    void (*resample)(float *y, const float *x, const int32_t *index, const float *t, int64_t count);
    void (*normalize)(float *y, const uint8_t *x, const float *mean, const float *std, int64_t n); /* y = (x - mean)/std */
    void (*above)(uint8_t *y, const float *x, float threshold, int64_t count); /* y = x > threshold */
    int64_t (*count_above)(const float *x, float threshold, int64_t count); /* count < 2^31 */
    void (*fma_probe)(float *y, float x, int64_t steps); /* y[f] += y[f]*x, steps times, f < mr*nr, in registers */
} micro;

/* Another product, with which a table of the same ISA makes one of another precision, or a faster one of the same. */
typedef struct {
    weight_form weight;
    void (*pack_operand)(const operand_args *);
    void (*product)(const product_args *);
    void (*product_to_operand)(const product_args *, void *operand); /* NULL: there is none */
    void (*pack)(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw);
    void (*pack_columns)(float *y, const float *x, int64_t ldx, int64_t k); /* NULL: there is none */
    void (*attend)(const attend_args *);
} packed_product;

/* words of a panel of a weight with k columns, float16 or float32 */
static inline int64_t panel_words(const micro *u, int64_t k, int half)
{
    const weight_form *w = &u->weight;
    const int pieces = half && w->pieces > 2 ? 2 : w->pieces;
    return ((k + w->depth - 1) / w->depth * w->depth / w->terms * pieces + w->extra) * w->columns;
}

/* bytes of the operand for m rows of a, k deep. Of a row, 256 are for its scales and for whole blocks; a row more is room for one
 * that is made first. */
static inline int64_t operand_bytes(const micro *u, int64_t m, int64_t k)
{
    const weight_form *w = &u->weight;
    return w->operand ? ((m + 15) / 16 * 16 + 1) * ((k + w->depth - 1) / w->depth * w->operand + 256) : 0;
}

static inline int64_t attend_bytes(const micro *u, int64_t n, int64_t d)
{
    const int64_t n_tiles = (n + 31) / 32, d_tiles = (d + 31) / 32, pieces = u->weight.pieces;
    return 1024 * (pieces * (4 * n_tiles * d_tiles + 2 * d_tiles + 2 * n_tiles) + 4 * n_tiles);
}

extern const packed_product packed_zen4_fp32, packed_amx_fp32, packed_amx_bf16, packed_amx_int8, packed_avx512_bf16,
    packed_avx512_int8, packed_avx2_int8;
extern const micro micro_x86_64_v2, micro_avx2, micro_avx512, micro_neon;

#endif

/* The table of micro-kernels that one ISA offers in one precision, and the arguments they take. A stub (avx512.c, avx2.c, ...)
 * compiles generic.h into an ISA's float32 table, or narrow.h into what its table in another precision has instead (amx_bf16.c,
 * ...), or pairs.h into another product in float32 (zen4.c); dispatch.h puts them together and isa.pyx chooses at run time. Lengths
 * and strides count floats. */
#ifndef MOBILESAM_MICRO_H
#define MOBILESAM_MICRO_H
#include <stdint.h>

enum { FP32 = 0, BF16 = 1, INT8 = 2, PRECISIONS = 3 };

enum { ACT_NONE = 0, ACT_GELU = 1, ACT_RELU = 2 };

/* y[i,j] = act(sum_s sum_p a[i*lda + offset[s] + p*step] * b[s*k + p, j] + bias[j] + residual[i,j]),  i < m, j < n, p < k.
 * Column j of b is in panel j / NR: b[r, j] = b[j / NR * panel + r*ldb + j % NR]. Weights packed by a float32 table have ldb = NR,
 * panel = segments*k*NR, and zeros behind the last column; rows of a map serve as b with ldb their stride and panel = NR, read in
 * whole panels. `product` reads weights as its table's `pack` has left them.
 * A 1x1 convolution has one segment; a 3x3 one has three, each KW*C contiguous floats of an input row. */
typedef struct {
    int64_t m, n, k, segments;
    const int64_t *offset; /* NULL: one segment, at 0 */
    const float *a;
    int64_t lda, step; /* step 1: rows of a; lda 1: its columns, a transposed */
    const float *b;
    int64_t ldb, panel;
    const float *bias; /* (n) or NULL */
    const float *residual; /* or NULL; y itself only where segments*k <= 256 */
    int64_t ldr;
    float *y;
    int64_t ldy;
    int act;
    /* of `product` where it does not read a's rows in place, see narrow.h and pairs.h: */
    void *operand; /* room for a's rows; they are there already where a is NULL. With n = 0 they are put there alone */
    /* in a narrow precision: */
    int act_a; /* an activation that a's rows, which it may change, go through first */
    void *next; /* bf16 or its pieces: where not NULL, y's rows go here, an operand of n (a multiple of 32) columns, and not to y */
    /* memory that will be read next, fetched into L2 between the multiplications, as much in every tile; a request that products in a
     * narrow precision do not hear */
    const void *ahead;
    int64_t ahead_bytes;
} gemm_args;

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
    int operand; /* bytes of a row of a, as `product` keeps it, for each `depth` of k; 0: it is read in place */
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

typedef struct {
    int vl, mr, nr; /* floats a vector; rows and columns of the GEMM's register tile */
    void (*gemm)(const gemm_args *); /* of float32 */
    void (*product)(const gemm_args *); /* with b a weight that `pack` has packed, in the table's precision; step 1 */
    weight_form weight;
    void (*attend)(const attend_args *); /* in bf16, or with PIECES; NULL where the CPU lacks that */
    void (*depthwise3x3)(const depthwise3x3_args *);
    /* y[c] = act(sum_t x[t][c] * w[t][c] + bias[c]),  t < taps, c < channels */
    void (*depthwise_taps)(float *y, const float *const *x, const float *const *w, int64_t taps, const float *bias,
                           int64_t channels, int act);
    /* y[f] = act(sum_t x[t][f] * w[t][f % period] + bias[f % period]),  f < count; period a multiple of vl */
    void (*depthwise_flat)(float *y, const float *const *x, const float *const *w, int64_t taps, const float *bias,
                           int64_t period, int64_t count, int act);
    /* Winograd's F(2x2, 3x3) (Lavin & Gray, arXiv:1509.09308), for whole channel vectors, n % vl = 0:
     * v[f] = B' d B of the 4x4 pixels x[16];  y[4] = A' m A of the 16 products m[f], each a stride apart */
    void (*winograd_input)(float *v, int64_t stride, const float *const *x, int64_t n);
    void (*winograd_output)(float *const *y, const float *m, int64_t stride, int64_t n);
    /* y[i,:] = act((x[i,:] - mean) / sqrt(var + eps) * weight + bias),  i < m */
    void (*layer_norm)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t channels,
                       const float *weight, const float *bias, float eps, int act);
    void (*softmax)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n);
    /* in place, over i for each column; n % vl = 0 */
    void (*softmax_columns)(float *x, int64_t ldx, int64_t m, int64_t n);
    /* in place, over j for each row: x = exp(x - top), top = max_j x, sum = sum_j exp(x - top) */
    void (*exp_rows)(float *x, int64_t ldx, int64_t m, int64_t n, float *top, float *sum);
    /* y[i,j] = x[i,j] * scale[j] + added[i,j],  i < m; added may be NULL; n % vl = 0 */
    void (*scale_columns)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n, const float *scale,
                          const float *added, int64_t lda);
    /* y[:,j] = act((v[:,j] - mean) / sqrt(var + eps) * weight + bias), v[i,j] = x[i,j] * scale[j] + shift[i], over i < m; scale or
     * shift may be NULL; act is ACT_GELU or ACT_NONE; n % vl = 0 */
    void (*norm_columns)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n, const float *scale,
                         const float *shift, const float *weight, const float *bias, float eps, int act);
    /* y[i,j] = sum_c w[i,c] * gelu(x[c,j] + bias[c]),  i < m, c < channels; n % vl = 0 */
    void (*draw_columns)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t channels, int64_t n, const float *bias,
                         const float *w, int64_t m);
    /* y[j] += sum_i a[i,j] * b[i,j]; n % vl = 0 */
    void (*dot_columns)(float *y, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n);
    /* y[j] += sum_i weight[i,0] * x[i,j]^2, z[j] += sum_i weight[i,1] * x[i,j]^2; n % vl = 0 */
    void (*square_columns)(float *y, float *z, const float *x, int64_t ldx, const float *weight, int64_t m, int64_t n);
    /* y[i,j] = sum_p a[i,p] * b[j,p],  i < m, j < n, p < k; what lies ahead is fetched, as in gemm_args */
    void (*dot_rows)(float *y, int64_t ldy, const float *a, int64_t lda, int64_t m, const float *b, int64_t ldb, int64_t n,
                     int64_t k, const void *ahead, int64_t ahead_bytes);
    void (*spread)(float *y, const float *x, int64_t ldx, int64_t m, int64_t n); /* y[i] = sum_j (x[i,j] - mean_i)^2 */
    void (*transpose)(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n); /* y[j,i] = x[i,j] */
    void (*activate)(float *y, const float *x, int64_t count, int act);
    void (*add)(float *y, const float *x0, const float *x1, int64_t count); /* y = x0 + x1 */
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
    void (*product)(const gemm_args *);
    weight_form weight;
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

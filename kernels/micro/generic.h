/* Every micro-kernel, written once. A stub defines ISA (the table's suffix), VL (floats a vector), MR and NV (the GEMM
 * tile is MR rows by NR = NV*VL columns), TAPW (output pixels a depthwise step holds), vmin and vmax, and includes this. */
#include "micro.h"
#include <math.h>
#include <string.h>

#define NR (NV * VL)
#define INLINE static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef float vfu __attribute__((vector_size(VL * 4), aligned(4), may_alias));

INLINE vf load(const float *p) { return *(const vfu *)p; }
INLINE void store(float *p, vf v) { *(vfu *)p = v; }
INLINE vf splat(float x) { return x - (vf){0}; }

/* the first n < VL floats, the rest `fill` */
INLINE vf load_part(const float *p, int64_t n, float fill)
{
    vf v = splat(fill);
    memcpy(&v, p, n * sizeof(float));
    return v;
}
INLINE void store_part(float *p, vf v, int64_t n) { memcpy(p, &v, n * sizeof(float)); }

INLINE vf rotate_lanes(vf v, int shift)
{
    float twice[2 * VL];
    store(twice, v);
    store(twice + VL, v);
    return load(twice + shift);
}

INLINE float sum_lanes(vf v)
{
    float s[VL];
    memcpy(s, &v, sizeof v);
    for (int w = VL / 2; w; w /= 2)
        for (int i = 0; i < w; i++)
            s[i] += s[i + w];
    return s[0];
}
INLINE float max_lanes(vf v)
{
    float s = v[0];
    for (int i = 1; i < VL; i++)
        s = v[i] > s ? v[i] : s;
    return s;
}

/* gelu(x) = max(x, 0) - a*Phi(-a), a = |x|, with 2*Phi(-a) = P(a)^-8 after Hastings (Abramowitz & Stegun 7.1.28, where the
 * power is 16). P is a minimax fit for the product a*Phi(-a) and carries the factor 2^(1/8). Absolute error, rounding
 * included: below 4e-7, root mean square 5e-8 (the erf form in float32: 3e-8). NaN stays NaN and -inf gives 0. */
INLINE vf gelu_v(vf x)
{
    vf a = vmin((vf)((vi)x & 0x7fffffff), splat(10.f));
    vf p = a * 3.19790661e-06f + -1.82629647e-05f;
    p = p * a + 0.000106414125f;
    p = p * a + 0.000121428908f;
    p = p * a + 0.00106942013f;
    p = p * a + 0.00936924014f;
    p = p * a + 0.0488425344f;
    p = p * a + 0.108759061f;
    p = p * a + 1.09050775f;
    p *= p;
    p *= p;
    p *= p;
    return vmax(splat(0.f), x) - a / p;
}

/* exp(x) for x <= 0 (softmax); below -87 it is 0; NaN stays NaN. Cody & Waite's reduction, then degree 6: 2 ulp. */
INLINE vf exp_v(vf x)
{
    vf n = x * 1.44269504f + 12582912.f;
    vf k = n - 12582912.f;
    vf r = x - k * 0.693359375f;
    r = r + k * 2.12194440e-4f;
    vf p = r * 1.3946446e-3f + 8.3691515e-3f;
    p = p * r + 4.166626e-2f;
    p = p * r + 1.6666517e-1f;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1.f;
    vu scale = ((vu)n << 23) + (vu)splat(1.f);
    return (vf)((vi)(p * (vf)scale) & ~(x < -87.f));
}

INLINE vf act_v(vf x, const int act)
{
    return act == ACT_GELU ? gelu_v(x) : act == ACT_RELU ? vmax(splat(0.f), x) : x;
}

INLINE void activate_row(float *y, const float *x, int64_t n, const int act)
{
    int64_t j = 0;
    for (; j + VL <= n; j += VL)
        store(y + j, act_v(load(x + j), act));
    if (j < n)
        store_part(y + j, act_v(load_part(x + j, n - j, 0.f), act), n - j);
}

static void activate(float *y, const float *x, int64_t n, int act)
{
    if (act == ACT_GELU)
        activate_row(y, x, n, ACT_GELU);
    else if (act == ACT_RELU)
        activate_row(y, x, n, ACT_RELU);
    else if (y != x)
        memmove(y, x, n * sizeof(float));
}

/* One register tile: mr rows (a constant after inlining) by NR columns. bias, residual and y are whole-width here.
 * Sums start from zero and are set aside in y every DEPTH terms: a long sum, or one begun at a large residual, would round
 * each of its terms to the precision of the whole. */
enum { DEPTH = 256 };

INLINE void tile(const int mr, const gemm_args *g, const float *a, const float *b, const float *bias,
                 const float *residual, int64_t ldr, float *y, int64_t ldy)
{
    vf acc[MR][NV] = {0};
    const int64_t lda = g->lda, step = g->step, ldb = g->ldb;
    int64_t room = DEPTH, partial = 0;
    for (int64_t s = 0; s < g->segments; s++) {
        const float *as = a + (g->offset ? g->offset[s] : 0);
        for (int64_t k = g->k; k;) {
            if (!room) {
                UNROLL for (int i = 0; i < mr; i++)
                    UNROLL for (int v = 0; v < NV; v++) {
                        float *at = y + i * ldy + v * VL;
                        store(at, partial ? load(at) + acc[i][v] : acc[i][v]);
                        acc[i][v] = splat(0.f);
                    }
                partial = 1;
                room = DEPTH;
            }
            const int64_t count = k < room ? k : room;
            k -= count;
            room -= count;
            for (int64_t p = 0; p < count; p++, as += step, b += ldb) {
                vf bv[NV];
                UNROLL for (int v = 0; v < NV; v++) bv[v] = load(b + v * VL);
                UNROLL for (int i = 0; i < mr; i++) {
                    float ai = as[i * lda];
                    UNROLL for (int v = 0; v < NV; v++) acc[i][v] += ai * bv[v];
                }
            }
        }
    }
    if (partial)
        UNROLL for (int i = 0; i < mr; i++)
            UNROLL for (int v = 0; v < NV; v++) acc[i][v] += load(y + i * ldy + v * VL);
    if (bias)
        UNROLL for (int v = 0; v < NV; v++) {
            vf bv = load(bias + v * VL);
            UNROLL for (int i = 0; i < mr; i++) acc[i][v] += bv;
        }
    if (residual)
        UNROLL for (int i = 0; i < mr; i++)
            UNROLL for (int v = 0; v < NV; v++) acc[i][v] += load(residual + i * ldr + v * VL);
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int v = 0; v < NV; v++) store(y + i * ldy + v * VL, acc[i][v]);
}

static void tile_rows(int64_t mr, const gemm_args *g, const float *a, const float *b, const float *bias,
                      const float *residual, int64_t ldr, float *y, int64_t ldy)
{
#define ROWS(n) case n: tile(n, g, a, b, bias, residual, ldr, y, ldy); break;
    switch (mr) {
    ROWS(1) ROWS(2) ROWS(3) ROWS(4)
#if MR > 4
    ROWS(5)
#endif
#if MR > 5
    ROWS(6)
#endif
#if MR > 6
    ROWS(7) ROWS(8) ROWS(9) ROWS(10) ROWS(11) ROWS(12)
#endif
#if MR > 12
    ROWS(13) ROWS(14)
#endif
    }
#undef ROWS
}

/* The last, partial panel: its tile goes through a whole-width copy. */
static void tile_edge(int64_t mr, int64_t nr, const gemm_args *g, const float *a, const float *b, const float *bias,
                      const float *residual, float *y)
{
    float full[MR * NR], full_bias[NR] = {0}, full_residual[MR * NR] = {0};
    if (bias)
        memcpy(full_bias, bias, nr * sizeof(float));
    if (residual)
        for (int64_t i = 0; i < mr; i++)
            memcpy(full_residual + i * NR, residual + i * g->ldr, nr * sizeof(float));
    tile_rows(mr, g, a, b, full_bias, full_residual, NR, full, NR);
    for (int64_t i = 0; i < mr; i++)
        memcpy(y + i * g->ldy, full + i * NR, nr * sizeof(float));
}

/* Panels outside, so that one stays in L1 (or streams from L2) while the rows of the block pass by. */
static void gemm(const gemm_args *g)
{
    for (int64_t j = 0; j < g->n; j += NR) {
        const float *b = g->b + j / NR * g->panel;
        const float *bias = g->bias ? g->bias + j : NULL;
        const int64_t nr = g->n - j < NR ? g->n - j : NR;
        for (int64_t i = 0; i < g->m; i += MR) {
            const int64_t mr = g->m - i < MR ? g->m - i : MR;
            const float *a = g->a + i * g->lda;
            const float *residual = g->residual ? g->residual + i * g->ldr + j : NULL;
            float *y = g->y + i * g->ldy + j;
            if (nr == NR)
                tile_rows(mr, g, a, b, bias, residual, g->ldr, y, g->ldy);
            else
                tile_edge(mr, nr, g, a, b, bias, residual, y);
            if (g->act)
                for (int64_t r = 0; r < mr; r++)
                    activate(y + r * g->ldy, y + r * g->ldy, nr, g->act);
        }
    }
}

/* px neighbouring pixels of VL channels: each input vector is loaded once for all the outputs that it reaches. */
INLINE void depthwise3x3_step(const int px, const int stride, const depthwise3x3_args *g, int64_t w, int64_t c)
{
    const int64_t channels = g->channels;
    vf acc[TAPW];
    UNROLL for (int o = 0; o < px; o++) acc[o] = g->bias ? load(g->bias + c) : splat(0.f);
    UNROLL for (int i = 0; i < 3; i++) {
        const float *x = g->x[i] + w * stride * channels + c, *weight = g->weight + 3 * i * channels + c;
        vf tap[3];
        UNROLL for (int j = 0; j < 3; j++) tap[j] = load(weight + j * channels);
        UNROLL for (int col = 0; col <= (px - 1) * stride + 2; col++) {
            vf xv = load(x + col * channels);
            UNROLL for (int j = 0; j < 3; j++)
                if (col >= j && (col - j) % stride == 0 && (col - j) / stride < px)
                    acc[(col - j) / stride] += xv * tap[j];
        }
    }
    UNROLL for (int o = 0; o < px; o++) store(g->y + (w + o) * channels + c, acc[o]);
}

INLINE void depthwise3x3_pixels(const int px, const int stride, const depthwise3x3_args *g, int64_t w)
{
    for (int64_t c = 0; c + VL <= g->channels; c += VL)
        depthwise3x3_step(px, stride, g, w, c);
    if (g->channels % VL) /* the last vector overlaps the one before */
        depthwise3x3_step(px, stride, g, w, g->channels - VL);
    if (g->act)
        activate(g->y + w * g->channels, g->y + w * g->channels, px * g->channels, g->act);
}

/* stride 1 or 2, channels >= VL */
static void depthwise3x3(const depthwise3x3_args *g)
{
    int64_t w = 0;
    if (g->stride == 1) {
        for (; w + TAPW <= g->width; w += TAPW)
            depthwise3x3_pixels(TAPW, 1, g, w);
        for (; w < g->width; w++)
            depthwise3x3_pixels(1, 1, g, w);
    } else {
        for (; w + TAPW <= g->width; w += TAPW)
            depthwise3x3_pixels(TAPW, 2, g, w);
        for (; w < g->width; w++)
            depthwise3x3_pixels(1, 2, g, w);
    }
}

static void depthwise_taps(float *y, const float *const *x, const float *const *w, int64_t taps, const float *bias,
                           int64_t channels, int act)
{
    int64_t c = 0;
    for (; c + VL <= channels; c += VL) {
        vf acc = bias ? load(bias + c) : splat(0.f);
        for (int64_t t = 0; t < taps; t++)
            acc += load(x[t] + c) * load(w[t] + c);
        store(y + c, acc);
    }
    for (; c < channels; c++) {
        float acc = bias ? bias[c] : 0.f;
        for (int64_t t = 0; t < taps; t++)
            acc += x[t][c] * w[t][c];
        y[c] = acc;
    }
    if (act)
        activate(y, y, channels, act);
}

static void depthwise_flat(float *y, const float *const *x, const float *const *w, int64_t taps, const float *bias,
                           int64_t period, int64_t count, int act)
{
    int64_t f = 0;
    for (; f + TAPW * period <= count; f += TAPW * period) /* TAPW periods share each weight that is loaded */
        for (int64_t phase = 0; phase < period; phase += VL) {
            vf acc[TAPW];
            UNROLL for (int o = 0; o < TAPW; o++) acc[o] = bias ? load(bias + phase) : splat(0.f);
            for (int64_t t = 0; t < taps; t++) {
                const float *at = x[t] + f + phase;
                vf tap = load(w[t] + phase);
                UNROLL for (int o = 0; o < TAPW; o++) acc[o] += load(at + o * period) * tap;
            }
            UNROLL for (int o = 0; o < TAPW; o++) store(y + f + o * period + phase, acc[o]);
        }
    for (int64_t phase = 0; f + VL <= count; f += VL, phase += VL) {
        if (phase == period)
            phase = 0;
        vf acc = bias ? load(bias + phase) : splat(0.f);
        for (int64_t t = 0; t < taps; t++)
            acc += load(x[t] + f) * load(w[t] + phase);
        store(y + f, acc);
    }
    for (; f < count; f++) {
        float acc = bias ? bias[f % period] : 0.f;
        for (int64_t t = 0; t < taps; t++)
            acc += x[t][f] * w[t][f % period];
        y[f] = acc;
    }
    if (act)
        activate(y, y, count, act);
}

static void winograd_input(float *v, int64_t stride, const float *const *x, int64_t n)
{
    for (int64_t c = 0; c < n; c += VL) {
        vf rows[4][4], t;
        UNROLL for (int j = 0; j < 4; j++) { /* B' d */
            vf d0 = load(x[j] + c), d1 = load(x[4 + j] + c), d2 = load(x[8 + j] + c), d3 = load(x[12 + j] + c);
            rows[0][j] = d0 - d2;
            rows[1][j] = d1 + d2;
            rows[2][j] = d2 - d1;
            rows[3][j] = d1 - d3;
        }
        UNROLL for (int i = 0; i < 4; i++) { /* (B' d) B */
            float *at = v + 4 * i * stride + c;
            t = rows[i][2];
            store(at, rows[i][0] - t);
            store(at + stride, rows[i][1] + t);
            store(at + 2 * stride, t - rows[i][1]);
            store(at + 3 * stride, rows[i][1] - rows[i][3]);
        }
    }
}

static void winograd_output(float *const *y, const float *m, int64_t stride, int64_t n)
{
    for (int64_t c = 0; c < n; c += VL) {
        vf top[4], bottom[4];
        UNROLL for (int j = 0; j < 4; j++) { /* A' m */
            const float *at = m + j * stride + c;
            vf m1 = load(at + 4 * stride), m2 = load(at + 8 * stride);
            top[j] = load(at) + m1 + m2;
            bottom[j] = m1 - m2 - load(at + 12 * stride);
        }
        store(y[0] + c, top[0] + top[1] + top[2]);
        store(y[1] + c, top[1] - top[2] - top[3]);
        store(y[2] + c, bottom[0] + bottom[1] + bottom[2]);
        store(y[3] + c, bottom[1] - bottom[2] - bottom[3]);
    }
}

INLINE float row_sum(const float *x, int64_t n)
{
    vf s0 = splat(0.f), s1 = splat(0.f);
    int64_t c = 0;
    for (; c + 2 * VL <= n; c += 2 * VL) {
        s0 += load(x + c);
        s1 += load(x + c + VL);
    }
    for (; c + VL <= n; c += VL)
        s0 += load(x + c);
    if (c < n)
        s1 += load_part(x + c, n - c, 0.f);
    return sum_lanes(s0 + s1);
}

INLINE float row_variance(const float *x, int64_t n, float mean)
{
    vf s0 = splat(0.f), s1 = splat(0.f), d;
    int64_t c = 0;
    for (; c + 2 * VL <= n; c += 2 * VL) {
        d = load(x + c) - mean;
        s0 += d * d;
        d = load(x + c + VL) - mean;
        s1 += d * d;
    }
    for (; c + VL <= n; c += VL) {
        d = load(x + c) - mean;
        s0 += d * d;
    }
    if (c < n) {
        d = load_part(x + c, n - c, mean) - mean;
        s1 += d * d;
    }
    return sum_lanes(s0 + s1) / n;
}

static void layer_norm(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n, const float *weight,
                       const float *bias, float eps, int act)
{
    for (int64_t i = 0; i < m; i++, x += ldx, y += ldy) {
        const float mean = row_sum(x, n) / n, scale = 1.f / sqrtf(row_variance(x, n, mean) + eps);
        int64_t c = 0;
        for (; c + VL <= n; c += VL)
            store(y + c, (load(x + c) - mean) * scale * load(weight + c) + load(bias + c));
        for (; c < n; c++)
            y[c] = (x[c] - mean) * scale * weight[c] + bias[c];
        if (act)
            activate(y, y, n, act);
    }
}

static void layer_norm_columns(float *x, int64_t ldx, int64_t channels, int64_t n, const float *weight,
                               const float *bias, float eps, int act)
{
    for (int64_t j = 0; j < n; j += VL) {
        vf mean = splat(0.f), variance = splat(0.f);
        for (int64_t c = 0; c < channels; c++)
            mean += load(x + c * ldx + j);
        mean = mean / (float)channels;
        for (int64_t c = 0; c < channels; c++) {
            vf d = load(x + c * ldx + j) - mean;
            variance += d * d;
        }
        variance = variance / (float)channels + eps;
        float scale[VL];
        store(scale, variance);
        for (int i = 0; i < VL; i++)
            scale[i] = 1.f / sqrtf(scale[i]);
        for (int64_t c = 0; c < channels; c++)
            store(x + c * ldx + j, (load(x + c * ldx + j) - mean) * load(scale) * weight[c] + bias[c]);
    }
    if (act)
        for (int64_t c = 0; c < channels; c++)
            activate(x + c * ldx, x + c * ldx, n, act);
}

static void softmax(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i++, x += ldx, y += ldy) {
        vf top = splat(-INFINITY), sum = splat(0.f);
        int64_t j = 0;
        for (; j + VL <= n; j += VL)
            top = vmax(top, load(x + j));
        if (j < n)
            top = vmax(top, load_part(x + j, n - j, -INFINITY));
        const float highest = max_lanes(top);
        for (j = 0; j + VL <= n; j += VL) {
            vf e = exp_v(load(x + j) - highest);
            sum += e;
            store(y + j, e);
        }
        if (j < n) {
            vf e = exp_v(load_part(x + j, n - j, -INFINITY) - highest);
            sum += e;
            store_part(y + j, e, n - j);
        }
        const float scale = 1.f / sum_lanes(sum);
        for (j = 0; j + VL <= n; j += VL)
            store(y + j, load(y + j) * scale);
        for (; j < n; j++)
            y[j] *= scale;
    }
}

static void softmax_heads(float *x, int64_t ldx, int64_t m, int64_t n)
{
    enum { HEADS = 8, STEP = VL > HEADS ? VL : HEADS };
    for (int64_t i = 0; i < m; i++, x += ldx)
        for (int64_t h = 0; h < HEADS; h += VL) { /* a vector is a part of a token's heads, or whole tokens */
            vf top = splat(-INFINITY), sum = splat(0.f);
            for (int64_t j = h; j < n; j += STEP)
                top = vmax(top, load(x + j));
            for (int shift = VL / 2; shift >= HEADS; shift /= 2)
                top = vmax(top, rotate_lanes(top, shift));
            for (int64_t j = h; j < n; j += STEP) {
                vf e = exp_v(load(x + j) - top);
                sum += e;
                store(x + j, e);
            }
            for (int shift = VL / 2; shift >= HEADS; shift /= 2)
                sum += rotate_lanes(sum, shift);
            sum = 1.f / sum;
            for (int64_t j = h; j < n; j += STEP)
                store(x + j, load(x + j) * sum);
        }
}

static void exp_columns(float *x, int64_t ldx, int64_t m, int64_t n, float *top, float *sum)
{
    for (int64_t j = 0; j < n; j += VL) {
        vf t = load(x + j), s = splat(0.f);
        for (int64_t i = 1; i < m; i++)
            t = vmax(t, load(x + i * ldx + j));
        for (int64_t i = 0; i < m; i++) {
            vf e = exp_v(load(x + i * ldx + j) - t);
            s += e;
            store(x + i * ldx + j, e);
        }
        store(top + j, t);
        store(sum + j, s);
    }
}

static void add(float *y, const float *x0, const float *x1, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        y[j] = x0[j] + x1[j];
}

/* IEEE half to float by moving the exponent's bias with a multiplication, which also normalises subnormals. */
INLINE float from_half(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13;
    float f;
    memcpy(&f, &rest, sizeof f);
    f *= 0x1p112f;
    uint32_t bits;
    memcpy(&bits, &f, sizeof f);
    bits |= sign | ((h & 0x7c00) == 0x7c00 ? 0x7f800000 : 0);
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* one panel: y[p, j] = w[j, p] for j < n <= NR, 0 beyond; w's rows are k halves or floats, ldw apart */
static void pack(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw)
{
    float row[256];
    for (int64_t j = 0; j < NR; j++)
        for (int64_t p0 = 0; p0 < k; p0 += 256) {
            const int64_t count = k - p0 < 256 ? k - p0 : 256;
            const uint16_t *h = (const uint16_t *)w + j * ldw + p0;
            const float *f = (const float *)w + j * ldw + p0;
            for (int64_t p = 0; p < count; p++)
                row[p] = j >= n ? 0.f : half ? from_half(h[p]) : f[p];
            for (int64_t p = 0; p < count; p++)
                y[(p0 + p) * NR + j] = row[p];
        }
}

static void blend(float *y, const float *x0, const float *x1, float t, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        y[j] = x0[j] * (1.f - t) + x1[j] * t;
}

static void resample(float *y, const float *x, const int32_t *index, const float *t, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        y[j] = x[index[j]] * (1.f - t[j]) + x[index[j] + 1] * t[j];
}

static void normalize(float *y, const uint8_t *x, const float *mean, const float *std, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        y[j] = (x[j] - mean[j]) / std[j];
}

static void above(uint8_t *y, const float *x, float threshold, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        y[j] = x[j] > threshold;
}

/* As many chains as the GEMM's tile has sums: enough to hide an FMA's latency, and no loads. */
static void fma_probe(float *y, float x, int64_t steps)
{
    vf acc[MR][NV];
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int v = 0; v < NV; v++) acc[i][v] = load(y + i * NR + v * VL);
    for (; steps > 0; steps--)
        UNROLL for (int i = 0; i < MR; i++)
            UNROLL for (int v = 0; v < NV; v++) acc[i][v] += acc[i][v] * x;
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int v = 0; v < NV; v++) store(y + i * NR + v * VL, acc[i][v]);
}

#define NAME_(isa) micro_##isa
#define NAME(isa) NAME_(isa)
#define TEXT_(isa) #isa
#define TEXT(isa) TEXT_(isa)

const micro NAME(ISA) = {
    .name = TEXT(ISA), .vl = VL, .mr = MR, .nr = NR,
    .gemm = gemm, .depthwise3x3 = depthwise3x3, .depthwise_taps = depthwise_taps, .depthwise_flat = depthwise_flat,
    .winograd_input = winograd_input, .winograd_output = winograd_output,
    .layer_norm = layer_norm, .layer_norm_columns = layer_norm_columns, .softmax = softmax, .softmax_heads = softmax_heads, .exp_columns = exp_columns,
    .activate = activate, .add = add, .pack = pack, .blend = blend,
    .resample = resample, .normalize = normalize, .above = above, .fma_probe = fma_probe,
};

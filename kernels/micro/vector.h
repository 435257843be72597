/* Vectors of VL floats, and functions of a vector: GELU, exp, sine and cosine. Included by generic.h, narrow.h and pairs.h. */

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

/* Loads n < VL floats. The lanes from n on are `fill`. */
INLINE vf load_part(const float *p, int64_t n, float fill)
{
    vf v = splat(fill);
    memcpy(&v, p, n * sizeof(float));
    return v;
}
INLINE void store_part(float *p, vf v, int64_t n) { memcpy(p, &v, n * sizeof(float)); }

/* On every ISA the sum is pairwise: the upper half of the lanes is added to the lower half until one lane is left. */
INLINE float sum_lanes(vf v)
{
#if VL == 16
    return _mm512_reduce_add_ps((__m512)v);
#else
    float s[VL];
    memcpy(s, &v, sizeof v);
    for (int w = VL / 2; w; w /= 2)
        for (int i = 0; i < w; i++)
            s[i] += s[i + w];
    return s[0];
#endif
}
INLINE float max_lanes(vf v)
{
#if VL == 16
    return _mm512_reduce_max_ps((__m512)v);
#else
    float s[VL];
    memcpy(s, &v, sizeof v);
    for (int w = VL / 2; w; w /= 2)
        for (int i = 0; i < w; i++)
            s[i] = s[i + w] > s[i] ? s[i + w] : s[i];
    return s[0];
#endif
}

/* gelu(x) = max(x, 0) - a*Phi(-a) with a = |x|. Phi(-a) is approximated by p(a)^8, where the polynomial p is a minimax fit of a*Phi(-a)
 * for a <= 5.75. For larger a, a*Phi(-a) is below 3e-8. The eighth power makes the error small where Phi is small, and needs no division.
 * Absolute error, rounding included: below 2.5e-7, root mean square 5e-8 (the erf form in float32: 3e-8). NaN gives NaN. */
INLINE vf gelu_v(vf x)
{
    const vf a = vmin((vf)((vi)x & 0x7fffffff), splat(5.75f));
    vf p = a * -2.9587998e-07f + 7.4795271e-06f;
    p = p * a + -6.0257495e-05f;
    p = p * a + 3.4294633e-05f;
    p = p * a + 0.00150436303f;
    p = p * a + -0.000671956281f;
    p = p * a + -0.0319280773f;
    p = p * a + -0.0914574116f;
    p = p * a + 0.917003989f;
    p *= p;
    p *= p;
    p *= p;
    return vmax(splat(0.f), x) - a * p;
}

/* exp(x) for x <= 0, as softmax needs it. x < -87 gives 0, NaN gives NaN. Cody & Waite's range reduction and a polynomial of degree 6;
 * the error is 2 ulp. */
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

/* sin(2 pi t) and cos(2 pi t). The nearest multiple of 1/4 is subtracted from t, which is exact for |t| < 2^20, and polynomials of degree
 * 7 and 8 of the difference have an error of 1.5 ulp of 1. For larger |t|, the results are the sine and cosine of an arbitrary multiple of
 * pi/2. */
INLINE void sin_cos_v(vf t, vf *sine, vf *cosine)
{
    const vf shifted = t * 4.f + 12582912.f;
    const vi quarter = (vi)shifted, odd = -(quarter & 1);
    const vi near = (vi)t & 0x7fffffff;
    const vf rest = (t - (shifted - 12582912.f) * 0.25f) * 6.28318531f;
    const vf r = (vf)((vi)rest & (near < 0x49800000)), r2 = r * r;
    vf s = r2 * -1.9515295891e-4f + 8.3321608736e-3f;
    s = (s * r2 + -1.6666654611e-1f) * (r2 * r) + r;
    vf c = r2 * 2.443315711809948e-5f + -1.388731625493765e-3f;
    c = (c * r2 + 4.166664568298827e-2f) * (r2 * r2) + (1.f - 0.5f * r2);
    *sine = (vf)(((odd & (vi)c) | (~odd & (vi)s)) ^ ((quarter & 2) << 30));
    *cosine = (vf)(((odd & (vi)s) | (~odd & (vi)c)) ^ (((quarter + 1) & 2) << 30));
}

/* Converts an IEEE half to float. Multiplying by 2^112 corrects the exponent's bias and normalises subnormals. */
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

#if VL < 16 || defined(vpick)
/* Selects lanes of a (numbers 0 to VL - 1) and of b (VL and up) by constant numbers. */
#ifdef __clang__
#define LANES(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LANES(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif

/* Exchanges every second block of s lanes between rows a and b of a matrix. The first step of a transpose has s = 1, and the
 * last step has s = VL / 2. */
INLINE void exchange(vf *a, vf *b, const int s)
{
    const vf x = *a, y = *b;
#if VL == 16
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, odd = (lane & s) != 0;
    *a = vpick(x, y, (odd & ((lane ^ s) + VL)) | (~odd & lane));
    *b = vpick(x, y, (odd & (lane + VL)) | (~odd & (lane ^ s)));
#elif VL == 8
    *a = s == 1   ? LANES(x, y, 0, 8, 2, 10, 4, 12, 6, 14)
         : s == 2 ? LANES(x, y, 0, 1, 8, 9, 4, 5, 12, 13)
                  : LANES(x, y, 0, 1, 2, 3, 8, 9, 10, 11);
    *b = s == 1   ? LANES(x, y, 1, 9, 3, 11, 5, 13, 7, 15)
         : s == 2 ? LANES(x, y, 2, 3, 10, 11, 6, 7, 14, 15)
                  : LANES(x, y, 4, 5, 6, 7, 12, 13, 14, 15);
#else
    *a = s == 1 ? LANES(x, y, 0, 4, 2, 6) : LANES(x, y, 0, 1, 4, 5);
    *b = s == 1 ? LANES(x, y, 1, 5, 3, 7) : LANES(x, y, 2, 3, 6, 7);
#endif
}

INLINE void transpose_block(float *y, int64_t ldy, const float *x, int64_t ldx)
{
    vf rows[VL];
    UNROLL for (int i = 0; i < VL; i++) rows[i] = load(x + i * ldx);
    UNROLL for (int s = 1; s < VL; s *= 2)
        UNROLL for (int i = 0; i < VL; i++)
            if (!(i & s))
                exchange(&rows[i], &rows[i | s], s);
    UNROLL for (int i = 0; i < VL; i++) store(y + i * ldy, rows[i]);
}

/* Transposes x (m, n): y[j, i] = x[i, j]. */
static void transpose(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    const int64_t blocks = m / VL * VL;
    for (int64_t i = 0; i < blocks; i += VL) {
        int64_t j = 0;
        for (; j + VL <= n; j += VL)
            transpose_block(y + j * ldy + i, ldy, x + i * ldx + j, ldx);
        for (; j < n; j++)
            for (int64_t r = i; r < i + VL; r++)
                y[j * ldy + r] = x[r * ldx + j];
    }
    for (int64_t i = blocks; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            y[j * ldy + i] = x[i * ldx + j];
}
#endif

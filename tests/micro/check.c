/* Compares every function in one ISA's table of micro-kernels with simple loops in double precision. Needs no Python, so
 * that an emulator can run it. Build with the flags of setup.py in CFLAGS:
 *     gcc $CFLAGS -mavx2 -mfma -mf16c -DTABLE=micro_avx2 -Ikernels/micro tests/micro/check.c kernels/micro/avx2.c -lm
 * The error bounds are derived as in tests/support/tolerances.py. An inaccessible page follows every array. */
#include "expect.h"

typedef struct { int segments, transposed, unpacked, bias, residual, act; } gemm_options; /* residual: 0 none, 1 an array, 2 the array y */

/* The micro-kernel sums blocks of 256 products, adds up the blocks' sums, and adds bias and residual last. The bias and the residual are
 * large here, so the bound must count their roundings separately. */
static void check_gemm(int m, int n, int k, gemm_options o)
{
    CASE("gemm %dx%dx%d, segments %d, transposed %d, unpacked %d, bias %d, residual %d, act %d", m, n, k, o.segments,
         o.transposed, o.unpacked, o.bias, o.residual, o.act);
    const int nr = u->nr, depth = o.segments * k, lda = o.transposed ? 1 : k + 1, step = o.transposed ? m + 2 : 1;
    const int span = (m - 1) * lda + (k - 1) * step + 1, ldy = n + 3, ldr = o.residual == 2 ? ldy : n + 1;
    const int ldb = o.unpacked ? n + 5 : nr, panel = o.unpacked ? nr : depth * nr;
    const int64_t offset[3] = {(o.segments - 1) * (span + 1), o.segments == 3 ? span + 1 : 0, 0};
    const float *a = numbers(o.segments * (span + 1) - 1, 1), *bias = o.bias ? numbers(n, 1000) : NULL;
    const float *b = numbers(o.unpacked ? (depth - 1) * ldb + n : (n + nr - 1) / nr * panel, 1);
    const float *residual = o.residual ? numbers((m - 1) * ldr + n, 1000) : NULL;
    float *y = o.residual == 2 ? copy(residual, (m - 1) * ldy + n) : blank((m - 1) * ldy + n);
    u->gemm(&(gemm_args){m, n, k, o.segments, o.segments > 1 ? offset : NULL, a, lda, step, b, ldb, panel, bias,
                         o.residual == 2 ? y : residual, ldr, y, ldy, o.act, {b, 200}});
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            sum s = {0};
            for (int r = 0; r < depth; r++)
                include(&s, (double)a[i * lda + offset[r / k] + r % k * step] * b[j / nr * panel + r * ldb + j % nr]);
            const double error = roundings(fmin(depth, 256) + (depth + 255) / 256) * s.size;
            include(&s, bias ? bias[j] : 0);
            include(&s, residual ? residual[i * ldr + j] : 0);
            expect_act(i * ldy + j, y[i * ldy + j], s.value, error + roundings(2) * s.size, o.act);
        }
    if (o.residual < 2)
        expect_gaps(y, ldy, m, n);
}

static void gemm(void)
{
    const int mr = u->mr, nr = u->nr, vl = u->vl;
    for (int m = 1; m <= 2 * mr + 1; m++)
        EACH(n, 1, vl - 1, nr - 1, nr, nr + 1, 2 * nr, 2 * nr + vl)
            EACH(k, 1, 2, vl + 1, 255, 256, 257, 600)
                check_gemm(m, n, k, (gemm_options){.segments = 1});
    for (int i = 0; i < 2 * 2 * 2 * 2 * 3 * 3; i++)
        EACH(k, 21, 100) {
            const gemm_options o = {i % 2 ? 3 : 1, i / 2 % 2, i / 4 % 2, i / 8 % 2, i / 16 % 3, i / 48};
            if (o.residual < 2 || o.segments * k <= 256)
                check_gemm(mr + 1, o.unpacked ? 2 * nr : nr + 1, k, o);
        }
}

/* Expects y to be a depthwise convolution of the inputs x by the weights w. y has rows of `length` numbers, `count` numbers in all.
 * Successive rows of y read input rows that are `stride` rows apart. */
static void expect_taps(const float *y, const float *const *x, const float *const *w, int taps, const float *bias,
                        int length, int stride, int count, int act)
{
    for (int f = 0; f < count; f++) {
        const int c = f % length;
        sum s = {0};
        for (int t = 0; t < taps; t++)
            include(&s, (double)x[t][f / length * stride * length + c] * w[t][c]);
        include(&s, bias ? bias[c] : 0);
        expect_act(f, y[f], s.value, roundings(taps + 1) * s.size, act);
    }
}

static void depthwise3x3(int width, int channels, int stride, int with_bias, int act)
{
    CASE("depthwise3x3 width %d, channels %d, stride %d, bias %d, act %d", width, channels, stride, with_bias, act);
    const float *weight = numbers(9 * channels, 1), *bias = with_bias ? numbers(channels, 1) : NULL, *x[9], *w[9];
    float *y = blank(width * channels);
    for (int t = 0; t < 9; t++) {
        x[t] = t % 3 ? x[t - 1] + channels : numbers(((width - 1) * stride + 3) * channels, 1);
        w[t] = weight + t * channels;
    }
    u->depthwise3x3(&(depthwise3x3_args){width, channels, stride, {x[0], x[3], x[6]}, weight, bias, y, act});
    expect_taps(y, x, w, 9, bias, channels, stride, width * channels, act);
}

/* Checks depthwise_flat, or depthwise_taps if period is 0. */
static void depthwise_rows(int taps, int period, int count, int with_bias, int act)
{
    CASE("depthwise taps %d, period %d, count %d, bias %d, act %d", taps, period, count, with_bias, act);
    const int length = period ? period : count;
    const float *x[25], *w[25], *bias = with_bias ? numbers(length, 1) : NULL;
    float *y = blank(count);
    for (int t = 0; t < taps; t++)
        x[t] = numbers(count, 1), w[t] = numbers(length, 1);
    const taps_args args = {taps, x, w, bias, y, act};
    if (period)
        u->depthwise_flat(&args, period, count);
    else
        u->depthwise_taps(&args, count);
    expect_taps(y, x, w, taps, bias, length, 1, count, act);
}

static void depthwise(void)
{
    const int vl = u->vl;
    for (int i = 0; i < 2 * 2 * 3; i++) {
        const int stride = 1 + i % 2, bias = i / 2 % 2, act = i / 4;
        EACH(channels, vl, vl + 1, 2 * vl, 3 * vl - 1)
            EACH(width, 1, 3, 4, 5, 8, 11)
                depthwise3x3(width, channels, stride, bias, act);
        EACH(taps, 1, 9, 25)
            EACH(period, 0, vl, 3 * vl)
                EACH(count, 1, vl - 1, vl, vl + 1, 4 * period + 2 * vl, 5 * period + vl + 1, 9 * period + 7)
                    depthwise_rows(taps, period, count, bias, act);
    }
}

/* Expects got = left * d * left', with left' the transpose of left. The elements of got (rows, rows) and d (4, 4) are vectors of n numbers,
 * the elements of left (rows, 4) are numbers. The vectors of got are `stride` numbers apart. */
static void expect_sandwich(int rows, const double left[][4], const float *const *d, const float *got, int stride,
                            int n)
{
    for (int p = 0; p < rows * rows; p++)
        for (int c = 0; c < n; c++) {
            sum s = {0};
            for (int q = 0; q < 16; q++)
                include(&s, left[p / rows][q / 4] * left[p % rows][q % 4] * d[q][c]);
            expect(p * stride + c, got[p * stride + c], s.value, roundings(rows == 4 ? 2 : 4) * s.size);
        }
    expect_gaps(got, stride, rows * rows, n);
}

/* Each of the two matrix products of a transform sums two terms in the input transform and up to three in the output transform. */
static void winograd(void)
{
    static const double b[4][4] = {{1, 0, -1, 0}, {0, 1, 1, 0}, {0, -1, 1, 0}, {0, 1, 0, -1}};
    static const double a[2][4] = {{1, 1, 1, 0}, {0, 1, -1, -1}};
    EACH(n, u->vl, 3 * u->vl) {
        CASE("winograd n %d", n);
        const int stride = n + 7;
        const float *x[16], *m = numbers(15 * stride + n, 1), *products[16];
        float *v = blank(15 * stride + n), *y = blank(3 * stride + n);
        for (int q = 0; q < 16; q++)
            x[q] = numbers(n, 1), products[q] = m + q * stride;
        u->winograd_input(v, stride, x, n);
        expect_sandwich(4, b, x, v, stride, n);
        u->winograd_output((float *[]){y, y + stride, y + 2 * stride, y + 3 * stride}, m, stride, n);
        expect_sandwich(2, a, products, y, stride, n);
    }
}

#include "check_rows.h"

static void activations(void)
{
    for (int i = 0; i < 3 * 2; i++)
        EACH(n, 1, u->vl - 1, u->vl, u->vl + 1, ODD, 5 * u->vl + 3, 4001) {
            const int act = i / 2, in_place = i % 2;
            CASE("activate n %d, act %d, in place %d", n, act, in_place);
            float *x = numbers(n, 12), *y = blank(n);
            memcpy(x, odd, (n < ODD ? n : ODD) * sizeof *x);
            const float *from = in_place ? memcpy(y, x, n * sizeof *x) : x;
            u->activate(y, from, n, act);
            for (int j = 0; j < n; j++)
                expect_act(j, y[j], x[j], 0, act);
        }
}

static void sincos_2pi(void)
{
    for (int n = 1; n <= 4 * u->vl + 1; n++) {
        CASE("sincos_2pi n %d", n);
        const float x0 = -0.7f, x1 = 0.9f;
        float *w0 = numbers(n, 3), *w1 = numbers(n, 3), *y = blank(2 * n);
        u->sincos_2pi(y, x0, w0, x1, w1, n);
        for (int j = 0; j < n; j++) {
            const double a = (double)x0 * w0[j], b = (double)x1 * w1[j], phase = 6.283185307179586 * (a + b);
            const double bound = 6.3 * roundings(2) * (fabs(a) + fabs(b)) + 2e-7; /* errors of the phase and of the polynomials */
            expect(j, y[j], sin(phase), bound);
            expect(n + j, y[n + j], cos(phase), bound);
        }
    }
}

static void elementwise(void)
{
    for (int n = 1; n <= 4 * u->vl + 1; n++) {
        CASE("add, blend, resample, normalize, greater_than, count_greater n %d", n);
        float *x0 = numbers(n + 1, 1), *x1 = numbers(n, 1), *t = numbers(n, 1);
        float *added = blank(n), *blended = blank(n), *sampled = blank(n), *normal = blank(n);
        int32_t *index = array(n, sizeof *index), *distant = array(n, sizeof *distant);
        float *wide = numbers(3 * n + 2, 1), *spaced = blank(n);
        uint8_t *bits = array(n, 1), *levels = array(n, 1);
        for (int j = 0; j < n; j++) {
            t[j] = fabsf(t[j]) + 0.01f;
            levels[j] = j * 37;
            index[j] = j * 2 / 3;
            distant[j] = j * 3; /* the indices of a vector of outputs span more than two vectors of inputs */
            x1[j] = j % 3 ? x1[j] : odd[j / 3 % ODD];
        }
        u->add(added, x0, x0 + 1, n);
        u->blend(blended, x0, x0 + 1, t[0], n);
        u->resample(sampled, x0, index, t, n);
        u->resample(spaced, wide, distant, t, n);
        u->normalize(normal, levels, x0, t, n);
        u->greater_than(bits, x1, 0.f, n);
        int count = 0;
        for (int j = 0; j < n; j++) {
            const float *at = x0 + index[j], *further = wide + distant[j];
            sum space = {0};
            include(&space, further[0] * (1. - t[j])), include(&space, (double)further[1] * t[j]);
            expect(j, spaced[j], space.value, roundings(3) * space.size);
            sum total = {0}, blend = {0}, sample = {0};
            include(&total, (double)x0[j] + x0[j + 1]);
            include(&blend, x0[j] * (1. - t[0])), include(&blend, (double)x0[j + 1] * t[0]);
            include(&sample, at[0] * (1. - t[j])), include(&sample, (double)at[1] * t[j]);
            const double exact = (levels[j] - (double)x0[j]) / t[j];
            expect(j, normal[j], exact, roundings(2) * fabs(exact));
            expect(j, added[j], total.value, roundings(1) * total.size);
            expect(j, blended[j], blend.value, roundings(3) * blend.size);
            expect(j, sampled[j], sample.value, roundings(3) * sample.size);
            expect(j, bits[j], x1[j] > 0.f, 0);
            count += x1[j] > 0.f;
        }
        expect(0, u->count_greater(x1, 0.f, n), count, 0);
    }
}

static void fma_probe(void)
{
    CASE("fma_probe");
    const int tile = u->mr * u->nr, steps = 1000;
    float *y = numbers(tile, 1), *x = copy(y, tile);
    u->fma_probe(y, 0x1p-10f, steps);
    for (int i = 0; i < tile; i++)
        expect(i, y[i], x[i] * pow(1 + 0x1p-10, steps), roundings(2 * steps) * fabs(x[i]) * pow(1 + 0x1p-10, steps));
}

/* If n = nr and k = 65536 / nr, the weights are all half-precision numbers. */
static void pack(void)
{
    for (int half = 0; half < 2; half++)
        EACH(n, 1, u->nr - 1, u->nr)
            EACH(k, 1, 255, 256, 257, 600, 65536 / u->nr) {
                CASE("pack half %d, n %d, k %d", half, n, k);
                const int ldw = k + 3, size = (n - 1) * ldw + k;
                float *w = numbers(size, 1), *y = blank(k * u->nr);
                uint16_t *halves = array(size, sizeof *halves);
                memcpy(w, odd, (size < ODD ? size : ODD) * sizeof *w);
                for (int i = 0; i < size; i++)
                    halves[i] = i / ldw * k + i % ldw;
                u->pack(y, half ? (void *)halves : w, half, n, k, ldw);
                for (int at = 0; at < k * u->nr; at++) {
                    const int p = at / u->nr, j = at % u->nr, from = j * ldw + p;
                    const double want = j >= n ? 0 : half ? half_value(halves[from]) : w[from];
                    expect(at, y[at], want, 0);
                    if (!isnan(want))
                        expect(at, !!signbit(y[at]), !!signbit(want), 0);
                }
            }
}

static void pack_columns(void)
{
    EACH(k, 1, 2, 7, 300) {
        CASE("pack_columns k %d", k);
        const int nr = u->nr, ldx = nr + 3;
        const float *x = numbers((k - 1) * ldx + nr, 1);
        float *y = blank(k * nr);
        u->pack_columns(y, x, ldx, k);
        for (int at = 0; at < k * nr; at++)
            expect(at, y[at], x[at / nr * ldx + at % nr], 0);
    }
}

int main(void)
{
    arrays = pages_take(ARRAYS * sizeof *arrays);
    for (int i = 0; i < ARRAYS; i++)
        if (!arrays || pages_forbid(arrays[i] + ROOM, PAGE))
            abort();
    signal(SIGSEGV, crashed);
    gemm(), depthwise(), winograd(), layer_norm(), softmaxes(), scales(), norm_columns(), draw_columns(), dot_rows(), spreads(), activations(), elementwise();
    sincos_2pi(), fma_probe(), pack(), pack_columns();
    failed += wrong > 0;
    printf(QUOTED(TABLE) ": %d passed, %d failed\n", cases - failed, failed);
    return failed > 0;
}

/* Helpers of check.c: arrays that end at an inaccessible page, and comparisons with an error bound. */
#define _GNU_SOURCE
#include "micro.h"
#include "platform.h"
#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define LIST(...) (const int[]){__VA_ARGS__}
#define LENGTH(...) (int)(sizeof LIST(__VA_ARGS__) / sizeof(int))
#define EACH(x, ...) \
    for (int x##_at = 0, x; x##_at < LENGTH(__VA_ARGS__) && (x = LIST(__VA_ARGS__)[x##_at], 1); x##_at++)
#define CASE(...) (failed += wrong > 0, cases++, wrong = used = 0, snprintf(title, sizeof title, __VA_ARGS__))

enum { ARRAYS = 64, ROOM = 1 << 20, PAGE = 1 << 16 /* PAGE is the largest page size of any supported system */ };

static const micro *const u = &TABLE;
static const float untouched = -12345.f; /* `untouched` is the value of output elements before a micro-kernel runs */
#define QUOTED_(name) #name
#define QUOTED(name) QUOTED_(name)

static const float odd[] = {0, -0.f, 1e-45f, -1e-45f, FLT_MIN, 1, -1, FLT_MAX, -FLT_MAX, INFINITY, -INFINITY, NAN};
enum { ODD = sizeof odd / sizeof *odd };

static char title[160], (*arrays)[ROOM + PAGE];
static int cases, failed, wrong, used; /* wrong: values of the current case outside their bounds; used: arrays it has taken */

static void crashed(int number)
{
    printf("%s: touched memory outside its arrays\n", title);
    fflush(stdout);
    _Exit(128 + number);
}

/* Returns an array of `count` elements of `size` bytes that ends at an inaccessible page. */
static void *array(int count, int size)
{
    if (used == ARRAYS || count * size > ROOM)
        abort();
    return arrays[used++] + ROOM - count * size;
}

static float *copy(const float *x, int count) { return memcpy(array(count, sizeof *x), x, count * sizeof *x); }

/* Returns an output array, filled with the value `untouched`. */
static float *blank(int count)
{
    float *y = array(count, sizeof *y);
    for (int i = 0; i < count; i++)
        y[i] = untouched;
    return y;
}

/* Returns random numbers, uniform between -range and range. */
static float *numbers(int count, float range)
{
    static uint64_t state = 1;
    float *x = array(count, sizeof *x);
    for (int i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = ((state >> 11) * 0x1p-52 - 1) * range;
    }
    return x;
}

static void expect(int at, double got, double want, double bound)
{
    if (got == want || (isnan(got) && isnan(want)) || fabs(got - want) <= bound)
        return;
    if (!wrong++)
        printf("%s: at %d, %.9g is not %.9g within %.3g\n", title, at, got, want, bound);
}

/* Expects that the gaps between rows of n columns are unchanged. */
static void expect_gaps(const float *y, int ldy, int m, int n)
{
    for (int i = n; i < (m - 1) * ldy; i++)
        if (i % ldy >= n)
            expect(i, y[i], untouched, 0);
}

/* Fills the gaps between rows of n columns for expect_gaps, and returns y. */
static float *apart(float *y, int ldy, int m, int n)
{
    for (int i = n; i < (m - 1) * ldy; i++)
        if (i % ldy >= n)
            y[i] = untouched;
    return y;
}

/* Returns the relative error of n roundings. The error of a sum of n rounded terms is at most this error times the
 * sum of the terms' magnitudes. */
static double roundings(double n) { return n * 0x1p-24 / (1 - n * 0x1p-24); }

typedef struct { double value, size; } sum; /* value: a sum of terms; size: the sum of the terms' absolute values */

static void include(sum *s, double term)
{
    s->value += term;
    s->size += fabs(term);
}

/* Expects got = act(t), where t has the given error. GELU's slope is at most 1.13. The micro-kernel's GELU has an error of at most
 * 1e-6, or an ulp if the result is large. */
static void expect_act(int at, float got, double t, double error, int act)
{
    const double gelu = t == -INFINITY ? 0 : t * 0.5 * erfc(-t * M_SQRT1_2);
    if (act == ACT_GELU)
        expect(at, got, gelu, 1.13 * error + fmax(1e-6, roundings(2) * fabs(gelu)));
    else
        expect(at, got, act == ACT_RELU && t < 0 ? 0 : t, error);
}

static double half_value(int h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double special = fraction ? NAN : INFINITY, subnormal = ldexp(fraction, -24);
    const double size = exponent == 31 ? special : exponent ? ldexp(1024 + fraction, exponent - 25) : subnormal;
    return h >> 15 ? -size : size;
}

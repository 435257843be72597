/* Softmax and exp of rows and of columns. Included by generic.h. */

/* Computes the exponentials of a row: y[j] = exp(x[j] - top),  top = max_j x[j],  j < n. Stores top in `*top` and returns the sum of y. */
INLINE float exp_row(float *y, const float *x, int64_t n, float *top)
{
    vf high = splat(-INFINITY), sum = splat(0.f);
    int64_t j = 0;
    for (; j + VL <= n; j += VL)
        high = vmax(high, load(x + j));
    if (j < n)
        high = vmax(high, load_part(x + j, n - j, -INFINITY));
    const float highest = *top = max_lanes(high);
    for (j = 0; j + VL <= n; j += VL) {
        const vf e = exp_v(load(x + j) - highest);
        sum += e;
        store(y + j, e);
    }
    if (j < n) {
        const vf e = exp_v(load_part(x + j, n - j, -INFINITY) - highest);
        sum += e;
        store_part(y + j, e, n - j);
    }
    return sum_lanes(sum);
}

static void softmax(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i++, x += ldx, y += ldy) {
        float top;
        const float scale = 1.f / exp_row(y, x, n, &top);
        int64_t j;
        for (j = 0; j + VL <= n; j += VL)
            store(y + j, load(y + j) * scale);
        for (; j < n; j++)
            y[j] *= scale;
    }
}

/* Requires n % VL = 0. */
static void softmax_columns(float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t j = 0; j < n; j += VL) {
        vf top = load(x + j), sum = splat(0.f);
        for (int64_t i = 1; i < m; i++)
            top = vmax(top, load(x + i * ldx + j));
        for (int64_t i = 0; i < m; i++) {
            vf e = exp_v(load(x + i * ldx + j) - top);
            sum += e;
            store(x + i * ldx + j, e);
        }
        sum = 1.f / sum;
        for (int64_t i = 0; i < m; i++)
            store(x + i * ldx + j, load(x + i * ldx + j) * sum);
    }
}

static void exp_rows(float *x, int64_t ldx, int64_t m, int64_t n, float *top, float *sum)
{
    for (int64_t i = 0; i < m; i++, x += ldx)
        sum[i] = exp_row(x, x, n, &top[i]);
}

/* LayerNorm of rows and of columns, means, and sums of squared deviations. Included by generic.h. */

/* y[r] = sum_c (x[r,c] - mean[r])^power,  r < rows <= 4, power 1 or 2. For the sums of rows, power is 1 and mean[r] is 0. Computing several
 * rows at once hides the latency of additions. */
INLINE void row_moments(const int rows, const int power, float *y, const float *x, int64_t ldx, int64_t n, const float *mean)
{
    vf s0[4], s1[4], d;
    UNROLL for (int r = 0; r < rows; r++) s0[r] = s1[r] = splat(0.f);
#define NORM_INCLUDE(s, value) d = value - mean[r]; s[r] += power == 1 ? d : d * d
    int64_t c = 0;
    for (; c + 2 * VL <= n; c += 2 * VL)
        UNROLL for (int r = 0; r < rows; r++) {
            NORM_INCLUDE(s0, load(x + r * ldx + c));
            NORM_INCLUDE(s1, load(x + r * ldx + c + VL));
        }
    for (; c + VL <= n; c += VL)
        UNROLL for (int r = 0; r < rows; r++) {
            NORM_INCLUDE(s0, load(x + r * ldx + c));
        }
    if (c < n)
        UNROLL for (int r = 0; r < rows; r++) {
            NORM_INCLUDE(s1, load_part(x + r * ldx + c, n - c, mean[r]));
        }
#undef NORM_INCLUDE
    UNROLL for (int r = 0; r < rows; r++) y[r] = sum_lanes(s0[r] + s1[r]);
}

/* Computes LayerNorm of rows i to i + rows - 1. */
INLINE void layer_norm_rows(const int rows, const norm_args *g, int64_t i)
{
    const int64_t n = g->n, ldx = g->ldx, ldy = g->ldy;
    const float *x = g->x + i * ldx, *weight = g->weight, *bias = g->bias;
    float *y = g->y + i * ldy;
    float mean[4] = {0}, scale[4];
    row_moments(rows, 1, mean, x, ldx, n, mean);
    UNROLL for (int r = 0; r < rows; r++) mean[r] /= n;
    row_moments(rows, 2, scale, x, ldx, n, mean);
    UNROLL for (int r = 0; r < rows; r++) scale[r] = 1.f / sqrtf(scale[r] / n + g->eps);
    int64_t c = 0;
    for (; c + VL <= n; c += VL) {
        const vf wv = load(weight + c), bv = load(bias + c);
        UNROLL for (int r = 0; r < rows; r++) store(y + r * ldy + c, (load(x + r * ldx + c) - mean[r]) * scale[r] * wv + bv);
    }
    for (; c < n; c++)
        UNROLL for (int r = 0; r < rows; r++)
            y[r * ldy + c] = (x[r * ldx + c] - mean[r]) * scale[r] * weight[c] + bias[c];
    if (g->act)
        for (int r = 0; r < rows; r++)
            activate(y + r * ldy, y + r * ldy, n, g->act);
}

/* Returns for each lane the mean over i of (x[i]*scale + shift[i] - center)^power, power 1 or 2. */
INLINE vf column_moment(const int power, const float *x, int64_t ldx, int64_t m, vf scale, const float *shift, vf center)
{
    vf sums[4] = {0};
    for (int64_t i = 0; i < m; i++) {
        const vf v = load(x + i * ldx) * scale + (shift ? shift[i] : 0.f) - center;
        sums[i % 4] += power == 2 ? v * v : v;
    }
    return (sums[0] + sums[1] + (sums[2] + sums[3])) / (float)m;
}

INLINE void norm_columns_by(const norm_columns_args *g, const int act)
{
    for (int64_t j = 0; j < g->n; j += VL) {
        const float *x = g->x + j;
        const vf scale = g->scale ? load(g->scale + j) : splat(1.f);
        const vf mean = column_moment(1, x, g->ldx, g->m, scale, g->shift, splat(0.f));
        vf inverse = column_moment(2, x, g->ldx, g->m, scale, g->shift, mean) + g->eps;
        for (int l = 0; l < VL; l++)
            inverse[l] = 1.f / sqrtf(inverse[l]);
        for (int64_t i = 0; i < g->m; i++) {
            const vf v = load(x + i * g->ldx) * scale + (g->shift ? g->shift[i] : 0.f) - mean;
            store(g->y + i * g->ldy + j, act_v(v * inverse * g->weight[i] + g->bias[i], act));
        }
    }
}

static void norm_columns(const norm_columns_args *g)
{
    if (g->act == ACT_GELU)
        norm_columns_by(g, ACT_GELU);
    else
        norm_columns_by(g, ACT_NONE);
}

/* Computes LayerNorm of VL rows with few channels, from row i on. The rows are transposed, so that each lane of a vector holds a row. */
INLINE void layer_norm_few(const norm_args *g, int64_t i, const int act)
{
    float transposed[VL * VL];
    const norm_columns_args columns = {.m = g->n, .n = VL, .x = transposed, .ldx = VL, .weight = g->weight, .bias = g->bias,
                                       .eps = g->eps, .y = transposed, .ldy = VL};
    for (int64_t r = 0; r < VL; r++)
        for (int64_t c = 0; c < g->n; c++)
            transposed[c * VL + r] = g->x[(i + r) * g->ldx + c];
    norm_columns_by(&columns, act);
    for (int64_t r = 0; r < VL; r++)
        for (int64_t c = 0; c < g->n; c++)
            g->y[(i + r) * g->ldy + c] = transposed[c * VL + r];
}

static void layer_norm(const norm_args *g)
{
    int64_t i = 0;
    for (; 2 * g->n <= VL && i + VL <= g->m; i += VL)
        if (g->act == ACT_GELU)
            layer_norm_few(g, i, ACT_GELU);
        else
            layer_norm_few(g, i, g->act == ACT_RELU ? ACT_RELU : ACT_NONE);
    for (; i + 4 <= g->m; i += 4)
        layer_norm_rows(4, g, i);
    for (; i < g->m; i++)
        layer_norm_rows(1, g, i);
}

static void sum_sq_deviation(float *y, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i++) {
        float mean = 0.f;
        row_moments(1, 1, &mean, x + i * ldx, ldx, n, &mean);
        mean /= n;
        row_moments(1, 2, y + i, x + i * ldx, ldx, n, &mean);
    }
}

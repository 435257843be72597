/* Norms, softmax and what else sees one row or column at a time. Included by generic.h. */

/* The sum of (x - mean)^power for each of a few rows, which hide each other's latency; power 1 or 2. */
INLINE void row_moments(const int rows, const int power, float *y, const float *x, int64_t ldx, int64_t n, const float *mean)
{
    vf s0[4], s1[4], d;
    UNROLL for (int r = 0; r < rows; r++) s0[r] = s1[r] = splat(0.f);
#define INCLUDE(s, value) d = value - mean[r]; s[r] += power == 1 ? d : d * d
    int64_t c = 0;
    for (; c + 2 * VL <= n; c += 2 * VL)
        UNROLL for (int r = 0; r < rows; r++) {
            INCLUDE(s0, load(x + r * ldx + c));
            INCLUDE(s1, load(x + r * ldx + c + VL));
        }
    for (; c + VL <= n; c += VL)
        UNROLL for (int r = 0; r < rows; r++) {
            INCLUDE(s0, load(x + r * ldx + c));
        }
    if (c < n)
        UNROLL for (int r = 0; r < rows; r++) {
            INCLUDE(s1, load_part(x + r * ldx + c, n - c, mean[r]));
        }
#undef INCLUDE
    UNROLL for (int r = 0; r < rows; r++) y[r] = sum_lanes(s0[r] + s1[r]);
}

INLINE void layer_norm_rows(const int rows, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t n, const float *weight,
                            const float *bias, float eps, int act)
{
    float mean[4] = {0}, scale[4];
    row_moments(rows, 1, mean, x, ldx, n, mean);
    UNROLL for (int r = 0; r < rows; r++) mean[r] /= n;
    row_moments(rows, 2, scale, x, ldx, n, mean);
    UNROLL for (int r = 0; r < rows; r++) scale[r] = 1.f / sqrtf(scale[r] / n + eps);
    int64_t c = 0;
    for (; c + VL <= n; c += VL)
        UNROLL for (int r = 0; r < rows; r++)
            store(y + r * ldy + c, (load(x + r * ldx + c) - mean[r]) * scale[r] * load(weight + c) + load(bias + c));
    for (; c < n; c++)
        UNROLL for (int r = 0; r < rows; r++)
            y[r * ldy + c] = (x[r * ldx + c] - mean[r]) * scale[r] * weight[c] + bias[c];
    if (act)
        for (int r = 0; r < rows; r++)
            activate(y + r * ldy, y + r * ldy, n, act);
}

/* y = exp(x - top), top the largest; their sum */
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

/* n % VL = 0 in the next five */
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

static void scale_columns(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n, const float *scale,
                          const float *added, int64_t lda)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j += VL) {
            const vf v = load(x + i * ldx + j) * load(scale + j);
            store(y + i * ldy + j, added ? v + load(added + i * lda + j) : v);
        }
}

INLINE void dot_vectors(const int vectors, float *y, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m)
{
    vf s[4][2] = {0};
    UNROLL for (int v = 0; v < vectors; v++) s[v][0] = load(y + v * VL);
    int64_t i = 0;
    for (; i + 2 <= m; i += 2)
        UNROLL for (int v = 0; v < vectors; v++)
            UNROLL for (int q = 0; q < 2; q++) s[v][q] += load(a + (i + q) * lda + v * VL) * load(b + (i + q) * ldb + v * VL);
    if (i < m)
        UNROLL for (int v = 0; v < vectors; v++) s[v][0] += load(a + i * lda + v * VL) * load(b + i * ldb + v * VL);
    UNROLL for (int v = 0; v < vectors; v++) store(y + v * VL, s[v][0] + s[v][1]);
}

static void dot_columns(float *y, const float *a, int64_t lda, const float *b, int64_t ldb, int64_t m, int64_t n)
{
    int64_t j = 0;
    for (; j + 4 * VL <= n; j += 4 * VL)
        dot_vectors(4, y + j, a + j, lda, b + j, ldb, m);
    for (; j < n; j += VL)
        dot_vectors(1, y + j, a + j, lda, b + j, ldb, m);
}

static void square_columns(float *y, float *z, const float *x, int64_t ldx, const float *weight, int64_t m, int64_t n)
{
    for (int64_t j = 0; j < n; j += VL) {
        vf s0 = load(y + j), s1 = load(z + j);
        for (int64_t i = 0; i < m; i++) {
            const vf v = load(x + i * ldx + j), square = v * v;
            s0 += square * weight[2 * i];
            s1 += square * weight[2 * i + 1];
        }
        store(y + j, s0);
        store(z + j, s1);
    }
}

/* the mean over i of power-th powers of x[i,:]*scale + shift[i] - less, of a vector */
INLINE vf column_moment(const int power, const float *x, int64_t ldx, int64_t m, vf scale, const float *shift, vf less)
{
    vf sums[4] = {0};
    for (int64_t i = 0; i < m; i++) {
        const vf v = load(x + i * ldx) * scale + (shift ? shift[i] : 0.f) - less;
        sums[i % 4] += power == 2 ? v * v : v;
    }
    return (sums[0] + sums[1] + (sums[2] + sums[3])) / (float)m;
}

INLINE void norm_columns_by(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n, const float *scale,
                            const float *shift, const float *weight, const float *bias, float eps, const int act)
{
    for (int64_t j = 0; j < n; j += VL) {
        const vf scale_v = scale ? load(scale + j) : splat(1.f);
        const vf mean = column_moment(1, x + j, ldx, m, scale_v, shift, splat(0.f));
        vf inverse = column_moment(2, x + j, ldx, m, scale_v, shift, mean) + eps;
        for (int l = 0; l < VL; l++)
            inverse[l] = 1.f / sqrtf(inverse[l]);
        for (int64_t i = 0; i < m; i++) {
            const vf v = load(x + i * ldx + j) * scale_v + (shift ? shift[i] : 0.f) - mean;
            store(y + i * ldy + j, act_v(v * inverse * weight[i] + bias[i], act));
        }
    }
}

static void norm_columns(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n, const float *scale,
                         const float *shift, const float *weight, const float *bias, float eps, int act)
{
    if (act == ACT_GELU)
        norm_columns_by(y, ldy, x, ldx, m, n, scale, shift, weight, bias, eps, ACT_GELU);
    else
        norm_columns_by(y, ldy, x, ldx, m, n, scale, shift, weight, bias, eps, ACT_NONE);
}

/* VL rows of a few channels, turned so that rows lie along the vectors. */
INLINE void layer_norm_few(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t n, const float *weight, const float *bias,
                           float eps, const int act)
{
    float turned[VL * VL];
    for (int64_t r = 0; r < VL; r++)
        for (int64_t c = 0; c < n; c++)
            turned[c * VL + r] = x[r * ldx + c];
    norm_columns_by(turned, VL, turned, VL, n, VL, NULL, NULL, weight, bias, eps, act);
    for (int64_t r = 0; r < VL; r++)
        for (int64_t c = 0; c < n; c++)
            y[r * ldy + c] = turned[c * VL + r];
}

static void layer_norm(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n, const float *weight,
                       const float *bias, float eps, int act)
{
    int64_t i = 0;
    for (; 2 * n <= VL && i + VL <= m; i += VL)
        if (act == ACT_GELU)
            layer_norm_few(y + i * ldy, ldy, x + i * ldx, ldx, n, weight, bias, eps, ACT_GELU);
        else
            layer_norm_few(y + i * ldy, ldy, x + i * ldx, ldx, n, weight, bias, eps, act == ACT_RELU ? ACT_RELU : ACT_NONE);
    for (; i + 4 <= m; i += 4)
        layer_norm_rows(4, y + i * ldy, ldy, x + i * ldx, ldx, n, weight, bias, eps, act);
    for (; i < m; i++)
        layer_norm_rows(1, y + i * ldy, ldy, x + i * ldx, ldx, n, weight, bias, eps, act);
}

INLINE void draw_some(const int m, float *y, int64_t ldy, const float *x, int64_t ldx, int64_t channels, int64_t n,
                      const float *bias, const float *w)
{
    for (int64_t j = 0; j < n; j += VL) {
        vf sums[4] = {0};
        for (int64_t c = 0; c < channels; c++) {
            const vf v = gelu_v(load(x + c * ldx + j) + bias[c]);
            UNROLL for (int i = 0; i < m; i++) sums[i] += v * w[i * channels + c];
        }
        UNROLL for (int i = 0; i < m; i++) store(y + i * ldy + j, sums[i]);
    }
}

static void draw_columns(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t channels, int64_t n, const float *bias,
                         const float *w, int64_t m)
{
    for (; m > 4; m -= 4, y += 4 * ldy, w += 4 * channels)
        draw_some(4, y, ldy, x, ldx, channels, n, bias, w);
#define SOME(count) case count: draw_some(count, y, ldy, x, ldx, channels, n, bias, w); break;
    switch (m) {
        SOME(1) SOME(2) SOME(3) SOME(4)
    }
#undef SOME
}

static void exp_rows(float *x, int64_t ldx, int64_t m, int64_t n, float *top, float *sum)
{
    for (int64_t i = 0; i < m; i++, x += ldx)
        sum[i] = exp_row(x, x, n, &top[i]);
}

/* m by n sums held at once, of k terms each */
INLINE void dot_tile(const int m, const int n, float *y, int64_t ldy, const float *a, int64_t lda, const float *b, int64_t ldb,
                     int64_t k, lookahead *next)
{
    vf sums[4][4] = {0};
    for (int64_t p = 0; p < k; p += VL) {
        for (int64_t line = 0; line < next->paced; line++)
            fetch_line(next);
        vf bv[4];
        UNROLL for (int j = 0; j < n; j++) bv[j] = k - p < VL ? load_part(b + j * ldb + p, k - p, 0.f) : load(b + j * ldb + p);
        UNROLL for (int i = 0; i < m; i++) {
            const vf av = k - p < VL ? load_part(a + i * lda + p, k - p, 0.f) : load(a + i * lda + p);
            UNROLL for (int j = 0; j < n; j++) sums[i][j] += av * bv[j];
        }
    }
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < n; j++) y[i * ldy + j] = sum_lanes(sums[i][j]);
}

static void dot_rows(float *y, int64_t ldy, const float *a, int64_t lda, int64_t m, const float *b, int64_t ldb, int64_t n,
                     int64_t k, const void *ahead, int64_t ahead_bytes)
{
    enum { ROWS = VL == 16 ? 4 : 2 }; /* with four columns in registers */
    const int64_t steps = (m / ROWS + m % ROWS) * ((n + 3) / 4) * ((k + VL - 1) / VL);
    lookahead next = {.at = ahead};
    if (ahead_bytes)
        next.end = next.at + ahead_bytes, next.paced = (ahead_bytes / 64 + steps - 1) / steps;
#define COLUMNS(count) \
    case count: \
        for (i = 0; i + ROWS <= m; i += ROWS) \
            dot_tile(ROWS, count, y + i * ldy + j, ldy, a + i * lda, lda, b + j * ldb, ldb, k, &next); \
        for (; i < m; i++) \
            dot_tile(1, count, y + i * ldy + j, ldy, a + i * lda, lda, b + j * ldb, ldb, k, &next); \
        break;
    for (int64_t j = 0, i; j < n; j += 4)
        switch (n - j) {
            COLUMNS(1) COLUMNS(2) COLUMNS(3) default: COLUMNS(4)
        }
#undef COLUMNS
}

static void spread(float *y, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    for (int64_t i = 0; i < m; i++) {
        float mean = 0.f;
        row_moments(1, 1, &mean, x + i * ldx, ldx, n, &mean);
        mean /= n;
        row_moments(1, 2, y + i, x + i * ldx, ldx, n, &mean);
    }
}

static void transpose(float *y, int64_t ldy, const float *x, int64_t ldx, int64_t m, int64_t n)
{
    int64_t i = 0;
#ifdef vpick
    for (; i + VL <= m; i += VL) {
        int64_t j = 0;
        for (; j + VL <= n; j += VL)
            transpose_block(y + j * ldy + i, ldy, x + i * ldx + j, ldx);
        for (; j < n; j++)
            for (int64_t r = i; r < i + VL; r++)
                y[j * ldy + r] = x[r * ldx + j];
    }
#endif
    for (; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            y[j * ldy + i] = x[i * ldx + j];
}

static void add(float *y, const float *x0, const float *x1, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        y[j] = x0[j] + x1[j];
}

static void blend(float *y, const float *x0, const float *x1, float t, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        y[j] = x0[j] * (1.f - t) + x1[j] * t;
}

INLINE void resample_each(float *y, const float *x, const int32_t *index, const float *t, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        y[j] = x[index[j]] * (1.f - t[j]) + x[index[j] + 1] * t[j];
}

static void resample(float *y, const float *x, const int32_t *index, const float *t, int64_t count)
{
    int64_t j = 0;
#ifdef vpick /* where the values of a vector lie within two of x, which is the rule when it is made larger */
    const int32_t length = index[count - 1] + 2;
    for (; j + VL <= count; j += VL) {
        const int32_t first = index[j];
        if (first + 2 * VL > length || index[j + VL - 1] - first > 2 * VL - 2) {
            resample_each(y + j, x, index + j, t + j, VL);
            continue;
        }
        vi at;
        memcpy(&at, index + j, sizeof at);
        at -= first;
        const vf low = load(x + first), high = load(x + first + VL), part = load(t + j);
        store(y + j, vpick(low, high, at) * (1.f - part) + vpick(low, high, at + 1) * part);
    }
#endif
    resample_each(y + j, x, index + j, t + j, count - j);
}

static void turns(float *y, float x0, const float *w0, float x1, const float *w1, int64_t n)
{
    for (int64_t j = 0; j < n; j += VL) {
        const int64_t count = n - j < VL ? n - j : VL;
        vf sine, cosine;
        sin_cos_v(load_part(w0 + j, count, 0.f) * x0 + load_part(w1 + j, count, 0.f) * x1, &sine, &cosine);
        store_part(y + j, sine, count);
        store_part(y + n + j, cosine, count);
    }
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

static int64_t count_above(const float *x, float threshold, int64_t count)
{
    int32_t n = 0;
    for (int64_t j = 0; j < count; j++)
        n += x[j] > threshold;
    return n;
}

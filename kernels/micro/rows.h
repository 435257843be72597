/* Norms, softmax and what else sees one row or column at a time. Included by generic.h. */

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

static int64_t count_above(const float *x, float threshold, int64_t count)
{
    int32_t n = 0;
    for (int64_t j = 0; j < count; j++)
        n += x[j] > threshold;
    return n;
}

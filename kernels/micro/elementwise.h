/* Scaling, addition, normalisation, and sines and cosines. micro.h has the equations. Included by generic.h. */

static void scale_columns(float *x, int64_t ldx, int64_t m, int64_t n, const float *scale)
{
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j += VL)
            store(x + i * ldx + j, load(x + i * ldx + j) * load(scale + j));
}

static void add(float *y, const float *x0, const float *x1, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        y[j] = x0[j] + x1[j];
}

static void sincos_2pi(float *y, float x0, const float *w0, float x1, const float *w1, int64_t n)
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

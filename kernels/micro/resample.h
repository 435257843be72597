/* Linear interpolation between rows and along a row, and comparisons with a threshold. Included by generic.h. */

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
#ifdef vpick /* a fast path: when x is enlarged, a vector of y usually needs only two neighbouring vectors of x */
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

static void greater_than(uint8_t *y, const float *x, float threshold, int64_t count)
{
    for (int64_t j = 0; j < count; j++)
        y[j] = x[j] > threshold;
}

static int64_t count_greater(const float *x, float threshold, int64_t count)
{
    int32_t n = 0;
    for (int64_t j = 0; j < count; j++)
        n += x[j] > threshold;
    return n;
}

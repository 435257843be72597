/* Depthwise convolution, and Winograd's transforms. micro.h has the equations. Included by generic.h. */

/* Computes VL channels of px neighbouring output pixels. Each input vector is loaded once and used for all output pixels that need it. */
INLINE void depthwise3x3_step(const int px, const int stride, const depthwise3x3_args *g, int64_t channels, int64_t w, int64_t c)
{
    vf acc[TAPW];
    UNROLL for (int o = 0; o < px; o++) acc[o] = g->bias ? load(g->bias + c) : splat(0.f);
    const float *weight = g->weight + c;
    UNROLL for (int i = 0; i < 3; i++) {
        const float *x = g->x[i] + w * stride * channels + c;
        vf tap[3];
        UNROLL for (int j = 0; j < 3; j++, weight += channels) tap[j] = load(weight);
        UNROLL for (int col = 0; col <= (px - 1) * stride + 2; col++) {
            vf xv = load(x + col * channels);
            UNROLL for (int j = 0; j < 3; j++)
                if (col >= j && (col - j) % stride == 0 && (col - j) / stride < px)
                    acc[(col - j) / stride] += xv * tap[j];
        }
    }
    float *y = g->y + w * channels + c;
    UNROLL for (int o = 0; o < px; o++, y += channels) store(y, acc[o]);
}

INLINE void depthwise3x3_pixels(const int px, const int stride, const depthwise3x3_args *g, int64_t w)
{
    const int64_t channels = g->channels;
    for (int64_t c = 0; c + VL <= channels; c += VL)
        depthwise3x3_step(px, stride, g, channels, w, c);
    if (channels % VL) /* the last vector overlaps the one before it, and the overlap is computed twice */
        depthwise3x3_step(px, stride, g, channels, w, channels - VL);
    if (g->act)
        activate(g->y + w * g->channels, g->y + w * g->channels, px * g->channels, g->act);
}

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

static void depthwise_taps(const taps_args *g, int64_t channels)
{
    int64_t c = 0;
    for (; c + VL <= channels; c += VL) {
        vf acc = g->bias ? load(g->bias + c) : splat(0.f);
        for (int64_t t = 0; t < g->taps; t++)
            acc += load(g->x[t] + c) * load(g->w[t] + c);
        store(g->y + c, acc);
    }
    for (; c < channels; c++) {
        float acc = g->bias ? g->bias[c] : 0.f;
        for (int64_t t = 0; t < g->taps; t++)
            acc += g->x[t][c] * g->w[t][c];
        g->y[c] = acc;
    }
    if (g->act)
        activate(g->y, g->y, channels, g->act);
}

static void depthwise_flat(const taps_args *g, int64_t period, int64_t count)
{
    int64_t f = 0;
    for (; f + TAPW * period <= count; f += TAPW * period) /* weights are loaded once for TAPW periods */
        for (int64_t phase = 0; phase < period; phase += VL) {
            vf acc[TAPW];
            UNROLL for (int o = 0; o < TAPW; o++) acc[o] = g->bias ? load(g->bias + phase) : splat(0.f);
            for (int64_t t = 0; t < g->taps; t++) {
                const float *at = g->x[t] + f + phase;
                vf tap = load(g->w[t] + phase);
                UNROLL for (int o = 0; o < TAPW; o++) acc[o] += load(at + o * period) * tap;
            }
            UNROLL for (int o = 0; o < TAPW; o++) store(g->y + f + o * period + phase, acc[o]);
        }
    for (int64_t phase = 0; f + VL <= count; f += VL, phase += VL) {
        if (phase == period)
            phase = 0;
        vf acc = g->bias ? load(g->bias + phase) : splat(0.f);
        for (int64_t t = 0; t < g->taps; t++)
            acc += load(g->x[t] + f) * load(g->w[t] + phase);
        store(g->y + f, acc);
    }
    for (; f < count; f++) {
        float acc = g->bias ? g->bias[f % period] : 0.f;
        for (int64_t t = 0; t < g->taps; t++)
            acc += g->x[t][f] * g->w[t][f % period];
        g->y[f] = acc;
    }
    if (g->act)
        activate(g->y, g->y, count, g->act);
}

static void winograd_input(float *v, int64_t stride, const float *const *x, int64_t n)
{
    for (int64_t c = 0; c < n; c += VL) {
        vf rows[4][4], t;
        UNROLL for (int j = 0; j < 4; j++) { /* rows = B' d: the transpose of Winograd's matrix B, times the 4x4 tile d */
            vf d0 = load(x[j] + c), d1 = load(x[4 + j] + c), d2 = load(x[8 + j] + c), d3 = load(x[12 + j] + c);
            rows[0][j] = d0 - d2;
            rows[1][j] = d1 + d2;
            rows[2][j] = d2 - d1;
            rows[3][j] = d1 - d3;
        }
        UNROLL for (int i = 0; i < 4; i++) { /* v = rows * B: B' d from the loop above, times Winograd's matrix B */
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
        UNROLL for (int j = 0; j < 4; j++) { /* top and bottom = A' m: the transpose of Winograd's matrix A, times the 4x4 products m */
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

/* Checks of the micro-kernels that process rows or columns, against their definitions in double precision. Included by check.c. */

/* Expects y to be the layer norm of n values x. The mean has the error of a sum, which shifts every deviation from the mean. The
 * variance has the error of a sum, plus the square of this shift. The square root, the division, the product and the bias add rounding
 * errors (see layer_norm_bound in tests/support/tolerances.py). */
static void expect_layer_norm(const float *y, const float *x, int n, const float *weight, const float *bias, float eps,
                              int act)
{
    sum s = {0};
    double variance = 0;
    for (int c = 0; c < n; c++)
        include(&s, x[c]);
    const double mean = s.value / n, shift = roundings(n + 1) * s.size / n;
    for (int c = 0; c < n; c++)
        variance += pow(x[c] - mean, 2) / n;
    const double spread = sqrt(variance + eps);
    const double relative = roundings(7) + (roundings(n + 4) * variance + shift * shift) / (variance + eps);
    for (int c = 0; c < n; c++) {
        const double d = x[c] - mean, scaled = d / spread * weight[c];
        const double error = (shift + fabs(d) * relative) / spread * fabs(weight[c]);
        expect_act(c, y[c], scaled + bias[c], error + roundings(3) * (fabs(scaled) + fabs(bias[c])), act);
    }
}

static void layer_norm(void)
{
    const int vl = u->vl;
    const float eps = 1e-5f;
    for (int act = ACT_NONE; act <= ACT_RELU; act++)
        EACH(m, 1, 3, 4, 9, 2 * vl + 5)
            EACH(n, 1, vl / 2, vl - 1, vl, 2 * vl + 1, 5 * vl + 3, 320) {
                CASE("layer_norm rows %d, channels %d, act %d", m, n, act);
                const int ldx = n + 2, ldy = n + 3;
                const float *x = numbers((m - 1) * ldx + n, 4), *weight = numbers(n, 1), *bias = numbers(n, 1);
                float *y = blank((m - 1) * ldy + n);
                u->layer_norm(&(norm_args){m, n, x, ldx, weight, bias, eps, act, y, ldy});
                for (int i = 0; i < m; i++)
                    expect_layer_norm(y + i * ldy, x + i * ldx, n, weight, bias, eps, act);
                expect_gaps(y, ldy, m, n);
            }
}

/* Returns the relative error of exp(-distance): 4 ulps, and the rounding of the argument. For distances beyond 88, exp is subnormal. */
static double exp_error(double distance) { return roundings(8 + fmin(distance, 88)); }

/* Expects y = softmax(x), for n values of y and x that are `step` apart. If top is not NULL, expects y = exp(x - *top) instead, and
 * expects *total to be the sum of the exponentials. Subnormal values of y may be 0. */
static void expect_softmax(const float *y, const float *x, int step, int n, const float *top, const float *total)
{
    float highest = -INFINITY;
    double s = 0, error = 0; /* s: sum of the exponentials; error: error of this sum */
    for (int j = 0; j < n; j++)
        highest = x[j * step] > highest ? x[j * step] : highest;
    for (int j = 0; j < n; j++) {
        const double distance = (double)highest - x[j * step], e = exp(-distance);
        s += e;
        error += e * exp_error(distance);
    }
    error = error / s + roundings(n + 2);
    for (int j = 0; j < n; j++) {
        const double distance = (double)highest - x[j * step], want = exp(-distance) / (top ? 1 : s);
        expect(j, y[j * step], want, (exp_error(distance) + (top ? 0 : error)) * want + 2 * FLT_MIN);
    }
    if (top) {
        expect(n, *top, highest, 0);
        expect(n, *total, s, error * s);
    }
}

static void softmaxes(void)
{
    const int m = 3;
    EACH(range, 1, 100) {
        EACH(n, 1, u->vl - 1, u->vl, u->vl + 1, 5 * u->vl + 3, 600) {
            CASE("softmax n %d, range %d", n, range);
            const int ldx = n + 2, ldy = n + 3;
            float *x = numbers((m - 1) * ldx + n, range), *y = blank((m - 1) * ldy + n);
            for (int j = 1; j < n; j *= 3)
                x[j] = -INFINITY;
            u->softmax(y, ldy, x, ldx, m, n);
            for (int i = 0; i < m; i++)
                expect_softmax(y + i * ldy, x + i * ldx, 1, n, NULL, NULL);
            expect_gaps(y, ldy, m, n);
        }
        EACH(m, 1, 2, 7, 50) {
            CASE("softmax_columns rows %d, range %d", m, range);
            const int n = 3 * u->vl, ld = n + 3, size = (m - 1) * ld + n;
            float *y = apart(numbers(size, range), ld, m, n), *x = copy(y, size);
            u->softmax_columns(y, ld, m, n);
            for (int j = 0; j < n; j++)
                expect_softmax(y + j, x + j, ld, m, NULL, NULL);
            expect_gaps(y, ld, m, n);
        }
        EACH(n, 1, u->vl - 1, u->vl, u->vl + 1, 256) {
            CASE("exp_rows n %d, range %d", n, range);
            const int ld = n + 2, size = (m - 1) * ld + n;
            float *y = apart(numbers(size, range), ld, m, n), *x = copy(y, size), *top = blank(m), *total = blank(m);
            u->exp_rows(y, ld, m, n, top, total);
            for (int i = 0; i < m; i++)
                expect_softmax(y + i * ld, x + i * ld, 1, n, top + i, total + i);
            expect_gaps(y, ld, m, n);
        }
    }
}

static void scales(void)
{
    const int n = 5 * u->vl, ld = n + 3;
    EACH(m, 1, 2, 7) {
        CASE("scale_columns, dot_columns rows %d", m);
        const int size = (m - 1) * ld + n;
        const float *x = numbers(size, 2), *w = numbers(size, 1), *scale = numbers(n, 1), *bias = numbers(n, 1);
        float *columns = apart(copy(x, size), ld, m, n), *dot = copy(bias, n);
        u->scale_columns(columns, ld, m, n, scale);
        u->dot_columns(&(dot_columns_args){m, n, x, ld, w, ld, dot});
        for (int j = 0; j < n; j++) {
            sum s = {0};
            include(&s, bias[j]);
            for (int i = 0; i < m; i++) {
                const double product = (double)x[i * ld + j] * scale[j];
                include(&s, (double)x[i * ld + j] * w[i * ld + j]);
                expect(i * ld + j, columns[i * ld + j], product, roundings(1) * fabs(product));
            }
            expect(j, dot[j], s.value, roundings(m + 1) * s.size);
        }
        expect_gaps(columns, ld, m, n);
    }
}

/* Checks the layer norm of each column of v = x * scale + shift. The error bound is that of expect_layer_norm, with two more roundings for
 * computing v. */
static void norm_columns(void)
{
    const float eps = 1e-6f;
    for (int i = 0; i < 4; i++)
        EACH(m, 1, 2, 5, 64) {
            const int act = i == 1 || i == 2 ? ACT_NONE : ACT_GELU;
            CASE("norm_columns rows %d, scale %d, shift %d", m, i % 2, i / 2);
            const int n = 3 * u->vl, ldx = n + 3, ldy = n + 5;
            const float *x = numbers((m - 1) * ldx + n, 4), *scale = i % 2 ? numbers(n, 2) : NULL, *shift = i / 2 ? numbers(m, 2) : NULL;
            const float *weight = numbers(m, 1), *bias = numbers(m, 1);
            float *y = blank((m - 1) * ldy + n);
            u->norm_columns(&(norm_columns_args){m, n, x, ldx, scale, shift, weight, bias, eps, act, y, ldy});
            for (int j = 0; j < n; j++) {
                double v[64], mean = 0, size = 0, variance = 0;
                for (int c = 0; c < m; c++) {
                    v[c] = x[c * ldx + j] * (scale ? (double)scale[j] : 1) + (shift ? shift[c] : 0);
                    size += (fabs(x[c * ldx + j] * (scale ? (double)scale[j] : 1)) + (shift ? fabs(shift[c]) : 0)) / m;
                    mean += v[c] / m;
                }
                for (int c = 0; c < m; c++)
                    variance += pow(v[c] - mean, 2) / m;
                const double moved = roundings(m + 4) * size, spread = sqrt(variance + eps);
                const double relative = roundings(9) + (roundings(m + 6) * variance + moved * moved + 2 * moved * sqrt(variance)) / (variance + eps);
                for (int c = 0; c < m; c++) {
                    const double scaled = (v[c] - mean) / spread * weight[c], own = fabs(x[c * ldx + j]) * (scale ? fabs(scale[j]) : 1) + (shift ? fabs(shift[c]) : 0);
                    const double error = (moved + roundings(3) * own + fabs(v[c] - mean) * relative) / spread * fabs(weight[c]);
                    expect_act(c * ldy + j, y[c * ldy + j], scaled + bias[c], error + roundings(3) * (fabs(scaled) + fabs(bias[c])), act);
                }
            }
            expect_gaps(y, ldy, m, n);
        }
}

static void dot_rows(void)
{
    EACH(m, 1, 3, 4, 9)
        EACH(n, 1, 3, 4, 7, 9)
            EACH(k, 1, u->vl - 1, u->vl, 3 * u->vl + 1, 256) {
                CASE("dot_rows %dx%d, of %d", m, n, k);
                const int lda = k + 2, ldb = k + 3, ldy = n + 1;
                const float *a = numbers((m - 1) * lda + k, 1), *b = numbers((n - 1) * ldb + k, 1);
                float *y = blank((m - 1) * ldy + n);
                u->dot_rows(&(dot_rows_args){m, n, k, a, lda, b, ldb, y, ldy, {a, m == 4 ? k * sizeof *a : 0}});
                for (int i = 0; i < m; i++)
                    for (int j = 0; j < n; j++) {
                        sum s = {0};
                        for (int p = 0; p < k; p++)
                            include(&s, (double)a[i * lda + p] * b[j * ldb + p]);
                        expect(i * ldy + j, y[i * ldy + j], s.value, roundings(k) * s.size);
                    }
                expect_gaps(y, ldy, m, n);
            }
}

static double gelu_of(double x) { return x / 2 * erfc(-x / sqrt(2)); }

static void draw_columns(void)
{
    EACH(m, 1, 2, 3, 4, 5, 9)
        EACH(channels, 1, 7, 32) {
            CASE("draw_columns masks %d, channels %d", m, channels);
            const int n = 3 * u->vl, ldx = n + 3, ldy = n + 5;
            const float *x = numbers((channels - 1) * ldx + n, 4), *bias = numbers(channels, 2), *w = numbers(m * channels, 1);
            float *y = blank((m - 1) * ldy + n);
            u->draw_columns(&(draw_args){m, n, channels, x, ldx, bias, w, y, ldy});
            for (int i = 0; i < m; i++)
                for (int j = 0; j < n; j++) {
                    sum s = {0};
                    double error = 0; /* errors of each GELU, and of its argument times GELU's slope */
                    for (int c = 0; c < channels; c++) {
                        include(&s, w[i * channels + c] * gelu_of((double)x[c * ldx + j] + bias[c]));
                        error += fabs(w[i * channels + c]) * (1e-6 + 1.13 * roundings(1) * (fabs(x[c * ldx + j]) + fabs(bias[c])));
                    }
                    expect(i * ldy + j, y[i * ldy + j], s.value, error + roundings(channels + 1) * s.size);
                }
            expect_gaps(y, ldy, m, n);
        }
}

static void spreads(void)
{
    EACH(m, 1, 5)
        EACH(n, 2, u->vl - 1, u->vl, 2 * u->vl + 1, 320) {
            CASE("sum_sq_deviation, transpose rows %d, columns %d", m, n);
            const int ldx = n + 2, ldy = m + 3;
            const float *x = numbers((m - 1) * ldx + n, 4);
            float *y = blank(m), *turned = blank((n - 1) * ldy + m);
            u->sum_sq_deviation(y, x, ldx, m, n);
            u->transpose(turned, ldy, x, ldx, m, n);
            for (int i = 0; i < m; i++) {
                double mean = 0, size = 0, squares = 0;
                for (int j = 0; j < n; j++)
                    mean += x[i * ldx + j] / (double)n, size += fabs(x[i * ldx + j]) / n;
                for (int j = 0; j < n; j++) {
                    squares += pow(x[i * ldx + j] - mean, 2);
                    expect(j * ldy + i, turned[j * ldy + i], x[i * ldx + j], 0);
                }
                const double shift = roundings(n + 1) * size; /* shift: error of the mean, which shifts every deviation from the mean */
                expect(i, y[i], squares, roundings(n + 3) * squares + 2 * shift * sqrt(n * squares) + n * shift * shift);
            }
            expect_gaps(turned, ldy, n, m);
        }
}

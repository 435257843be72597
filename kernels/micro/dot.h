/* Sums of products of two maps: over the rows of each column, or over the columns of two rows. Included by generic.h. */

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
#define DOT_SOME(count) case count: draw_some(count, y, ldy, x, ldx, channels, n, bias, w); break;
    switch (m) {
        DOT_SOME(1) DOT_SOME(2) DOT_SOME(3) DOT_SOME(4)
    }
#undef DOT_SOME
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
    enum { DOT_ROWS = VL == 16 ? 4 : 2 }; /* with four columns in registers */
    const int64_t steps = (m / DOT_ROWS + m % DOT_ROWS) * ((n + 3) / 4) * ((k + VL - 1) / VL);
    lookahead next = {.at = ahead};
    if (ahead_bytes)
        next.end = next.at + ahead_bytes, next.paced = (ahead_bytes / 64 + steps - 1) / steps;
#define DOT_COLUMNS(count) \
    case count: \
        for (i = 0; i + DOT_ROWS <= m; i += DOT_ROWS) \
            dot_tile(DOT_ROWS, count, y + i * ldy + j, ldy, a + i * lda, lda, b + j * ldb, ldb, k, &next); \
        for (; i < m; i++) \
            dot_tile(1, count, y + i * ldy + j, ldy, a + i * lda, lda, b + j * ldb, ldb, k, &next); \
        break;
    for (int64_t j = 0, i; j < n; j += 4)
        switch (n - j) {
            DOT_COLUMNS(1) DOT_COLUMNS(2) DOT_COLUMNS(3) default: DOT_COLUMNS(4)
        }
#undef DOT_COLUMNS
}

/* Dot products of the columns of two matrices (dot_columns) and of their rows (dot_rows), and mask logits as products of upscaled
 * channels with a hypernetwork's weights (draw_columns). micro.h has the equations. Included by generic.h. */

/* Computes dot_columns for `vectors` * VL neighbouring columns. */
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

static void dot_columns(const dot_columns_args *g)
{
    int64_t j = 0;
    for (; j + 4 * VL <= g->n; j += 4 * VL)
        dot_vectors(4, g->y + j, g->a + j, g->lda, g->b + j, g->ldb, g->m);
    for (; j < g->n; j += VL)
        dot_vectors(1, g->y + j, g->a + j, g->lda, g->b + j, g->ldb, g->m);
}

/* Computes the mask logits of m <= 4 masks at once, so that each GELU is computed once for all m masks. */
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

static void draw_columns(const draw_args *g)
{
    int64_t m = g->m;
    float *y = g->y;
    const float *w = g->w;
    for (; m > 4; m -= 4, y += 4 * g->ldy, w += 4 * g->channels)
        draw_some(4, y, g->ldy, g->x, g->ldx, g->channels, g->n, g->bias, w);
#define DOT_SOME(count) case count: draw_some(count, y, g->ldy, g->x, g->ldx, g->channels, g->n, g->bias, w); break;
    switch (m) {
        DOT_SOME(1) DOT_SOME(2) DOT_SOME(3) DOT_SOME(4)
    }
#undef DOT_SOME
}

/* Adds `count` <= VL terms to the m*n sums. */
INLINE void dot_step(const int m, const int n, vf sums[][4], const float *a, int64_t lda, const float *b, int64_t ldb, int64_t count,
                     lookahead *next)
{
    for (int64_t line = 0; line < next->paced; line++)
        fetch_line(next);
    vf bv[4];
    UNROLL for (int j = 0; j < n; j++) bv[j] = count < VL ? load_part(b + j * ldb, count, 0.f) : load(b + j * ldb);
    UNROLL for (int i = 0; i < m; i++) {
        const vf av = count < VL ? load_part(a + i * lda, count, 0.f) : load(a + i * lda);
        UNROLL for (int j = 0; j < n; j++) sums[i][j] += av * bv[j];
    }
}

/* Computes the dot products of m rows of a, from row i0 on, with n rows of b, from row j0 on. The m*n sums stay in registers. The last
 * count < VL terms are outside the loop, because load_part calls memcpy, and a call in the loop would keep the sums in memory. */
INLINE void dot_tile(const int m, const int n, const dot_rows_args *g, int64_t i0, int64_t j0, lookahead *next)
{
    const float *a = g->a + i0 * g->lda, *b = g->b + j0 * g->ldb;
    const int64_t lda = g->lda, ldb = g->ldb, k = g->k;
    float *y = g->y + i0 * g->ldy + j0;
    vf sums[4][4] = {0};
    int64_t p = 0;
    for (; p + VL <= k; p += VL)
        dot_step(m, n, sums, a + p, lda, b + p, ldb, VL, next);
    if (p < k)
        dot_step(m, n, sums, a + p, lda, b + p, ldb, k - p, next);
    UNROLL for (int i = 0; i < m; i++)
        UNROLL for (int j = 0; j < n; j++) y[i * g->ldy + j] = sum_lanes(sums[i][j]);
}

static void dot_rows(const dot_rows_args *g)
{
    enum { DOT_ROWS = VL == 16 ? 4 : 2 }; /* rows of a in a tile; the tile's DOT_ROWS by 4 sums fit the registers */
    const int64_t steps = (g->m / DOT_ROWS + g->m % DOT_ROWS) * ((g->n + 3) / 4) * ((g->k + VL - 1) / VL);
    lookahead next = {.at = g->ahead.at};
    if (g->ahead.bytes)
        next.end = next.at + g->ahead.bytes, next.paced = (g->ahead.bytes / 64 + steps - 1) / steps;
#define DOT_COLUMNS(count) \
    case count: \
        for (i = 0; i + DOT_ROWS <= g->m; i += DOT_ROWS) \
            dot_tile(DOT_ROWS, count, g, i, j, &next); \
        for (; i < g->m; i++) \
            dot_tile(1, count, g, i, j, &next); \
        break;
    for (int64_t j = 0, i; j < g->n; j += 4)
        switch (g->n - j) {
            DOT_COLUMNS(1) DOT_COLUMNS(2) DOT_COLUMNS(3) default: DOT_COLUMNS(4)
        }
#undef DOT_COLUMNS
}

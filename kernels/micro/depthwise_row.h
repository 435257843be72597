/* One output row of a 3x3 depthwise convolution with pad 1. The micro-kernel depthwise3x3 computes the pixels that need no
 * padding on the left or right. The first pixel of a row, and the last pixel if it needs padding, use only the kernel columns inside the
 * image. Rows above and below the image are replaced by a row of zeros. */
#ifndef MOBILESAM_DEPTHWISE_ROW_H
#define MOBILESAM_DEPTHWISE_ROW_H
#include "micro.h"

typedef struct {
    const float *x; /* the input x, (height, width, channels) */
    int64_t height, width, channels, stride; /* the stride is 1 or 2, and channels >= vl */
    const float *weight; /* (9, channels) */
    const float *bias;
    const float *zeros; /* zeros, (width, channels), for input rows outside the image */
    int act;
} depthwise_map;

/* Computes pixels w0 to w1 - 1 of output row h and writes them to y (w1 - w0, channels). */
static inline void depthwise3x3_row(const micro *u, const depthwise_map *d, int64_t h, int64_t w0, int64_t w1, float *y)
{
    const int64_t c = d->channels, inside = (d->width - 2) / d->stride + 1; /* inside: first w whose kernel extends beyond the right edge */
    const float *row[3];
    for (int i = 0; i < 3; i++) {
        const int64_t r = h * d->stride + i - 1;
        row[i] = r < 0 || r >= d->height ? d->zeros : d->x + r * d->width * c;
    }
    int64_t w = w0;
    while (w < w1) {
        if (w > 0 && w < inside) {
            const int64_t end = w1 < inside ? w1 : inside, first = (w * d->stride - 1) * c;
            const depthwise3x3_args g = {
                .width = end - w, .channels = c, .stride = d->stride,
                .x = {row[0] + first, row[1] + first, row[2] + first},
                .weight = d->weight, .bias = d->bias, .y = y + (w - w0) * c, .act = d->act,
            };
            u->depthwise3x3(&g);
            w = end;
            continue;
        }
        const float *x[9], *weight[9];
        int64_t taps = 0;
        for (int i = 0; i < 3; i++)
            for (int j = 0; j < 3; j++) {
                const int64_t col = w * d->stride + j - 1;
                if (col < 0 || col >= d->width)
                    continue;
                x[taps] = row[i] + col * c;
                weight[taps++] = d->weight + (3 * i + j) * c;
            }
        const taps_args g = {.taps = taps, .x = x, .w = weight, .bias = d->bias, .y = y + (w - w0) * c, .act = d->act};
        u->depthwise_taps(&g, c);
        w++;
    }
}

#endif

/* Checks that an arena's guards detect a write past a buffer's end, and only such a write. Prints nothing and exits with 0 on
 * success.
 *     gcc -std=gnu11 -Ikernels/micro tests/micro/check_arena.c */
#include "arena.h"
#include <stdio.h>
#include <stdlib.h>

enum { BUFFERS = 3 };
static const size_t sizes[BUFFERS] = {1, 64, 100};

/* A layout function with three buffers. */
static void layout(char **buffers, arena *scratch)
{
    for (int i = 0; i < BUFFERS; i++)
        buffers[i] = arena_take(scratch, sizes[i]);
}

/* Returns the number of overwritten guards after a write of `value` to byte `at` of buffer `i`. */
static int after_write(int i, long at, char value)
{
    char *buffers[BUFFERS];
    arena measured = {.use = ARENA_MEASURE, .guarded = 1};
    layout(buffers, &measured);
    char *memory = aligned_alloc(ARENA_LINE, measured.used);
    arena assigned = {.memory = memory, .use = ARENA_ASSIGN, .guarded = 1};
    layout(buffers, &assigned);
    for (int b = 0; b < BUFFERS; b++)
        memset(buffers[b], 7, sizes[b]);
    if (assigned.used != measured.used || (size_t)buffers[0] % ARENA_LINE)
        exit(2);
    buffers[i][at] = value;
    arena checked = {.memory = memory, .use = ARENA_CHECK, .guarded = 1};
    layout(buffers, &checked);
    free(memory);
    return checked.overwritten;
}

int main(void)
{
    int wrong = 0;
    for (int i = 0; i < BUFFERS; i++) {
        const long end = sizes[i], past[] = {end, end + 1, (long)whole_lines(end) + ARENA_LINE - 1};
        for (int p = 0; p < 3; p++)
            if (after_write(i, past[p], 0) != 1)
                wrong++, printf("buffer %d: a write to byte %ld of %ld was not found\n", i, past[p], end);
        if (after_write(i, end - 1, 0) != 0)
            wrong++, printf("buffer %d: a write to its last byte was reported as an overrun\n", i);
    }
    return wrong > 0;
}

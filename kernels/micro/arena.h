/* An arena: memory that a layout function cuts into buffers.
 *
 * The layout function runs first on an arena without memory, which measures it, and then on one with memory, which assigns the
 * buffers. So no size is written twice. With guards, a line of a known pattern lies behind each buffer, and the layout function
 * runs a third time to find the lines that something has overwritten. */
#ifndef MOBILESAM_ARENA_H
#define MOBILESAM_ARENA_H
#include <stddef.h>
#include <string.h>

enum { ARENA_LINE = 64, ARENA_PATTERN = 0x5a };
enum arena_use { ARENA_MEASURE, ARENA_ASSIGN, ARENA_CHECK };

typedef struct {
    char *memory; /* aligned to ARENA_LINE; NULL where use is ARENA_MEASURE */
    size_t used;  /* bytes, whole lines */
    enum arena_use use;
    int guarded;
    int overwritten; /* guards that something has written to, after ARENA_CHECK */
} arena;

static inline size_t whole_lines(size_t bytes) { return (bytes + ARENA_LINE - 1) / ARENA_LINE * ARENA_LINE; }

/* The bytes from the end of a buffer to the end of the line behind it. */
static inline void arena_guard(arena *a, char *from, size_t count)
{
    if (a->use == ARENA_ASSIGN)
        memset(from, ARENA_PATTERN, count);
    for (size_t i = 0; a->use == ARENA_CHECK && i < count; i++)
        if (from[i] != ARENA_PATTERN) {
            a->overwritten++;
            return;
        }
}

/* A buffer of the next so many bytes, aligned to ARENA_LINE; NULL where the arena only measures. */
static inline void *arena_take(arena *a, size_t bytes)
{
    char *buffer = a->memory ? a->memory + a->used : NULL;
    a->used += whole_lines(bytes) + (a->guarded ? ARENA_LINE : 0);
    if (a->guarded && buffer)
        arena_guard(a, buffer + bytes, a->memory + a->used - (buffer + bytes));
    return buffer;
}

#endif
